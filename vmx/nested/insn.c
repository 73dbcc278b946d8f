// The VMX instructions of L1. SDM volume 3, chapter "VMX Instruction Reference": each handler's
// checks stand in the order of its "Operation" section. The processor has made the checks that come
// before the VM exit (mode, CR0.PE, register operand); CR4.VMXE and CPL are L0's.

#include "vmx/nested/insn.h"
#include "libc/bits.h"
#include "vmx/event.h"
#include "vmx/nested/shadow.h"

#define FEATURE_LOCKED  BIT(0)
#define FEATURE_VMX     BIT(2)
#define REVISION_SHADOW (1u << 31)

// The instruction information, whose common forms are short enough to be read without
// insn_info_decode(). SDM, "Information for VM Exits Due to Instruction Execution".
#define INFO_IS_REG    BIT(10)
#define INFO_ADDRESS   0x380u // its size
#define INFO_ADDRESS_8 0x100u
#define INFO_NO_INDEX  BIT(22)
#define INFO_NO_BASE   BIT(27)
#define INFO_REG1(i)   ((i) >> 3 & 15)
#define INFO_SEG_BASE  BIT(17) // the segment is FS or GS
#define INFO_BASE(i)   ((i) >> 23 & 15)
#define INFO_REG2(i)   ((i) >> 28)

static vmx_result_t fault(struct vcpu *vcpu, u8 vector)
{
    vcpu_inject(vcpu, vector, vector != VEC_UD, 0);
    return VMX_DONE;
}

vmx_result_t vmx_fail(struct vcpu *vcpu, u32 number)
{
    return vcpu->nested->current ? (vmx_result_t)number : VMX_FAIL_INVALID;
}

enum run_result finish_failed(struct vcpu *vcpu, vmx_result_t r)
{
    u64 flags = vmread(F(GUEST_RFLAGS)) & ~RFLAGS_ARITH;
    if (r == VMX_DONE)
        return RUN_RESUME;
    if (r == VMX_FAIL_INVALID) {
        flags |= RFLAGS_CF;
    } else {
        flags |= RFLAGS_ZF;
        v12_save(&vcpu->nested->current->v, F(INSTRUCTION_ERROR), (u64)r);
    }
    vmwrite(F(GUEST_RFLAGS), flags);
    vcpu_skip(vcpu);
    return RUN_RESUME;
}

// VMsucceed. `plain`: in 64-bit code.
static inline enum run_result succeed(struct vcpu *vcpu, bool plain)
{
    u64 flags = vmread(F(GUEST_RFLAGS));
    if (flags & RFLAGS_ARITH)
        vmwrite(F(GUEST_RFLAGS), flags & ~RFLAGS_ARITH);
    if (plain)
        vcpu_skip_64(vcpu, flags);
    else
        vcpu_skip_with(vcpu, flags);
    return RUN_RESUME;
}

static inline enum run_result finish(struct vcpu *vcpu, vmx_result_t r)
{
    return LIKELY(r == VMX_SUCCEED) ? succeed(vcpu, false) : finish_failed(vcpu, r);
}

bool may_execute_otherwise(struct vcpu *vcpu, vmx_result_t *r)
{
    if (!vcpu->nested->vmxon)
        *r = fault(vcpu, VEC_UD);
    else if (vcpu_cpl() != 0)
        *r = fault(vcpu, VEC_GP);
    else
        return true;
    return false;
}

static void decode(enum info_format format, struct insn_info *info)
{
    insn_info_decode(format, (u32)vmread(F(EXIT_INSTR_INFO)), vmread(F(EXIT_QUALIFICATION)), info);
}

static NOINLINE bool read_operand_otherwise(struct vcpu *vcpu, enum info_format format, void *to,
                                            unsigned size, vmx_result_t *r)
{
    struct insn_info info;
    decode(format, &info);
    *r = VMX_DONE; // if it faults
    return vcpu_operand_read(vcpu, &info, to, size);
}

