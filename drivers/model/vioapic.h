#pragma once
// I/O APIC with 24 inputs, version 20H (with an EOI register). Facts: Intel 82093AA data sheet.
// Lines carry logical levels, so that the polarity bit is kept but changes nothing.

#include "drivers/model/layout.h"
#include "drivers/model/vapic.h"
#include "drivers/model/vbus.h"

struct vioapic {
    u64 entry[LAYOUT_IOAPIC_PINS];
    u32 lines; // levels of the inputs
    u8 select, id;
    struct vapic_bus *apics;
};

void vioapic_init(struct vioapic *io, u8 id, struct vapic_bus *apics);
bool vioapic_attach(struct vioapic *io, struct mmio_bus *bus, gpa_t base);

// Sets the level of input `pin` (ignored from LAYOUT_IOAPIC_PINS up).
void vioapic_set_irq(struct vioapic *io, unsigned pin, bool level);

// EOI broadcast of a local APIC: inputs that wait for `vector` may deliver again.
void vioapic_eoi(struct vioapic *io, u8 vector);
