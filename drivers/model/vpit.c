#include "drivers/model/vpit.h"

#define PORT_COUNTER0 0x40
#define PORT_CONTROL  0x43
#define PORT_61       0x61

#define GATE2         0x01 // of port 61H
#define PORT61_KEPT   0x0f // gate, speaker and the two parity enables
#define REFRESH       0x10
#define OUT2          0x20
#define REFRESH_HZ    66288ull // the refresh bit toggles every 15.085 microseconds
#define STATUS_OUT    0x80
#define STATUS_NULL   0x40

// --- Counting ---
//
// A counter is its count and the tick at which it was loaded; all else follows from the time. A
// gate that stops it keeps the ticks done in `ended_at`.

static bool periodic(const struct vpit_counter *c)
{
    return c->mode == 2 || c->mode == 3;
}

static bool gate_triggers(const struct vpit_counter *c)
{
    return c->mode == 1 || c->mode == 5;
}

static bool counting(const struct vpit_counter *c)
{
    return c->loaded && (!gate_triggers(c) || c->triggered);
}

static u64 elapsed(const struct vpit_counter *c, u64 tick)
{
    return c->running ? tick - c->start : c->ended_at;
}

// Lets a count come in that waits for the end of the period (in mode 3, too, where the chip takes
// it at the end of a half).
static void advance(struct vpit_counter *c, u64 tick)
{
    if (!periodic(c) || !c->next || !c->running || tick - c->start < c->count)
        return;
    c->start += c->count;
    c->count = c->next;
    c->next = 0;
}

static bool out(const struct vpit_counter *c, u64 tick)
{
    if (!counting(c))
        return c->mode != 0;
    u64 done = elapsed(c, tick);
    switch (c->mode) {
    case 0:
    case 1:
        return done >= c->count;
    case 2:
        return !c->gate || done % c->count != c->count - 1;
    case 3:
        return !c->gate || done % c->count < (c->count + 1) / 2;
    default: // 4 and 5: low for one tick
        return done != c->count;
    }
}

// The counting element: binary, before conversion to BCD.
static u32 value(const struct vpit_counter *c, u64 tick)
{
    u32 range = c->bcd ? 10000 : 0x10000;
    if (!counting(c))
        return c->count % range;
    u64 done = elapsed(c, tick);
    if (c->mode == 3) // counts by two, twice a period
        return (u32)(c->count - 2 * done % c->count) & ~1u;
    if (c->mode == 2)
        return (u32)(c->count - done % c->count) % range;
    return (u32)((c->count % range + range - done % range) % range);
}

