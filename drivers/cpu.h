#pragma once
// One logical processor: its descriptor tables, its stacks and what the layers above keep for it.
// The structure of the running CPU is at %gs:0.

#include "libc/addr.h"

#define MAX_CPUS 64

#define SEL_CODE 0x08
#define SEL_DATA 0x10
#define SEL_TSS  0x18

enum ist { IST_NMI = 1, IST_DF, IST_MC, IST_COUNT };

struct tss {
    u32 reserved0;
    u64 rsp[3];
    u64 reserved1;
    u64 ist[7];
    u64 reserved2;
    u16 reserved3;
    u16 iomap;
} PACKED;

struct vcpu;

struct cpu {
    struct cpu *self;      // the first three: offsets known to vmx/enter.asm
    u64 exit_stack;        // top of the stack on which L0 handles VM exits
    u64 caller_rsp;        // of the code that runs a vCPU, on the ordinary stack
    unsigned id;           // index, 0 is the boot CPU
    u32 apic_id;
    u64 gdt[5];
    struct tss tss;
    u64 stack_top;         // of ordinary code
    hpa_t vmxon;           // VMXON region
    struct vcpu *current;  // whose FPU and unswitched MSRs are in the registers, or NULL
    u16 next_vpid;
    volatile u32 nmis;     // NMIs that arrived while L0 ran
    volatile u32 irqs;     // interrupts taken, for the idle loop and the summary
};

// The structure of the calling CPU; after cpu_load().
static inline struct cpu *this_cpu(void)
{
    struct cpu *cpu;
    asm("mov %%gs:0, %0" : "=r"(cpu));
    return cpu;
}

// Loads GDT, TSS and %gs of the calling CPU from `cpu`, whose stacks are set.
void cpu_load(struct cpu *cpu);
