#include "drivers/apic.h"

#include "drivers/tsc.h"
#include "libc/x86.h"

#define MSR_APIC_BASE    0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC       0x800
#define APIC_BASE_X2     BIT(10)
#define APIC_BASE_EN     BIT(11)
#define APIC_BASE_ADDR   0xfffffff000ull

enum apic_reg {
    REG_ID = 0x02, REG_TPR = 0x08, REG_EOI = 0x0b, REG_SVR = 0x0f, REG_ICR = 0x30,
    REG_ICR_HIGH = 0x31, REG_LVT_TIMER = 0x32, REG_LVT_LINT0 = 0x35, REG_LVT_LINT1 = 0x36,
    REG_LVT_ERROR = 0x37, REG_TIMER_COUNT = 0x38, REG_TIMER_NOW = 0x39, REG_TIMER_DIVIDE = 0x3e,
};

#define SVR_ENABLE     0x100
#define SVR_VECTOR     0xff
#define LVT_MASKED     BIT(16)
#define LVT_DEADLINE   (2u << 17)
#define LVT_NMI        0x400
#define ICR_BUSY       BIT(12)
#define ICR_ASSERT     BIT(14)
#define DIVIDE_BY_1    0xb
#define CALIBRATE_US   2000

// The same for every CPU.
static volatile u32 *xapic; // NULL in x2APIC mode
static bool deadline_mode;
static struct tsc_scale tsc_to_timer;

static u32 reg_read(enum apic_reg r)
{
    return xapic ? xapic[r * 4] : (u32)rdmsr(MSR_X2APIC + r);
}

static void reg_write(enum apic_reg r, u32 v)
{
    if (xapic)
        xapic[r * 4] = v;
    else
        wrmsr(MSR_X2APIC + r, v);
}

void apic_init_cpu(void *(*map)(hpa_t hpa, u64 size))
{
    u64 base = rdmsr(MSR_APIC_BASE);
    struct cpuid c = cpuid(1, 0);
    if (c.ecx & BIT(21)) {
        wrmsr(MSR_APIC_BASE, base | APIC_BASE_EN);
        wrmsr(MSR_APIC_BASE, base | APIC_BASE_EN | APIC_BASE_X2);
        xapic = NULL;
    } else {
        wrmsr(MSR_APIC_BASE, base | APIC_BASE_EN);
        xapic = map(HPA(base & APIC_BASE_ADDR), PAGE_SIZE);
    }
    deadline_mode = c.ecx & BIT(24);
    reg_write(REG_TPR, 0);
    reg_write(REG_LVT_TIMER, LVT_MASKED);
    reg_write(REG_LVT_LINT0, LVT_MASKED);
    reg_write(REG_LVT_LINT1, LVT_NMI);
    reg_write(REG_LVT_ERROR, LVT_MASKED);
    reg_write(REG_SVR, SVR_ENABLE | SVR_VECTOR);
}

u32 apic_id(void)
{
    u32 id = reg_read(REG_ID);
    return xapic ? id >> 24 : id;
}

void apic_eoi(void)
{
    reg_write(REG_EOI, 0);
}

void apic_send(u32 id, u8 vector)
{
    if (!xapic) {
        wrmsr(MSR_X2APIC + REG_ICR, (u64)id << 32 | ICR_ASSERT | vector);
        return;
    }
    while (reg_read(REG_ICR) & ICR_BUSY)
        __builtin_ia32_pause();
    reg_write(REG_ICR_HIGH, id << 24);
    reg_write(REG_ICR, ICR_ASSERT | vector);
}

void apic_timer_calibrate(void)
{
    if (deadline_mode)
        return;
    reg_write(REG_TIMER_DIVIDE, DIVIDE_BY_1);
    reg_write(REG_TIMER_COUNT, ~0u);
    u64 start = rdtsc();
    tsc_delay_us(CALIBRATE_US);
    u64 counted = ~0u - reg_read(REG_TIMER_NOW), ticks = rdtsc() - start;
    reg_write(REG_TIMER_COUNT, 0);
    tsc_to_timer = tsc_scale_make(ticks, counted ? counted : 1);
}

void apic_timer_at(u64 deadline_tsc, u8 vector)
{
    bool never = deadline_tsc == ~0ull;
    if (deadline_mode) {
        reg_write(REG_LVT_TIMER, never ? LVT_MASKED : LVT_DEADLINE | vector);
        wrmsr(MSR_TSC_DEADLINE, never ? 0 : deadline_tsc | !deadline_tsc);
        return;
    }
    u64 now = rdtsc();
    u64 count = deadline_tsc > now ? tsc_scale(tsc_to_timer, deadline_tsc - now) : 1;
    reg_write(REG_LVT_TIMER, never ? LVT_MASKED : vector);
    reg_write(REG_TIMER_COUNT, never ? 0 : (u32)MIN(MAX(count, 1), 0xffffffffull));
}
