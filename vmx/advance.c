// The end of an instruction that L0 executed for a guest, where more than RIP changes.

#include "vmx/event.h"
#include "vmx/nested/nested.h"

#define INSN_BYTES   15
#define DEBUGCTL_BTF BIT(1)

void vcpu_advance_rare(struct vcpu *vcpu, u64 next, u64 blocking, u64 rflags)
{
    if (next - 4 * GIB < INSN_BYTES && !(vmread(F(GUEST_CS_AR)) & CS_AR_L))
        vmwrite(F(GUEST_RIP), (u32)next);
    if (blocking & (BLOCKING_STI | BLOCKING_MOV_SS)) {
        vmwrite(F(GUEST_INTERRUPTIBILITY), blocking & ~(BLOCKING_STI | BLOCKING_MOV_SS));
        vcpu_note(vcpu, WORK_EVENTS);
    }
    if (rflags & RFLAGS_RF)
        vmwrite(F(GUEST_RFLAGS), rflags & ~(u64)RFLAGS_RF);
    vcpu_single_step(rflags);
}

void vcpu_single_step(u64 rflags)
{
    if (rflags & RFLAGS_TF && !(vmread(F(GUEST_DEBUGCTL)) & DEBUGCTL_BTF))
        vmwrite(F(GUEST_PENDING_DEBUG), vmread(F(GUEST_PENDING_DEBUG)) | PENDING_DEBUG_BS);
}

bool vcpu_is_traced(struct vcpu *vcpu)
{
    return vmread(F(GUEST_RFLAGS)) & RFLAGS_TF || nested_monitor_trap(vcpu);
}
