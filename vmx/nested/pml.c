// Page-modification logging for L1. SDM volume 3, "Page-Modification Logging". EPT02 maps a page
// for writing only after EPT12's dirty flag is set, and the fault in which L0 sets it is where the
// page goes into L1's log; vmcs02 runs without the processor's own logging.

#include "vmx/nested/shadow.h"

void pml_log(struct vcpu *vcpu, struct nvmcs *nv, ngpa_t ngpa)
{
    u64 page = align_down(ngpa.v, PAGE_SIZE), index = v12(nv, F(PML_INDEX));
    if (!V12_HAS(&nv->v, PML) || index >= PML_ENTRIES)
        return;
    guest_write(&vcpu->vm->mem, GPA(v12(nv, F(PML_ADDRESS)) + index * sizeof(page)), &page,
                sizeof(page));
    SAVE(nv, PML_INDEX, (u16)(index - 1)); // 0 becomes FFFFH, which is a full log
}