// L0's pointer to the memory operand of plain code, if its address is a base plus a displacement
// and it lies in a page that guestpt_quick() knows. NULL: look closer. Mostly it is where the last
// one was, on the same stack.
static inline const void *quick_operand(struct vcpu *vcpu, u32 info, unsigned size)
{
    const u32 form = INFO_NO_INDEX | INFO_ADDRESS | INFO_SEG_BASE;
    struct guestpt_memo *memo = &vcpu->nested->operand;
    u64 linear = vmread(F(EXIT_QUALIFICATION));
    u64 cr3 = vmread(F(GUEST_CR3)), efer = vmread(F(GUEST_EFER));
    if (UNLIKELY((info & form) != (INFO_NO_INDEX | INFO_ADDRESS_8)))
        return NULL;
    if (!(info & INFO_NO_BASE))
        linear += vcpu_gpr(vcpu, INFO_BASE(info));
    const void *at = guestpt_again(memo, cr3, efer, linear, size);
    if (LIKELY(at))
        return at;
    return canonical_48(linear) ? guestpt_quick(&vcpu->vm->mem, cr3, efer, linear, size, memo)
                                : NULL;
}

// The 64-bit pointer that VMXON, VMCLEAR and VMPTRLD take. `plain` is in_plain_code().
static bool read_pointer(struct vcpu *vcpu, bool plain, gpa_t *pointer, vmx_result_t *r)
{
    u32 info = (u32)vmread(F(EXIT_INSTR_INFO));
    const u64 *from = LIKELY(plain) ? quick_operand(vcpu, info, 8) : NULL;
    if (UNLIKELY(!from))
        return read_operand_otherwise(vcpu, INFO_REGION, &pointer->v, 8, r);
    pointer->v = __atomic_load_n(from, __ATOMIC_RELAXED);
    return true;
}

static bool pointer_ok(const struct vcpu *vcpu, gpa_t p)
{
    return p.v % PAGE_SIZE == 0 && !(p.v >> vcpu->vm->phys_bits);
}

// The first word of a region. Where L1 has no memory the bus reads as all ones.
static u32 region_revision(const struct vcpu *vcpu, gpa_t region)
{
    const u32 *revision = guest_ptr(&vcpu->vm->mem, region, sizeof(*revision));
    return revision ? __atomic_load_n(revision, __ATOMIC_RELAXED) : ~0u;
}

// Whether VMPTRLD takes a region: the indicator of a shadow VMCS needs VMCS shadowing.
static bool revision_ok(const struct vcpu *vcpu, u32 revision)
{
    u32 shadow = CAP_HAS(&vcpu->vm->caps, VMCS_SHADOWING) ? REVISION_SHADOW : 0;
    return (revision & ~shadow) == NESTED_VMCS_REVISION;
}

static void set_current(struct vcpu *vcpu, struct nvmcs *nv)
{
    struct nvmcs *old = vcpu->nested->current;
    if (old) {
        shadow_fetch(old, true);
        vmcs_load(&vcpu->vmcs01);
    }
    vcpu->nested->current = nv;
    vcpu->nested->env.current_vmcs = nv ? nv->gpa : VMCS_NONE;
    shadow_attach(vcpu, nv);
}

// The checks of L1's controls depend on its mode, which stays as it is until VMXOFF ("Restrictions
// on VMX Operation"): those that passed in another one are made again.
static void note_mode(struct nested *n, bool lma)
{
    struct list *lists[] = {&n->active, &n->parked};
    if (LIKELY(n->env.lma == lma))
        return;
    n->env.lma = lma;
    for (unsigned i = 0; i < ARRAY_SIZE(lists); i++)
        LIST_FOR(node, lists[i])
    CONTAINER_OF(node, struct nvmcs, lru)->v.unchecked |= GROUP(ENTRY) | GROUP(EXIT);
}

