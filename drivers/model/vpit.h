#pragma once
// The 8254 timer, ports 40H-43H, and port 61H (gate and output of counter 2, refresh toggle,
// speaker bit). Counter 0 drives IRQ 0. Facts: Intel 8254 data sheet.

#include "drivers/model/vbus.h"
#include "drivers/model/vclock.h"

#define VPIT_HZ 1193182ull

struct vpit_counter {
    u64 start;    // tick (of VPIT_HZ since the VM's start) at which `count` was loaded
    u64 ended_at; // ticks counted when the gate stopped it
    u32 count;    // 1 .. 65536
    u32 next;     // count that the next period loads, 0 if none waits
    u16 latch;
    u8 status;
    u8 mode, access; // access: 1 low byte, 2 high byte, 3 low then high
    bool bcd, gate;
    bool loaded;    // a count was written since the control word
    bool triggered; // modes 1 and 5: the gate has risen since the count
    bool running;   // not stopped by the gate
    bool count_latched, status_latched;
    bool read_high, write_high; // the next byte is the high one
    u8 write_low;
};

struct vpit {
    struct vpit_counter counter[3];
    const struct vclock *clock;
    struct vtimer timer; // rising edge of OUT 0
    struct irq_line irq;
    u8 port61; // bits 3:0
};

void vpit_init(struct vpit *pit, const struct vclock *clock, struct timer_set *timers,
               struct irq_line irq);
bool vpit_attach(struct vpit *pit, struct port_bus *bus);
