// EPT-violation #VE for L2. SDM volume 3, "Virtualization Exceptions". The processor sees EPT02 and
// not EPT12 with its suppress-#VE bits, so that L0 converts a violation that is L1's.

#include "vmx/event.h"
#include "vmx/nested/state.h"

#define VE_BUSY 0xffffffffu

// "Virtualization-Exception Information Area".
struct ve_info {
    u32 reason;
    u32 busy;
    u64 qualification;
    u64 linear;
    u64 physical;
    u16 eptp_index;
} PACKED;

_Static_assert(sizeof(struct ve_info) == 34, "layout of the manual");

bool ve_convert(struct vcpu *vcpu, struct nvmcs *nv, const struct ept02_fault *f, u64 linear)
{
    gpa_t area = GPA(v12(nv, F(VE_INFO_ADDR)));
    u32 busy;
    if (!V12_HAS(&nv->v, EPT_VIOLATION_VE) || f->suppress_ve || !(vmread(F(GUEST_CR0)) & CR0_PE) ||
        vmread(F(IDT_VECTORING_INFO)) & INFO_VALID)
        return false;
    if (!guest_read(&vcpu->vm->mem, &busy, GPA(area.v + offsetof(struct ve_info, busy)),
                    sizeof(busy)) ||
        busy)
        return false;
    struct ve_info info = {.reason = EXIT_EPT_VIOLATION,
                           .busy = VE_BUSY,
                           .qualification = f->qualification,
                           .linear = linear,
                           .physical = f->ngpa.v,
                           .eptp_index = (u16)v12(nv, F(EPTP_INDEX))};
    guest_write(&vcpu->vm->mem, area, &info, sizeof(info));
    vcpu_inject(vcpu, VEC_VE, false, 0);
    return true;
}
