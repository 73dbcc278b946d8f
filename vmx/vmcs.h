#pragma once
// A VMCS that the processor runs (vmcs01, vmcs02), or a shadow VMCS. It stays on the CPU that made
// it, as its vCPU does.

#include "vmx/vmxop.h"

struct pool;

struct vmcs {
    hpa_t hpa;
    u32 proc; // processor-based controls as last written (window bits come and go)
};

// What the host-state area of every VMCS says on all CPUs.
struct vmx_host {
    u64 cr3;
    u64 idt_base;
    void (*irq)(u8 vector); // an external interrupt that a VM exit acknowledged
};

// Allocates and clears a VMCS; `shadow` sets the shadow-VMCS indicator. False: no memory.
bool vmcs_create(struct vmcs *v, struct pool *pool, bool shadow);

// Makes `v` the current VMCS.
static inline void vmcs_load(struct vmcs *v)
{
    vmxop_ptrld(&v->hpa);
}

// VMCLEAR: the data are in memory and the launch state is clear.
void vmcs_clear(struct vmcs *v);

// Clears it and gives its page back to the pool.
void vmcs_destroy(struct vmcs *v, struct pool *pool);

// Writes the host-state area of the current VMCS, for the calling CPU; it never changes.
void vmcs_init_host(const struct vmx_host *host);
