// The virtual VM entry. SDM volume 3, chapter "VM Entries". The way of a VMRESUME that changed
// nothing but RIP: what L1 wrote to the shadow VMCS is fetched, checks and merge see no other dirty
// group, L1's MSR bitmap is looked at, and vmcs02 is current.

#include "vmx/apicv.h"
#include "vmx/event.h"
#include "vmx/mitigate.h"
#include "vmx/nested/insn.h"
#include "vmx/nested/shadow.h"

// What hypervisors change at most entries, at most.
#define GROUPS_OFTEN (GROUP(RIP) | GROUP(RFLAGS) | GROUP(EVENT) | GROUP(TIMER) | GROUP(TPR))

// What makes a look at state that may be in vmcs02 only worth while: store_is_stale().
#define GROUPS_STALE (~(GROUPS_OFTEN & ~GROUP(RFLAGS)))

// What of L1's registers L2 inherits: the "load" controls that are off.
static inline u64 inherited(const struct nvmcs *nv)
{
    const u64 all = CTL_ENTRY_LOAD_DEBUG | CTL_ENTRY_LOAD_PAT | CTL_ENTRY_LOAD_EFER;
    return ~v12_controls(&nv->v, WORD_ENTRY) & all;
}

// EFER, which is left out most often, has been read already and seldom changes.
static inline bool may_differ(const struct nested *n, const struct nvmcs *nv)
{
    u64 from_l1 = inherited(nv);
    return nv->dr7_open | nv->msrs_touched || from_l1 & ~CTL_ENTRY_LOAD_EFER ||
           (from_l1 && n->l1.efer != nv->l1_state.efer);
}

static void read_l1_state(struct l1_state *l1)
{
    l1->dr7 = vmread(F(GUEST_DR7));
    l1->debugctl = vmread(F(GUEST_DEBUGCTL));
    l1->pat = vmread(F(GUEST_PAT));
}

// L2 will touch again what L1 has just been told of, so that one fault is enough for both.
static NOINLINE void fill_missing(struct nested *n, struct nvmcs *nv)
{
    ept02_prefill(&n->ept02, nv->missing, nv->missing_for);
    nv->missing_for = 0;
}

void entry_address_space(struct vcpu *vcpu, struct nvmcs *nv)
{
    struct nested *n = vcpu->nested;
    u64 eptp;
    if (V12_HAS(&nv->v, EPT)) {
        struct ept02_tree *tree = ept02_get(&n->ept02, v12(nv, F(EPTP)));
        eptp = tree->eptp02;
        if (UNLIKELY(nv->missing_for))
            fill_missing(n, nv);
        if (UNLIKELY(tree->flush_due)) {
            vmxop_invept(INVEPT_SINGLE, eptp);
            ept02_flushed(&n->ept02, tree);
        }
    } else {
        eptp = n->eptp01;
        merge_pdptes(vcpu, nv);
    }
    if (UNLIKELY(eptp != nv->vmcs02_eptp)) {
        nv->vmcs02_eptp = eptp;
        vmwrite(F(EPTP), eptp);
    }
    // "If the enable VPID control is 0, VM entries invalidate": L1 counts on it.
    if (vmx.vpid && UNLIKELY(nv->flush_vpid || !V12_HAS(&nv->v, VPID))) {
        vmxop_invvpid(INVVPID_SINGLE, nv->vpid02, 0);
        nv->flush_vpid = false;
    }
}

// Whether vmcs02 has the address space that vmcs12 names, and nothing of it is stale.
static inline bool has_address_space(const struct nested *n, const struct nvmcs *nv)
{
    const struct ept02_tree *tree = n->ept02.current;
    u64 uses = v12_controls(&nv->v, WORD_PROC2) & (CTL_EPT | CTL_VPID);
    if (LIKELY(uses == (CTL_EPT | CTL_VPID)))
        return LIKELY(tree && tree->eptp12 == v12(nv, F(EPTP)) && !tree->stale &&
                      !tree->flush_due && tree->eptp02 == nv->vmcs02_eptp && !nv->missing_for &&
                      !nv->flush_vpid);
    return uses == CTL_VPID && nv->vmcs02_eptp == n->eptp01 && !nv->flush_vpid &&
           V12_HAS(&nv->v, ENTRY_IA32E_GUEST); // and so no PDPTEs
}

