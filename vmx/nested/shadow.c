// VMCS shadowing: the fields that hypervisors touch at each exit are in a shadow VMCS, which L1's
// VMREAD and VMWRITE reach without an exit. SDM volume 3, "VMCS Shadowing". The other fields trap,
// which costs less than keeping them in step.

#include "libc/bits.h"
#include "libc/string.h"
#include "vmx/nested/state.h"

struct shadow_field {
    vmcs_field_t f;
    bool writable; // L1's VMWRITE does not trap either, so the field is read back at each entry
};

#define READ(name)  {{VF_##name}, false}
#define WRITE(name) {{VF_##name}, true}

static const struct shadow_field fields[] = {
    WRITE(GUEST_RIP),           WRITE(GUEST_RSP),
    WRITE(GUEST_RFLAGS),        WRITE(GUEST_INTERRUPTIBILITY),
    WRITE(GUEST_CR3),           WRITE(PROC_CTRL),
    WRITE(ENTRY_INTR_INFO),     WRITE(ENTRY_ERROR_CODE),
    WRITE(ENTRY_INSTR_LENGTH),  WRITE(PREEMPTION_TIMER),
    WRITE(HOST_FS_BASE),        WRITE(HOST_GS_BASE),
    READ(GUEST_CR0),            READ(GUEST_CR4),
    READ(GUEST_CS_AR),          READ(GUEST_SS_AR),
    READ(EXIT_REASON),          READ(EXIT_QUALIFICATION),
    READ(EXIT_INTR_INFO),       READ(EXIT_INTR_ERROR),
    READ(IDT_VECTORING_INFO),   READ(IDT_VECTORING_ERROR),
    READ(EXIT_INSTR_LENGTH),    READ(EXIT_INSTR_INFO),
    READ(GUEST_PHYSICAL_ADDR),  READ(GUEST_LINEAR_ADDR),
};

_Static_assert(ARRAY_SIZE(fields) <= 64, "nvmcs.in_shadow");

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
    for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
        if (!vcpu->nested->exists[fields[i].f.i])
            continue;
        bitmap_put(r, field_encoding(fields[i].f), false);
        if (fields[i].writable)
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

void shadow_attach(struct vcpu *vcpu, struct nvmcs *nv)
{
    if (!vmx.shadowing)
        return;
    if (nv) {
        // Everything anew: the VMCS may have been written back and read again.
        vmcs_load(&nv->shadow);
        for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
            nv->in_shadow[i] = v12(nv, fields[i].f);
            vmwrite_safe(fields[i].f, nv->in_shadow[i]);
        }
        vmcs_load(&vcpu->vmcs01);
    }
    u64 proc2 = vmread(F(PROC2_CTRL)) & ~(u64)CTL_VMCS_SHADOWING;
    vmwrite(F(PROC2_CTRL), nv ? proc2 | CTL_VMCS_SHADOWING : proc2);
    vmwrite(F(VMCS_LINK_POINTER), nv ? nv->shadow.hpa.v : ~0ull);
    vmwrite(F(VMREAD_BITMAP), vcpu->nested->vmread_bitmap.v);
    vmwrite(F(VMWRITE_BITMAP), vcpu->nested->vmwrite_bitmap.v);
}

void shadow_update(struct vcpu *vcpu, struct nvmcs *nv, vmcs_field_t f)
{
    if (!nv->shadow.hpa.v)
        return;
    for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
        if (field_same(fields[i].f, f)) {
            nv->in_shadow[i] = v12(nv, f);
            vmcs_load(&nv->shadow);
            vmwrite_safe(f, nv->in_shadow[i]);
            vmcs_load(&vcpu->vmcs01);
        }
    }
}

void shadow_fetch(struct nvmcs *nv)
{
    if (!nv->shadow.hpa.v)
        return;
    vmcs_load(&nv->shadow);
    for (unsigned i = 0; i < ARRAY_SIZE(fields) && fields[i].writable; i++) {
        u64 now = vmread(fields[i].f);
        if (now != nv->in_shadow[i]) {
            nv->in_shadow[i] = now;
            v12_set(&nv->v, fields[i].f, now);
        }
    }
}

void shadow_show(struct nvmcs *nv)
{
    vmcs_load(&nv->shadow);
    for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
        u64 now = v12(nv, fields[i].f);
        if (now != nv->in_shadow[i]) {
            nv->in_shadow[i] = now;
            vmwrite_safe(fields[i].f, now);
        }
    }
}
