// Exits of L2: the policy says whose they are, this file does what it says.

#include "vmx/event.h"
#include "vmx/nested/state.h"

#define REASON_ENTRY_FAILED BIT(31)

// A virtual exit with the processor's own information.
static inline enum run_result reflect(struct vcpu *vcpu, u32 reason, u64 qualification)
{
    return leave_l2(vcpu, (struct leave){.reason = reason, .qualification = qualification},
                    NO_EVENT);
}

// L1 has paging of its own for L2: EPT01 is what L2 runs on.
static NOINLINE enum run_result ept01_violation(struct vcpu *vcpu)
{
    vcpu_requeue_event(vcpu);
    return mmio_exit(vcpu, GPA(vmread(F(GUEST_PHYSICAL_ADDR))), vmread(F(EXIT_QUALIFICATION)));
}

static NOINLINE enum run_result ept02_violation(struct vcpu *vcpu)
{
    struct nvmcs *nv = vcpu->nested->current;
    u64 qualification = vmread(F(EXIT_QUALIFICATION));
    struct ept02_fault f = {.ngpa = NGPA(vmread(F(GUEST_PHYSICAL_ADDR))),
                            .qualification = qualification,
                            .pml_full = pml_full(nv)};
    vcpu->stats.ept02_faults++;
    enum ept02_result r = ept02_fault(&vcpu->nested->ept02, &f);
    if (f.dirtied)
        pml_log(vcpu, nv, f.ngpa);
    struct leave x = {.reason = EXIT_EPT_VIOLATION, .qualification = f.qualification};
    switch (r) {
    case EPT02_FILLED:
        vcpu_redo_iret(qualification);
        vcpu_requeue_event(vcpu);
        return RUN_RESUME;
    case EPT02_MMIO:
        vcpu_requeue_event(vcpu);
        return mmio_exit(vcpu, f.gpa, f.qualification);
    case EPT02_MISCONFIG:
        x.reason = EXIT_EPT_MISCONFIG;
        x.qualification = 0;
        break;
    case EPT02_PML_FULL:
        x.reason = EXIT_PML_FULL;
        x.qualification &= NMI_UNBLOCKED;
        break;
    case EPT02_VIOLATION:
        if (UNLIKELY(V12_HAS(&nv->v, EPT_VIOLATION_VE)) &&
            ve_convert(vcpu, nv, &f, vmread(F(GUEST_LINEAR_ADDR))))
            return RUN_RESUME;
        nv->missing = f.ngpa;
        nv->missing_for = qualification;
        break;
    }
    return leave_l2(vcpu, x, NO_EVENT);
}

static enum run_result preemption_timer(struct vcpu *vcpu)
{
    if (rdtsc() >= vcpu->nested->timer_deadline && !(vcpu->event.info & INFO_VALID))
        leave_synthetic(vcpu, EXIT_PREEMPTION_TIMER, 0, 0);
    return RUN_RESUME;
}

// What L0 does itself for L2 although it is no exit of L1: the same handlers, on vmcs02.
static enum run_result emulate(struct vcpu *vcpu, u32 reason)
{
    if (LIKELY(reason == EXIT_EPT_VIOLATION))
        return V12_HAS(&vcpu->nested->current->v, EPT) ? ept02_violation(vcpu)
                                                       : ept01_violation(vcpu);
    switch (reason) {
    case EXIT_EPT_MISCONFIG:
        vcpu_fail(vcpu, "misconfigured EPT02");
        return RUN_STOPPED;
    case EXIT_PREEMPTION_TIMER:
        return preemption_timer(vcpu);
    case EXIT_VMREAD:
        return nested_linked_vmread(vcpu);
    case EXIT_VMWRITE:
        return nested_linked_vmwrite(vcpu);
    case EXIT_VMFUNC:
        return vmfunc_emulate(vcpu, vcpu->nested->current)
                   ? RUN_RESUME
                   : reflect(vcpu, reason, vmread(F(EXIT_QUALIFICATION)));
    default:
        return exit_dispatch(vcpu, reason);
    }
}

// The same with L1's monitor trap flag, which the processor did not see: the exit comes when the
// instruction, or one iteration of a string instruction, is done. An exception goes through the
// processor, which then makes the exit itself.
static enum run_result emulate_trapped(struct vcpu *vcpu, u32 reason)
{
    u64 rip = vmread(F(GUEST_RIP)), rcx = vcpu->gpr[GPR_RCX];
    enum run_result r = emulate(vcpu, reason);
    if (vcpu->in_l2 && !vcpu_event_waits(vcpu) &&
        (vmread(F(GUEST_RIP)) != rip || vcpu->gpr[GPR_RCX] != rcx)) {
        vcpu->nested->trap_due = true;
        vcpu_note(vcpu, WORK_EVENTS);
    }
    return r;
}

