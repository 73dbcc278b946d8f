// L2's memory, for L0 that executes an instruction in L2's place: the addresses go through EPT12,
// and what EPT12 does not allow is L1's exit, as if L2 had made the access.

#include "vmx/event.h"
#include "vmx/nested/shadow.h"

// The access as EPT12 has to judge it: a qualification's bits.
u64 nested_l2_qualification(unsigned use)
{
    u64 kind = use & GUESTPT_WRITE ? EPT_W : use & GUESTPT_FETCH ? EPT_X : EPT_R;
    return kind | EPT_QUAL_LINEAR_VALID | (use & GUESTPT_TABLE ? 0 : EPT_QUAL_FINAL);
}

static void walk_ept12(struct vcpu *vcpu, ngpa_t ngpa, struct walk_access access, struct walk *w)
{
    struct nvmcs *nv = vcpu->nested->current;
    const struct ept12 *l1 = &vcpu->nested->ept02.ept12;
    u64 eptp = v12(nv, F(EPTP));
    access.pml_full = pml_full(nv);
    ept12_walk(l1, eptp, walk_from_root(l1, eptp), ngpa, access, w);
    if (w->dirtied)
        pml_log(vcpu, nv, ngpa);
}

bool nested_l2_translate(struct vcpu *vcpu, ngpa_t ngpa, unsigned use, gpa_t *gpa)
{
    struct nvmcs *nv = vcpu->nested->current;
    struct walk w;
    if (!V12_HAS(&nv->v, EPT)) {
        *gpa = GPA(ngpa.v);
        return true;
    }
    walk_ept12(vcpu, ngpa, walk_access(nested_l2_qualification(use), v12(nv, F(EPTP))), &w);
    *gpa = w.gpa;
    return w.result == WALK_OK;
}

void *nested_l2_page(struct vcpu *vcpu, ngpa_t page, unsigned use)
{
    gpa_t gpa;
    if (!nested_l2_translate(vcpu, page, use, &gpa))
        return NULL;
    return guest_ptr(&vcpu->vm->mem, gpa, PAGE_SIZE);
}

static u32 reason_of(enum walk_result r)
{
    switch (r) {
    case WALK_VIOLATION:
        return EXIT_EPT_VIOLATION;
    case WALK_MISCONFIG:
        return EXIT_EPT_MISCONFIG;
    case WALK_PML_FULL:
        return EXIT_PML_FULL;
    default:
        return 0; // allowed by now
    }
}

bool nested_l2_denied(struct vcpu *vcpu, ngpa_t ngpa, u64 qualification, u64 linear)
{
    struct nested *n = vcpu->nested;
    struct nvmcs *nv = n->current;
    struct walk w;
    if (!V12_HAS(&nv->v, EPT))
        return false;
    struct walk_access access = walk_access(qualification, v12(nv, F(EPTP)));
    walk_ept12(vcpu, ngpa, access, &w);
    u32 reason = reason_of(w.result);
    if (!reason)
        return false;
    struct ept02_fault f = {.ngpa = ngpa, .suppress_ve = w.suppress_ve};
    if (reason == EXIT_EPT_VIOLATION)
        f.qualification = ept12_qualification(qualification, access, w.perms);
    if (reason == EXIT_EPT_VIOLATION && ve_convert(vcpu, nv, &f, linear))
        return true;
    n->denied = (struct denied){reason, f.qualification, linear, ngpa};
    vcpu->event = (struct pending_event){.denied = true};
    vcpu_note(vcpu, WORK_EVENTS);
    return true;
}

void leave_denied(struct vcpu *vcpu)
{
    struct nvmcs *nv = vcpu->nested->current;
    const struct denied *d = &vcpu->nested->denied;
    struct leave x = {.reason = d->reason,
                      .own_event = true,
                      .synthetic = true,
                      .qualification = d->qualification};
    if (d->reason != EXIT_PML_FULL)
        SAVE(nv, GUEST_PHYSICAL_ADDR, d->ngpa.v);
    if (d->qualification & EPT_QUAL_LINEAR_VALID)
        SAVE(nv, GUEST_LINEAR_ADDR, d->linear);
    leave_l2(vcpu, x, NO_EVENT);
}
