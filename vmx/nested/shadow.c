// SDM volume 3, "VMCS Shadowing".

#include "vmx/nested/shadow.h"

#include "libc/bits.h"
#include "libc/string.h"

enum access { R, RW };

static const struct {
    vmcs_field_t f;
    enum access access;
} fields[] = {
#define SHADOW(name, access) {{VF_##name}, access},
#include "vmx/nested/shadow.def"
#undef SHADOW
};

bool shadow_init(struct vcpu *vcpu)
{
    struct pool *pool = &vcpu->vm->pool;
    if (!vmx.shadowing)
        return true;
    u8 *r = pool_page(pool), *w = pool_page(pool);
    if (!r || !w)
        return false;
    memset(r, 0xff, PAGE_SIZE);
    memset(w, 0xff, PAGE_SIZE);
    for (unsigned i = 0; i < SHADOW_COUNT; i++) {
        // A field of a feature that L0 gives without the processor is not in its VMCSs either.
        if (!vcpu->nested->exists[fields[i].f.i] || !field_exists(fields[i].f, &vmx.caps))
            continue;
        vcpu->nested->care[fields[i].f.i] |= CARE_SHADOW;
        bitmap_put(r, field_encoding(fields[i].f), false);
        if (fields[i].access == RW)
            bitmap_put(w, field_encoding(fields[i].f), false);
    }
    vcpu->nested->vmread_bitmap = ptr_phys(r);
    vcpu->nested->vmwrite_bitmap = ptr_phys(w);
    return true;
}

bool shadow_create(struct vcpu *vcpu, struct nvmcs *nv)
{
    return !vmx.shadowing || vmcs_create(&nv->shadow, &vcpu->vm->pool, true);
}

static void show(struct nvmcs *nv, u32 due)
{
    vmcs_load(&nv->shadow);
    for (; due; due &= due - 1) {
        vmcs_field_t f = fields[bit_lowest(due)].f;
        vmwrite_safe(f, v12(nv, f));
    }
}

void shadow_show(struct nvmcs *nv)
{
    u32 due = nv->shadow_due;
    nv->shadow_due = 0;
    if (nv->shadow.hpa.v && due)
        show(nv, due);
}

void shadow_enable(struct vcpu *vcpu)
{
    if (!vmx.shadowing)
        return;
    vmwrite(F(VMREAD_BITMAP), vcpu->nested->vmread_bitmap.v);
    vmwrite(F(VMWRITE_BITMAP), vcpu->nested->vmwrite_bitmap.v);
}

void shadow_attach(struct vcpu *vcpu, struct nvmcs *nv)
{
    if (!vmx.shadowing)
        return;
    if (nv && nv->shadow_due) {
        shadow_show(nv);
        vmcs_load(&vcpu->vmcs01);
    }
    if (!nv != !vcpu->nested->shadow_on) {
        u64 proc2 = vmread(F(PROC2_CTRL)) & ~(u64)CTL_VMCS_SHADOWING;
        vmwrite(F(PROC2_CTRL), nv ? proc2 | CTL_VMCS_SHADOWING : proc2);
        vcpu->nested->shadow_on = nv;
    }
    vmwrite(F(VMCS_LINK_POINTER), nv ? nv->shadow.hpa.v : ~0ull);
}

void shadow_update(struct vcpu *vcpu, struct nvmcs *nv, vmcs_field_t f)
{
    vmcs_load(&nv->shadow);
    vmwrite_safe(f, v12(nv, f));
    vmcs_load(&vcpu->vmcs01);
}

static inline void fetch(struct nvmcs *nv, vmcs_field_t f)
{
    u64 now = vmread(f);
    if (now != nv->v.f[f.i])
        v12_set(&nv->v, f, now);
}

void shadow_fetch(struct nvmcs *nv, bool all)
{
    if (!nv->shadow.hpa.v)
        return;
    vmcs_load(&nv->shadow);
    fetch(nv, F(GUEST_RIP));
    fetch(nv, F(PROC_CTRL));
    fetch(nv, F(ENTRY_INTR_INFO));
    fetch(nv, F(PREEMPTION_TIMER));
    fetch(nv, F(GUEST_RFLAGS));
    fetch(nv, F(HOST_RSP));
    if (V12_HAS(&nv->v, VIRTUAL_INTR_DELIVERY) ||
        (all && CAP_HAS(&vmx.caps, VIRTUAL_INTR_DELIVERY)))
        fetch(nv, F(GUEST_INTR_STATUS));
    // Without an event to inject nobody looks at the other two before L1 writes them again.
    if (nv->v.f[VF_ENTRY_INTR_INFO] & BIT(31) || all) {
        fetch(nv, F(ENTRY_ERROR_CODE));
        fetch(nv, F(ENTRY_INSTR_LENGTH));
    }
}
