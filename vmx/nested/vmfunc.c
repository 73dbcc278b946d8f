// VMFUNC of L2. SDM volume 3, "VM Functions". vmcs02 enables the instruction and none of its
// functions, so that each use comes here: EPTP switching changes the tree that L2 runs on, and
// everything else is an exit of L1.

#include "vmx/nested/state.h"

#define EPTP_LIST_ENTRIES 512

// EPTP switching, function 0. False: it is an exit of L1.
static bool switch_eptp(struct vcpu *vcpu, struct nvmcs *nv)
{
    u32 index = (u32)vcpu->gpr[GPR_RCX];
    u64 eptp;
    if (index >= EPTP_LIST_ENTRIES ||
        !guest_read(&vcpu->vm->mem, &eptp, GPA(v12(nv, F(EPTP_LIST_ADDR)) + index * sizeof(eptp)),
                    sizeof(eptp)) ||
        !check_eptp(&vcpu->nested->env, eptp))
        return false;
    v12_save(&nv->v, F(EPTP), eptp);
    if (CAP_HAS(&vcpu->vm->caps, EPT_VIOLATION_VE))
        v12_save(&nv->v, F(EPTP_INDEX), index);
    entry_address_space(vcpu, nv);
    return true;
}

bool vmfunc_emulate(struct vcpu *vcpu, struct nvmcs *nv)
{
    if ((u32)vcpu->gpr[GPR_RAX] != 0 || !(v12(nv, F(VMFUNC_CTRL)) & VMFUNC_EPTP_SWITCHING) ||
        !switch_eptp(vcpu, nv))
        return false;
    vcpu_skip(vcpu);
    return true;
}
