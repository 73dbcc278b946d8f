// The VMX instructions of L1. SDM volume 3, chapter "VMX Instruction Reference": each handler's
// checks stand in the order of its "Operation" section. The processor has made the checks that come
// before the VM exit (mode, CR0.PE, register operand); CR4.VMXE and CPL are L0's.

#include "vmx/event.h"
#include "vmx/nested/shadow.h"
#include "vmx/nested/state.h"

#define FEATURE_LOCKED      BIT(0)
#define FEATURE_VMX         BIT(2)
#define REVISION_SHADOW     (1u << 31)

// The instruction information of VMREAD and VMWRITE, whose common form is short enough to be read
// without insn_info_decode(). SDM, "Information for VM Exits Due to Instruction Execution".
#define INFO_IS_REG  BIT(10)
#define INFO_REG1(i) ((i) >> 3 & 15)
#define INFO_REG2(i) ((i) >> 28)

static const struct vmx_result succeed = {.kind = VMX_SUCCEED};
static const struct vmx_result fail_invalid = {.kind = VMX_FAIL_INVALID};

static struct vmx_result fault(u8 vector)
{
    return (struct vmx_result){.kind = VMX_FAULT, .number = vector};
}

// VMfail(n) of the section "Conventions".
static struct vmx_result fail(struct vcpu *vcpu, u32 number)
{
    struct nvmcs *nv = vcpu->nested->current;
    if (!nv)
        return fail_invalid;
    v12_save(&nv->v, F(INSTRUCTION_ERROR), number);
    return (struct vmx_result){.kind = VMX_FAIL_VALID, .number = number};
}

static enum run_result finish(struct vcpu *vcpu, struct vmx_result r)
{
    u64 flags;
    switch (r.kind) {
    case VMX_FAULT:
        vcpu_inject_fault(vcpu, &(struct guest_fault){(u8)r.number, r.error, r.address});
        return RUN_RESUME;
    case VMX_ELSEWHERE:
        return RUN_RESUME;
    default:
        flags = vmread(F(GUEST_RFLAGS)) & ~RFLAGS_ARITH;
        if (r.kind == VMX_FAIL_INVALID)
            flags |= RFLAGS_CF;
        if (r.kind == VMX_FAIL_VALID)
            flags |= RFLAGS_ZF;
        vmwrite(F(GUEST_RFLAGS), flags);
        vcpu_skip(vcpu);
        return RUN_RESUME;
    }
}

// The checks that all of them but VMXON begin with.
static bool may_execute(struct vcpu *vcpu, enum vmx_insn insn, struct vmx_result *r)
{
    vcpu->stats.insn[insn]++;
    if (UNLIKELY(!vcpu->nested->vmxon))
        *r = fault(VEC_UD);
    else if (UNLIKELY(vcpu_cpl() != 0))
        *r = fault(VEC_GP);
    else
        return true;
    return false;
}

static struct vmx_result to_result(const struct guest_fault *f)
{
    return (struct vmx_result){VMX_FAULT, f->vector, f->error, f->cr2};
}

// The linear address of the memory operand. False: `r` is the fault.
static bool operand_address(struct vcpu *vcpu, const struct insn_info *info, unsigned size,
                            enum mem_access access, u64 *linear, struct vmx_result *r)
{
    struct seg_state seg[SEG_COUNT];
    struct linear_ctx ctx;
    struct guest_fault f;
    vcpu_linear_ctx(vcpu, &ctx, seg);
    if (linear_address(&ctx, &info->mem, size, access, linear, &f))
        return true;
    *r = to_result(&f);
    return false;
}

static bool read_operand(struct vcpu *vcpu, const struct insn_info *info, void *to, unsigned size,
                         struct vmx_result *r)
{
    u64 linear;
    struct guest_fault f;
    if (!operand_address(vcpu, info, size, MEM_READ, &linear, r))
        return false;
    if (vcpu_linear_read(vcpu, linear, to, size, &f))
        return true;
    *r = to_result(&f);
    return false;
}

static bool write_operand(struct vcpu *vcpu, const struct insn_info *info, const void *from,
                          unsigned size, struct vmx_result *r)
{
    u64 linear;
    struct guest_fault f;
    if (!operand_address(vcpu, info, size, MEM_WRITE, &linear, r))
        return false;
    if (vcpu_linear_write(vcpu, linear, from, size, &f))
        return true;
    *r = to_result(&f);
    return false;
}

