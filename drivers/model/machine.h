#pragma once
// The machine that one VM sees: all device models, wired. Nothing here touches hardware.
//
// Locking: machine_port_*, machine_mmio_* outside the local APIC's page, machine_irq(),
// machine_extint(), machine_console_input() and the run of `timers` want the machine's lock, which
// is the caller's. The local APIC of a vCPU is the owner's without a lock (vlapic.h), but for an
// EOI of a level-triggered interrupt (vlapic_eoi_is_level()), which goes to the I/O APIC.

#include "drivers/model/legacy.h"
#include "drivers/model/vioapic.h"
#include "drivers/model/vlapic.h"
#include "drivers/model/vpci.h"
#include "drivers/model/vpic.h"
#include "drivers/model/vpit.h"
#include "drivers/model/vpm.h"
#include "drivers/model/vrtc.h"
#include "drivers/model/vuart.h"

struct machine_params {
    unsigned cpus; // 1 .. MACHINE_MAX_CPUS
    u64 ram_below_4g, ram_above_4g;
    u64 start_time;     // seconds since 1970 (UTC) at the VM's time 0
    u16 debug_exit;     // port, 0 for none
    unsigned phys_bits; // of the VM's CPUs
    bool x2apic, tsc_deadline;
    struct vclock clock;
    u32 *apic_page[MACHINE_MAX_CPUS]; // one page for each CPU
    // All are called with `ctx` from within the calls below.
    void (*console_output)(void *ctx, u8 byte);
    void (*console_room)(void *ctx); // COM1's receiver, which was full, is not any more; or NULL
    void (*power_off)(void *ctx);
    void (*reset)(void *ctx);
    void (*debug_exit_code)(void *ctx, u32 code);
    void (*kick)(void *ctx, unsigned cpu); // see vlapic_params
    void *ctx;
};

struct machine {
    struct vclock clock;
    struct port_bus ports;
    struct mmio_bus mmio;
    struct timer_set timers; // of the devices; any one CPU runs them
    unsigned cpus;
    struct timer_set cpu_timers[MACHINE_MAX_CPUS]; // of the local APICs, run by their owners
    struct vlapic lapic[MACHINE_MAX_CPUS];
    struct vapic_bus apics;
    struct vioapic ioapic;
    struct vpic pic;
    struct vpit pit;
    struct vrtc rtc;
    struct vuart com1;
    struct vpm pm;
    struct vpci_bus pci;
    struct legacy legacy;
};

// Power-up, with the local APIC of CPU 0 as firmware leaves it. False if the parameters are out of
// range.
bool machine_init(struct machine *m, const struct machine_params *params);

// Access to I/O ports (1, 2 or 4 bytes); a port where nothing is reads as ones.
static inline u32 machine_port_read(struct machine *m, u16 port, unsigned size)
{
    return port_read(&m->ports, port, size);
}

static inline void machine_port_write(struct machine *m, u16 port, unsigned size, u32 value)
{
    port_write(&m->ports, port, size, value);
}

// Access of vCPU `cpu` to memory that is not RAM (1, 2, 4 or 8 bytes).
u64 machine_mmio_read(struct machine *m, unsigned cpu, gpa_t addr, unsigned size);
void machine_mmio_write(struct machine *m, unsigned cpu, gpa_t addr, unsigned size, u64 value);

// True if the access goes to the vCPU's own local APIC (and so needs no lock, see above).
bool machine_is_lapic(const struct machine *m, unsigned cpu, gpa_t addr);

// Level of an interrupt line: GSI 0..15 are the ISA interrupts (as IRQ numbers, on PIC and I/O
// APIC), 16..23 the I/O APIC's only.
void machine_irq(struct machine *m, unsigned irq, bool level);

// The vector of the ExtINT that vlapic_accepts_extint() announced for vCPU `cpu`.
u8 machine_extint(struct machine *m, unsigned cpu);

// A byte for COM1. False while its receiver is full.
static inline bool machine_console_input(struct machine *m, u8 byte)
{
    return vuart_receive(&m->com1, byte);
}