static vmx_result_t vmxon(struct vcpu *vcpu)
{
    struct nested *n = vcpu->nested;
    const struct vmx_caps *c = &vcpu->vm->caps;
    vmx_result_t r;
    gpa_t region;
    if (!(vmread(F(CR4_SHADOW)) & CR4_VMXE))
        return fault(vcpu, VEC_UD);
    if (n->vmxon)
        return vcpu_cpl() ? fault(vcpu, VEC_GP) : vmx_fail(vcpu, VMX_ERR_VMXON_IN_VMX);
    u64 cr0 = (vmread(F(GUEST_CR0)) & ~CR0_L0) | (vmread(F(CR0_SHADOW)) & CR0_L0);
    u64 cr4 = vmread(F(CR4_SHADOW)) & CR4_VMXE ? vmread(F(GUEST_CR4)) | CR4_VMXE : 0;
    const u64 need = FEATURE_LOCKED | FEATURE_VMX;
    if (vcpu_cpl() || (cr0 & c->cr0_fixed0) != c->cr0_fixed0 || cr0 & ~c->cr0_fixed1 ||
        (cr4 & c->cr4_fixed0) != c->cr4_fixed0 || cr4 & ~c->cr4_fixed1 ||
        (vcpu->feature_control & need) != need)
        return fault(vcpu, VEC_GP);
    note_mode(n, vmread(F(GUEST_EFER)) & EFER_LMA);
    if (!read_pointer(vcpu, in_plain_code(n), &region, &r))
        return r;
    if (!pointer_ok(vcpu, region) || region_revision(vcpu, region) != NESTED_VMCS_REVISION)
        return VMX_FAIL_INVALID;
    n->vmxon = true;
    n->vmxon_region = region;
    set_current(vcpu, NULL);
    return VMX_SUCCEED;
}

enum run_result nested_vmxon(struct vcpu *vcpu)
{
    return finish(vcpu, vmxon(vcpu));
}

// VMXOFF leaves the VMCSs active, as on hardware; their state stays here for a later VMXON.
enum run_result nested_vmxoff(struct vcpu *vcpu)
{
    vmx_result_t r;
    bool plain;
    if (!may_execute(vcpu, &plain, &r))
        return finish(vcpu, r);
    set_current(vcpu, NULL);
    vcpu->nested->vmxon = false;
    return finish(vcpu, VMX_SUCCEED);
}

static vmx_result_t vmclear(struct vcpu *vcpu, bool plain)
{
    struct nested *n = vcpu->nested;
    vmx_result_t r;
    gpa_t region;
    if (!read_pointer(vcpu, plain, &region, &r))
        return r;
    if (!pointer_ok(vcpu, region))
        return vmx_fail(vcpu, VMX_ERR_VMCLEAR_ADDRESS);
    if (region.v == n->vmxon_region.v)
        return vmx_fail(vcpu, VMX_ERR_VMCLEAR_VMXON);
    struct nvmcs *nv = store_find(vcpu, region);
    if (nv) {
        if (nv == n->current)
            set_current(vcpu, NULL);
        store_clear(vcpu, nv, true);
    } else {
        // Not active here: only the launch state in memory changes.
        u32 clear = 0;
        guest_write(&vcpu->vm->mem, GPA(region.v + offsetof(struct vmcs12_region, launched)),
                    &clear, sizeof(clear));
    }
    return VMX_SUCCEED;
}

enum run_result nested_vmclear(struct vcpu *vcpu)
{
    vmx_result_t r;
    bool plain;
    return finish(vcpu, may_execute(vcpu, &plain, &r) ? vmclear(vcpu, plain) : r);
}

