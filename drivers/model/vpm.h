#pragma once
// ACPI fixed hardware: PM1a event and control registers and the PM timer. ACPI specification,
// "ACPI Hardware Specification". The machine is always in ACPI mode (SCI_EN reads 1).

#include "drivers/model/vbus.h"
#include "drivers/model/vclock.h"

#define VPM_TIMER_HZ 3579545ull

struct vpm {
    u16 status, enable, control;
    unsigned bits;  // width of the timer, 24 or 32
    u64 carry_seen; // changes of the timer's top bit that TMR_STS has counted
    const struct vclock *clock;
    struct vtimer carry; // runs while TMR_EN is set
    struct irq_line sci;
    u16 base;
    u8 s5_type; // SLP_TYP that powers off
    void (*power_off)(void *ctx);
    void *ctx;
};

struct vpm_params {
    unsigned timer_bits;
    u8 s5_type;
    void (*power_off)(void *ctx);
    void *ctx;
};

void vpm_init(struct vpm *pm, const struct vpm_params *params, const struct vclock *clock,
              struct timer_set *timers, struct irq_line sci);
bool vpm_attach(struct vpm *pm, struct port_bus *bus, u16 base);
