#pragma once
// Who owns an exit of L2: one table (policy.def), a pure function of vmcs12 and the exit. It
// decides and nothing else.

#include "libc/x86.h"
#include "vmx/nested/vmcs12.h"

enum exit_owner {
    EXIT_TO_L0,   // about the machine, not about L2
    EXIT_TO_L1,   // a virtual VM exit
    EXIT_EMULATE, // a control of L0's own, or EPT02: L0 does what L2 wanted, and L2 goes on
};

// What the decision depends on besides vmcs12.
struct exit_event {
    u32 reason; // the whole field; bit 31: the entry failed
    u32 intr_info;
    u32 intr_error;
    u32 rcx; // RDMSR, WRMSR: the index
    u64 qualification;
    // MOV to CR: the source operand. VMREAD, VMWRITE: the operand that is the field's encoding (32
    // bits outside 64-bit mode). XSAVES, XRSTORS: EDX:EAX & IA32_XSS.
    u64 value;
};

// L1's bitmaps as vmcs12 names them, in memory that L0 can read. NULL where the control that uses
// one is off or L1 has no memory there: every access exits then.
struct exit_bitmaps {
    const u8 *msr;         // 4096 bytes
    const u8 *io_a, *io_b; // ports from 0, ports from 0x8000
    const u8 *vmread, *vmwrite;
};

// Intel SDM volume 3, chapter "VMX Non-Root Operation", and "VM-Execution Control Fields".
enum exit_owner exit_owner(const struct vmcs12 *v, const struct exit_event *x,
                           const struct exit_bitmaps *maps);

// The row of exceptions and NMIs. "Exceptions": the bitmap, and for page faults the error code as
// well. Machine checks and NMIs are the machine's.
static inline enum exit_owner exception_owner(const struct vmcs12 *v, const struct exit_event *x)
{
    enum { TYPE_NMI = 2 };
    u32 type = x->intr_info >> 8 & 7, vector = x->intr_info & 0xff;
    if (type == TYPE_NMI || vector == VEC_MC)
        return EXIT_TO_L0;
    bool exits = v12_get(v, F(EXCEPTION_BITMAP)) >> (vector & 31) & 1;
    if (vector == VEC_PF &&
        (x->intr_error & v12_get(v, F(PF_ERROR_MASK))) != v12_get(v, F(PF_ERROR_MATCH)))
        exits = !exits;
    return exits ? EXIT_TO_L1 : EXIT_EMULATE;
}

// Whether an exit for this reason (the whole field) is `whose`, a constant, whatever vmcs12 says:
// the rows of the table that say no more than that.
static inline bool exit_is_always(u32 reason, enum exit_owner whose)
{
#define ALWAYS_TO_L0                whose == EXIT_TO_L0
#define ALWAYS_TO_L1                whose == EXIT_TO_L1
#define ALWAYS_EMULATE              whose == EXIT_EMULATE
#define ALWAYS_L1_IF(...)           false
#define ALWAYS_exception_owner(...) false
#define REASON(number, name, owner) | ((u64)(number < 64 && (ALWAYS_##owner)) << (number & 63))
    const u64 always = 0
#include "vmx/nested/policy.def"
        ;
#undef REASON
#undef ALWAYS_TO_L0
#undef ALWAYS_TO_L1
#undef ALWAYS_EMULATE
#undef ALWAYS_L1_IF
#undef ALWAYS_exception_owner
    return reason < 64 && always >> reason & 1;
}
