#pragma once
// The local APIC of the running CPU, in xAPIC or x2APIC mode (x2APIC where the processor has it).
// A VM sees drivers/model/vlapic.h, never this one.

#include "libc/addr.h"

// Turns the local APIC of the calling CPU on. `map` gives L0's pointer to device registers.
void apic_init_cpu(void *(*map)(hpa_t hpa, u64 size));

// The APIC ID of the calling CPU, 32 bits in x2APIC mode.
u32 apic_id(void);

// Acknowledges the interrupt in service on the calling CPU.
void apic_eoi(void);

// Fixed interrupt to another CPU.
void apic_send(u32 apic_id, u8 vector);

// One interrupt with `vector` when the TSC reaches `deadline_tsc` (at once if it has passed). Only
// the last request counts; ~0 cancels.
void apic_timer_at(u64 deadline_tsc, u8 vector);

// After the TSC is calibrated: measures the APIC timer where there is no TSC deadline mode.
void apic_timer_calibrate(void);
