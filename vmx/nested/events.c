// Events while L2 runs: what ends L2's turn, what L2 gets. SDM volume 3, "Priority Among Concurrent
// Events", "Other Causes of VM Exits", and where the controls concerned are described.

#include "vmx/apicv.h"
#include "vmx/event.h"
#include "vmx/nested/state.h"

// What ends L2's turn, the most urgent first.
enum due {
    DUE_INIT,
    DUE_SIPI,
    DUE_TRAP, // L1's monitor trap flag, after an instruction that L0 executed
    DUE_TPR,
    DUE_TIMER,
    DUE_NMI_WINDOW,
    DUE_NMI,
    DUE_INTR_WINDOW,
    DUE_INTERRUPT,
};

// Debug traps on the last instruction come between the two.
#define BEFORE_DEBUG_TRAPS (BIT(DUE_INIT) | BIT(DUE_SIPI) | BIT(DUE_TRAP) | BIT(DUE_TPR))

void leave_synthetic(struct vcpu *vcpu, u32 reason, u64 qualification, u32 intr_info)
{
    struct leave x = {
        .reason = reason, .own_event = true, .synthetic = true, .qualification = qualification};
    leave_l2(vcpu, x, (struct leave_event){.info = intr_info});
}

static bool wake(struct vcpu *vcpu)
{
    if (vcpu->activity == VCPU_HALTED)
        vcpu->activity = VCPU_ACTIVE;
    return vcpu->activity == VCPU_ACTIVE;
}

bool nested_intercepts(struct vcpu *vcpu, u32 info, u32 error)
{
    const struct exit_bitmaps none = {0};
    const struct exit_event x = {
        .reason = EXIT_EXCEPTION_NMI, .intr_info = info, .intr_error = error};
    return vcpu->in_l2 && exit_owner(&vcpu->nested->current->v, &x, &none) == EXIT_TO_L1;
}

// --- What L0 found while it executed an instruction for L2 ---

// An exception is L1's if the exception bitmap says so, like one that the processor raises.
static bool exit_for_exception(struct vcpu *vcpu)
{
    const struct pending_event e = vcpu->event;
    if (!nested_intercepts(vcpu, e.info, e.error))
        return false;
    struct leave x = {.reason = EXIT_EXCEPTION_NMI, .own_event = true, .qualification = e.address};
    vcpu->event.info = 0;
    leave_l2(vcpu, x, (struct leave_event){e.info, e.error});
    return true;
}

static NOINLINE bool exit_of_emulation(struct vcpu *vcpu)
{
    if (!vcpu->event.triple_fault && !vcpu->event.denied)
        return exit_for_exception(vcpu);
    if (vcpu->event.denied)
        leave_denied(vcpu);
    else
        leave_synthetic(vcpu, EXIT_TRIPLE_FAULT, 0, 0);
    vcpu->event = (struct pending_event){0};
    return true;
}

static inline bool emulation_left_event(const struct pending_event *e)
{
    return e->triple_fault | e->denied | (e->raised & (e->info >> 31));
}

// --- What is due ---

// NMIs of the machine are blocked by those of L2 only without virtual NMIs.
static bool nmi_is_blocked(const struct nvmcs *nv, u64 blocking)
{
    return blocking & BLOCKING_MOV_SS ||
           (blocking & BLOCKING_NMI && !V12_HAS(&nv->v, VIRTUAL_NMIS));
}

// L1's windows that are open. The processor finds them, too, when L2 runs; but L0 has to know where
// L2 halts in software, which they end, or where something waits that comes after them.
static u32 open_windows(const struct nvmcs *nv, u64 blocking)
{
    u32 due = 0;
    if (nv->proc_l1 & CTL_NMI_WINDOW && !(blocking & (BLOCKING_NMI | BLOCKING_MOV_SS)))
        due |= BIT(DUE_NMI_WINDOW);
    if (nv->proc_l1 & CTL_INTR_WINDOW && !(blocking & (BLOCKING_STI | BLOCKING_MOV_SS)) &&
        vmread(F(GUEST_RFLAGS)) & RFLAGS_IF)
        due |= BIT(DUE_INTR_WINDOW);
    return due;
}

// Interrupts of the machine do not depend on RFLAGS.IF, but on the blocking that ends with the next
// instruction; with IF clear no window would say when, and they do not wait.
static bool interrupt_is_blocked(u64 blocking)
{
    return blocking & (BLOCKING_STI | BLOCKING_MOV_SS) && vmread(F(GUEST_RFLAGS)) & RFLAGS_IF;
}

