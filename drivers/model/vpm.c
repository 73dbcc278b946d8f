#include "drivers/model/vpm.h"

enum {
    EVT_STATUS = 0,
    EVT_ENABLE = 2,
    CNT = 4,
    TIMER = 8,
    END = 12,
};

enum {
    STATUS_TIMER = 0x0001,
    ENABLE_KEPT = 0x0721,
    CNT_SCI_EN = 0x0001,
    CNT_KEPT = 0x1c02, // SLP_TYP and BM_RLD
    CNT_SLP_EN = 0x2000,
};

// The top bit of the timer changes once in so many ticks.
static u64 carry_ticks(const struct vpm *pm)
{
    return 1ull << (pm->bits - 1);
}

static u64 ticks(const struct vpm *pm)
{
    return ns_to_ticks(clock_now(pm->clock), VPM_TIMER_HZ);
}

static void update(struct vpm *pm)
{
    u64 carries = ticks(pm) / carry_ticks(pm);
    if (carries != pm->carry_seen)
        pm->status |= STATUS_TIMER;
    pm->carry_seen = carries;
    bool sci = pm->status & pm->enable;
    irq_set(&pm->sci, sci);
    bool wanted = (pm->enable & STATUS_TIMER) && !sci;
    timer_arm(&pm->carry,
              wanted ? ticks_to_ns((carries + 1) * carry_ticks(pm), VPM_TIMER_HZ) : TIMER_NEVER);
}

static void fire(struct vtimer *timer, u64 now)
{
    (void)now;
    update(CONTAINER_OF(timer, struct vpm, carry));
}

// The block as bytes, so that every register can be read in any width.
static u8 read_byte(struct vpm *pm, unsigned at)
{
    switch (at & ~1u) {
    case EVT_STATUS:
        return (u8)(pm->status >> 8 * (at & 1));
    case EVT_ENABLE:
        return (u8)(pm->enable >> 8 * (at & 1));
    case CNT:
        return (u8)((pm->control | CNT_SCI_EN) >> 8 * (at & 1));
    default:
        return 0;
    }
}

static u32 read_port(void *dev, u16 port, unsigned size)
{
    struct vpm *pm = dev;
    unsigned at = port - pm->base;
    if (at >= TIMER) {
        u64 mask = pm->bits == 32 ? 0xffffffff : 0xffffff;
        return (u32)((ticks(pm) & mask) >> 8 * (at - TIMER) & bus_ones(size));
    }
    update(pm);
    u32 value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (u32)read_byte(pm, at + i) << 8 * i;
    return value;
}

static void write_control(struct vpm *pm, unsigned shift, u8 value)
{
    u16 word = (u16)(value << shift);
    pm->control = (u16)((pm->control & ~(0xff << shift)) | (word & CNT_KEPT));
    if ((word & CNT_SLP_EN) && (pm->control >> 10 & 7) == pm->s5_type)
        pm->power_off(pm->ctx);
}

static void write_byte(struct vpm *pm, unsigned at, u8 value)
{
    unsigned shift = 8 * (at & 1);
    switch (at & ~1u) {
    case EVT_STATUS:
        pm->status &= (u16) ~(value << shift); // ones clear
        break;
    case EVT_ENABLE:
        pm->enable = (u16)((pm->enable & ~(0xff << shift)) | ((value << shift) & ENABLE_KEPT));
        break;
    case CNT:
        write_control(pm, shift, value);
        break;
    default: // the timer cannot be set
        break;
    }
}

static void write_port(void *dev, u16 port, unsigned size, u32 value)
{
    struct vpm *pm = dev;
    update(pm);
    for (unsigned i = 0; i < size; i++)
        write_byte(pm, port - pm->base + i, (u8)(value >> 8 * i));
    update(pm);
}

void vpm_init(struct vpm *pm, const struct vpm_params *params, const struct vclock *clock,
              struct timer_set *timers, struct irq_line sci)
{
    *pm = (struct vpm){
        .bits = params->timer_bits,
        .s5_type = params->s5_type,
        .power_off = params->power_off,
        .ctx = params->ctx,
        .clock = clock,
        .sci = sci,
    };
    timer_init(&pm->carry, timers, fire);
    pm->carry_seen = ticks(pm) / carry_ticks(pm);
}

bool vpm_attach(struct vpm *pm, struct port_bus *bus, u16 base)
{
    static const struct port_ops ops = {read_port, write_port, 4};
    pm->base = base;
    return port_bus_add(bus, base, (u16)(base + END - 1), &ops, pm);
}
