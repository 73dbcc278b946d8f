#include "drivers/tsc.h"

#include "libc/x86.h"

#define PIT_HZ       1193182ull
#define PIT_CH2      0x42
#define PIT_COMMAND  0x43
#define PIT_GATE     0x61
#define CALIBRATE_MS 10
#define PATIENCE     10000000

struct tsc tsc;

struct tsc_scale tsc_scale_make(u64 from_hz, u64 to_hz)
{
    // Long division, one binary digit after another, for as many as fit.
    struct tsc_scale s = {.mul = to_hz / from_hz, .shift = 0};
    u64 rest = to_hz % from_hz;
    while (s.shift < 63 && !(s.mul >> 62)) {
        rest <<= 1;
        s.mul = s.mul << 1 | (rest >= from_hz);
        rest -= rest >= from_hz ? from_hz : 0;
        s.shift++;
    }
    return s;
}

// Counts TSC ticks while channel 2 of the PIT (one-shot, gated by port 0x61) runs down.
static u64 measure(void)
{
    u16 count = (u16)(PIT_HZ * CALIBRATE_MS / 1000);
    outb(PIT_GATE, (u8)((inb(PIT_GATE) & ~2) | 1));
    outb(PIT_COMMAND, 0xb0);
    outb(PIT_CH2, (u8)count);
    outb(PIT_CH2, (u8)(count >> 8));
    u64 start = rdtsc();
    for (int i = 0; i < PATIENCE && !(inb(PIT_GATE) & 0x20); i++)
        __builtin_ia32_pause();
    return (rdtsc() - start) * PIT_HZ / count;
}

static u64 from_cpuid(void)
{
    if (cpuid(0, 0).eax < 0x15)
        return 0;
    struct cpuid c = cpuid(0x15, 0);
    return c.eax && c.ebx && c.ecx ? (u64)c.ecx * c.ebx / c.eax : 0;
}

void tsc_calibrate(void)
{
    tsc.hz = from_cpuid();
    if (!tsc.hz)
        tsc.hz = measure();
    tsc.to_ns = tsc_scale_make(tsc.hz, 1000000000);
    tsc.from_ns = tsc_scale_make(1000000000, tsc.hz);
}

void tsc_delay_us(u64 us)
{
    u64 end = rdtsc() + tsc_from_ns(us * 1000);
    while (rdtsc() < end)
        __builtin_ia32_pause();
}
