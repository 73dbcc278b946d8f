// Local APIC: the timer. SDM volume 3, "APIC Timer". Counting modes tick once a nanosecond
// (LAYOUT_LAPIC_TIMER_HZ) before the divider.

#include "drivers/model/vlapic_internal.h"

enum timer_mode { ONE_SHOT, PERIODIC, TSC_DEADLINE, RESERVED };

static enum timer_mode mode_of(u32 lvt)
{
    return (enum timer_mode)(lvt >> 17 & 3);
}

static enum timer_mode mode(const struct vlapic *l)
{
    return mode_of(vlapic_get(l, VLAPIC_LVT_TIMER));
}

static bool counts(enum timer_mode mode)
{
    return mode == ONE_SHOT || mode == PERIODIC;
}

static unsigned divisor(const struct vlapic *l)
{
    u32 dcr = vlapic_get(l, VLAPIC_TIMER_DIVIDE);
    unsigned code = (dcr & 3) | (dcr >> 1 & 4);
    return 1u << ((code + 1) & 7); // code 7 divides by 1
}

// Nanoseconds from the initial count to 0; 0 when the timer is stopped.
static u64 period(const struct vlapic *l)
{
    return (u64)vlapic_get(l, VLAPIC_TIMER_INITIAL) * divisor(l);
}

// Arms for the next expiry of a counting mode. A masked timer counts on without one.
static void arm(struct vlapic *l, u64 now)
{
    u64 next = TIMER_NEVER, whole = period(l), first = l->timer_started + whole;
    if (whole && !(vlapic_get(l, VLAPIC_LVT_TIMER) & VLAPIC_LVT_MASKED)) {
        if (mode(l) == PERIODIC)
            next = timer_next_tick(l->timer_started, whole, now);
        else if (first > now)
            next = first;
    }
    timer_arm(&l->timer, next);
}

static void fire(struct vtimer *timer, u64 now)
{
    struct vlapic *l = CONTAINER_OF(timer, struct vlapic, timer);
    l->tsc_deadline = 0;
    vlapic_local_interrupt(l, VLAPIC_LVT_TIMER);
    if (mode(l) == PERIODIC)
        arm(l, now);
}

void vlapic_timer_init(struct vlapic *l, struct timer_set *timers)
{
    timer_init(&l->timer, timers, fire);
}

void vlapic_timer_reset(struct vlapic *l)
{
    l->tsc_deadline = 0;
    timer_stop(&l->timer);
}

void vlapic_timer_set_lvt(struct vlapic *l, u32 value)
{
    enum timer_mode before = mode(l), after = mode_of(value);
    vlapic_put(l, VLAPIC_LVT_TIMER, value);
    if (before != after && !(counts(before) && counts(after))) {
        vlapic_put(l, VLAPIC_TIMER_INITIAL, 0);
        vlapic_timer_reset(l);
    } else if (counts(after)) {
        arm(l, clock_now(l->clock));
    }
}

void vlapic_timer_set_initial(struct vlapic *l, u32 value)
{
    if (!counts(mode(l)))
        return;
    u64 now = clock_now(l->clock);
    vlapic_put(l, VLAPIC_TIMER_INITIAL, value);
    l->timer_started = now;
    arm(l, now);
}

static u32 current_at(const struct vlapic *l, u64 now)
{
    u64 whole = period(l), done = now - l->timer_started;
    if (!whole || !counts(mode(l)))
        return 0;
    if (mode(l) == PERIODIC)
        done %= whole;
    else if (done >= whole)
        return 0;
    return (u32)((whole - done + divisor(l) - 1) / divisor(l));
}

u32 vlapic_timer_current(const struct vlapic *l)
{
    return current_at(l, clock_now(l->clock));
}

void vlapic_timer_set_divide(struct vlapic *l, u32 value)
{
    u64 now = clock_now(l->clock), done = vlapic_get(l, VLAPIC_TIMER_INITIAL) - current_at(l, now);
    vlapic_put(l, VLAPIC_TIMER_DIVIDE, value);
    l->timer_started = now - done * divisor(l); // the count goes on from where it is
    if (counts(mode(l)))
        arm(l, now);
}

void vlapic_timer_set_deadline(struct vlapic *l, u64 tsc)
{
    if (mode(l) != TSC_DEADLINE)
        return;
    l->tsc_deadline = tsc;
    timer_arm(&l->timer, tsc ? l->clock->tsc_to_ns(l->clock->ctx, l->id, tsc) : TIMER_NEVER);
}

void vlapic_tsc_changed(struct vlapic *l)
{
    if (l->tsc_deadline)
        vlapic_timer_set_deadline(l, l->tsc_deadline);
}
