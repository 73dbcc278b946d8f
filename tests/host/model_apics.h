#pragma once
// A VM's worth of local APICs for the tests, with what they tell the outside.

#include <stdlib.h>

#include "drivers/model/vlapic.h"
#include "tests/host/model_world.h"
#include "tests/host/test.h"

#define WORLD_CPUS 4

static struct vapic_bus apics;
static struct vlapic lapics[WORLD_CPUS];
static struct timer_set lapic_timers[WORLD_CPUS];
static u32 lapic_pages[WORLD_CPUS][1024] ALIGNED(4096);
static unsigned kicks[WORLD_CPUS];
static int last_eoi;

static void apics_kick(void *ctx, unsigned id)
{
    (void)ctx;
    kicks[id]++;
}

static void apics_eoi(void *ctx, u8 vector)
{
    (void)ctx;
    last_eoi = vector;
}

static inline void apics_setup(unsigned count, bool x2apic)
{
    world_now = 1000;
    last_eoi = -1;
    apics = (struct vapic_bus){.count = count, .eoi = apics_eoi};
    for (unsigned i = 0; i < count; i++) {
        struct vlapic_params p = {
            .id = i,
            .page = lapic_pages[i],
            .phys_bits = 40,
            .x2apic = true,
            .tsc_deadline = true,
            .clock = &world_clock,
            .timers = &lapic_timers[i],
            .kick = apics_kick,
        };
        timer_set_init(&lapic_timers[i]);
        vlapic_init(&lapics[i], &p, &apics);
        vlapic_mmio_write(&lapics[i], VLAPIC_SVR, 4, 0x1ff);
        if (x2apic && !vlapic_write_msr(&lapics[i], VLAPIC_MSR_BASE, lapics[i].base | BIT(10)))
            abort();
        vlapic_take(&lapics[i], VLAPIC_MODE);
        kicks[i] = 0;
    }
}

// The local APIC of CPU 0 and short names for what its processor does.
static struct vlapic *const l = &lapics[0];

static inline u32 rd(unsigned reg)
{
    return (u32)vlapic_mmio_read(l, reg, 4);
}

static inline void wr(unsigned reg, u32 value)
{
    vlapic_mmio_write(l, reg, 4, value);
}

static inline u32 msr_of(unsigned reg)
{
    return VLAPIC_MSR_X2APIC + reg / 16;
}

static inline u64 rdx(unsigned reg)
{
    u64 value = 0xbad;
    CHECK(vlapic_read_msr(l, msr_of(reg), &value));
    return value;
}

static inline bool wrx(unsigned reg, u64 value)
{
    return vlapic_write_msr(l, msr_of(reg), value);
}

static inline void run(u64 until)
{
    world_run(&lapic_timers[0], until);
}

// Takes the pending vector as a processor does, -1 if there is none.
static inline int take(void)
{
    int vector = vlapic_pending_vector(l);
    if (vector >= 0)
        vlapic_ack(l, (u8)vector);
    return vector;
}

static inline bool post(u8 vector)
{
    return vlapic_post(l, &(struct vapic_msg){.mode = VAPIC_FIXED, .vector = vector});
}
