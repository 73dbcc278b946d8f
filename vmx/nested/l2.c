// Exits of L2: the policy says whose they are, this file does what it says. Events for L1 that end
// L2's turn are here, too.

#include "vmx/event.h"
#include "vmx/nested/state.h"

#define REASON_ENTRY_FAILED BIT(31)

// A virtual exit with the processor's own information.
static enum run_result reflect(struct vcpu *vcpu, u32 reason)
{
    struct leave x = {.reason = reason, .qualification = vmread(F(EXIT_QUALIFICATION))};
    leave_l2(vcpu, &x);
    return RUN_RESUME;
}

// A virtual exit that the processor did not make.
static void leave_synthetic(struct vcpu *vcpu, u32 reason, u32 intr_info)
{
    struct leave x = {
        .reason = reason, .intr_info = intr_info, .own_info = true, .synthetic = true};
    leave_l2(vcpu, &x);
}

static enum run_result ept_violation(struct vcpu *vcpu)
{
    struct nested *n = vcpu->nested;
    struct nvmcs *nv = n->current;
    struct ept02_fault f = {.ngpa = NGPA(vmread(F(GUEST_PHYSICAL_ADDR))),
                            .qualification = vmread(F(EXIT_QUALIFICATION)),
                            .pml_full = pml_full(nv)};
    u64 qualification = f.qualification;
    if (!V12_HAS(&nv->v, EPT)) {
        vcpu_requeue_event(vcpu);
        return mmio_exit(vcpu, GPA(f.ngpa.v), f.qualification);
    }
    vcpu->stats.ept02_faults++;
    enum ept02_result r = ept02_fault(&n->ept02, &f);
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
        if (ve_convert(vcpu, nv, &f, vmread(F(GUEST_LINEAR_ADDR))))
            return RUN_RESUME;
        nv->missing = f.ngpa;
        nv->missing_for = qualification;
        break;
    }
    leave_l2(vcpu, &x);
    return RUN_RESUME;
}

static enum run_result preemption_timer(struct vcpu *vcpu)
{
    if (rdtsc() >= vcpu->nested->timer_deadline && !(vcpu->event.info & INFO_VALID))
        leave_synthetic(vcpu, EXIT_PREEMPTION_TIMER, 0);
    return RUN_RESUME;
}

// What L0 does itself for L2 although it is no exit of L1: the same handlers, on vmcs02.
static enum run_result emulate(struct vcpu *vcpu, u32 reason)
{
    switch (reason) {
    case EXIT_EPT_VIOLATION:
        return ept_violation(vcpu);
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
        return vmfunc_emulate(vcpu, vcpu->nested->current) ? RUN_RESUME : reflect(vcpu, reason);
    default:
        return exit_dispatch(vcpu, reason);
    }
}

// A register operand, of 32 bits outside 64-bit mode.
static u64 operand(struct vcpu *vcpu, unsigned reg)
{
    bool wide = vmread(F(GUEST_EFER)) & EFER_LMA && vmread(F(GUEST_CS_AR)) & BIT(13);
    return wide ? vcpu_gpr(vcpu, reg) : (u32)vcpu_gpr(vcpu, reg);
}