static inline enum run_result handle(struct vcpu *vcpu, u32 reason)
{
    if (LIKELY(reason < STAT_REASONS))
        vcpu->stats.l2_handled[reason]++;
    return UNLIKELY(V12_HAS(&vcpu->nested->current->v, MONITOR_TRAP))
               ? emulate_trapped(vcpu, reason)
               : emulate(vcpu, reason);
}

// A register operand, of 32 bits outside 64-bit mode.
static u64 operand(struct vcpu *vcpu, unsigned reg)
{
    return vcpu_in_64bit_code() ? vcpu_gpr(vcpu, reg) : (u32)vcpu_gpr(vcpu, reg);
}

static inline void describe_exception(struct exit_event *x)
{
    x->intr_info = (u32)vmread(F(EXIT_INTR_INFO));
    x->intr_error = (u32)vmread(F(EXIT_INTR_ERROR));
}

// What the reason defines; the rest of `*x` is left as it is.
static inline void describe(struct vcpu *vcpu, u32 reason, struct exit_event *x)
{
    x->reason = reason;
    x->qualification = vmread(F(EXIT_QUALIFICATION));
    switch ((u16)x->reason) {
    case EXIT_EXCEPTION_NMI:
        describe_exception(x);
        break;
    case EXIT_RDMSR:
    case EXIT_WRMSR:
        x->rcx = (u32)vcpu->gpr[GPR_RCX];
        break;
    case EXIT_CR_ACCESS:
        x->value = operand(vcpu, x->qualification >> 8 & 0xf);
        break;
    case EXIT_VMREAD:
    case EXIT_VMWRITE:
        x->value = operand(vcpu, vmread(F(EXIT_INSTR_INFO)) >> 28 & 0xf);
        break;
    case EXIT_XSAVES:
    case EXIT_XRSTORS:
        x->value = (vcpu->gpr[GPR_RDX] << 32 | (u32)vcpu->gpr[GPR_RAX]) & rdmsr(0xda0);
        break;
    default:
        break;
    }
}

// An exit that may be L0's, or that L0 may have caused itself.
static NOINLINE enum run_result find_owner(struct vcpu *vcpu, u32 reason)
{
    struct nvmcs *nv = vcpu->nested->current;
    struct exit_event x;
    describe(vcpu, reason, &x);
    if (UNLIKELY(reason & REASON_ENTRY_FAILED)) {
        if ((u16)reason == EXIT_MACHINE_CHECK_ENTRY)
            return exit_unhandled(vcpu);
        // The processor knows a rule that the entry checks do not.
        log_warn("VM %s: the processor refused vmcs02, exit reason %u", vcpu->vm->name,
                 reason & 0xffff);
        leave_failed_entry(vcpu, nv, EXIT_BAD_GUEST_STATE, x.qualification);
        return RUN_RESUME;
    }
    enum exit_owner owner = exit_owner(&nv->v, &x, &nv->l1_maps);
    if (owner == EXIT_TO_L1)
        return reflect(vcpu, reason, x.qualification);
    if (owner == EXIT_EMULATE)
        return handle(vcpu, reason);
    if (LIKELY(reason < STAT_REASONS))
        vcpu->stats.l2_handled[reason]++;
    return exit_dispatch(vcpu, reason);
}

// Most of L2's exits where L1 keeps shadow page tables: the page faults.
static inline bool is_exception_of_l1(const struct nested *n, u32 reason)
{
    struct exit_event x;
    if (reason != EXIT_EXCEPTION_NMI)
        return false;
    describe_exception(&x);
    return exception_owner(&n->current->v, &x) == EXIT_TO_L1;
}

enum run_result nested_exit(struct vcpu *vcpu, u32 reason)
{
    vcpu->nested->event_written = false;
    if (LIKELY(exit_is_always(reason, EXIT_TO_L1)) || is_exception_of_l1(vcpu->nested, reason))
        return reflect(vcpu, reason, vmread(F(EXIT_QUALIFICATION)));
    if (LIKELY(exit_is_always(reason, EXIT_EMULATE)))
        return handle(vcpu, reason);
    return find_owner(vcpu, reason);
}
