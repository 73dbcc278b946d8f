#pragma once
// What CPUID tells a VM: the host's answers less what Nestor does not virtualize, computed once at
// the VM's start. Pure but for the reader that is handed in.

#include "libc/types.h"

#define CPUID_BASIC_MAX 0x16
#define CPUID_EXT_MAX   9
#define CPUID_HV_LEAF   0x40000000u
#define CPUID_HV_MAX    2

struct cpuid_regs {
    u32 eax, ebx, ecx, edx;
};

typedef struct cpuid_regs (*cpuid_reader)(u32 leaf, u32 subleaf);

struct cpuid_params {
    unsigned cpus;
    bool vmx;                     // L1 may use VMX
    bool xsaves, invpcid, rdtscp; // vmcs01 enables the instruction
};

struct cpuid_table {
    struct cpuid_regs basic[CPUID_BASIC_MAX + 1]; // subleaf 0
    struct cpuid_regs ext[CPUID_EXT_MAX];
    struct cpuid_regs hv[CPUID_HV_MAX];
    u32 max_basic, max_ext;
    u32 cpus;
    u64 xcr0, xss; // bits that the VM may set
    bool xsaves;
    u64 efer; // likewise
    unsigned phys_bits, linear_bits;
};

// Fills the table from `host`, the machine's own CPUID. What `t` says is fixed for the VM's life.
void cpuid_build(struct cpuid_table *t, cpuid_reader host, const struct cpuid_params *p);

// What depends on the vCPU and its state.
struct cpuid_state {
    u32 apic_id;
    bool osxsave; // CR4.OSXSAVE
    bool apic;    // IA32_APIC_BASE.EN
};

// The VM's answer. Leaves above the limits answer as Intel processors do: like the highest basic
// leaf.
struct cpuid_regs cpuid_answer(const struct cpuid_table *t, cpuid_reader host, u32 leaf,
                               u32 subleaf, const struct cpuid_state *state);

// Leaves whose answer depends on nothing: neither subleaf nor the vCPU's state.
#define CPUID_VARIABLE (BIT(1) | BIT(4) | BIT(7) | BIT(0xb) | BIT(0xd))

// The answer where it is such a leaf, else NULL: the short way of cpuid_answer().
static inline const struct cpuid_regs *cpuid_fixed(const struct cpuid_table *t, u32 leaf)
{
    if (leaf <= t->max_basic)
        return CPUID_VARIABLE >> leaf & 1 ? NULL : &t->basic[leaf];
    if (leaf - CPUID_HV_LEAF < CPUID_HV_MAX)
        return &t->hv[leaf - CPUID_HV_LEAF];
    return NULL;
}

// Features that other tables need to know.
static inline bool cpuid_has_xsave(const struct cpuid_table *t)
{
    return t->basic[1].ecx & BIT(26);
}

static inline bool cpuid_has_1g(const struct cpuid_table *t)
{
    return t->ext[1].edx & BIT(26);
}

// CR4 bits that the VM may set.
u64 cpuid_cr4_mask(const struct cpuid_table *t);