static vmx_result_t vmptrld(struct vcpu *vcpu, bool plain)
{
    struct nested *n = vcpu->nested;
    vmx_result_t r;
    gpa_t region;
    if (!read_pointer(vcpu, plain, &region, &r))
        return r;
    if (!pointer_ok(vcpu, region))
        return vmx_fail(vcpu, VMX_ERR_VMPTRLD_ADDRESS);
    if (region.v == n->vmxon_region.v)
        return vmx_fail(vcpu, VMX_ERR_VMPTRLD_VMXON);
    if (n->current && n->current->gpa.v == region.v)
        return VMX_SUCCEED;
    struct nvmcs *nv = store_find(vcpu, region);
    if (!nv) {
        u32 revision = region_revision(vcpu, region);
        if (!revision_ok(vcpu, revision))
            return vmx_fail(vcpu, VMX_ERR_VMPTRLD_REVISION);
        nv = store_get(vcpu, region);
        if (!nv)
            return vmx_fail(vcpu, VMX_ERR_VMPTRLD_ADDRESS);
        nv->is_shadow = revision & REVISION_SHADOW;
    }
    set_current(vcpu, nv);
    return VMX_SUCCEED;
}

enum run_result nested_vmptrld(struct vcpu *vcpu)
{
    vmx_result_t r;
    bool plain;
    return finish(vcpu, may_execute(vcpu, &plain, &r) ? vmptrld(vcpu, plain) : r);
}

enum run_result nested_vmptrst(struct vcpu *vcpu)
{
    vmx_result_t r;
    struct insn_info info;
    bool plain;
    if (!may_execute(vcpu, &plain, &r))
        return finish(vcpu, r);
    struct nvmcs *nv = vcpu->nested->current;
    u64 pointer = nv ? nv->gpa.v : VMCS_NONE.v;
    decode(INFO_REGION, &info);
    return finish(vcpu, vcpu_operand_write(vcpu, &info, &pointer, 8) ? VMX_SUCCEED : VMX_DONE);
}

bool nested_find_field(const struct vcpu *vcpu, u64 operand, bool wide, vmcs_field_t *f, bool *high)
{
    return !field_from_encoding(wide ? operand : (u32)operand, f, high) &&
           vcpu->nested->exists[f->i];
}

// nested_find_field() for a whole field in 64-bit code.
static inline bool quick_field(const struct nested *n, u64 encoding, vmcs_field_t *f)
{
    if (UNLIKELY(encoding >= FIELD_MAP || n->field_map[encoding] == NO_FIELD))
        return false;
    f->i = n->field_map[encoding];
    return true;
}

static vmx_result_t do_vmread(struct vcpu *vcpu)
{
    struct nvmcs *nv = vcpu->nested->current;
    struct insn_info info;
    vmcs_field_t f;
    bool high, wide = vcpu_in_64bit_code();
    if (!nv)
        return VMX_FAIL_INVALID;
    decode(INFO_VMCS_FIELD, &info);
    if (!nested_find_field(vcpu, vcpu_gpr(vcpu, info.reg2), wide, &f, &high))
        return vmx_fail(vcpu, VMX_ERR_NO_FIELD);
    store_sync_lazy(vcpu, nv, vcpu->nested->care[f.i]);
    u64 value = field_part(f, high, wide, v12(nv, f));
    if (!info.is_reg)
        return vcpu_operand_write(vcpu, &info, &value, wide ? 8 : 4) ? VMX_SUCCEED : VMX_DONE;
    vcpu_set_gpr(vcpu, info.reg1, value);
    return VMX_SUCCEED;
}

static NOINLINE enum run_result vmread_otherwise(struct vcpu *vcpu)
{
    vmx_result_t r;
    bool plain;
    return finish(vcpu, may_execute(vcpu, &plain, &r) ? do_vmread(vcpu) : r);
}

// Of a register operand in 64-bit code, where the field is in vmcs02 only.
static NOINLINE enum run_result vmread_lazy(struct vcpu *vcpu, vmcs_field_t f)
{
    struct nvmcs *nv = vcpu->nested->current;
    store_sync_lazy(vcpu, nv, vcpu->nested->care[f.i]);
    vcpu_set_gpr(vcpu, INFO_REG1((u32)vmread(F(EXIT_INSTR_INFO))), v12(nv, f));
    return succeed(vcpu, true);
}

