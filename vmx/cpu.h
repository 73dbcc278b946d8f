#pragma once
// VMX on one processor: whether it can, and switching it on.

#include "ept/entry.h"
#include "vmx/control.h"
#include "vmx/vmcs.h"

struct cpu;

enum vmx_problem {
    VMX_OK,
    VMX_ABSENT,    // the processor has no VMX, or hides it
    VMX_LOCKED,    // the firmware locked it off
    VMX_INCAPABLE, // something that Nestor needs is missing
    VMX_VMXON,     // VMXON failed
};

struct vmx_state {
    struct vmx_caps caps; // of the processor
    struct ept_caps ept;
    struct vmx_host host; // set by the layer above before a vCPU is made
    unsigned timer_shift; // the preemption timer counts TSC >> this
    bool vpid, shadowing;
    bool apicv; // all of APIC virtualization
};

// The same for every CPU: they are taken to be alike, as Intel's are.
extern struct vmx_state vmx;

// Reads the capabilities and says what is missing, if anything (`*missing`, for the message).
enum vmx_problem vmx_probe(const char **missing);

// Enters VMX operation on the calling CPU; `region` is a page for VMXON.
enum vmx_problem vmx_enable(struct cpu *cpu, hpa_t region);
