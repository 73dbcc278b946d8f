#pragma once
// A VMCS that the processor runs (vmcs01, vmcs02), or a shadow VMCS.

#include "drivers/cpu.h"
#include "vmx/vmxop.h"

struct pool;

struct vmcs {
    u64 host_rsp; // what HOST_RSP holds; first: offset known to vmx/enter.asm
    hpa_t hpa;
    struct cpu *cpu; // where it is active, NULL: cleared
    u32 proc;        // processor-based controls as last written (window bits come and go)
};

// What the host-state area of every VMCS says; the same on all CPUs.
struct vmx_host {
    u64 cr3;
    u64 idt_base;
    void (*irq)(u8 vector); // an external interrupt that a VM exit acknowledged
};

// Allocates and clears a VMCS; `shadow` sets the shadow-VMCS indicator. False: no memory.
bool vmcs_create(struct vmcs *v, struct pool *pool, bool shadow);

// Makes `v`, which is current, one of the calling CPU.
void vmcs_adopt(struct vmcs *v);

// Makes `v` the current VMCS of the calling CPU and, where it was on another CPU, moves it (its
// host state is rewritten then).
static inline void vmcs_load(struct vmcs *v)
{
    vmxop_ptrld(&v->hpa);
    if (UNLIKELY(v->cpu != this_cpu()))
        vmcs_adopt(v);
}

// VMCLEAR: the data are in memory and the launch state is clear.
void vmcs_clear(struct vmcs *v);

// Clears it and gives its page back to the pool.
void vmcs_destroy(struct vmcs *v, struct pool *pool);

// Writes the host-state fields of the current VMCS that never change.
void vmcs_init_host(const struct vmx_host *host);
