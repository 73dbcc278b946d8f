#pragma once
// L0's time: the time-stamp counter, calibrated once against the PIT (or taken from CPUID).

#include "libc/types.h"

// Factor and shift of a conversion: result = value * mul >> shift, in 128 bits.
struct tsc_scale {
    u64 mul;
    unsigned shift;
};

struct tsc {
    u64 hz;
    struct tsc_scale to_ns, from_ns;
};

extern struct tsc tsc; // written once at start, before other CPUs run

// The scale that turns counts at `from_hz` into counts at `to_hz` (pure).
struct tsc_scale tsc_scale_make(u64 from_hz, u64 to_hz);

// Converts `v`, as the scale says.
static inline u64 tsc_scale(struct tsc_scale s, u64 v)
{
    return (u64)((unsigned __int128)v * s.mul >> s.shift);
}

static inline u64 tsc_to_ns(u64 ticks)
{
    return tsc_scale(tsc.to_ns, ticks);
}

// Saturates: "never" stays never.
static inline u64 tsc_from_ns(u64 ns)
{
    unsigned __int128 v = (unsigned __int128)ns * tsc.from_ns.mul >> tsc.from_ns.shift;
    return v > ~0ull ? ~0ull : (u64)v;
}

// Finds the frequency; takes about 10 ms where CPUID does not tell.
void tsc_calibrate(void);

// Waits, for hardware that needs a pause.
void tsc_delay_us(u64 us);
