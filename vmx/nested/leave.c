// The virtual VM exit: L2's state to vmcs12, L1's host state to vmcs01. SDM volume 3, chapter "VM
// Exits".

#include "vmx/apicv.h"
#include "vmx/event.h"
#include "vmx/mitigate.h"
#include "vmx/msr.h"
#include "vmx/nested/shadow.h"

#define AR_CODE             0xb
#define AR_DATA             0x3
#define AR_S                BIT(4)
#define AR_P                BIT(7)
#define AR_L                BIT(13)
#define AR_DB               BIT(14)
#define AR_G                BIT(15)
#define AR_UNUSABLE         BIT(16)
#define TSS_BUSY            0x8b
#define TSS_LIMIT           0x67
#define TABLE_LIMIT         0xffff
#define FLAT_LIMIT          0xffffffffull
#define DR7_RESET           0x400
#define REASON_ENTRY_FAILED BIT(31)

// Guest state that changes while L2 runs and that hypervisors look at after an exit. The rest stays
// in vmcs02 until L1 asks (store_sync_lazy).
static inline void save_hot_state(struct vcpu *vcpu, struct nvmcs *nv)
{
    u64 cr0 = vmread(F(GUEST_CR0)), old = v12(nv, F(GUEST_CR0)), own4 = cr4_l0(vcpu);
    SAVE(nv, GUEST_RIP, vmread(F(GUEST_RIP)));
    SAVE(nv, GUEST_RSP, vmread(F(GUEST_RSP)));
    SAVE(nv, GUEST_RFLAGS, vmread(F(GUEST_RFLAGS)));
    SAVE(nv, GUEST_INTERRUPTIBILITY, vmread(F(GUEST_INTERRUPTIBILITY)));
    SAVE(nv, GUEST_CR0, (cr0 & ~CR0_L0) | (old & CR0_L0));
    SAVE(nv, GUEST_CR3, vmread(F(GUEST_CR3)));
    SAVE(nv, GUEST_CR4, (vmread(F(GUEST_CR4)) & ~own4) | (v12(nv, F(GUEST_CR4)) & own4));
    SAVE(nv, GUEST_CS_AR, vmread(F(GUEST_CS_AR)));
    SAVE(nv, GUEST_SS_AR, vmread(F(GUEST_SS_AR)));
    if (V12_HAS(&nv->v, VIRTUAL_INTR_DELIVERY))
        SAVE(nv, GUEST_INTR_STATUS, vmread(F(GUEST_INTR_STATUS)));
    v12_save(&nv->v, F(GUEST_ACTIVITY), (u64)vcpu->activity);
    if (UNLIKELY((cr0 ^ old) & CR0_PG || nv->lma_touched)) {
        u64 entry = v12(nv, F(ENTRY_CTRL)) & ~(u64)CTL_ENTRY_IA32E_GUEST;
        nv->lma_touched = false;
        v12_save(&nv->v, F(ENTRY_CTRL), entry | (vmread(F(ENTRY_CTRL)) & CTL_ENTRY_IA32E_GUEST));
    }
    nv->lazy = LAZY_ALL;
}

static inline void save_timer(struct vcpu *vcpu, struct nvmcs *nv)
{
    u64 end = vcpu->nested->timer_deadline, now;
    if (end == ~0ull)
        return;
    vcpu->nested->timer_deadline = ~0ull;
    vcpu->until = vcpu->until_l0;
    if (!V12_HAS(&nv->v, EXIT_SAVE_TIMER))
        return;
    now = rdtsc();
    SAVE(nv, PREEMPTION_TIMER, end > now ? (end - now) >> vmx.timer_shift : 0);
}

// Which exit information an exit for a reason defines besides qualification and length: SDM,
// "VM-Exit Information Fields". The rest keeps its old value, but for the valid bits, which are
// then clear.
#define ON(reason)        BIT(EXIT_##reason)
#define DEFINES_INTR_INFO (ON(EXCEPTION_NMI) | ON(EXTERNAL_INTERRUPT))
#define DEFINES_VECTORING                                                                          \
    (ON(EXCEPTION_NMI) | ON(TASK_SWITCH) | ON(EPT_VIOLATION) | ON(EPT_MISCONFIG) |                 \
     ON(APIC_ACCESS) | ON(PML_FULL) | ON(TRIPLE_FAULT))