// There is a current VMCS in VMX operation only.
enum run_result nested_vmread(struct vcpu *vcpu)
{
    struct nvmcs *nv = vcpu->nested->current;
    u32 info = (u32)vmread(F(EXIT_INSTR_INFO));
    vmcs_field_t f;
    if (UNLIKELY(!nv || !(info & INFO_IS_REG) || !in_plain_code(vcpu->nested) ||
                 !quick_field(vcpu->nested, vcpu_gpr(vcpu, INFO_REG2(info)), &f)))
        return vmread_otherwise(vcpu);
    if (UNLIKELY(vcpu->nested->care[f.i] & nv->lazy))
        return vmread_lazy(vcpu, f);
    vcpu_set_gpr(vcpu, INFO_REG1(info), v12(nv, f));
    return succeed(vcpu, true);
}

static vmx_result_t do_vmwrite(struct vcpu *vcpu)
{
    struct nvmcs *nv = vcpu->nested->current;
    struct insn_info info;
    vmx_result_t r;
    vmcs_field_t f;
    bool high, wide = vcpu_in_64bit_code();
    u64 value = 0;
    if (!nv)
        return VMX_FAIL_INVALID;
    decode(INFO_VMCS_FIELD, &info);
    if (info.is_reg)
        value = vcpu_gpr(vcpu, info.reg1);
    else if (!read_operand_otherwise(vcpu, INFO_VMCS_FIELD, &value, wide ? 8 : 4, &r))
        return r;
    if (!nested_find_field(vcpu, vcpu_gpr(vcpu, info.reg2), wide, &f, &high))
        return vmx_fail(vcpu, VMX_ERR_NO_FIELD);
    unsigned care = vcpu->nested->care[f.i];
    if (care & CARE_READ_ONLY)
        return vmx_fail(vcpu, VMX_ERR_READ_ONLY);
    store_sync_lazy(vcpu, nv, care);
    v12_set(&nv->v, f, field_update(f, high, wide, v12(nv, f), value));
    if (care & CARE_SHADOW)
        shadow_update(vcpu, nv, f);
    return VMX_SUCCEED;
}

static NOINLINE enum run_result vmwrite_otherwise(struct vcpu *vcpu)
{
    vmx_result_t r;
    bool plain;
    return finish(vcpu, may_execute(vcpu, &plain, &r) ? do_vmwrite(vcpu) : r);
}

// The way of nested_vmwrite() for a field that L1 reads in the shadow VMCS.
static NOINLINE enum run_result vmwrite_shadowed(struct vcpu *vcpu, struct nvmcs *nv,
                                                 vmcs_field_t f)
{
    u64 old = v12(nv, f);
    v12_set(&nv->v, f, vcpu_gpr(vcpu, INFO_REG1((u32)vmread(F(EXIT_INSTR_INFO)))));
    if (v12(nv, f) != old)
        shadow_update(vcpu, nv, f);
    return succeed(vcpu, true);
}

enum run_result nested_vmwrite(struct vcpu *vcpu)
{
    struct nvmcs *nv = vcpu->nested->current;
    u32 info = (u32)vmread(F(EXIT_INSTR_INFO));
    vmcs_field_t f;
    if (UNLIKELY(!nv || !(info & INFO_IS_REG) || !in_plain_code(vcpu->nested) ||
                 !quick_field(vcpu->nested, vcpu_gpr(vcpu, INFO_REG2(info)), &f)))
        return vmwrite_otherwise(vcpu);
    u8 care = vcpu->nested->care[f.i] & (u8)(nv->lazy | CARE_SHADOW | CARE_READ_ONLY);
    if (UNLIKELY(care))
        return care == CARE_SHADOW ? vmwrite_shadowed(vcpu, nv, f) : vmwrite_otherwise(vcpu);
    v12_set(&nv->v, f, vcpu_gpr(vcpu, INFO_REG1(info)));
    return succeed(vcpu, true);
}

