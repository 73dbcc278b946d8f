#pragma once
// Time as the device models see it: nanoseconds since the start of the VM, and timers on that
// scale. A timer set belongs to one user at a time (the vCPU, or the machine under its lock).

#include "libc/types.h"

#define TIMER_NEVER   UINT64_MAX
#define TIMER_SET_MAX 8
#define NS_PER_SEC    1000000000ull

struct vclock {
    // Monotonic. The VM's time stands still while the VM is stopped.
    u64 (*now_ns)(void *ctx);
    // VM time at which the TSC that vCPU `cpu` reads has the value `tsc`, rounded up; in the past
    // as any time that has passed, too far ahead as TIMER_NEVER.
    u64 (*tsc_to_ns)(void *ctx, unsigned cpu, u64 tsc);
    void *ctx;
};

static inline u64 clock_now(const struct vclock *clock)
{
    return clock->now_ns(clock->ctx);
}

struct timer_set;

struct vtimer {
    u64 deadline; // VM time, TIMER_NEVER when stopped
    // Called once the deadline has passed, with the timer stopped; it may arm the timer again.
    void (*fire)(struct vtimer *timer, u64 now);
    struct timer_set *set;
};

struct timer_set {
    u64 next; // earliest deadline of all
    unsigned count;
    struct vtimer *timer[TIMER_SET_MAX];
};

void timer_set_init(struct timer_set *set);

// Puts `timer`, stopped, into the set for good. A set takes TIMER_SET_MAX timers.
void timer_init(struct vtimer *timer, struct timer_set *set,
                void (*fire)(struct vtimer *timer, u64 now));

// Sets the deadline; one that has passed fires in the next timers_run(). TIMER_NEVER stops.
void timer_arm(struct vtimer *timer, u64 deadline);

static inline void timer_stop(struct vtimer *timer)
{
    timer_arm(timer, TIMER_NEVER);
}

// When timers_run() is wanted next (may be past), TIMER_NEVER if no timer runs.
static inline u64 timers_next(const struct timer_set *set)
{
    return set->next;
}

// Fires every timer whose deadline is at or before `now`, each at most once: a timer that arms
// itself for a time already past waits for the next call.
void timers_run(struct timer_set *set, u64 now);

// The next deadline of a periodic timer that was due at `due`: the first due + k * period after
// `now`, so that ticks missed are dropped. Periods are at least 1.
u64 timer_next_tick(u64 due, u64 period, u64 now);

// Conversion between nanoseconds and ticks of a clock of `hz` (below 10^9, fits 32 bits). To ticks
// it rounds down, to nanoseconds up, so that the tick has come when its time has.
static inline u64 ns_to_ticks(u64 ns, u64 hz)
{
    return ns / NS_PER_SEC * hz + ns % NS_PER_SEC * hz / NS_PER_SEC;
}

static inline u64 ticks_to_ns(u64 ticks, u64 hz)
{
    return ticks / hz * NS_PER_SEC + (ticks % hz * NS_PER_SEC + hz - 1) / hz;
}