#define DEFINES_ADDRESSES (ON(EPT_VIOLATION) | ON(EPT_MISCONFIG))
#define DEFINES_LINEAR    (ON(IO) | ON(CR_ACCESS))
#define DEFINES_INSN_INFO                                                                          \
    (ON(IO) | ON(VMCLEAR) | ON(VMPTRLD) | ON(VMPTRST) | ON(VMREAD) | ON(VMWRITE) | ON(VMXON) |     \
     ON(GDTR_IDTR) | ON(LDTR_TR) | ON(INVEPT) | ON(INVVPID) | ON(RDRAND) | ON(INVPCID) |           \
     ON(RDSEED) | ON(XSAVES))

static inline void save_event_info(struct nvmcs *nv, struct leave x, struct leave_event event,
                                   u64 reason)
{
    u32 info = event.info, vectoring = 0;
    if (reason & DEFINES_INTR_INFO && !x.own_event)
        info = vcpu_intr_info();
    SAVE(nv, EXIT_INTR_INFO, info);
    if (UNLIKELY(info & INFO_VALID) && info & INFO_ERROR_CODE)
        SAVE(nv, EXIT_INTR_ERROR, x.own_event ? event.error : vmread(F(EXIT_INTR_ERROR)));
    if (reason & DEFINES_VECTORING && !x.synthetic)
        vectoring = vcpu_vectoring_info();
    SAVE(nv, IDT_VECTORING_INFO, vectoring);
    if (UNLIKELY(vectoring & INFO_VALID) && vectoring & INFO_ERROR_CODE)
        SAVE(nv, IDT_VECTORING_ERROR, vmread(F(IDT_VECTORING_ERROR)));
}

static inline void save_exit_info(struct nvmcs *nv, struct leave x, struct leave_event event)
{
    // XRSTORS, the one beyond 63, is as XSAVES.
    u64 reason = BIT(MIN((u16)x.reason, EXIT_XSAVES));
    SAVE(nv, EXIT_REASON, x.reason);
    SAVE(nv, EXIT_QUALIFICATION, x.qualification);
    save_event_info(nv, x, event, reason);
    if (x.synthetic)
        return;
    SAVE(nv, EXIT_INSTR_LENGTH, vmread(F(EXIT_INSTR_LENGTH)));
    if (LIKELY(!(reason & (DEFINES_INSN_INFO | DEFINES_ADDRESSES | DEFINES_LINEAR))))
        return;
    if (reason & DEFINES_INSN_INFO)
        SAVE(nv, EXIT_INSTR_INFO, vmread(F(EXIT_INSTR_INFO)));
    if (reason & DEFINES_ADDRESSES)
        SAVE(nv, GUEST_PHYSICAL_ADDR, vmread(F(GUEST_PHYSICAL_ADDR)));
    if (reason & (DEFINES_ADDRESSES | DEFINES_LINEAR))
        SAVE(nv, GUEST_LINEAR_ADDR, vmread(F(GUEST_LINEAR_ADDR)));
}

FORCE_INLINE void load_segment(vmcs_field_t sel, vmcs_field_t base, vmcs_field_t limit,
                               vmcs_field_t ar, u64 selector, u64 base_value, u64 rights)
{
    vmwrite(sel, selector);
    if (!selector) { // limit and rights are undefined, and so is a base of 0
        if (!__builtin_constant_p(base_value))
            vmwrite(base, base_value);
        vmwrite(ar, AR_UNUSABLE);
        return;
    }
    vmwrite(base, base_value);
    vmwrite(limit, FLAT_LIMIT);
    vmwrite(ar, rights);
}

