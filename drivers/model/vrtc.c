#include "drivers/model/vrtc.h"

#define PORT_INDEX 0x70
#define PORT_DATA  0x71

enum {
    SECONDS = 0,
    SECONDS_ALARM = 1,
    MINUTES = 2,
    MINUTES_ALARM = 3,
    HOURS = 4,
    HOURS_ALARM = 5,
    WEEKDAY = 6,
    DAY = 7,
    MONTH = 8,
    YEAR = 9,
    REG_A = 10,
    REG_B = 11,
    REG_C = 12,
    REG_D = 13,
    CENTURY = 0x32,
};

enum {
    A_UIP = 0x80,
    A_DIVIDER = 0x70, // 0x20: the 32768 Hz chain runs
    A_RATE = 0x0f,
    B_SET = 0x80,
    B_PIE = 0x40, // the enables have the places of the flags in C
    B_AIE = 0x20,
    B_UIE = 0x10,
    B_BINARY = 0x04,
    B_24H = 0x02,
    C_IRQF = 0x80,
    C_PF = 0x40,
    C_AF = 0x20,
    C_UF = 0x10,
    D_VALID = 0x80,
    PM = 0x80,       // of the hours in 12-hour mode
    ANY_ALARM = 0xc0 // these bits in an alarm register: every value matches
};

#define SECONDS_PER_DAY 86400u
#define LAST_TIME       253402300799ull // end of the year 9999
// The update cycle and the time before it in which UIP warns.
#define UPDATE_NS (1984000u + 244000u)

// --- Calendar (proleptic Gregorian, seconds since 1970) ---

struct calendar {
    unsigned second, minute, hour, weekday, day, month, year;
};