// VMCALL exits before the processor looks at the mode. In VMX root operation it would call an SMM
// monitor, which there is none.
static vmx_result_t vmcall(struct vcpu *vcpu)
{
    bool compatibility = vmread(F(GUEST_EFER)) & EFER_LMA && !vcpu_in_64bit_code();
    if (vmread(F(GUEST_RFLAGS)) & RFLAGS_VM || compatibility)
        return fault(vcpu, VEC_UD);
    return vcpu_cpl() ? fault(vcpu, VEC_GP) : vmx_fail(vcpu, VMX_ERR_VMCALL);
}

enum run_result nested_vmcall(struct vcpu *vcpu)
{
    return finish(vcpu, vcpu->nested->vmxon ? vmcall(vcpu) : fault(vcpu, VEC_UD));
}

struct descriptor {
    u64 first, second;
};

// Type and descriptor of INVEPT or INVVPID, whose types in bits `types` L1's processor has: for
// another type the descriptor is not looked at. False: `r` is the result.
static bool read_invalidation(struct vcpu *vcpu, u64 types, u64 *type, struct descriptor *d,
                              vmx_result_t *r)
{
    u64 reg = vcpu_gpr(vcpu, INFO_REG2((u32)vmread(F(EXIT_INSTR_INFO))));
    *type = vcpu_in_64bit_code() ? reg : (u32)reg;
    if (*type < 4 && types >> *type & 1)
        return read_operand_otherwise(vcpu, INFO_INVALIDATE, d, sizeof(*d), r);
    *r = vmx_fail(vcpu, VMX_ERR_INVALIDATION);
    return false;
}

// The descriptor in plain code, if L1's processor has the type, whose capability bit this is. NULL:
// look closer.
static inline const struct descriptor *quick_invalidation(struct vcpu *vcpu, u32 info,
                                                          u64 capability)
{
    const struct nested *n = vcpu->nested;
    if (UNLIKELY(!n->vmxon || !in_plain_code(n) || !(vcpu->vm->caps.ept_vpid & capability)))
        return NULL;
    return quick_operand(vcpu, info, sizeof(struct descriptor));
}

static vmx_result_t invept(struct vcpu *vcpu)
{
    u64 type, types = vcpu->vm->caps.ept_vpid >> EPT_CAP_INVEPT_TYPES & 6;
    struct descriptor d;
    vmx_result_t r;
    if (!read_invalidation(vcpu, types, &type, &d, &r))
        return r;
    if (type == INVEPT_ALL)
        ept02_invept_all(&vcpu->nested->ept02);
    else if (!ept02_invept(&vcpu->nested->ept02, d.first) && // an EPTP that has a tree is in order
             !check_eptp(&vcpu->nested->env, d.first))
        return vmx_fail(vcpu, VMX_ERR_INVALIDATION);
    return VMX_SUCCEED;
}

static NOINLINE enum run_result invept_otherwise(struct vcpu *vcpu)
{
    vmx_result_t r;
    bool plain;
    if (!CAP_HAS(&vcpu->vm->caps, EPT))
        return finish(vcpu, fault(vcpu, VEC_UD));
    return finish(vcpu, may_execute(vcpu, &plain, &r) ? invept(vcpu) : r);
}

enum run_result nested_invept(struct vcpu *vcpu)
{
    u32 info = (u32)vmread(F(EXIT_INSTR_INFO));
    const struct descriptor *d = LIKELY(vcpu_gpr(vcpu, INFO_REG2(info)) == INVEPT_SINGLE)
                                     ? quick_invalidation(vcpu, info, EPT_CAP_INVEPT_SINGLE)
                                     : NULL;
    if (UNLIKELY(!d ||
                 !ept02_invept(&vcpu->nested->ept02, __atomic_load_n(&d->first, __ATOMIC_RELAXED))))
        return invept_otherwise(vcpu);
    return succeed(vcpu, true);
}

