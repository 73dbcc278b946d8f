// VMREAD and VMWRITE of L2 that L1's VMCS shadowing lets through: they reach the VMCS at the link
// pointer of vmcs12. SDM volume 3, "VMCS Types: Ordinary and Shadow", and the two instructions. L1
// should have made that VMCS inactive; where it is active, its active state counts.

#include "vmx/event.h"
#include "vmx/nested/shadow.h"

struct linked {
    struct nvmcs *nv;             // NULL: not active
    struct vmcs12_region *region; // then, in L1's memory, which other CPUs may be writing
};

static u64 get(struct vcpu *vcpu, const struct linked *l, vmcs_field_t f)
{
    if (!l->nv)
        return __atomic_load_n(&l->region->f[f.i], __ATOMIC_RELAXED) & field_mask(f);
    store_sync_lazy(vcpu, l->nv, vcpu->nested->care[f.i]);
    return v12(l->nv, f);
}

static void set(const struct linked *l, vmcs_field_t f, u64 value)
{
    if (l->nv) {
        v12_set(&l->nv->v, f, value);
        l->nv->shadow_due = SHADOW_ALL; // its own shadow VMCS shows it when it is current next
    } else {
        __atomic_store_n(&l->region->f[f.i], value, __ATOMIC_RELAXED);
    }
}

// The checks before the operands. False: `*flags` are the result of the instruction, or it faulted.
static bool find(struct vcpu *vcpu, struct linked *l, u64 *flags)
{
    gpa_t link = GPA(v12(vcpu->nested->current, F(VMCS_LINK_POINTER)));
    *flags = 0;
    if (vcpu_cpl()) {
        vcpu_inject_gp(vcpu);
        return false;
    }
    *flags = RFLAGS_CF;
    if (link.v == VMCS_NONE.v)
        return false;
    l->nv = store_find(vcpu, link);
    l->region = l->nv ? NULL : guest_ptr(&vcpu->vm->mem, link, PAGE_SIZE);
    return l->nv || l->region;
}

struct operands {
    struct insn_info info;
    bool wide, high;
    unsigned size;
    vmcs_field_t f;
};

static bool find_field(struct vcpu *vcpu, struct operands *o)
{
    return nested_find_field(vcpu, vcpu_gpr(vcpu, o->info.reg2), o->wide, &o->f, &o->high);
}

// VMfailValid of "Conventions": the error number is the current VMCS's, L1's for this L2.
static int no_field(struct vcpu *vcpu)
{
    v12_save(&vcpu->nested->current->v, F(INSTRUCTION_ERROR), VMX_ERR_NO_FIELD);
    return RFLAGS_ZF;
}

// The flags that the instruction leaves, or -1 after a fault.
static int do_vmread(struct vcpu *vcpu, const struct linked *l, struct operands *o)
{
    if (!find_field(vcpu, o))
        return no_field(vcpu);
    u64 value = field_part(o->f, o->high, o->wide, get(vcpu, l, o->f));
    if (!o->info.is_reg)
        return vcpu_operand_write(vcpu, &o->info, &value, o->size) ? 0 : -1;
    vcpu_set_gpr(vcpu, o->info.reg1, value);
    return 0;
}

static int do_vmwrite(struct vcpu *vcpu, const struct linked *l, struct operands *o)
{
    u64 value = 0;
    if (o->info.is_reg)
        value = vcpu_gpr(vcpu, o->info.reg1);
    else if (!vcpu_operand_read(vcpu, &o->info, &value, o->size))
        return -1;
    if (!find_field(vcpu, o))
        return no_field(vcpu);
    // Read-only fields, too: MISC_VMWRITE_ANY is always offered.
    set(l, o->f, field_update(o->f, o->high, o->wide, get(vcpu, l, o->f), value));
    return 0;
}

static enum run_result execute(struct vcpu *vcpu,
                               int (*insn)(struct vcpu *, const struct linked *, struct operands *))
{
    struct linked l = {0};
    struct operands o = {.wide = vcpu_in_64bit_code()};
    u64 flags;
    o.size = o.wide ? 8 : 4;
    insn_info_decode(INFO_VMCS_FIELD, (u32)vmread(F(EXIT_INSTR_INFO)),
                     vmread(F(EXIT_QUALIFICATION)), &o.info);
    if (find(vcpu, &l, &flags)) {
        int r = insn(vcpu, &l, &o);
        if (r < 0)
            return RUN_RESUME;
        flags = (u64)r;
    } else if (!flags) {
        return RUN_RESUME;
    }
    vmwrite(F(GUEST_RFLAGS), (vmread(F(GUEST_RFLAGS)) & ~RFLAGS_ARITH) | flags);
    vcpu_skip(vcpu);
    return RUN_RESUME;
}

enum run_result nested_linked_vmread(struct vcpu *vcpu)
{
    return execute(vcpu, do_vmread);
}

enum run_result nested_linked_vmwrite(struct vcpu *vcpu)
{
    return execute(vcpu, do_vmwrite);
}
