#pragma once
// Events in L2: an IDT of its own whose gates lead to VMCALLs, so that the exit tells which vector
// was delivered; and the local APIC as a source of interrupts and NMIs.

#include "tests/l1/vmx/l2.h"

// Gives L2 an IDT whose gate for each vector leads to a VMCALL of its own.
void events_idt(void);
// The gate of a vector in it, to be spoilt and restored.
struct idt_entry *events_gate(u8 vector);
// After an exit: the vector whose gate L2 is in, or NO_FAULT.
u32 events_vector(void);
// A word of L2's stack: 0 is what RSP points to.
u64 events_stack(u32 word);
// Checks that the VMCALL in the gate of `vector` was the exit.
bool check_delivered(u32 result, u32 vector, const char *fmt, ...) PRINTF(3, 4);

// Local APIC in the mode that it is in (xAPIC at 0xfee00000 or x2APIC).
void apic_enable(void);
void apic_self_ipi(u8 vector);
void apic_eoi(void);
// One interrupt after so many ticks of the TSC.
void apic_timer(u8 vector, u64 tsc);
bool apic_in_service(u8 vector);
// Makes the NMI that was taken by a VM exit no longer block others.
void nmi_unblock(void);
// Takes whatever interrupt is still pending.
void irq_drain(void);
