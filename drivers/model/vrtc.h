#pragma once
// MC146818 real-time clock with 128 bytes of CMOS memory, ports 70H-71H, IRQ 8.

#include "drivers/model/vbus.h"
#include "drivers/model/vclock.h"

struct vrtc {
    u8 cmos[128]; // time and alarm registers in the guest's own format
    u8 index;
    bool nmi_masked; // bit 7 of port 70H as last written
    s64 offset;      // calendar seconds (since 1970) = offset + seconds of the VM's time
    u64 phase;       // VM time at which a second began (the divider was released)
    u64 update_seen, alarm_seen; // seconds (of VM time since phase) up to which flags are counted
    u64 period_seen;             // the same in periods of the periodic interrupt
    const struct vclock *clock;
    struct vtimer second, periodic;
    struct irq_line irq;
};

struct vrtc_params {
    u64 start_time; // seconds since 1970 (UTC) at the VM's time 0
    u64 ram_below_4g, ram_above_4g;
    unsigned cpus;
};

void vrtc_init(struct vrtc *rtc, const struct vrtc_params *params, const struct vclock *clock,
               struct timer_set *timers, struct irq_line irq);
bool vrtc_attach(struct vrtc *rtc, struct port_bus *bus);