// A VPID of L1 names the vmcs02s that use it, each of which has a TLB tag of its own.
static inline bool uses_vpid12(const struct nvmcs *nv, u16 vpid12)
{
    return (u16)v12(nv, F(VPID)) == vpid12;
}

static inline void flush_vpid12(struct vcpu *vcpu, u16 vpid12, bool all)
{
    LIST_FOR(node, &vcpu->nested->active)
    {
        struct nvmcs *nv = CONTAINER_OF(node, struct nvmcs, lru);
        if (all || uses_vpid12(nv, vpid12))
            nv->flush_vpid = true;
    }
}

// The same for one address, so that L2 keeps the rest, where the processor can do that.
static inline void flush_address(struct vcpu *vcpu, u16 vpid12, u64 linear)
{
    bool can = vmx.vpid && vmx.caps.ept_vpid & VPID_CAP_ADDRESS;
    LIST_FOR(node, &vcpu->nested->active)
    {
        struct nvmcs *nv = CONTAINER_OF(node, struct nvmcs, lru);
        if (uses_vpid12(nv, vpid12) &&
            (!can || !vmxop_invvpid(INVVPID_ADDRESS, nv->vpid02, linear)))
            nv->flush_vpid = true;
    }
}

// False: the descriptor, which L1 may be writing, is not one for this type.
static inline bool flush_described(struct vcpu *vcpu, u64 type, const struct descriptor *d)
{
    u64 vpid12 = __atomic_load_n(&d->first, __ATOMIC_RELAXED);
    if (UNLIKELY(vpid12 - 1 >= 0xffff) && (vpid12 || type != INVVPID_ALL))
        return false;
    if (LIKELY(type != INVVPID_ADDRESS)) {
        flush_vpid12(vcpu, (u16)vpid12, type == INVVPID_ALL);
        return true;
    }
    u64 linear = __atomic_load_n(&d->second, __ATOMIC_RELAXED);
    if (!canonical_48(linear))
        return false;
    flush_address(vcpu, (u16)vpid12, linear);
    return true;
}

static vmx_result_t invvpid(struct vcpu *vcpu)
{
    u64 type, types = vcpu->vm->caps.ept_vpid >> VPID_CAP_TYPES & 15;
    struct descriptor d;
    vmx_result_t r;
    if (!read_invalidation(vcpu, types, &type, &d, &r))
        return r;
    return flush_described(vcpu, type, &d) ? VMX_SUCCEED : vmx_fail(vcpu, VMX_ERR_INVALIDATION);
}

static NOINLINE enum run_result invvpid_otherwise(struct vcpu *vcpu)
{
    vmx_result_t r;
    bool plain;
    if (!CAP_HAS(&vcpu->vm->caps, VPID))
        return finish(vcpu, fault(vcpu, VEC_UD));
    return finish(vcpu, may_execute(vcpu, &plain, &r) ? invvpid(vcpu) : r);
}

enum run_result nested_invvpid(struct vcpu *vcpu)
{
    u32 info = (u32)vmread(F(EXIT_INSTR_INFO));
    u64 type = vcpu_gpr(vcpu, INFO_REG2(info));
    const struct descriptor *d =
        LIKELY(type < 4) ? quick_invalidation(vcpu, info, BIT(VPID_CAP_TYPES) << type) : NULL;
    if (UNLIKELY(!d))
        return invvpid_otherwise(vcpu);
    if (UNLIKELY(!flush_described(vcpu, type, d)))
        return finish(vcpu, vmx_fail(vcpu, VMX_ERR_INVALIDATION));
    return succeed(vcpu, true);
}
