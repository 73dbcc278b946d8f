#pragma once
// Speculation barriers at the boundaries between protection domains. L0 keeps no secret of its own
// from a guest but what belongs to another domain: the data of one VM are to be kept from another,
// and L1 and L2 from each other as VMX root and non-root operation are on the processor alone. So
// nothing is done at an exit that goes back to where it came from.
//
// What a processor needs is one table (mitigate.def), decided once from what it says of itself.

#include "libc/types.h"

#define BARRIER_IBPB      1 // indirect branch prediction barrier: IA32_PRED_CMD
#define BARRIER_L1D_FLUSH 2 // IA32_FLUSH_CMD
#define BARRIER_VERW      4 // VERW overwrites fill buffers, load ports, store buffers

enum boundary {
    BOUNDARY_VM,        // the CPU takes up a vCPU of another VM
    BOUNDARY_ENTRY,     // virtual VM entry, L1 to L2
    BOUNDARY_EXIT,      // virtual VM exit, L2 to L1
    BOUNDARY_INTERRUPT, // a handler of L0 may have touched data of another VM
    BOUNDARY_COUNT
};

// What a processor says of itself.
struct speculation {
    u32 leaf7_ebx, leaf7_edx; // CPUID.07H.0
    u64 arch_caps;            // IA32_ARCH_CAPABILITIES, 0 if it has none
};

struct mitigations {
    u8 at[BOUNDARY_COUNT]; // BARRIER_ bits
    bool ibrs;             // enhanced IBRS: IA32_SPEC_CTRL.IBRS is set once and guards L0
};

// Pure.
struct mitigations mitigate_select(const struct speculation *cpu);

// The names of the barriers that are used anywhere, for a message: "IBPB, VERW", or "none".
const char *mitigate_names(const struct mitigations *m, char *text, unsigned size);

extern struct mitigations mitigations;

// Chooses for this machine (`enabled`: unless the configuration says no) and prepares this CPU.
void mitigate_init(bool enabled);

// Executes barriers (BARRIER_ bits).
void mitigate_now(unsigned barriers);

static inline void mitigate(enum boundary b)
{
    if (UNLIKELY(mitigations.at[b]))
        mitigate_now(mitigations.at[b]);
}
