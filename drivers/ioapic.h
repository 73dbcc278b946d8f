#pragma once
// The machine's IOAPICs (a VM sees drivers/model/vioapic.h). Every input is masked until routed.

#include "libc/addr.h"

// Adds the IOAPIC whose registers are mapped at `regs`, first input `gsi_base`; masks all inputs.
// False if there are too many.
bool ioapic_add(volatile u32 *regs, u32 gsi_base);

// Lets input `gsi` interrupt CPU `apic_id` with `vector`. False if no IOAPIC has that input.
bool ioapic_route(u32 gsi, u8 vector, u32 apic_id, bool level, bool active_low);

// No interrupts from input `gsi` any more; nothing if there is no such input.
void ioapic_mask(u32 gsi);