static void decode(enum info_format format, struct insn_info *info)
{
    insn_info_decode(format, (u32)vmread(F(EXIT_INSTR_INFO)), vmread(F(EXIT_QUALIFICATION)), info);
}

// The 64-bit pointer that VMXON, VMCLEAR and VMPTRLD take.
static bool read_pointer(struct vcpu *vcpu, gpa_t *pointer, struct vmx_result *r)
{
    struct insn_info info;
    decode(INFO_REGION, &info);
    return read_operand(vcpu, &info, &pointer->v, 8, r);
}

static bool pointer_ok(const struct vcpu *vcpu, gpa_t p)
{
    return p.v % PAGE_SIZE == 0 && !(p.v >> vcpu->vm->phys_bits);
}

// The first word of a region. Where L1 has no memory the bus reads as all ones.
static u32 region_revision(const struct vcpu *vcpu, gpa_t region)
{
    u32 revision;
    return guest_read(&vcpu->vm->mem, &revision, region, sizeof(revision)) ? revision : ~0u;
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
    if (old)
        shadow_fetch(old, true);
    if (old && !nv)
        vmcs_load(&vcpu->vmcs01);
    vcpu->nested->current = nv;
    shadow_attach(vcpu, nv);
}

static struct vmx_result vmxon(struct vcpu *vcpu)
{
    struct nested *n = vcpu->nested;
    const struct vmx_caps *c = &vcpu->vm->caps;
    struct vmx_result r;
    gpa_t region;
    vcpu->stats.insn[INSN_VMXON]++;
    if (!(vmread(F(CR4_SHADOW)) & CR4_VMXE))
        return fault(VEC_UD);
    if (n->vmxon)
        return vcpu_cpl() ? fault(VEC_GP) : fail(vcpu, VMX_ERR_VMXON_IN_VMX);
    u64 cr0 = (vmread(F(GUEST_CR0)) & ~CR0_L0) | (vmread(F(CR0_SHADOW)) & CR0_L0);
    u64 cr4 = vmread(F(CR4_SHADOW)) & CR4_VMXE ? vmread(F(GUEST_CR4)) | CR4_VMXE : 0;
    const u64 need = FEATURE_LOCKED | FEATURE_VMX;
    if (vcpu_cpl() || (cr0 & c->cr0_fixed0) != c->cr0_fixed0 || cr0 & ~c->cr0_fixed1 ||
        (cr4 & c->cr4_fixed0) != c->cr4_fixed0 || cr4 & ~c->cr4_fixed1 ||
        (vcpu->feature_control & need) != need)
        return fault(VEC_GP);
    if (!read_pointer(vcpu, &region, &r))
        return r;
    if (!pointer_ok(vcpu, region) || region_revision(vcpu, region) != NESTED_VMCS_REVISION)
        return fail_invalid;
    n->vmxon = true;
    n->vmxon_region = region;
    set_current(vcpu, NULL);
    return succeed;
}

enum run_result nested_vmxon(struct vcpu *vcpu)
{
    return finish(vcpu, vmxon(vcpu));
}

// VMXOFF leaves the VMCSs active, as on hardware; their state stays here for a later VMXON.
enum run_result nested_vmxoff(struct vcpu *vcpu)
{
    struct vmx_result r;
    if (!may_execute(vcpu, INSN_VMXOFF, &r))
        return finish(vcpu, r);
    set_current(vcpu, NULL);
    vcpu->nested->vmxon = false;
    return finish(vcpu, succeed);
}

static struct vmx_result vmclear(struct vcpu *vcpu)
{
    struct nested *n = vcpu->nested;
    struct vmx_result r;
    gpa_t region;
    if (!read_pointer(vcpu, &region, &r))
        return r;
    if (!pointer_ok(vcpu, region))
        return fail(vcpu, VMX_ERR_VMCLEAR_ADDRESS);
    if (region.v == n->vmxon_region.v)
        return fail(vcpu, VMX_ERR_VMCLEAR_VMXON);
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
    return succeed;
}

enum run_result nested_vmclear(struct vcpu *vcpu)
{
    struct vmx_result r;
    return finish(vcpu, may_execute(vcpu, INSN_VMCLEAR, &r) ? vmclear(vcpu) : r);
}

