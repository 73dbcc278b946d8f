#include "drivers/cmos.h"

#include "libc/x86.h"

#define INDEX    0x70
#define DATA     0x71
#define STATUS_A 0x0a
#define STATUS_B 0x0b
#define UPDATING BIT(7)
#define BINARY   BIT(2)
#define HOUR_24  BIT(1)
#define PM       BIT(7)
#define PATIENCE 100000

enum { SECOND = 0, MINUTE = 2, HOUR = 4, DAY = 7, MONTH = 8, YEAR = 9 };

static u8 reg(u8 index)
{
    outb(INDEX, index);
    return inb(DATA);
}

static unsigned value(u8 raw, u8 status)
{
    return status & BINARY ? raw : (raw >> 4) * 10u + (raw & 15);
}

// Days from 1970-01-01 to a date of the Gregorian calendar.
static u64 days(unsigned year, unsigned month, unsigned day)
{
    static const u16 before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    u64 n = (year - 1970) * 365ull + (year - 1969) / 4 - (year - 1901) / 100 + (year - 1601) / 400;
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return n + before[(month - 1) % 12] + (leap && month > 2) + day - 1;
}

u64 cmos_seconds(void)
{
    int patience = PATIENCE;
    while (reg(STATUS_A) & UPDATING && --patience)
        ;
    if (!patience)
        return 0;
    u8 status = reg(STATUS_B), raw_hour = reg(HOUR);
    unsigned hour = value(raw_hour & (status & HOUR_24 ? 0xff : 0x7f), status);
    if (!(status & HOUR_24))
        hour = hour % 12 + (raw_hour & PM ? 12 : 0);
    u64 d =
        days(2000 + value(reg(YEAR), status), value(reg(MONTH), status), value(reg(DAY), status));
    return ((d * 24 + hour) * 60 + value(reg(MINUTE), status)) * 60 + value(reg(SECOND), status);
}
