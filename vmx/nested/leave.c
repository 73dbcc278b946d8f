// The virtual VM exit: L2's state to vmcs12, L1's host state to vmcs01. SDM volume 3, chapter "VM
// Exits".

#include "vmx/event.h"
#include "vmx/msr.h"
#include "vmx/nested/state.h"

#define AR_CODE     0xb
#define AR_DATA     0x3
#define AR_S        BIT(4)
#define AR_P        BIT(7)
#define AR_L        BIT(13)
#define AR_DB       BIT(14)
#define AR_G        BIT(15)
#define AR_UNUSABLE BIT(16)
#define TSS_BUSY    0x8b
#define TSS_LIMIT   0x67
#define TABLE_LIMIT 0xffff
#define FLAT_LIMIT  0xffffffffull
#define DR7_RESET   0x400
#define REASON_ENTRY_FAILED BIT(31)

// Guest state that changes while L2 runs and that hypervisors look at after an exit. The rest stays
// in vmcs02 until L1 asks (store_sync_lazy).
static void save_hot_state(struct vcpu *vcpu, struct nvmcs *nv)
{
    struct vmcs12 *v = &nv->v;
    u64 cr0 = vmread(F(GUEST_CR0)), old = v12(nv, F(GUEST_CR0));
    u64 own4 = cr4_l0(vcpu);
    v12_save(v, F(GUEST_RIP), vmread(F(GUEST_RIP)));
    v12_save(v, F(GUEST_RSP), vmread(F(GUEST_RSP)));
    v12_save(v, F(GUEST_RFLAGS), vmread(F(GUEST_RFLAGS)));
    v12_save(v, F(GUEST_CR0), (cr0 & ~CR0_L0) | (old & CR0_L0));
    v12_save(v, F(GUEST_CR3), vmread(F(GUEST_CR3)));
    v12_save(v, F(GUEST_CR4), (vmread(F(GUEST_CR4)) & ~own4) | (v12(nv, F(GUEST_CR4)) & own4));
    v12_save(v, F(GUEST_CS_AR), vmread(F(GUEST_CS_AR)));
    v12_save(v, F(GUEST_SS_AR), vmread(F(GUEST_SS_AR)));
    v12_save(v, F(GUEST_INTERRUPTIBILITY), vmread(F(GUEST_INTERRUPTIBILITY)));
    v12_save(v, F(GUEST_ACTIVITY), (u64)vcpu->activity);
    if (UNLIKELY((cr0 ^ old) & CR0_PG || nv->lma_touched)) {
        u64 entry = v12(nv, F(ENTRY_CTRL)) & ~(u64)CTL_ENTRY_IA32E_GUEST;
        nv->lma_touched = false;
        v12_save(v, F(ENTRY_CTRL), entry | (vmread(F(ENTRY_CTRL)) & CTL_ENTRY_IA32E_GUEST));
    }
    nv->lazy = true;
}

static void save_timer(struct vcpu *vcpu, struct nvmcs *nv)
{
    u64 end = vcpu->nested->timer_deadline, now;
    if (end == ~0ull)
        return;
    vcpu->nested->timer_deadline = ~0ull;
    if (!V12_HAS(&nv->v, EXIT_SAVE_TIMER))
        return;
    now = rdtsc();
    v12_save(&nv->v, F(PREEMPTION_TIMER), end > now ? (end - now) >> vmx.timer_shift : 0);
}

// SDM, "Recording VM-Exit Information and Updating VM-Entry Control Fields". What an exit does not
// define keeps its old value.
static void save_exit_info(struct nvmcs *nv, const struct leave *x)
{
    struct vmcs12 *v = &nv->v;
    u32 info = x->intr_info;
    v12_save(v, F(EXIT_REASON), x->reason);
    v12_save(v, F(EXIT_QUALIFICATION), x->qualification);
    if (!x->own_info && !x->synthetic)
        info = (u32)vmread(F(EXIT_INTR_INFO));
    v12_save(v, F(EXIT_INTR_INFO), info);
    if (info & INFO_VALID && info & INFO_ERROR_CODE)
        v12_save(v, F(EXIT_INTR_ERROR), x->own_info ? x->intr_error : vmread(F(EXIT_INTR_ERROR)));
    if (x->synthetic) {
        v12_save(v, F(IDT_VECTORING_INFO), 0);
        return;
    }
    u32 vectoring = (u32)vmread(F(IDT_VECTORING_INFO));
    v12_save(v, F(IDT_VECTORING_INFO), vectoring);
    if (vectoring & INFO_VALID && vectoring & INFO_ERROR_CODE)
        v12_save(v, F(IDT_VECTORING_ERROR), vmread(F(IDT_VECTORING_ERROR)));
    v12_save(v, F(EXIT_INSTR_LENGTH), vmread(F(EXIT_INSTR_LENGTH)));
    v12_save(v, F(EXIT_INSTR_INFO), vmread(F(EXIT_INSTR_INFO)));
    switch ((u16)x->reason) {
    case EXIT_EPT_VIOLATION:
    case EXIT_EPT_MISCONFIG:
        v12_save(v, F(GUEST_PHYSICAL_ADDR), vmread(F(GUEST_PHYSICAL_ADDR)));
        v12_save(v, F(GUEST_LINEAR_ADDR), vmread(F(GUEST_LINEAR_ADDR)));
        break;
    case EXIT_IO: // the linear address of INS and OUTS, and what I/O SMIs would record
    case EXIT_CR_ACCESS: // of LMSW
        v12_save(v, F(GUEST_LINEAR_ADDR), vmread(F(GUEST_LINEAR_ADDR)));
        break;
    default:
        break;
    }
}

