#include "drivers/model/vclock.h"

#include "libc/log.h"

static void find_next(struct timer_set *set)
{
    u64 next = TIMER_NEVER;
    for (unsigned i = 0; i < set->count; i++)
        next = MIN(next, set->timer[i]->deadline);
    set->next = next;
}

void timer_set_init(struct timer_set *set)
{
    *set = (struct timer_set){.next = TIMER_NEVER};
}

void timer_init(struct vtimer *timer, struct timer_set *set,
                void (*fire)(struct vtimer *timer, u64 now))
{
    ASSERT(set->count < TIMER_SET_MAX);
    *timer = (struct vtimer){.deadline = TIMER_NEVER, .fire = fire, .set = set};
    set->timer[set->count++] = timer;
}

void timer_arm(struct vtimer *timer, u64 deadline)
{
    struct timer_set *set = timer->set;
    bool was_next = timer->deadline == set->next;
    timer->deadline = deadline;
    if (deadline <= set->next)
        set->next = deadline;
    else if (was_next)
        find_next(set);
}

void timers_run(struct timer_set *set, u64 now)
{
    if (LIKELY(now < set->next))
        return;
    for (unsigned i = 0; i < set->count; i++) {
        struct vtimer *timer = set->timer[i];
        if (timer->deadline <= now && timer->deadline != TIMER_NEVER) {
            timer->deadline = TIMER_NEVER;
            timer->fire(timer, now);
        }
    }
    find_next(set);
}

u64 timer_next_tick(u64 due, u64 period, u64 now)
{
    u64 next = due + period;
    if (LIKELY(next > now))
        return next;
    return now + period - (now - due) % period;
}