static bool leap(unsigned year)
{
    return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

static unsigned month_days(unsigned year, unsigned month)
{
    static const u8 days[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return days[month - 1] + (month == 2 && leap(year));
}

// Days from 1970-01-01 to the start of `year`.
static s64 year_start(unsigned year)
{
    s64 y = (s64)year - 1;
    return y * 365 + y / 4 - y / 100 + y / 400 - 719162;
}

static s64 to_seconds(const struct calendar *c)
{
    s64 days = year_start(c->year) + c->day - 1;
    for (unsigned m = 1; m < c->month; m++)
        days += month_days(c->year, m);
    return days * SECONDS_PER_DAY + c->hour * 3600 + c->minute * 60 + c->second;
}

static struct calendar from_seconds(s64 t)
{
    struct calendar c;
    s64 days = t / SECONDS_PER_DAY;
    unsigned of_day = (unsigned)(t % SECONDS_PER_DAY);
    c.second = of_day % 60;
    c.minute = of_day / 60 % 60;
    c.hour = of_day / 3600;
    c.weekday = (unsigned)((days + 4) % 7) + 1; // 1970-01-01 was a Thursday
    c.year = (unsigned)(1970 + days / 366);     // never too late, early by few
    while (year_start(c.year + 1) <= days)
        c.year++;
    days -= year_start(c.year);
    for (c.month = 1; days >= month_days(c.year, c.month); c.month++)
        days -= month_days(c.year, c.month);
    c.day = (unsigned)days + 1;
    return c;
}

// --- The guest's format ---

static u8 encode(const struct vrtc *rtc, unsigned v)
{
    return (u8)(rtc->cmos[REG_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

static unsigned decode(const struct vrtc *rtc, u8 v)
{
    return rtc->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15);
}

static u8 encode_hour(const struct vrtc *rtc, unsigned hour)
{
    if (rtc->cmos[REG_B] & B_24H)
        return encode(rtc, hour);
    unsigned h = hour % 12 ? hour % 12 : 12;
    return encode(rtc, h) | (hour >= 12 ? PM : 0);
}

static unsigned decode_hour(const struct vrtc *rtc, u8 v)
{
    if (rtc->cmos[REG_B] & B_24H)
        return decode(rtc, v);
    return decode(rtc, v & 0x7f) % 12 + (v & PM ? 12 : 0);
}

// --- Time ---

static bool frozen(const struct vrtc *rtc)
{
    return (rtc->cmos[REG_B] & B_SET) || (rtc->cmos[REG_A] & A_DIVIDER) != 0x20;
}

static u64 now(const struct vrtc *rtc)
{
    u64 t = clock_now(rtc->clock);
    return t > rtc->phase ? t - rtc->phase : 0;
}

static u64 seconds(const struct vrtc *rtc)
{
    return now(rtc) / NS_PER_SEC;
}

// Brings the time registers up to date.
static void show_time(struct vrtc *rtc)
{
    if (frozen(rtc))
        return;
    struct calendar c = from_seconds(rtc->offset + (s64)seconds(rtc));
    rtc->cmos[SECONDS] = encode(rtc, c.second);
    rtc->cmos[MINUTES] = encode(rtc, c.minute);
    rtc->cmos[HOURS] = encode_hour(rtc, c.hour);
    rtc->cmos[WEEKDAY] = encode(rtc, c.weekday);
    rtc->cmos[DAY] = encode(rtc, c.day);
    rtc->cmos[MONTH] = encode(rtc, c.month);
    rtc->cmos[YEAR] = encode(rtc, c.year % 100);
    rtc->cmos[CENTURY] = (u8)(c.year / 1000 << 4 | c.year / 100 % 10); // BCD in any mode
}

static unsigned clamp(unsigned v, unsigned low, unsigned high)
{
    return v < low ? low : v > high ? high : v;
}

// Takes the time registers as the time of now; what cannot be is brought into range.
static void set_time(struct vrtc *rtc)
{
    u8 century = rtc->cmos[CENTURY];
    struct calendar c;
    c.year = ((century >> 4) * 10u + (century & 15)) * 100 + decode(rtc, rtc->cmos[YEAR]) % 100;
    c.year = clamp(c.year, 1970, 9999);
    c.month = clamp(decode(rtc, rtc->cmos[MONTH]), 1, 12);
    c.day = clamp(decode(rtc, rtc->cmos[DAY]), 1, month_days(c.year, c.month));
    c.hour = clamp(decode_hour(rtc, rtc->cmos[HOURS]), 0, 23);
    c.minute = clamp(decode(rtc, rtc->cmos[MINUTES]), 0, 59);
    c.second = clamp(decode(rtc, rtc->cmos[SECONDS]), 0, 59);
    rtc->offset = to_seconds(&c) - (s64)seconds(rtc);
}

// --- Alarm ---

struct alarm_field {
    bool any;
    unsigned at;
};

static struct alarm_field alarm_field(const struct vrtc *rtc, unsigned reg)
{
    u8 v = rtc->cmos[reg];
    unsigned at = reg == HOURS_ALARM ? decode_hour(rtc, v) : decode(rtc, v);
    return (struct alarm_field){(v & ANY_ALARM) == ANY_ALARM, at};
}

// Steps `*v` (of 0 .. modulus - 1) up to where the field matches; true if it wrapped.
static bool step_to(const struct alarm_field *f, unsigned *v)
{
    bool wraps = !f->any && f->at < *v;
    if (!f->any)
        *v = f->at;
    return wraps;
}

// The first second of the day at or after `from` that the alarm matches, counted on past midnight;
// TIMER_NEVER if it matches none.
static u64 alarm_after(const struct vrtc *rtc, unsigned from)
{
    struct alarm_field hf = alarm_field(rtc, HOURS_ALARM), mf = alarm_field(rtc, MINUTES_ALARM),
                       sf = alarm_field(rtc, SECONDS_ALARM);
    if ((!hf.any && hf.at > 23) || (!mf.any && mf.at > 59) || (!sf.any && sf.at > 59))
        return TIMER_NEVER;
    unsigned day = 0, h = from / 3600, m = from / 60 % 60, s = from % 60;
    // Each field's carry can push the one above on by one; then the lower ones start at 0.
    for (;;) {
        unsigned old = h;
        if (h > 23 || step_to(&hf, &h)) {
            day++;
            h = hf.any ? 0 : hf.at;
        }
        if (h != old)
            m = s = 0;
        old = m;
        if (m > 59 || step_to(&mf, &m)) {
            h++;
            m = s = 0;
            continue;
        }
        if (m != old)
            s = 0;
        if (step_to(&sf, &s)) {
            m++;
            s = 0;
            continue;
        }
        return ((day * 24ull + h) * 60 + m) * 60 + s;
    }
}

// The first second (of VM time since phase) at or after `from` that the alarm matches.
static u64 next_alarm(const struct vrtc *rtc, u64 from)
{
    unsigned of_day = (unsigned)((u64)(rtc->offset + (s64)from) % SECONDS_PER_DAY);
    u64 at = alarm_after(rtc, of_day);
    return at == TIMER_NEVER ? TIMER_NEVER : from + at - of_day;
}

// --- Flags and interrupt ---

// Period of the periodic interrupt, 0 when there is none.
static u64 period_ticks(const struct vrtc *rtc)
{
    unsigned rate = rtc->cmos[REG_A] & A_RATE;
    if (!rate)
        return 0;
    return 1ull << ((rate <= 2 ? rate + 7 : rate) - 1);
}

static u64 periods(const struct vrtc *rtc)
{
    u64 ticks = period_ticks(rtc);
    return ticks ? ns_to_ticks(now(rtc), 32768) / ticks : 0;
}

// Sets the flags for what has happened since they were looked at last.
static void update_flags(struct vrtc *rtc)
{
    u64 second = seconds(rtc), period = periods(rtc);
    u8 *c = &rtc->cmos[REG_C];
    if (!frozen(rtc) && second > rtc->update_seen) {
        *c |= C_UF;
        if (next_alarm(rtc, rtc->update_seen + 1) <= second)
            *c |= C_AF;
    }
    if (period > rtc->period_seen)
        *c |= C_PF;
    rtc->update_seen = second;
    rtc->period_seen = period;
    *c = (u8)((*c & ~C_IRQF) | (*c & rtc->cmos[REG_B] & (C_PF | C_AF | C_UF) ? C_IRQF : 0));
}

// Drives the line, and arms the timers for the next event that would raise it; none runs otherwise.
static void arm(struct vrtc *rtc)
{
    bool raised = rtc->cmos[REG_C] & C_IRQF;
    u8 b = raised ? 0 : rtc->cmos[REG_B];
    irq_set(&rtc->irq, raised);
    u64 second = TIMER_NEVER, period = TIMER_NEVER;
    if (!frozen(rtc) && (b & B_UIE))
        second = rtc->update_seen + 1;
    else if (!frozen(rtc) && (b & B_AIE))
        second = next_alarm(rtc, rtc->update_seen + 1);
    if ((b & B_PIE) && period_ticks(rtc))
        period = rtc->phase + ticks_to_ns((rtc->period_seen + 1) * period_ticks(rtc), 32768);
    timer_arm(&rtc->second, second == TIMER_NEVER ? TIMER_NEVER : rtc->phase + second * NS_PER_SEC);
    timer_arm(&rtc->periodic, period);
}

static void refresh(struct vrtc *rtc)
{
    update_flags(rtc);
    arm(rtc);
}

static void fire_second(struct vtimer *timer, u64 t)
{
    (void)t;
    refresh(CONTAINER_OF(timer, struct vrtc, second));
}

static void fire_periodic(struct vtimer *timer, u64 t)
{
    (void)t;
    refresh(CONTAINER_OF(timer, struct vrtc, periodic));
}

// --- Ports ---

static u8 read_register(struct vrtc *rtc)
{
    unsigned reg = rtc->index;
    if (reg <= YEAR || reg == CENTURY)
        show_time(rtc);
    if (reg == REG_A) {
        bool uip = !frozen(rtc) && now(rtc) % NS_PER_SEC >= NS_PER_SEC - UPDATE_NS;
        return rtc->cmos[REG_A] | (uip ? A_UIP : 0);
    }
    if (reg == REG_C) {
        update_flags(rtc);
        u8 flags = rtc->cmos[REG_C];
        rtc->cmos[REG_C] = 0;
        arm(rtc);
        return flags;
    }
    return rtc->cmos[reg];
}

// Registers A and B: the time stops and goes on with the SET bit and the divider.
static void write_control(struct vrtc *rtc, unsigned reg, u8 value)
{
    update_flags(rtc);
    show_time(rtc);
    bool stood = frozen(rtc), divider_stood = (rtc->cmos[REG_A] & A_DIVIDER) != 0x20;
    rtc->cmos[reg] = value;
    if (divider_stood && (rtc->cmos[REG_A] & A_DIVIDER) == 0x20) {
        // Releasing the divider starts a second whose first half is over.
        u64 t = clock_now(rtc->clock);
        rtc->phase = t > NS_PER_SEC / 2 ? t - NS_PER_SEC / 2 : t;
    }
    if (stood && !frozen(rtc))
        set_time(rtc);
    rtc->update_seen = seconds(rtc);
    rtc->period_seen = periods(rtc);
    refresh(rtc);
}

static void write_register(struct vrtc *rtc, u8 value)
{
    unsigned reg = rtc->index;
    if (reg == REG_A) {
        write_control(rtc, reg, value & (u8)~A_UIP);
    } else if (reg == REG_B) {
        if (value & B_SET)
            value &= (u8)~B_UIE;
        write_control(rtc, reg, value);
    } else if (reg == SECONDS_ALARM || reg == MINUTES_ALARM || reg == HOURS_ALARM) {
        update_flags(rtc);
        rtc->cmos[reg] = value;
        arm(rtc);
    } else if (reg <= YEAR || reg == CENTURY) {
        update_flags(rtc);
        show_time(rtc);
        rtc->cmos[reg] = value;
        if (!frozen(rtc))
            set_time(rtc);
        arm(rtc);
    } else if (reg != REG_C && reg != REG_D) {
        rtc->cmos[reg] = value;
    }
}

static u32 read_port(void *dev, u16 port, unsigned size)
{
    (void)size;
    return port == PORT_DATA ? read_register(dev) : 0xff;
}

static void write_port(void *dev, u16 port, unsigned size, u32 value)
{
    struct vrtc *rtc = dev;
    (void)size;
    if (port == PORT_DATA) {
        write_register(rtc, (u8)value);
        return;
    }
    rtc->index = value & 0x7f;
    rtc->nmi_masked = value & 0x80;
}

// --- Start ---

static void put16(struct vrtc *rtc, unsigned low, u64 v)
{
    v = MIN(v, 0xffffull);
    rtc->cmos[low] = (u8)v;
    rtc->cmos[low + 1] = (u8)(v >> 8);
}

// Where PC firmware tells memory sizes.
static void put_memory(struct vrtc *rtc, const struct vrtc_params *p)
{
    u64 below = p->ram_below_4g, above16 = below > 16 * MIB ? below - 16 * MIB : 0;
    put16(rtc, 0x15, 640);
    put16(rtc, 0x17, below > MIB ? (below - MIB) / KIB : 0);
    put16(rtc, 0x30, below > MIB ? (below - MIB) / KIB : 0);
    put16(rtc, 0x34, above16 / (64 * KIB));
    u64 high = MIN(p->ram_above_4g / (64 * KIB), 0xffffffull);
    for (unsigned i = 0; i < 3; i++)
        rtc->cmos[0x5b + i] = (u8)(high >> (8 * i));
    rtc->cmos[0x5f] = (u8)(p->cpus - 1);
}

void vrtc_init(struct vrtc *rtc, const struct vrtc_params *params, const struct vclock *clock,
               struct timer_set *timers, struct irq_line irq)
{
    *rtc = (struct vrtc){.clock = clock, .irq = irq};
    rtc->offset = (s64)MIN(params->start_time, LAST_TIME);
    rtc->cmos[REG_A] = 0x26;
    rtc->cmos[REG_B] = B_24H;
    rtc->cmos[REG_D] = D_VALID;
    rtc->cmos[0x14] = 0x06; // equipment: a mouse port and a coprocessor, no floppy disk
    put_memory(rtc, params);
    timer_init(&rtc->second, timers, fire_second);
    timer_init(&rtc->periodic, timers, fire_periodic);
    rtc->update_seen = seconds(rtc);
    rtc->period_seen = periods(rtc);
}

bool vrtc_attach(struct vrtc *rtc, struct port_bus *bus)
{
    static const struct port_ops ops = {read_port, write_port, 1};
    return port_bus_add(bus, PORT_INDEX, PORT_DATA, &ops, rtc);
}
