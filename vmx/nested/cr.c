// CR0, CR4 and EFER while L1 is in VMX operation.

#include "vmx/nested/shadow.h"

bool nested_cr0_ok(struct vcpu *vcpu, u64 value)
{
    const struct vmx_caps *c = &vcpu->vm->caps;
    u64 fixed0 = c->cr0_fixed0;
    if (!vcpu->nested->vmxon)
        return true;
    if (vcpu->in_l2 && V12_HAS(&vcpu->nested->current->v, UNRESTRICTED))
        fixed0 &= ~(CR0_PE | CR0_PG);
    return (value & fixed0) == fixed0 && !(value & ~c->cr0_fixed1);
}

bool nested_cr4_ok(struct vcpu *vcpu, u64 value)
{
    const struct vmx_caps *c = &vcpu->vm->caps;
    return !vcpu->nested->vmxon ||
           ((value & c->cr4_fixed0) == c->cr4_fixed0 && !(value & ~c->cr4_fixed1));
}

struct cr_part nested_cr_part(struct vcpu *vcpu, unsigned cr)
{
    struct nvmcs *nv = vcpu->nested->current;
    if (!vcpu->in_l2)
        return (struct cr_part){0, 0, 0};
    if (cr == 0)
        return (struct cr_part){v12(nv, F(CR0_MASK)), v12(nv, F(CR0_SHADOW)),
                                (vmread(F(GUEST_CR0)) & ~CR0_L0) |
                                    (v12(nv, F(GUEST_CR0)) & CR0_L0)};
    u64 own = cr4_l0(vcpu);
    return (struct cr_part){v12(nv, F(CR4_MASK)), v12(nv, F(CR4_SHADOW)),
                            (vmread(F(GUEST_CR4)) & ~own) | (v12(nv, F(GUEST_CR4)) & own)};
}

void nested_cr_written(struct vcpu *vcpu, unsigned cr, u64 value)
{
    struct nvmcs *nv = vcpu->nested->current;
    if (!vcpu->in_l2)
        return;
    // Bits that L0 keeps to itself are in vmcs12 only; the others are saved at the exit.
    if (cr == 4) {
        SAVE(nv, GUEST_CR4, value);
        return;
    }
    nv->lma_touched = true;
    SAVE(nv, GUEST_CR0, value);
}

void nested_msr_written(struct vcpu *vcpu)
{
    vcpu->host_dirty = true;
    if (vcpu->in_l2)
        vcpu->nested->current->lma_touched = vcpu->nested->current->msrs_touched = true;
}

void nested_tsc_offset_changed(struct vcpu *vcpu)
{
    struct nested *n = vcpu->nested;
    LIST_FOR(node, &n->active)
    CONTAINER_OF(node, struct nvmcs, lru)->v.unmerged |= GROUP(TSC);
    if (vcpu->in_l2)
        merge_tsc(vcpu, n->current);
    else
        vmwrite(F(TSC_OFFSET), vcpu->tsc_offset);
}
