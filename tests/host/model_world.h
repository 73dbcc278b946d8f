#pragma once
// What the tests of the device models share: a clock that stands until it is moved, an interrupt
// line that records, and short names for port accesses.

#include "drivers/model/vbus.h"
#include "drivers/model/vclock.h"

#define US 1000ull
#define MS 1000000ull
#define S  1000000000ull

static u64 world_now;
static u64 world_tsc_hz = 10000000;

static u64 world_now_ns(void *ctx)
{
    (void)ctx;
    return world_now;
}

static u64 world_tsc_to_ns(void *ctx, unsigned cpu, u64 tsc)
{
    (void)ctx;
    (void)cpu;
    u64 ns_per_tick = NS_PER_SEC / world_tsc_hz;
    return tsc > UINT64_MAX / ns_per_tick ? TIMER_NEVER : tsc * ns_per_tick;
}

static const struct vclock world_clock = {world_now_ns, world_tsc_to_ns, NULL};

struct world_line {
    bool level;
    unsigned rises;
};

static inline void world_line_set(void *ctx, unsigned n, bool level)
{
    struct world_line *line = ctx;
    (void)n;
    line->rises += level && !line->level;
    line->level = level;
}

#define WORLD_LINE(line) ((struct irq_line){world_line_set, (line), 0})

// Runs the timers, each at its own time, up to VM time `until`.
static inline void world_run(struct timer_set *set, u64 until)
{
    while (timers_next(set) <= until) {
        world_now = MAX(world_now, timers_next(set));
        timers_run(set, world_now);
    }
    world_now = until;
}

static inline void outb(struct port_bus *bus, u16 port, u8 value)
{
    port_write(bus, port, 1, value);
}

static inline u8 inb(struct port_bus *bus, u16 port)
{
    return (u8)port_read(bus, port, 1);
}