static void describe(struct vcpu *vcpu, struct exit_event *x)
{
    x->qualification = vmread(F(EXIT_QUALIFICATION));
    switch ((u16)x->reason) {
    case EXIT_EXCEPTION_NMI:
        x->intr_info = (u32)vmread(F(EXIT_INTR_INFO));
        x->intr_error = (u32)vmread(F(EXIT_INTR_ERROR));
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

enum run_result nested_exit(struct vcpu *vcpu, u32 reason)
{
    struct nested *n = vcpu->nested;
    struct nvmcs *nv = n->current;
    const struct exit_bitmaps maps = {nv->l1_msr_bitmap, nv->l1_io_a, nv->l1_io_b, nv->l1_vmread,
                                      nv->l1_vmwrite};
    struct exit_event x = {.reason = reason};
    n->event_written = false;
    describe(vcpu, &x);
    if (UNLIKELY(reason & REASON_ENTRY_FAILED)) {
        // The processor knows a rule that the entry checks do not.
        log_warn("VM %s: the processor refused vmcs02, exit reason %u", vcpu->vm->name,
                 reason & 0xffff);
        leave_failed_entry(vcpu, nv, EXIT_BAD_GUEST_STATE, x.qualification);
        return RUN_RESUME;
    }
    enum exit_owner owner = exit_owner(&nv->v, &x, &maps);
    if (owner == EXIT_TO_L1)
        return reflect(vcpu, reason);
    if (LIKELY(reason < STAT_REASONS))
        vcpu->stats.l2_handled[reason]++;
    return owner == EXIT_TO_L0 ? exit_dispatch(vcpu, reason) : emulate(vcpu, reason);
}

// --- Events for L1 while L2 runs ---

static bool wake(struct vcpu *vcpu)
{
    if (vcpu->activity == VCPU_HALTED)
        vcpu->activity = VCPU_ACTIVE;
    return vcpu->activity == VCPU_ACTIVE;
}

static void exit_for_interrupt(struct vcpu *vcpu, struct nvmcs *nv)
{
    u32 info = 0;
    if (V12_HAS(&nv->v, EXIT_ACK_INTR))
        info = (u32)(INFO_VALID | EVENT_INTERRUPT << 8 | vcpu_take_interrupt(vcpu));
    leave_synthetic(vcpu, EXIT_EXTERNAL_INTERRUPT, info);
}

bool nested_intercepts(struct vcpu *vcpu, u32 info, u32 error)
{
    const struct exit_bitmaps none = {0};
    const struct exit_event x = {
        .reason = EXIT_EXCEPTION_NMI, .intr_info = info, .intr_error = error};
    return vcpu->in_l2 && exit_owner(&vcpu->nested->current->v, &x, &none) == EXIT_TO_L1;
}

// An exception that L0 raised while it executed an instruction for L2 is L1's if the exception
// bitmap says so, like one that the processor raises.
static bool exit_for_exception(struct vcpu *vcpu)
{
    const struct pending_event e = vcpu->event;
    if (!e.raised || !(e.info & INFO_VALID) || !nested_intercepts(vcpu, e.info, e.error))
        return false;
    struct leave leave = {.reason = EXIT_EXCEPTION_NMI,
                          .qualification = e.address,
                          .intr_info = e.info,
                          .intr_error = e.error,
                          .own_info = true};
    vcpu->event.info = 0;
    leave_l2(vcpu, &leave);
    return true;
}

// What L0 found while it executed an instruction for L2, and is L1's.
static bool exit_of_emulation(struct vcpu *vcpu)
{
    if (LIKELY(!vcpu->event.triple_fault && !vcpu->event.denied))
        return exit_for_exception(vcpu);
    if (vcpu->event.denied)
        leave_denied(vcpu);
    else
        leave_synthetic(vcpu, EXIT_TRIPLE_FAULT, 0);
    vcpu->event = (struct pending_event){0};
    return true;
}

// An event that is being delivered comes first; the entry then ends before L2's next instruction.
static bool delivering(struct vcpu *vcpu)
{
    if (vcpu->event.info & INFO_VALID) {
        vcpu_write_event(vcpu);
        vcpu->nested->event_written = true;
    }
    return vcpu->nested->event_written;
}

bool nested_deliver_events(struct vcpu *vcpu)
{
    struct nested *n = vcpu->nested;
    struct nvmcs *nv = n->current;
    if (!vcpu->in_l2)
        return vcpu_deliver_events(vcpu);
    bool nmi = vlapic_events(vcpu->lapic) & VLAPIC_NMI;
    bool interrupt = vcpu_interrupt_pending(vcpu);
    bool timer = rdtsc() >= n->timer_deadline;
    if (UNLIKELY(interrupt && vapic_posted(vcpu, nv)))
        interrupt = vcpu_interrupt_pending(vcpu);
    if (UNLIKELY(vcpu->activity == VCPU_HALTED && vapic_pending(vcpu, nv)))
        vcpu->activity = VCPU_ACTIVE;
    if (exit_of_emulation(vcpu))
        return vcpu_deliver_events(vcpu);
    if (delivering(vcpu)) {
        n->immediate_exit = nmi || interrupt || timer;
        return wake(vcpu);
    }
    if (timer) {
        leave_synthetic(vcpu, EXIT_PREEMPTION_TIMER, 0);
    } else if (nmi && V12_HAS(&nv->v, NMI_EXITING)) {
        vlapic_take(vcpu->lapic, VLAPIC_NMI);
        leave_synthetic(vcpu, EXIT_EXCEPTION_NMI, (u32)(INFO_VALID | EVENT_NMI << 8 | VEC_NMI));
        vmwrite(F(GUEST_INTERRUPTIBILITY), BLOCKING_NMI);
    } else if (interrupt && V12_HAS(&nv->v, EXT_INTR_EXITING)) {
        exit_for_interrupt(vcpu, nv);
    } else if (nmi || interrupt) {
        vcpu_deliver_events(vcpu); // L1 lets L2 take them
        vcpu_set_window(vcpu, nv->proc_l1, true);
        return vcpu->activity == VCPU_ACTIVE;
    } else {
        return vcpu->activity == VCPU_ACTIVE;
    }
    return vcpu_deliver_events(vcpu);
}

u64 nested_timer_deadline(const struct vcpu *vcpu)
{
    return vcpu->in_l2 ? vcpu->nested->timer_deadline : ~0ull;
}

bool nested_leaves_at_once(struct vcpu *vcpu)
{
    bool at_once = vcpu->in_l2 && vcpu->nested->immediate_exit;
    vcpu->nested->immediate_exit = false;
    return at_once;
}