static struct vmx_result vmptrld(struct vcpu *vcpu)
{
    struct nested *n = vcpu->nested;
    struct vmx_result r;
    gpa_t region;
    if (!read_pointer(vcpu, &region, &r))
        return r;
    if (!pointer_ok(vcpu, region))
        return fail(vcpu, VMX_ERR_VMPTRLD_ADDRESS);
    if (region.v == n->vmxon_region.v)
        return fail(vcpu, VMX_ERR_VMPTRLD_VMXON);
    if (n->current && n->current->gpa.v == region.v)
        return succeed;
    struct nvmcs *nv = store_find(vcpu, region);
    if (!nv) {
        u32 revision = region_revision(vcpu, region);
        if (!revision_ok(vcpu, revision))
            return fail(vcpu, VMX_ERR_VMPTRLD_REVISION);
        nv = store_get(vcpu, region);
        if (!nv)
            return fail(vcpu, VMX_ERR_VMPTRLD_ADDRESS);
        nv->is_shadow = revision & REVISION_SHADOW;
    }
    set_current(vcpu, nv);
    return succeed;
}

enum run_result nested_vmptrld(struct vcpu *vcpu)
{
    struct vmx_result r;
    return finish(vcpu, may_execute(vcpu, INSN_VMPTRLD, &r) ? vmptrld(vcpu) : r);
}

enum run_result nested_vmptrst(struct vcpu *vcpu)
{
    struct vmx_result r;
    struct insn_info info;
    if (!may_execute(vcpu, INSN_VMPTRST, &r))
        return finish(vcpu, r);
    struct nvmcs *nv = vcpu->nested->current;
    u64 pointer = nv ? nv->gpa.v : VMCS_NONE.v;
    decode(INFO_REGION, &info);
    return finish(vcpu, write_operand(vcpu, &info, &pointer, 8, &r) ? succeed : r);
}

// The field that an operand of VMREAD or VMWRITE names, if L1's processor has it.
static bool find_field(struct vcpu *vcpu, u64 encoding, vmcs_field_t *f, bool *high)
{
    return !field_from_encoding(encoding, f, high) && vcpu->nested->exists[f->i];
}

static bool in_64bit_code(void)
{
    return vmread(F(GUEST_CS_AR)) & BIT(13) && vmread(F(GUEST_EFER)) & EFER_LMA;
}

// The VMCS that VMREAD and VMWRITE reach: an active one, or a region in L1's memory.
struct target {
    struct nvmcs *nv;
    struct vmcs12_region *region; // where `nv` is NULL; L1's other CPUs may write it
};

static u64 target_get(struct vcpu *vcpu, const struct target *t, vmcs_field_t f)
{
    if (UNLIKELY(!t->nv))
        return __atomic_load_n(&t->region->f[f.i], __ATOMIC_RELAXED) & field_mask(f);
    // What was saved depends on the controls at the exit.
    if (UNLIKELY(t->nv->lazy) && (store_is_lazy(f) || field_same(f, F(EXIT_CTRL))))
        store_sync_lazy(vcpu, t->nv);
    return v12(t->nv, f);
}

static void target_set(struct vcpu *vcpu, const struct target *t, vmcs_field_t f, u64 value)
{
    if (UNLIKELY(!t->nv)) {
        __atomic_store_n(&t->region->f[f.i], value, __ATOMIC_RELAXED);
        return;
    }
    v12_set(&t->nv->v, f, value);
    if (LIKELY(t->nv == vcpu->nested->current))
        shadow_update(vcpu, t->nv, f);
}

static struct vmx_result fail_at(struct vcpu *vcpu, const struct target *t, u32 number)
{
    if (t->nv)
        v12_save(&t->nv->v, F(INSTRUCTION_ERROR), number);
    else
        target_set(vcpu, t, F(INSTRUCTION_ERROR), number);
    return (struct vmx_result){.kind = VMX_FAIL_VALID, .number = number};
}

static struct vmx_result do_vmread(struct vcpu *vcpu, const struct target *t)
{
    struct insn_info info;
    struct vmx_result r;
    vmcs_field_t f;
    bool high, wide = in_64bit_code();
    u32 raw = (u32)vmread(F(EXIT_INSTR_INFO));
    u64 encoding = vcpu_gpr(vcpu, INFO_REG2(raw));
    if (!find_field(vcpu, wide ? encoding : (u32)encoding, &f, &high))
        return fail_at(vcpu, t, VMX_ERR_NO_FIELD);
    u64 value = field_part(f, high, wide, target_get(vcpu, t, f));
    if (LIKELY(raw & INFO_IS_REG)) {
        vcpu_set_gpr(vcpu, INFO_REG1(raw), value);
        return succeed;
    }
    decode(INFO_VMCS_FIELD, &info);
    return write_operand(vcpu, &info, &value, wide ? 8 : 4, &r) ? succeed : r;
}

