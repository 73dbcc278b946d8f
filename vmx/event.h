#pragma once
// Events on their way into the guest that the current VMCS runs.

#include "vmx/exit.h"

#define INFO_VALID      BIT(31)
#define INFO_ERROR_CODE BIT(11)
#define INFO_TYPE(i)    ((i) >> 8 & 7)
#define INFO_VECTOR(i)  ((i)&0xff)

enum event_type {
    EVENT_INTERRUPT = 0,
    EVENT_NMI = 2,
    EVENT_HARD_EXCEPTION,
    EVENT_SOFT_INTERRUPT,
    EVENT_PRIVILEGED_EXCEPTION,
    EVENT_SOFT_EXCEPTION,
    EVENT_OTHER,
};

#define BLOCKING_STI    BIT(0)
#define BLOCKING_MOV_SS BIT(1)
#define BLOCKING_NMI    BIT(3)
#define NMI_UNBLOCKED   BIT(12) // of an exit qualification

#define PENDING_DEBUG_ENABLED BIT(12)
#define PENDING_DEBUG_BS      BIT(14)

// An exception that L0 raises while it executes an instruction for the guest. With an event
// already waiting it becomes what the manual's "double fault" rules say.
void vcpu_inject(struct vcpu *vcpu, u8 vector, bool has_error, u32 error);

// The guest shuts down: L1's VM is stopped, L2's triple fault is L1's to see.
void vcpu_triple_fault(struct vcpu *vcpu);

// #GP(0).
static inline void vcpu_inject_gp(struct vcpu *vcpu)
{
    vcpu_inject(vcpu, 13, true, 0);
}

// #UD.
static inline void vcpu_inject_ud(struct vcpu *vcpu)
{
    vcpu_inject(vcpu, 6, false, 0);
}

// The same with the address of a page fault, which is in CR2 when the guest gets it. Nothing is
// left to do for what is no exception.
void vcpu_inject_fault(struct vcpu *vcpu, const struct guest_fault *fault);

// Whether an exception, or an exit of L2 in its place, is on its way already.
static inline bool vcpu_event_waits(const struct vcpu *vcpu)
{
    return vcpu->event.info & INFO_VALID || vcpu->event.denied || vcpu->event.triple_fault;
}

// The instruction of an exit with "NMI unblocking due to IRET" in its qualification runs again:
// NMIs are blocked until then.
void vcpu_redo_iret(u64 qualification);

// VM-exit interruption information of the exit at hand. SDM, "Information for VM Exits Due to
// Vectored Events".
u32 vcpu_intr_info(void);

// Its IDT-vectoring information. SDM, "Information for VM Exits That Occur During Event Delivery".
u32 vcpu_vectoring_info(void);

// After an exit that may have interrupted the delivery of an event: that event waits again.
void vcpu_requeue_event(struct vcpu *vcpu);

// Before a VM entry into L1: puts the most urgent event into the VM-entry fields and asks for a
// window where one has to wait. Returns false if the vCPU stays halted.
bool vcpu_deliver_events(struct vcpu *vcpu);

// The parts of it that nested VMX uses, too: vcpu->event goes into the VM-entry fields of the
// current VMCS,
void vcpu_write_event(struct vcpu *vcpu);

// an exit is wanted, or not, as soon as the guest could take an interrupt (CTL_INTR_WINDOW) or an
// NMI (CTL_NMI_WINDOW),
void vcpu_set_window(struct vcpu *vcpu, u32 window, bool on);

// and the vector of the interrupt that the local APIC, or the PIC through it, has for the vCPU
// (vlapic_has_interrupt()), which is then in service.
u8 vcpu_take_interrupt(struct vcpu *vcpu);
