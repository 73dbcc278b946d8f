#pragma once
// The platform that L0 itself runs on, where it departs from the manual. Each departure is a quirk
// with a name; the rest of L0 asks for the quirk and not for the platform.

#include "libc/types.h"

struct quirks {
    // A pending external interrupt causes no VM exit while the guest runs with RFLAGS.IF = 0 since
    // VM entry (Bochs 2.7). The preemption timer is then armed at least every 50 ms.
    bool lost_interrupt_exits;

    // IDT-vectoring information of an exit during the delivery of a virtual interrupt names an
    // event from before (Bochs 2.7). See vcpu_vectoring_info().
    bool unrecorded_virtual_interrupts;

    // The information on an exception in real mode says that there is an error code (Bochs 2.7). It
    // has none, and VM entry refuses to inject one.
    bool real_mode_error_codes;
};

extern struct quirks quirks;

// Detects the quirks of the processor at hand.
void platform_detect(void);

// Whether L0 runs under Bochs (its port 0xE9 answers).
bool platform_is_bochs(void);