static struct vmx_result do_vmwrite(struct vcpu *vcpu, const struct target *t)
{
    struct insn_info info;
    struct vmx_result r;
    vmcs_field_t f;
    bool high, wide = in_64bit_code();
    u64 value = 0;
    u32 raw = (u32)vmread(F(EXIT_INSTR_INFO));
    if (LIKELY(raw & INFO_IS_REG)) {
        value = vcpu_gpr(vcpu, INFO_REG1(raw));
    } else {
        decode(INFO_VMCS_FIELD, &info);
        if (!read_operand(vcpu, &info, &value, wide ? 8 : 4, &r))
            return r;
    }
    u64 encoding = vcpu_gpr(vcpu, INFO_REG2(raw));
    if (!find_field(vcpu, wide ? encoding : (u32)encoding, &f, &high))
        return fail_at(vcpu, t, VMX_ERR_NO_FIELD);
    if (field_read_only(f) && !(vcpu->vm->caps.misc & MISC_VMWRITE_ANY))
        return fail_at(vcpu, t, VMX_ERR_READ_ONLY);
    target_set(vcpu, t, f, field_update(f, high, wide, target_get(vcpu, t, f), value));
    return succeed;
}

static bool current_target(struct vcpu *vcpu, enum vmx_insn insn, struct target *t,
                           struct vmx_result *r)
{
    if (!may_execute(vcpu, insn, r))
        return false;
    *t = (struct target){vcpu->nested->current, NULL};
    *r = fail_invalid;
    return t->nv;
}

enum run_result nested_vmread(struct vcpu *vcpu)
{
    struct target t;
    struct vmx_result r;
    return finish(vcpu, current_target(vcpu, INSN_VMREAD, &t, &r) ? do_vmread(vcpu, &t) : r);
}

enum run_result nested_vmwrite(struct vcpu *vcpu)
{
    struct target t;
    struct vmx_result r;
    return finish(vcpu, current_target(vcpu, INSN_VMWRITE, &t, &r) ? do_vmwrite(vcpu, &t) : r);
}

// "VMCS Shadowing": L2's VMREAD and VMWRITE that L1's bitmaps let through reach the VMCS at the
// link pointer. L1 should have made it inactive; if not, the active state counts.
static bool linked_target(struct vcpu *vcpu, struct target *t, struct vmx_result *r)
{
    gpa_t link = GPA(v12(vcpu->nested->current, F(VMCS_LINK_POINTER)));
    *r = vcpu_cpl() ? fault(VEC_GP) : fail_invalid;
    if (vcpu_cpl() || link.v == VMCS_NONE.v)
        return false;
    t->nv = store_find(vcpu, link);
    t->region = t->nv ? NULL : guest_ptr(&vcpu->vm->mem, link, PAGE_SIZE);
    return t->nv || t->region;
}

enum run_result nested_linked_vmread(struct vcpu *vcpu)
{
    struct target t;
    struct vmx_result r;
    return finish(vcpu, linked_target(vcpu, &t, &r) ? do_vmread(vcpu, &t) : r);
}

enum run_result nested_linked_vmwrite(struct vcpu *vcpu)
{
    struct target t;
    struct vmx_result r;
    return finish(vcpu, linked_target(vcpu, &t, &r) ? do_vmwrite(vcpu, &t) : r);
}

static struct vmx_result launch(struct vcpu *vcpu, enum vmx_insn insn)
{
    struct nvmcs *nv = vcpu->nested->current;
    struct vmx_result r;
    if (!may_execute(vcpu, insn, &r))
        return r;
    if (!nv || nv->is_shadow)
        return fail_invalid;
    u64 blocking = vmread(F(GUEST_INTERRUPTIBILITY));
    vcpu->nested->l1_blocked = blocking != 0;
    if (UNLIKELY(blocking & BLOCKING_MOV_SS))
        return fail(vcpu, VMX_ERR_MOV_SS);
    if (insn == INSN_VMLAUNCH && nv->v.launched)
        return fail(vcpu, VMX_ERR_LAUNCH_NOT_CLEAR);
    if (insn == INSN_VMRESUME && !nv->v.launched)
        return fail(vcpu, VMX_ERR_RESUME_NOT_LAUNCHED);
    return entry_run(vcpu, nv);
}