// The event that L1 injects goes into vmcs02; the valid bit in vmcs12 ends with it.
static void take_event(struct vcpu *vcpu, struct nvmcs *nv)
{
    u32 info = (u32)v12(nv, F(ENTRY_INTR_INFO));
    if (LIKELY(!(info & INFO_VALID)))
        return;
    SAVE(nv, ENTRY_INTR_INFO, info & ~(u32)INFO_VALID);
    if (INFO_TYPE(info) == EVENT_OTHER) { // a pending MTF VM exit
        vcpu->nested->trap_due = true;
        vcpu_note(vcpu, WORK_EVENTS);
        return;
    }
    vmwrite(F(ENTRY_INTR_INFO), info);
    vmwrite(F(ENTRY_ERROR_CODE), v12(nv, F(ENTRY_ERROR_CODE)));
    vmwrite(F(ENTRY_INSTR_LENGTH), v12(nv, F(ENTRY_INSTR_LENGTH)));
    vcpu->nested->event_written = true;
}

// L1's preemption timer runs on the TSC from the entry on.
static void start_timer(struct vcpu *vcpu, struct nvmcs *nv)
{
    u64 deadline = ~0ull;
    if (V12_HAS(&nv->v, PREEMPTION_TIMER))
        deadline = rdtsc() + (v12(nv, F(PREEMPTION_TIMER)) << vmx.timer_shift);
    vcpu->nested->timer_deadline = deadline;
    vcpu->until = MIN(vcpu->until, deadline);
}

static enum vcpu_activity activity_of(u64 state)
{
    static const enum vcpu_activity of[] = {VCPU_ACTIVE, VCPU_HALTED, VCPU_SHUTDOWN,
                                            VCPU_WAIT_SIPI};
    return of[state & 3];
}

// An injected event wakes a halted guest ("Activity State" of "Event Injection").
static void set_activity(struct vcpu *vcpu, struct nvmcs *nv)
{
    u64 state = v12(nv, F(GUEST_ACTIVITY));
    if (LIKELY(!state))
        return; // a vCPU that executes VMRESUME is active
    vcpu->activity = vcpu->nested->event_written ? VCPU_ACTIVE : activity_of(state);
    vcpu_note(vcpu, WORK_EVENTS);
}

// The way of entries that changed more than that: true if the checks, in the manual's order,
// passed.
static NOINLINE bool check_otherwise(struct vcpu *vcpu, struct nvmcs *nv, vmx_result_t *r)
{
    if (nv->v.unchecked & (GROUP(HOST) | GROUP(EXIT)))
        vcpu->nested->host_loaded = NULL;
    if ((nv->v.unchecked | nv->v.unmerged) & GROUPS_STALE && store_is_stale(nv))
        store_sync_lazy(vcpu, nv, LAZY_ALL);
    struct entry_result e = check_entry(&nv->v, &vcpu->nested->env, nv->v.unchecked);
    if (LIKELY(e.outcome == ENTRY_OK))
        return true;
    vmcs_load(&vcpu->vmcs01); // shadow_fetch() left it
    log_debug("VM %s: VM entry refused: %s: %s", vcpu->vm->name, check_section(e.row),
              check_text(e.row));
    if (e.outcome == ENTRY_VMFAIL) {
        *r = (vmx_result_t)e.number;
    } else {
        leave_failed_entry(vcpu, nv, EXIT_BAD_GUEST_STATE, e.number);
        *r = VMX_DONE;
    }
    return false;
}

static inline bool check(struct vcpu *vcpu, struct nvmcs *nv, vmx_result_t *r)
{
    bool quick = !(nv->v.unchecked & ~CHECK_QUICK) && !(nv->v.unmerged & GROUPS_STALE);
    if (UNLIKELY(!quick || !check_entry_quick(&nv->v, &vcpu->nested->env)) &&
        !check_otherwise(vcpu, nv, r))
        return false;
    nv->v.unchecked = 0;
    return true;
}

