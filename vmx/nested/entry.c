// The virtual VM entry. SDM volume 3, chapter "VM Entries". The way of a VMRESUME that changed
// nothing but RIP: what L1 wrote to the shadow VMCS is fetched, checks and merge see no other dirty
// group, L1's MSR bitmap is looked at, and vmcs02 is current.

#include "vmx/apicv.h"
#include "vmx/event.h"
#include "vmx/mitigate.h"
#include "vmx/nested/shadow.h"
#include "vmx/nested/state.h"

static struct l1_state read_l1_state(const struct nested *n)
{
    return (struct l1_state){.dr7 = vmread(F(GUEST_DR7)),
                             .debugctl = vmread(F(GUEST_DEBUGCTL)),
                             .pat = vmread(F(GUEST_PAT)),
                             .efer = n->l1_efer};
}

// L2 will touch again what L1 has just been told of, so that one fault is enough for both.
static NOINLINE void fill_missing(struct nested *n, struct nvmcs *nv)
{
    ept02_prefill(&n->ept02, nv->missing, nv->missing_for);
    nv->missing_for = 0;
}

static NOINLINE void renew_address_space(struct vcpu *vcpu, struct nvmcs *nv)
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
        eptp = ept_eptp(&vcpu->vm->ept01);
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

// What EPT02 and VPID of vmcs02 need before L2 may run: nothing, if both are as they were.
void entry_address_space(struct vcpu *vcpu, struct nvmcs *nv)
{
    const struct ept02_tree *tree = vcpu->nested->ept02.current;
    if (UNLIKELY(!tree || tree->eptp12 != v12(nv, F(EPTP)) || tree->stale || tree->flush_due ||
                 tree->eptp02 != nv->vmcs02_eptp || nv->missing_for || nv->flush_vpid ||
                 !V12_HAS(&nv->v, EPT) || !V12_HAS(&nv->v, VPID)))
        renew_address_space(vcpu, nv);
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

// Checks in the manual's order. True: they passed.
static inline bool check(struct vcpu *vcpu, struct nvmcs *nv, vmx_result_t *r)
{
    struct entry_env *env = &vcpu->nested->env;
    env->current_vmcs = nv->gpa;
    env->lma = vcpu->nested->l1_efer & EFER_LMA;
    if (UNLIKELY(nv->v.unchecked & (GROUP(HOST) | GROUP(EXIT))))
        vcpu->nested->host_loaded = NULL;
    if (UNLIKELY(store_is_stale(nv)))
        store_sync_lazy(vcpu, nv, LAZY_ALL);
    struct entry_result e = check_entry(&nv->v, env, nv->v.unchecked);
    if (LIKELY(e.outcome == ENTRY_OK)) {
        nv->v.unchecked = 0;
        return true;
    }
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

vmx_result_t entry_run(struct vcpu *vcpu, struct nvmcs *nv)
{
    struct nested *n = vcpu->nested;
    struct l1_state l1 = {0};
    vmx_result_t r;
    u16 interrupts = apicv_status(vcpu);
    if (UNLIKELY(merge_needs_l1_state(nv)))
        l1 = read_l1_state(n);
    shadow_fetch(nv, false);
    if (!check(vcpu, nv, &r))
        return r;
    vcpu->stats.entries++;
    u32 msrs = (u32)v12(nv, F(ENTRY_MSR_LOAD_COUNT));
    apicv_leave_l1(vcpu, interrupts);
    use_vmcs(vcpu, &nv->vmcs02);
    merge_groups(vcpu, nv, &l1);
    merge_msr_bitmap(vcpu, nv);
    entry_address_space(vcpu, nv);
    vcpu->in_l2 = true;
    if (UNLIKELY(msrs)) {
        u32 failed =
            load_msr_list(vcpu, GPA(v12(nv, F(ENTRY_MSR_LOAD_ADDR))), msrs, MSR_ENTRY_LOAD);
        if (failed) {
            leave_failed_entry(vcpu, nv, EXIT_BAD_MSR_LOAD, failed);
            return VMX_DONE;
        }
    }
    nv->v.launched = true;
    mitigate(BOUNDARY_ENTRY);
    take_event(vcpu, nv);
    set_activity(vcpu, nv);
    start_timer(vcpu, nv);
    return VMX_DONE;
}
