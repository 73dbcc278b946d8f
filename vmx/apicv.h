#pragma once
// APIC virtualization for L1's own local APIC: the processor works on the page of the vCPU's vlapic
// while vmcs01 runs, so that an end of interrupt, the TPR and most reads cost no exit. SDM volume
// 3, chapter "APIC Virtualization and Virtual Interrupts".
//
// It is all or nothing: used where the processor has each part (vmx.apicv), and while the local
// APIC is enabled by IA32_APIC_BASE and by software. While L2 runs L0 evaluates L1's interrupts;
// what vmcs02 virtualizes is L1's wish (vmx/nested/vapic.c).

#include "drivers/model/vlapic.h"
#include "vmx/vm.h"
#include "vmx/vmxop.h"

enum apicv_mode {
    APICV_OFF,
    APICV_DELIVERY, // without the page, which L1 has moved
    APICV_XAPIC,
    APICV_X2APIC,
};

// Makes what the VM needs besides vm->ept01 and vm->msr_bitmap: false if there is no memory.
bool apicv_init_vm(struct vm *vm);

// The part of vmcs01 (current) that does not change.
void apicv_init_vmcs01(struct vcpu *vcpu);

// Before a VM entry into L1: vmcs01 (current) follows the local APIC's mode, and the processor
// learns of new interrupts. Wakes the vCPU from HLT if one will be delivered.
void apicv_prepare(struct vcpu *vcpu);

// Exits of L1: an access to the page that is not virtualized, a write to it that is L0's to
// complete, the end of a level-triggered interrupt.
enum run_result exit_apic_access(struct vcpu *vcpu);
enum run_result exit_apic_write(struct vcpu *vcpu);
enum run_result exit_eoi(struct vcpu *vcpu);

// What the processor knows, from vmcs01 (current).
static inline u16 apicv_status(const struct vcpu *vcpu)
{
    return vcpu->lapic->by_processor ? (u16)vmread(F(GUEST_INTR_STATUS)) : 0;
}

// L2 runs from now on, `status` was read before. As long as nothing is in it and nothing new comes,
// there is nothing to take back.
static inline void apicv_leave_l1(struct vcpu *vcpu, u16 status)
{
    if (UNLIKELY(status))
        vlapic_take_back(vcpu->lapic, status);
}

// L2 runs, and L0 is about to look for interrupts of L1.
static inline void apicv_take_new(struct vcpu *vcpu)
{
    if (vcpu->lapic->by_processor && vlapic_attention(vcpu->lapic) & VLAPIC_STATUS)
        vlapic_take_new(vcpu->lapic);
}

// L1 runs again.
static inline void apicv_become_l1(struct vcpu *vcpu)
{
    if (UNLIKELY(!vcpu->lapic->by_processor) && vcpu->apicv != APICV_OFF)
        vlapic_hand_over(vcpu->lapic);
}