static void load_segment(vmcs_field_t sel, vmcs_field_t base, vmcs_field_t limit, vmcs_field_t ar,
                         u64 selector, u64 base_value, u64 rights)
{
    vmwrite(sel, selector);
    vmwrite(base, base_value);
    vmwrite(limit, FLAT_LIMIT);
    vmwrite(ar, selector ? rights : rights | AR_UNUSABLE);
}

#define LOAD_SEGMENT(NAME, base)                                                                   \
    load_segment(F(GUEST_##NAME##_SELECTOR), F(GUEST_##NAME##_BASE), F(GUEST_##NAME##_LIMIT),      \
                 F(GUEST_##NAME##_AR), v12(nv, F(HOST_##NAME##_SELECTOR)), base,                   \
                 AR_DATA | AR_S | AR_P | AR_DB | AR_G)

// SDM, "Loading Host Segment and Descriptor-Table Registers".
static void load_host_segments(struct nvmcs *nv, bool wide)
{
    vmwrite(F(GUEST_CS_SELECTOR), v12(nv, F(HOST_CS_SELECTOR)));
    vmwrite(F(GUEST_CS_BASE), 0);
    vmwrite(F(GUEST_CS_LIMIT), FLAT_LIMIT);
    vmwrite(F(GUEST_CS_AR), AR_CODE | AR_S | AR_P | AR_G | (wide ? AR_L : AR_DB));
    LOAD_SEGMENT(SS, 0);
    LOAD_SEGMENT(DS, 0);
    LOAD_SEGMENT(ES, 0);
    LOAD_SEGMENT(FS, v12(nv, F(HOST_FS_BASE)));
    LOAD_SEGMENT(GS, v12(nv, F(HOST_GS_BASE)));
    vmwrite(F(GUEST_TR_SELECTOR), v12(nv, F(HOST_TR_SELECTOR)));
    vmwrite(F(GUEST_TR_BASE), v12(nv, F(HOST_TR_BASE)));
    vmwrite(F(GUEST_TR_LIMIT), TSS_LIMIT);
    vmwrite(F(GUEST_TR_AR), TSS_BUSY);
    vmwrite(F(GUEST_LDTR_SELECTOR), 0);
    vmwrite(F(GUEST_LDTR_AR), AR_UNUSABLE);
    vmwrite(F(GUEST_GDTR_BASE), v12(nv, F(HOST_GDTR_BASE)));
    vmwrite(F(GUEST_GDTR_LIMIT), TABLE_LIMIT);
    vmwrite(F(GUEST_IDTR_BASE), v12(nv, F(HOST_IDTR_BASE)));
    vmwrite(F(GUEST_IDTR_LIMIT), TABLE_LIMIT);
}

// Values that L2 leaves in registers which L1's exit controls do not load.
struct l2_left {
    u64 efer, pat;
};

// SDM, "Loading Host Control Registers, Debug Registers, MSRs".
static void load_host_registers(struct vcpu *vcpu, struct nvmcs *nv, const struct l2_left *l2)
{
    bool wide = V12_HAS(&nv->v, EXIT_HOST_64BIT);
    u64 cr0 = v12(nv, F(HOST_CR0)), cr4 = v12(nv, F(HOST_CR4));
    u64 old_cr0 = vmread(F(CR0_SHADOW));
    // ET, CD, NW and reserved bits of CR0 are not modified.
    cr0 = (cr0 & ~(CR0_CD | CR0_NW)) | (old_cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
    cr4 = wide ? cr4 | CR4_PAE : cr4 & ~(u64)CR4_PCIDE;
    vmwrite(F(CR0_SHADOW), cr0);
    vmwrite(F(GUEST_CR0), (cr0 & ~(CR0_CD | CR0_NW)) | CR0_NE);
    vmwrite(F(CR4_SHADOW), cr4);
    vmwrite(F(GUEST_CR4), (cr4 | vmx.caps.cr4_fixed0) & vmx.caps.cr4_fixed1);
    vmwrite(F(GUEST_CR3), v12(nv, F(HOST_CR3)));
    vmwrite(F(GUEST_DR7), DR7_RESET);
    vmwrite(F(GUEST_DEBUGCTL), 0);
    vmwrite(F(GUEST_SYSENTER_CS), v12(nv, F(HOST_SYSENTER_CS)));
    vmwrite(F(GUEST_SYSENTER_ESP), v12(nv, F(HOST_SYSENTER_ESP)));
    vmwrite(F(GUEST_SYSENTER_EIP), v12(nv, F(HOST_SYSENTER_EIP)));
    u64 efer = V12_HAS(&nv->v, EXIT_LOAD_EFER) ? v12(nv, F(HOST_EFER)) : l2->efer;
    efer &= ~(u64)(EFER_LMA | EFER_LME);
    vmwrite(F(GUEST_EFER), wide ? efer | EFER_LMA | EFER_LME : efer);
    vmwrite(F(GUEST_PAT), V12_HAS(&nv->v, EXIT_LOAD_PAT) ? v12(nv, F(HOST_PAT)) : l2->pat);
    u64 entry = vmread(F(ENTRY_CTRL)) & ~(u64)CTL_ENTRY_IA32E_GUEST;
    vmwrite(F(ENTRY_CTRL), wide ? entry | CTL_ENTRY_IA32E_GUEST : entry);
    vmwrite(F(GUEST_RIP), v12(nv, F(HOST_RIP)));
    vmwrite(F(GUEST_RSP), v12(nv, F(HOST_RSP)));
    vmwrite(F(GUEST_RFLAGS), RFLAGS_FIXED);
    vmwrite(F(GUEST_INTERRUPTIBILITY), 0);
    vmwrite(F(GUEST_PENDING_DEBUG), 0);
    (void)vcpu;
}

// PAE paging of a 32-bit L1: a VM exit loads its PDPTEs.
static bool load_host_pdptes(struct vcpu *vcpu, struct nvmcs *nv)
{
    u64 p[4], reserved = ~(BIT(vcpu->vm->phys_bits) - 1) | 0x1e6;
    if (V12_HAS(&nv->v, EXIT_HOST_64BIT) || !(v12(nv, F(HOST_CR4)) & CR4_PAE))
        return true;
    if (!guest_read(&vcpu->vm->mem, p, GPA(v12(nv, F(HOST_CR3)) & 0xffffffe0), sizeof(p)))
        return false;
    for (unsigned i = 0; i < 4; i++)
        if (p[i] & 1 && p[i] & reserved)
            return false;
    vmwrite(F(GUEST_PDPTE0), p[0]);
    vmwrite(F(GUEST_PDPTE1), p[1]);
    vmwrite(F(GUEST_PDPTE2), p[2]);
    vmwrite(F(GUEST_PDPTE3), p[3]);
    return true;
}

// An MSR list longer than the recommended maximum is cut into pieces by nobody: the processor may
// do anything, L0 treats its length as a failure to load, so that no list can hold L0.
u32 load_msr_list(struct vcpu *vcpu, gpa_t list, u32 count, enum msr_list kind)
{
    u32 max = vmx_msr_list_max(&vcpu->vm->caps);
    for (u32 i = 0; i < count; i++) {
        struct msr_entry m;
        if (i == max || !guest_read(&vcpu->vm->mem, &m, GPA(list.v + i * sizeof(m)), sizeof(m)) ||
            !msr_list_entry_ok(kind, &m) || !vcpu_wrmsr(vcpu, m.index, m.value))
            return i + 1;
    }
    return 0;
}

static bool store_msr_list(struct vcpu *vcpu, struct nvmcs *nv)
{
    u32 count = (u32)v12(nv, F(EXIT_MSR_STORE_COUNT)), max = vmx_msr_list_max(&vcpu->vm->caps);
    u64 list = v12(nv, F(EXIT_MSR_STORE_ADDR));
    for (u32 i = 0; i < count; i++) {
        struct msr_entry m;
        gpa_t at = GPA(list + i * sizeof(m));
        if (i == max || !guest_read(&vcpu->vm->mem, &m, at, sizeof(m)) ||
            !msr_list_entry_ok(MSR_EXIT_STORE, &m) || !vcpu_rdmsr(vcpu, m.index, &m.value) ||
            !guest_write(&vcpu->vm->mem, at, &m, sizeof(m)))
            return false;
    }
    return true;
}

// SDM, "VMX Aborts": the logical processor shuts down, which only a reset ends.
static void vmx_abort(struct vcpu *vcpu, struct nvmcs *nv, u32 indicator)
{
    guest_write(&vcpu->vm->mem, GPA(nv->gpa.v + offsetof(struct vmcs12_region, abort)), &indicator,
                sizeof(indicator));
    vcpu_fail(vcpu, "VMX abort %u", indicator);
}

#define ABORT_MSR_STORE 1
#define ABORT_PDPTES    2
#define ABORT_MSR_LOAD  4

// vmcs01 becomes current and gets L1's host state.
static void become_l1(struct vcpu *vcpu, struct nvmcs *nv, const struct l2_left *l2)
{
    vcpu->in_l2 = false;
    vcpu->activity = VCPU_ACTIVE;
    vcpu->nested->event_written = false;
    vcpu->nested->timer_deadline = ~0ull;
    use_vmcs(vcpu, &vcpu->vmcs01);
    if (UNLIKELY(vcpu->nested->tsc_offset_01 != vcpu->tsc_offset)) {
        vcpu->nested->tsc_offset_01 = vcpu->tsc_offset;
        vmwrite(F(TSC_OFFSET), vcpu->tsc_offset);
    }
    load_host_registers(vcpu, nv, l2);
    load_host_segments(nv, V12_HAS(&nv->v, EXIT_HOST_64BIT));
    if (UNLIKELY(!load_host_pdptes(vcpu, nv)))
        vmx_abort(vcpu, nv, ABORT_PDPTES);
    u32 count = (u32)v12(nv, F(EXIT_MSR_LOAD_COUNT));
    if (UNLIKELY(count) &&
        load_msr_list(vcpu, GPA(v12(nv, F(EXIT_MSR_LOAD_ADDR))), count, MSR_EXIT_LOAD))
        vmx_abort(vcpu, nv, ABORT_MSR_LOAD);
    if (vmx.vpid && !V12_HAS(&nv->v, VPID))
        vmxop_invvpid(INVVPID_SINGLE, vcpu->vpid, 0);
    vcpu_note(vcpu, WORK_EVENTS);
}

// What the exit does not load from vmcs12 is read while vmcs02 is current.
static struct l2_left read_left(struct nvmcs *nv)
{
    struct l2_left l = {0};
    if (UNLIKELY(!V12_HAS(&nv->v, EXIT_LOAD_EFER)))
        l.efer = vmread(F(GUEST_EFER));
    if (UNLIKELY(!V12_HAS(&nv->v, EXIT_LOAD_PAT)))
        l.pat = vmread(F(GUEST_PAT));
    return l;
}

void leave_l2(struct vcpu *vcpu, const struct leave *exit)
{
    struct nvmcs *nv = vcpu->nested->current;
    u32 reason = (u16)exit->reason;
    if (LIKELY(reason < STAT_REASONS))
        vcpu->stats.l2_to_l1[reason]++;
    save_hot_state(vcpu, nv);
    save_timer(vcpu, nv);
    save_exit_info(nv, exit);
    struct l2_left left = read_left(nv);
    if (UNLIKELY(v12(nv, F(EXIT_MSR_STORE_COUNT))) && !store_msr_list(vcpu, nv)) {
        vmx_abort(vcpu, nv, ABORT_MSR_STORE);
        return;
    }
    if (nv->shadow.hpa.v)
        shadow_show(nv);
    become_l1(vcpu, nv, &left);
}

void leave_failed_entry(struct vcpu *vcpu, struct nvmcs *nv, u32 reason, u64 qualification)
{
    // L2's registers that the exit controls do not load never came into force.
    struct l2_left left = {0};
    vcpu->stats.l2_to_l1[reason]++;
    if (vcpu->in_l2)
        use_vmcs(vcpu, &vcpu->vmcs01);
    left.efer = vmread(F(GUEST_EFER));
    left.pat = vmread(F(GUEST_PAT));
    v12_save(&nv->v, F(EXIT_REASON), reason | REASON_ENTRY_FAILED);
    v12_save(&nv->v, F(EXIT_QUALIFICATION), qualification);
    if (nv->shadow.hpa.v)
        shadow_show(nv);
    become_l1(vcpu, nv, &left);
}