static u16 to_bcd(u32 v)
{
    return (u16)(v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

static u32 from_bcd(u16 v)
{
    return (v >> 12) * 1000u + (v >> 8 & 15) * 100u + (v >> 4 & 15) * 10u + (v & 15);
}

// --- Interrupts of counter 0 ---

// The tick of the next rising edge of OUT 0 after `tick`, or TIMER_NEVER.
static u64 next_rise(const struct vpit_counter *c, u64 tick)
{
    if (!counting(c) || !c->running)
        return TIMER_NEVER;
    u64 done = tick - c->start;
    switch (c->mode) {
    case 0:
    case 1:
        return done < c->count ? c->start + c->count : TIMER_NEVER;
    case 2:
    case 3:
        return c->start + (done / c->count + 1) * c->count;
    default:
        return done < c->count + 1 ? c->start + c->count + 1 : TIMER_NEVER;
    }
}

static void arm(struct vpit *pit, u64 tick)
{
    u64 rise = next_rise(&pit->counter[0], tick);
    timer_arm(&pit->timer, rise == TIMER_NEVER ? TIMER_NEVER : ticks_to_ns(rise, VPIT_HZ));
}

static void fire(struct vtimer *timer, u64 now)
{
    struct vpit *pit = CONTAINER_OF(timer, struct vpit, timer);
    u64 tick = ns_to_ticks(now, VPIT_HZ);
    // The line is left high between ticks: only the edge matters.
    irq_set(&pit->irq, false);
    irq_set(&pit->irq, true);
    advance(&pit->counter[0], tick);
    arm(pit, tick);
}

// --- Programming ---

static u64 tick_now(const struct vpit *pit)
{
    return ns_to_ticks(clock_now(pit->clock), VPIT_HZ);
}

static void load(struct vpit_counter *c, u16 raw, u64 tick)
{
    u32 count = c->bcd ? from_bcd(raw) : raw;
    if (!count)
        count = c->bcd ? 10000 : 0x10000;
    if (periodic(c) && count == 1)
        count = 2; // not allowed in these modes
    if (periodic(c) && c->loaded) {
        if (c->running)
            c->start += (tick - c->start) / c->count * c->count; // of the present period
        c->next = count;
        return;
    }
    if (gate_triggers(c) && c->triggered) {
        c->next = count;
        return;
    }
    c->count = count;
    c->loaded = true;
    c->start = tick;
    c->ended_at = 0;
    c->running = c->gate || gate_triggers(c);
}

static void write_count(struct vpit *pit, struct vpit_counter *c, u8 byte)
{
    u64 tick = tick_now(pit);
    advance(c, tick);
    if (c->access == 3 && !c->write_high) {
        c->write_low = byte;
        c->write_high = true;
        if (c->mode == 0)
            c->loaded = false; // the first byte stops the count
    } else {
        u16 low = c->access == 1 ? byte : c->access == 3 ? c->write_low : 0;
        u16 high = c->access == 1 ? 0 : byte;
        c->write_high = false;
        load(c, (u16)(high << 8 | low), tick);
    }
    if (c == &pit->counter[0]) {
        irq_set(&pit->irq, out(c, tick));
        arm(pit, tick);
    }
}

static void latch_count(struct vpit_counter *c, u64 tick)
{
    if (c->count_latched)
        return;
    u32 v = value(c, tick);
    c->latch = c->bcd ? to_bcd(v) : (u16)v;
    c->count_latched = true;
}

static void latch_status(struct vpit_counter *c, u64 tick)
{
    if (c->status_latched)
        return;
    c->status = (u8)((out(c, tick) ? STATUS_OUT : 0) |
                     (!c->loaded || c->next || c->write_high ? STATUS_NULL : 0) | c->access << 4 |
                     c->mode << 1 | c->bcd);
    c->status_latched = true;
}

static void read_back(struct vpit *pit, u8 byte, u64 tick)
{
    for (unsigned i = 0; i < 3; i++) {
        struct vpit_counter *c = &pit->counter[i];
        if (!(byte & 2u << i))
            continue;
        advance(c, tick);
        if (!(byte & 0x20))
            latch_count(c, tick);
        if (!(byte & 0x10))
            latch_status(c, tick);
    }
}

static void write_control(struct vpit *pit, u8 byte)
{
    u64 tick = tick_now(pit);
    if (byte >> 6 == 3) {
        read_back(pit, byte, tick);
        return;
    }
    struct vpit_counter *c = &pit->counter[byte >> 6];
    if (!(byte & 0x30)) {
        advance(c, tick);
        latch_count(c, tick);
        return;
    }
    u8 mode = byte >> 1 & 7;
    c->mode = mode > 5 ? mode & 3 : mode;
    c->access = byte >> 4 & 3;
    c->bcd = byte & 1;
    c->loaded = c->triggered = c->count_latched = c->status_latched = false;
    c->read_high = c->write_high = false;
    c->next = 0;
    if (c == &pit->counter[0]) {
        irq_set(&pit->irq, out(c, tick));
        arm(pit, tick);
    }
}

// The gate of counter 2; those of the others are tied high.
static void set_gate(struct vpit_counter *c, bool gate, u64 tick)
{
    advance(c, tick);
    bool rises = gate && !c->gate;
    if (c->loaded && rises && (gate_triggers(c) || periodic(c))) {
        c->count = c->next ? c->next : c->count;
        c->next = 0;
        c->start = tick;
        c->triggered = c->running = true;
    } else if (c->loaded && rises) { // modes 0 and 4 go on
        c->start = tick - c->ended_at;
        c->running = true;
    } else if (!gate && c->gate && c->running && !gate_triggers(c)) {
        c->ended_at = tick - c->start;
        c->running = false;
    }
    c->gate = gate;
}

// --- Ports ---

static u8 read_count(struct vpit *pit, struct vpit_counter *c)
{
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    u16 v = c->latch;
    if (!c->count_latched) {
        u64 tick = tick_now(pit);
        advance(c, tick);
        u32 binary = value(c, tick);
        v = c->bcd ? to_bcd(binary) : (u16)binary;
    }
    bool high = c->access == 2 || (c->access == 3 && c->read_high);
    if (c->access == 3)
        c->read_high = !c->read_high;
    if (c->access != 3 || high)
        c->count_latched = false;
    return (u8)(high ? v >> 8 : v);
}

static u32 read_port(void *dev, u16 port, unsigned size)
{
    struct vpit *pit = dev;
    (void)size;
    return port == PORT_CONTROL ? 0xff : read_count(pit, &pit->counter[port - PORT_COUNTER0]);
}

static void write_port(void *dev, u16 port, unsigned size, u32 value)
{
    struct vpit *pit = dev;
    (void)size;
    if (port == PORT_CONTROL)
        write_control(pit, (u8)value);
    else
        write_count(pit, &pit->counter[port - PORT_COUNTER0], (u8)value);
}

static u32 read_port61(void *dev, u16 port, unsigned size)
{
    struct vpit *pit = dev;
    u64 now = clock_now(pit->clock);
    u64 tick = ns_to_ticks(now, VPIT_HZ);
    (void)port;
    (void)size;
    advance(&pit->counter[2], tick);
    u8 refresh = ns_to_ticks(now, REFRESH_HZ) & 1 ? REFRESH : 0;
    return pit->port61 | refresh | (out(&pit->counter[2], tick) ? OUT2 : 0);
}

static void write_port61(void *dev, u16 port, unsigned size, u32 value)
{
    struct vpit *pit = dev;
    (void)port;
    (void)size;
    pit->port61 = value & PORT61_KEPT;
    set_gate(&pit->counter[2], value & GATE2, tick_now(pit));
}

void vpit_init(struct vpit *pit, const struct vclock *clock, struct timer_set *timers,
               struct irq_line irq)
{
    *pit = (struct vpit){.clock = clock, .irq = irq};
    for (unsigned i = 0; i < 3; i++)
        pit->counter[i] = (struct vpit_counter){.count = 0x10000, .mode = 3, .access = 3};
    pit->counter[0].gate = pit->counter[1].gate = true;
    timer_init(&pit->timer, timers, fire);
}

bool vpit_attach(struct vpit *pit, struct port_bus *bus)
{
    static const struct port_ops ops = {read_port, write_port, 1};
    static const struct port_ops ops61 = {read_port61, write_port61, 1};
    return port_bus_add(bus, PORT_COUNTER0, PORT_CONTROL, &ops, pit) &&
           port_bus_add(bus, PORT_61, PORT_61, &ops61, pit);
}
