#pragma once
// VMCS shadowing. The shadow VMCS of an nvmcs and its vmcs12 hold the same, but for the fields in
// nv->shadow_due, which shadow_show() brings over, and for what L1 wrote since its last exit, which
// shadow_fetch() takes over.

#include "vmx/nested/state.h"

enum shadow_index {
#define SHADOW(name, access) SHADOW_##name,
#include "vmx/nested/shadow.def"
#undef SHADOW
    SHADOW_COUNT
};

_Static_assert(SHADOW_COUNT < 32, "nvmcs.shadow_due");
#define SHADOW_ALL ((1u << SHADOW_COUNT) - 1)

// Bitmaps for VMREAD and VMWRITE. False: no memory.
bool shadow_init(struct vcpu *vcpu);
bool shadow_create(struct vcpu *vcpu, struct nvmcs *nv);

// Prepares vmcs01 (current) for shadowing.
void shadow_enable(struct vcpu *vcpu);

// vmcs01 (current) shows `nv`, or no VMCS, to VMREAD and VMWRITE of L1.
void shadow_attach(struct vcpu *vcpu, struct nvmcs *nv);

// A VMWRITE that trapped changed `f`, which has CARE_SHADOW: its copy follows. vmcs01 is current.
void shadow_update(struct vcpu *vcpu, struct nvmcs *nv, vmcs_field_t f);

// Takes over what L1 wrote (`all`: even what only counts together with an event), and shows L1 what
// is new. Any VMCS is current before, none in particular after it.
void shadow_fetch(struct nvmcs *nv, bool all);
void shadow_show(struct nvmcs *nv);

// Saves in vmcs12 a value that the processor holds, of a field that may be in the shadow VMCS.
static inline void shadow_save(struct nvmcs *nv, vmcs_field_t f, enum shadow_index i, u64 value)
{
    if (nv->v.f[f.i] != value) {
        nv->v.f[f.i] = value;
        nv->shadow_due |= 1u << i;
    }
}

#define SAVE(nv, name, value) shadow_save(nv, F(name), SHADOW_##name, value)