#define LOAD_SEGMENT(NAME, base)                                                                   \
    load_segment(F(GUEST_##NAME##_SELECTOR), F(GUEST_##NAME##_BASE), F(GUEST_##NAME##_LIMIT),      \
                 F(GUEST_##NAME##_AR), v12(nv, F(HOST_##NAME##_SELECTOR)), base,                   \
                 AR_DATA | AR_S | AR_P | AR_DB | AR_G)

// SDM, "Loading Host Segment and Descriptor-Table Registers".
static inline void load_host_segments(struct nvmcs *nv, bool wide)
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

// ET, reserved bits, CD and NW of CR0 are not modified by an exit; the last two are in CR0_SHADOW
// only.
static u64 host_cr0(const struct nvmcs *nv)
{
    return (v12(nv, F(HOST_CR0)) & ~(CR0_CD | CR0_NW)) | CR0_ET;
}

static u64 host_cr4(const struct nvmcs *nv, bool wide)
{
    u64 cr4 = v12(nv, F(HOST_CR4));
    return wide ? cr4 | CR4_PAE : cr4 & ~(u64)CR4_PCIDE;
}

// Values that L2 leaves in registers which L1's exit controls do not load.
struct l2_left {
    u64 efer, pat;
};

// SDM, "Loading Host Control Registers, Debug Registers, MSRs". This part L1 cannot change without
// an exit, so that vmcs01 mostly holds it from the last time.
static NOINLINE void load_host_rare(struct vcpu *vcpu, struct nvmcs *nv, struct l2_left l2)
{
    bool wide = V12_HAS(&nv->v, EXIT_HOST_64BIT);
    vmwrite(F(CR0_SHADOW), host_cr0(nv) | (vmread(F(CR0_SHADOW)) & (CR0_CD | CR0_NW)));
    vmwrite(F(CR4_SHADOW), host_cr4(nv, wide));
    vmwrite(F(GUEST_DEBUGCTL), 0);
    vmwrite(F(GUEST_SYSENTER_CS), v12(nv, F(HOST_SYSENTER_CS)));
    vmwrite(F(GUEST_SYSENTER_ESP), v12(nv, F(HOST_SYSENTER_ESP)));
    vmwrite(F(GUEST_SYSENTER_EIP), v12(nv, F(HOST_SYSENTER_EIP)));
    vcpu->nested->l1_pat = V12_HAS(&nv->v, EXIT_LOAD_PAT) ? v12(nv, F(HOST_PAT)) : l2.pat;
    vmwrite(F(GUEST_PAT), vcpu->nested->l1_pat);
    if (vcpu->nested->tsc_offset_01 != vcpu->tsc_offset) {
        vcpu->nested->tsc_offset_01 = vcpu->tsc_offset;
        vmwrite(F(TSC_OFFSET), vcpu->tsc_offset);
    }
}

static inline void load_host_efer(struct vcpu *vcpu, struct nvmcs *nv, struct l2_left l2)
{
    bool wide = V12_HAS(&nv->v, EXIT_HOST_64BIT);
    u64 efer = V12_HAS(&nv->v, EXIT_LOAD_EFER) ? v12(nv, F(HOST_EFER)) : l2.efer;
    efer &= ~(u64)(EFER_LMA | EFER_LME);
    efer |= wide ? EFER_LMA | EFER_LME : 0;
    if (LIKELY(efer == vcpu->nested->l1.efer))
        return;
    u64 entry = vmread(F(ENTRY_CTRL)) & ~(u64)CTL_ENTRY_IA32E_GUEST;
    vmwrite(F(GUEST_EFER), efer);
    vmwrite(F(ENTRY_CTRL), wide ? entry | CTL_ENTRY_IA32E_GUEST : entry);
}

// The part that L1 may have changed.
static inline void load_host_registers(struct nvmcs *nv)
{
    bool wide = V12_HAS(&nv->v, EXIT_HOST_64BIT);
    vmwrite(F(GUEST_CR0), host_cr0(nv) | CR0_NE);
    vmwrite(F(GUEST_CR4), (host_cr4(nv, wide) | vmx.caps.cr4_fixed0) & vmx.caps.cr4_fixed1);
    vmwrite(F(GUEST_CR3), v12(nv, F(HOST_CR3)));
    vmwrite(F(GUEST_DR7), DR7_RESET);
    vmwrite(F(GUEST_RIP), v12(nv, F(HOST_RIP)));
    vmwrite(F(GUEST_RSP), v12(nv, F(HOST_RSP)));
    vmwrite(F(GUEST_RFLAGS), RFLAGS_FIXED);
    vmwrite(F(GUEST_PENDING_DEBUG), 0);
}

// PAE paging of a 32-bit L1: a VM exit loads its PDPTEs.
static NOINLINE bool load_host_pdptes(struct vcpu *vcpu, struct nvmcs *nv)
{
    u64 p[4], reserved = ~(BIT(vcpu->vm->phys_bits) - 1) | 0x1e6;
    if (!(v12(nv, F(HOST_CR4)) & CR4_PAE))
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

static NOINLINE void load_msrs(struct vcpu *vcpu, struct nvmcs *nv)
{
    u32 count = (u32)v12(nv, F(EXIT_MSR_LOAD_COUNT));
    if (load_msr_list(vcpu, GPA(v12(nv, F(EXIT_MSR_LOAD_ADDR))), count, MSR_EXIT_LOAD))
        vmx_abort(vcpu, nv, ABORT_MSR_LOAD);
}

// vmcs01 becomes current and gets L1's host state.
FORCE_INLINE void become_l1(struct vcpu *vcpu, struct nvmcs *nv, struct l2_left l2)
{
    struct nested *n = vcpu->nested;
    vcpu->in_l2 = false;
    vcpu->activity = VCPU_ACTIVE;
    n->event_written = false;
    vcpu->event.info = 0; // what was being delivered is in the exit information
    n->timer_deadline = ~0ull;
    use_vmcs(vcpu, &vcpu->vmcs01);
    apicv_become_l1(vcpu);
    if (UNLIKELY(n->host_loaded != nv || vcpu->host_dirty)) {
        vcpu->host_dirty = false;
        n->host_loaded = nv;
        load_host_rare(vcpu, nv, l2);
    }
    load_host_efer(vcpu, nv, l2);
    load_host_registers(nv);
    if (UNLIKELY(n->l1_blocked))
        vmwrite(F(GUEST_INTERRUPTIBILITY), 0);
    load_host_segments(nv, V12_HAS(&nv->v, EXIT_HOST_64BIT));
    if (UNLIKELY(!V12_HAS(&nv->v, EXIT_HOST_64BIT)) && !load_host_pdptes(vcpu, nv))
        vmx_abort(vcpu, nv, ABORT_PDPTES);
    if (UNLIKELY((u32)v12(nv, F(EXIT_MSR_LOAD_COUNT))))
        load_msrs(vcpu, nv);
    if (vmx.vpid && !V12_HAS(&nv->v, VPID))
        vmxop_invvpid(INVVPID_SINGLE, vcpu->vpid, 0);
    mitigate(BOUNDARY_EXIT);
}

// What the exit does not load from vmcs12 is read while vmcs02 is current.
static inline struct l2_left read_left(struct vcpu *vcpu, struct nvmcs *nv)
{
    struct l2_left l = {0};
    if (UNLIKELY(!V12_HAS(&nv->v, EXIT_LOAD_EFER)))
        l.efer = vmread(F(GUEST_EFER));
    if (UNLIKELY(!V12_HAS(&nv->v, EXIT_LOAD_PAT))) {
        l.pat = vmread(F(GUEST_PAT));
        vcpu->host_dirty |= l.pat != vcpu->nested->l1_pat;
    }
    return l;
}

enum run_result leave_l2(struct vcpu *vcpu, struct leave exit, struct leave_event event)
{
    struct nvmcs *nv = vcpu->nested->current;
    u32 reason = (u16)exit.reason;
    if (LIKELY(reason < STAT_REASONS))
        vcpu->stats.l2_to_l1[reason]++;
    save_hot_state(vcpu, nv);
    save_timer(vcpu, nv);
    save_exit_info(nv, exit, event);
    struct l2_left left = read_left(vcpu, nv);
    if (UNLIKELY(v12(nv, F(EXIT_MSR_STORE_COUNT))) && !store_msr_list(vcpu, nv)) {
        vmx_abort(vcpu, nv, ABORT_MSR_STORE);
        return RUN_RESUME;
    }
    shadow_show(nv);
    become_l1(vcpu, nv, left);
    return RUN_RESUME;
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
    SAVE(nv, EXIT_REASON, reason | REASON_ENTRY_FAILED);
    SAVE(nv, EXIT_QUALIFICATION, qualification);
    shadow_show(nv);
    become_l1(vcpu, nv, left);
}