enum run_result nested_vmlaunch(struct vcpu *vcpu)
{
    return finish(vcpu, launch(vcpu, INSN_VMLAUNCH));
}

enum run_result nested_vmresume(struct vcpu *vcpu)
{
    return finish(vcpu, launch(vcpu, INSN_VMRESUME));
}

// VMCALL exits before the processor looks at the mode. In VMX root operation it would call an SMM
// monitor, which there is none.
static struct vmx_result vmcall(struct vcpu *vcpu)
{
    bool compatibility = vmread(F(GUEST_EFER)) & EFER_LMA && !in_64bit_code();
    if (vmread(F(GUEST_RFLAGS)) & RFLAGS_VM || compatibility)
        return fault(VEC_UD);
    return vcpu_cpl() ? fault(VEC_GP) : fail(vcpu, VMX_ERR_VMCALL);
}

enum run_result nested_vmcall(struct vcpu *vcpu)
{
    vcpu->stats.insn[INSN_VMCALL]++;
    return finish(vcpu, vcpu->nested->vmxon ? vmcall(vcpu) : fault(VEC_UD));
}

struct descriptor {
    u64 first, second;
};

static bool read_invalidation(struct vcpu *vcpu, u64 *type, struct descriptor *d,
                              struct vmx_result *r)
{
    struct insn_info info;
    decode(INFO_INVALIDATE, &info);
    *type = vcpu_gpr(vcpu, info.reg2);
    if (!in_64bit_code())
        *type = (u32)*type;
    return read_operand(vcpu, &info, d, sizeof(*d), r);
}

static struct vmx_result invept(struct vcpu *vcpu)
{
    u64 caps = vcpu->vm->caps.ept_vpid, type;
    struct descriptor d;
    struct vmx_result r;
    if (!read_invalidation(vcpu, &type, &d, &r))
        return r;
    if (type == INVEPT_SINGLE && caps & EPT_CAP_INVEPT_SINGLE) {
        if (!check_eptp(&vcpu->nested->env, d.first))
            return fail(vcpu, VMX_ERR_INVALIDATION);
        ept02_invept(&vcpu->nested->ept02, d.first);
    } else if (type == INVEPT_ALL && caps & EPT_CAP_INVEPT_ALL) {
        ept02_invept_all(&vcpu->nested->ept02);
    } else {
        return fail(vcpu, VMX_ERR_INVALIDATION);
    }
    return succeed;
}

enum run_result nested_invept(struct vcpu *vcpu)
{
    struct vmx_result r;
    if (!CAP_HAS(&vcpu->vm->caps, EPT))
        return finish(vcpu, fault(VEC_UD));
    return finish(vcpu, may_execute(vcpu, INSN_INVEPT, &r) ? invept(vcpu) : r);
}

// Whatever the type, L2's own TLB tag loses all: a VPID of L1 names the vmcs02s that use it.
static void flush_vpid12(struct vcpu *vcpu, u16 vpid12, bool all)
{
    LIST_FOR(node, &vcpu->nested->active) {
        struct nvmcs *nv = CONTAINER_OF(node, struct nvmcs, lru);
        if (all || (u16)v12(nv, F(VPID)) == vpid12)
            nv->flush_vpid = true;
    }
}

static bool canonical(u64 v)
{
    return (u64)((s64)(v << 16) >> 16) == v;
}

static struct vmx_result invvpid(struct vcpu *vcpu)
{
    u64 caps = vcpu->vm->caps.ept_vpid, type;
    struct descriptor d;
    struct vmx_result r;
    if (!read_invalidation(vcpu, &type, &d, &r))
        return r;
    if (type > INVVPID_SINGLE_BUT_GLOBAL || !(caps >> (40 + type) & 1) || d.first >> 16)
        return fail(vcpu, VMX_ERR_INVALIDATION);
    if (type != INVVPID_ALL && !d.first)
        return fail(vcpu, VMX_ERR_INVALIDATION);
    if (type == INVVPID_ADDRESS && !canonical(d.second))
        return fail(vcpu, VMX_ERR_INVALIDATION);
    flush_vpid12(vcpu, (u16)d.first, type == INVVPID_ALL);
    return succeed;
}

enum run_result nested_invvpid(struct vcpu *vcpu)
{
    struct vmx_result r;
    if (!CAP_HAS(&vcpu->vm->caps, VPID))
        return finish(vcpu, fault(VEC_UD));
    return finish(vcpu, may_execute(vcpu, INSN_INVVPID, &r) ? invvpid(vcpu) : r);
}