// Brings what L1 changed into vmcs02, which is current.
static inline void merge(struct vcpu *vcpu, struct nvmcs *nv)
{
    u32 groups = nv->v.unmerged;
    nv->v.unmerged = 0;
    if (LIKELY(groups & GROUP(RIP))) {
        vmwrite(F(GUEST_RIP), v12(nv, F(GUEST_RIP)));
        vmwrite(F(GUEST_RSP), v12(nv, F(GUEST_RSP)));
    }
    if (UNLIKELY(groups & GROUP(RFLAGS)))
        vmwrite(F(GUEST_RFLAGS), v12(nv, F(GUEST_RFLAGS)));
    if (UNLIKELY(groups & ~GROUPS_OFTEN))
        merge_rest(vcpu, nv, groups);
    else if (UNLIKELY(groups & GROUP(TPR)))
        merge_virtual_interrupts(nv);
    if (UNLIKELY(may_differ(vcpu->nested, nv)))
        merge_l1_state(nv, &vcpu->nested->l1);
    // L1 may change its MSR bitmap without an exit.
    if (UNLIKELY(!merge_has_msrs(nv)))
        merge_msr_bitmap(vcpu, nv);
}

// MSRs that L1 wants loaded. False: L2 never ran.
static NOINLINE bool load_msrs(struct vcpu *vcpu, struct nvmcs *nv, u32 count)
{
    gpa_t list = GPA(v12(nv, F(ENTRY_MSR_LOAD_ADDR)));
    u32 failed = load_msr_list(vcpu, list, count, MSR_ENTRY_LOAD);
    if (failed)
        leave_failed_entry(vcpu, nv, EXIT_BAD_MSR_LOAD, failed);
    return !failed;
}

// What VMLAUNCH and VMRESUME look at before vmcs12's contents: VMX_SUCCEED if nothing is wrong.
// VMRESUME is for a VMCS that is launched, VMLAUNCH for one that is not.
static inline vmx_result_t may_enter(struct vcpu *vcpu, bool launched)
{
    struct nested *n = vcpu->nested;
    struct nvmcs *nv = n->current;
    vmx_result_t r;
    bool plain;
    if (!may_execute(vcpu, &plain, &r))
        return r;
    if (UNLIKELY(!nv || nv->is_shadow))
        return VMX_FAIL_INVALID;
    n->l1.efer = vmread(F(GUEST_EFER));
    u64 blocking = vmread(F(GUEST_INTERRUPTIBILITY));
    n->l1_blocked = blocking != 0;
    if (UNLIKELY(blocking & BLOCKING_MOV_SS))
        return vmx_fail(vcpu, VMX_ERR_MOV_SS);
    if (UNLIKELY(nv->v.launched != launched))
        return vmx_fail(vcpu, launched ? VMX_ERR_RESUME_NOT_LAUNCHED : VMX_ERR_LAUNCH_NOT_CLEAR);
    return VMX_SUCCEED;
}

// The virtual VM entry.
static enum run_result enter(struct vcpu *vcpu, bool launched)
{
    vmx_result_t r = may_enter(vcpu, launched);
    if (UNLIKELY(r != VMX_SUCCEED))
        return finish_failed(vcpu, r);
    struct nvmcs *nv = vcpu->nested->current;
    u16 interrupts = apicv_status(vcpu);
    if (UNLIKELY(inherited(nv) & ~CTL_ENTRY_LOAD_EFER))
        read_l1_state(&vcpu->nested->l1);
    shadow_fetch(nv, false);
    if (!check(vcpu, nv, &r))
        return finish_failed(vcpu, r);
    vcpu->stats.entries++;
    u32 msrs = (u32)v12(nv, F(ENTRY_MSR_LOAD_COUNT));
    apicv_leave_l1(vcpu, interrupts);
    use_vmcs(vcpu, &nv->vmcs02);
    merge(vcpu, nv);
    if (UNLIKELY(!has_address_space(vcpu->nested, nv)))
        entry_address_space(vcpu, nv);
    vcpu->in_l2 = true;
    if (UNLIKELY(msrs) && !load_msrs(vcpu, nv, msrs))
        return RUN_RESUME;
    nv->v.launched = true;
    mitigate(BOUNDARY_ENTRY);
    take_event(vcpu, nv);
    set_activity(vcpu, nv);
    start_timer(vcpu, nv);
    return RUN_RESUME;
}

enum run_result nested_vmlaunch(struct vcpu *vcpu)
{
    return enter(vcpu, false);
}

enum run_result nested_vmresume(struct vcpu *vcpu)
{
    return enter(vcpu, true);
}