static u32 find_due(struct vcpu *vcpu, struct nvmcs *nv, bool interrupt)
{
    struct nested *n = vcpu->nested;
    u32 apic = vlapic_events(vcpu->lapic), due = 0;
    if (vcpu->activity == VCPU_WAIT_SIPI) // where all else is blocked
        return apic & VLAPIC_SIPI ? BIT(DUE_SIPI) : 0;
    if (apic & VLAPIC_SIPI)
        vlapic_take(vcpu->lapic, VLAPIC_SIPI);
    if (apic & VLAPIC_INIT)
        due |= BIT(DUE_INIT);
    if (n->trap_due)
        due |= BIT(DUE_TRAP);
    if (rdtsc() >= n->timer_deadline)
        due |= BIT(DUE_TIMER);
    bool halted = vcpu->activity == VCPU_HALTED;
    if (halted && vapic_below_threshold(vcpu, nv))
        due |= BIT(DUE_TPR);
    if (vcpu->activity == VCPU_SHUTDOWN)
        interrupt = false;
    if (!halted && !(apic & VLAPIC_NMI) && !interrupt)
        return due;
    u64 blocking = vmread(F(GUEST_INTERRUPTIBILITY));
    due |= vcpu->activity != VCPU_SHUTDOWN ? open_windows(nv, blocking) : 0;
    if (apic & VLAPIC_NMI && V12_HAS(&nv->v, NMI_EXITING) && !nmi_is_blocked(nv, blocking))
        due |= BIT(DUE_NMI);
    if (interrupt && V12_HAS(&nv->v, EXT_INTR_EXITING) && !interrupt_is_blocked(blocking))
        due |= BIT(DUE_INTERRUPT);
    return due;
}

// What is blocked for L1 now ends L2's turn as soon as it is not.
static void wait_for_unblocking(struct vcpu *vcpu, const struct nvmcs *nv, bool interrupt)
{
    if (vlapic_events(vcpu->lapic) & VLAPIC_NMI && V12_HAS(&nv->v, NMI_EXITING))
        vcpu_set_window(vcpu, CTL_NMI_WINDOW, true);
    if (interrupt && V12_HAS(&nv->v, EXT_INTR_EXITING))
        vcpu_set_window(vcpu, CTL_INTR_WINDOW, true);
}

// --- Leaving for it ---

static void leave_for_sipi(struct vcpu *vcpu)
{
    vlapic_take(vcpu->lapic, VLAPIC_SIPI);
    leave_synthetic(vcpu, EXIT_SIPI, vcpu->lapic->sipi_vector, 0);
}

static void leave_for_nmi(struct vcpu *vcpu)
{
    vlapic_take(vcpu->lapic, VLAPIC_NMI);
    leave_synthetic(vcpu, EXIT_EXCEPTION_NMI, 0, (u32)(INFO_VALID | EVENT_NMI << 8 | VEC_NMI));
    vmwrite(F(GUEST_INTERRUPTIBILITY), BLOCKING_NMI);
}

static void leave_for_interrupt(struct vcpu *vcpu)
{
    u32 info = 0;
    if (V12_HAS(&vcpu->nested->current->v, EXIT_ACK_INTR))
        info = (u32)(INFO_VALID | EVENT_INTERRUPT << 8 | vcpu_take_interrupt(vcpu));
    leave_synthetic(vcpu, EXIT_EXTERNAL_INTERRUPT, 0, info);
}

static void leave_for(struct vcpu *vcpu, enum due due)
{
    vcpu->nested->trap_due = false;
    switch (due) {
    case DUE_INIT:
        vlapic_take(vcpu->lapic, VLAPIC_INIT);
        leave_synthetic(vcpu, EXIT_INIT, 0, 0);
        break;
    case DUE_SIPI:
        leave_for_sipi(vcpu);
        break;
    case DUE_TRAP:
        leave_synthetic(vcpu, EXIT_MTF, 0, 0);
        break;
    case DUE_TPR:
        leave_synthetic(vcpu, EXIT_TPR_THRESHOLD, 0, 0);
        break;
    case DUE_TIMER:
        leave_synthetic(vcpu, EXIT_PREEMPTION_TIMER, 0, 0);
        break;
    case DUE_NMI_WINDOW:
        leave_synthetic(vcpu, EXIT_NMI_WINDOW, 0, 0);
        break;
    case DUE_NMI:
        leave_for_nmi(vcpu);
        break;
    case DUE_INTR_WINDOW:
        leave_synthetic(vcpu, EXIT_INTERRUPT_WINDOW, 0, 0);
        break;
    case DUE_INTERRUPT:
        leave_for_interrupt(vcpu);
        break;
    }
}

