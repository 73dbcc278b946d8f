#pragma once
// A benchmark that runs as L1, with an L2: how many ticks of the TSC one operation takes. Each
// operation is repeated, each repetition is checked for its result, the median is printed:
//
//     bench NAME ticks N
//
// and, when L0 is a Nestor that counts (make COUNT=1), in the same form what L0 executed for it:
// exits, vmreads, vmwrites, vmptrlds, vmclears, invepts (INVVPID included).
//
// What the frame itself takes is subtracted: that of the operation that does nothing.

#include "tests/l1/vmx/l2.h"

// One operation. Only run() is measured.
struct op {
    const char *name;
    void (*begin)(void);  // once, before the first repetition; may be NULL
    void (*before)(void); // before each; may be NULL
    void (*run)(void);
    bool (*good)(void); // after each: was the result as it must be?
    // L2 measures the ticks itself and leaves them in R9; run() ends with a VMCALL of L2.
    bool in_l2;
    u32 samples; // 0: the usual number
};

// Why an operation is not there on this processor; NULL: it is.
struct ops {
    const struct op *op;
    u32 count;
    const char *(*missing)(void); // may be NULL
};
extern const struct ops ops_l1, ops_exits, ops_ept, ops_vmcs, ops_irq, ops_mmu;

// --- L2 for the operations ---

// The VMCS of the usual L2 is current, in the default state with VPID; L2 will begin at `code`.
void bench_l2(const void *code);
// Makes a VMCS at `region`, current, with all fields written as above and the given EPT pointer.
void bench_vmcs(u64 region, const void *code, u64 eptp);

// Runs L2 until the next VM exit; see enter.asm.
void bench_enter(void);
extern u8 bench_failed;

// The same code in L1 and for the measured part of L2's code: R8 = TSC at the start; R9 = ticks.
#define L2_START "rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %r8;"
#define L2_STOP  "rdtsc; shl $32, %rdx; or %rdx, %rax; sub %r8, %rax; mov %rax, %r9;"

// VMREAD and VMWRITE as hypervisors use them: one instruction, no check.
static inline u64 field_read(u64 encoding)
{
    u64 v;
    asm volatile("vmread %1, %0" : "=r"(v) : "r"(encoding) : "cc", "memory");
    return v;
}

static inline void field_write(u64 encoding, u64 v)
{
    asm volatile("vmwrite %1, %0" : : "r"(encoding), "r"(v) : "cc", "memory");
}

// The reason of the last exit that an operation looked at.
extern u64 exit_reason;

static inline void read_reason(void)
{
    exit_reason = field_read(EXIT_REASON);
}

static inline void skip_insn(u64 length)
{
    field_write(GUEST_RIP, field_read(GUEST_RIP) + length);
}

static inline bool left_by(u64 reason)
{
    return !bench_failed && exit_reason == reason;
}

enum { VMCALL_LENGTH = 3 };
extern u8 l2_vmcalls[]; // VMCALL over and over
