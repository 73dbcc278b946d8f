#include "drivers/ioapic.h"

#define MAX_IOAPICS 8
#define REG_SELECT  0
#define REG_DATA    4
#define IOAPIC_VER  0x01
#define IOAPIC_RTE  0x10
#define RTE_MASKED  BIT(16)
#define RTE_LEVEL   BIT(15)
#define RTE_LOW     BIT(13)

static struct {
    volatile u32 *regs;
    u32 base, count;
} unit[MAX_IOAPICS];
static unsigned units;

static void write_reg(unsigned u, u32 reg, u32 v)
{
    unit[u].regs[REG_SELECT] = reg;
    unit[u].regs[REG_DATA] = v;
}

bool ioapic_add(volatile u32 *regs, u32 gsi_base)
{
    if (units == MAX_IOAPICS)
        return false;
    regs[REG_SELECT] = IOAPIC_VER;
    unit[units].regs = regs;
    unit[units].base = gsi_base;
    unit[units].count = (regs[REG_DATA] >> 16 & 0xff) + 1;
    for (u32 i = 0; i < unit[units].count; i++)
        write_reg(units, IOAPIC_RTE + 2 * i, RTE_MASKED);
    units++;
    return true;
}

static bool write_rte(u32 gsi, u32 low, u32 high)
{
    for (unsigned u = 0; u < units; u++) {
        u32 pin = gsi - unit[u].base;
        if (pin >= unit[u].count)
            continue;
        write_reg(u, IOAPIC_RTE + 2 * pin + 1, high);
        write_reg(u, IOAPIC_RTE + 2 * pin, low);
        return true;
    }
    return false;
}

bool ioapic_route(u32 gsi, u8 vector, u32 apic_id, bool level, bool active_low)
{
    return write_rte(gsi, (u32)(vector | (level ? RTE_LEVEL : 0) | (active_low ? RTE_LOW : 0)),
                     apic_id << 24);
}

void ioapic_mask(u32 gsi)
{
    write_rte(gsi, RTE_MASKED, 0);
}