// --- The order ---

// An event that is being delivered comes before all else; the entry then ends before L2's next
// instruction, and the processor makes the exit of a monitor trap flag itself.
static bool delivering(struct vcpu *vcpu)
{
    if (vcpu->event.info & INFO_VALID) {
        vcpu_write_event(vcpu);
        vcpu->nested->event_written = true;
    }
    vcpu->nested->trap_due &= !vcpu->nested->event_written;
    return vcpu->nested->event_written;
}

// Debug exceptions that wait in vmcs02 for the next instruction boundary.
static bool debug_trap_waits(void)
{
    return vmread(F(GUEST_PENDING_DEBUG)) & (PENDING_DEBUG_ENABLED | PENDING_DEBUG_BS) &&
           !(vmread(F(GUEST_INTERRUPTIBILITY)) & BLOCKING_MOV_SS);
}

static void wake_for_processor(struct vcpu *vcpu, const struct nvmcs *nv)
{
    if (vcpu->activity == VCPU_HALTED && (vapic_pending(vcpu, nv) || debug_trap_waits()))
        vcpu->activity = VCPU_ACTIVE;
}

// Events that L1 lets L2 have. Returns whether there were any.
static bool give_to_l2(struct vcpu *vcpu, const struct nvmcs *nv, bool interrupt)
{
    bool nmi = vlapic_events(vcpu->lapic) & VLAPIC_NMI && !V12_HAS(&nv->v, NMI_EXITING);
    if (vcpu->activity == VCPU_WAIT_SIPI ||
        (!nmi && (!interrupt || V12_HAS(&nv->v, EXT_INTR_EXITING))))
        return false;
    vcpu_deliver_events(vcpu);
    vcpu_set_window(vcpu, nv->proc_l1, true);
    return true;
}

bool nested_deliver_events(struct vcpu *vcpu)
{
    struct nested *n = vcpu->nested;
    struct nvmcs *nv = n->current;
    apicv_take_new(vcpu);
    bool interrupt = vlapic_has_interrupt(vcpu->lapic);
    if (UNLIKELY(interrupt && vapic_is_notification(vcpu, nv))) {
        vapic_take_posted(vcpu, nv);
        interrupt = vlapic_has_interrupt(vcpu->lapic);
    }
    if (UNLIKELY(emulation_left_event(&vcpu->event)) && exit_of_emulation(vcpu))
        return vcpu_deliver_events(vcpu);
    wake_for_processor(vcpu, nv);
    u32 due = find_due(vcpu, nv, interrupt);
    if (delivering(vcpu)) {
        n->immediate_exit = due;
        return wake(vcpu);
    }
    if (due && (due & BEFORE_DEBUG_TRAPS || !debug_trap_waits())) {
        leave_for(vcpu, (enum due)bit_lowest(due));
        return vcpu_deliver_events(vcpu);
    }
    n->immediate_exit = due;
    if (!due && !give_to_l2(vcpu, nv, interrupt))
        wait_for_unblocking(vcpu, nv, interrupt);
    return vcpu->activity == VCPU_ACTIVE;
}

u64 nested_timer_deadline(const struct vcpu *vcpu)
{
    // In wait-for-SIPI it makes no exit ("VMX-Preemption Timer").
    return vcpu->in_l2 && vcpu->activity != VCPU_WAIT_SIPI ? vcpu->nested->timer_deadline : ~0ull;
}

bool nested_leaves_at_once(struct vcpu *vcpu)
{
    bool at_once = vcpu->in_l2 && vcpu->nested->immediate_exit;
    vcpu->nested->immediate_exit = false;
    return at_once;
}

bool nested_monitor_trap(struct vcpu *vcpu)
{
    return vcpu->in_l2 && V12_HAS(&vcpu->nested->current->v, MONITOR_TRAP);
}

bool nested_blocks_init(const struct vcpu *vcpu)
{
    return vcpu->nested->vmxon && !vcpu->in_l2;
}
