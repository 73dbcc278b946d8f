#include "kernel/power.h"

#include "libc/x86.h"

#define PM1_SCI_EN   BIT(0)
#define PM1_SLP_TYP  10 // bits 10 to 12
#define PM1_SLP_MASK 0x3c00
#define PM1_SLP_EN   BIT(13)
#define PATIENCE     1000000

static struct acpi_fixed fixed;
static u8 soft_off[2];
static bool has_soft_off;

void power_init(const struct acpi *acpi)
{
    has_soft_off = acpi_fixed(acpi, &fixed) && acpi_soft_off(acpi, &fixed, soft_off);
}

// PM1 registers listen only in ACPI mode, into which the firmware's SMI handler brings the machine.
static void enable_acpi(void)
{
    if (!fixed.smi_cmd_port || inw(fixed.pm1a_cnt_port) & PM1_SCI_EN)
        return;
    outb(fixed.smi_cmd_port, fixed.acpi_enable);
    for (int i = 0; i < PATIENCE && !(inw(fixed.pm1a_cnt_port) & PM1_SCI_EN); i++)
        __builtin_ia32_pause();
}

static void sleep(u16 port, u8 type)
{
    u16 value = (u16)((inw(port) & ~PM1_SLP_MASK) | (type & 7) << PM1_SLP_TYP);
    outw(port, (u16)(value | PM1_SLP_EN));
}

void power_off(void)
{
    if (has_soft_off && fixed.pm1a_cnt_port) {
        enable_acpi();
        sleep(fixed.pm1a_cnt_port, soft_off[0]);
        if (fixed.pm1b_cnt_port)
            sleep(fixed.pm1b_cnt_port, soft_off[1]);
        for (int i = 0; i < PATIENCE; i++)
            __builtin_ia32_pause();
    }
    if (fixed.has_reset && fixed.reset.space == ACPI_SPACE_IO)
        outb((u16)fixed.reset.address, fixed.reset_value);
}
