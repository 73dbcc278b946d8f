#include "vmx/event.h"

#include "libc/bits.h"
#include "libc/x86.h"
#include "vmx/apicv.h"
#include "vmx/cpu.h"
#include "vmx/nested/nested.h"
#include "vmx/platform.h"

#define DELIVERY_ERROR_SELECTOR_IDT 2

static bool contributory(u8 vector)
{
    return vector == VEC_DE || (vector >= VEC_TS && vector <= VEC_GP);
}

static bool has_vector(u32 info, u8 vector)
{
    return INFO_TYPE(info) == EVENT_HARD_EXCEPTION && INFO_VECTOR(info) == vector;
}

static bool in_real_mode(void)
{
    return !(vmread(F(GUEST_CR0)) & CR0_PE);
}

// In real mode no exception has an error code, and VM entry refuses one.
static u32 exception_info(u8 vector, bool has_error)
{
    // #BP and #OF that L0 raises stand for INT3 and INTO only through re-injection, never here.
    return (u32)(INFO_VALID | EVENT_HARD_EXCEPTION << 8 |
                 (has_error && !in_real_mode() ? INFO_ERROR_CODE : 0) | vector);
}

static u32 real_mode_checked(u32 info)
{
    if (UNLIKELY(info & INFO_ERROR_CODE) && quirks.real_mode_error_codes && in_real_mode())
        info &= ~(u32)INFO_ERROR_CODE;
    return info;
}

u32 vcpu_intr_info(void)
{
    return real_mode_checked((u32)vmread(F(EXIT_INTR_INFO)));
}

// SDM, "Interrupt 8—Double Fault Exception (#DF)".
static bool becomes_double_fault(u32 first, u8 second)
{
    if (INFO_TYPE(first) != EVENT_HARD_EXCEPTION)
        return false;
    if (has_vector(first, VEC_PF))
        return second == VEC_PF || contributory(second);
    return contributory((u8)INFO_VECTOR(first)) && contributory(second);
}

void vcpu_triple_fault(struct vcpu *vcpu)
{
    if (!nested_in_l2(vcpu)) {
        vcpu_fail(vcpu, "triple fault");
        return;
    }
    vcpu->event = (struct pending_event){.triple_fault = true};
    vcpu_note(vcpu, WORK_EVENTS);
}

void vcpu_inject(struct vcpu *vcpu, u8 vector, bool has_error, u32 error)
{
    u32 first = vcpu->event.info;
    // An exit of L1 comes before what two exceptions make together.
    bool exits = nested_intercepts(vcpu, exception_info(vector, has_error), error);
    if (first & INFO_VALID && has_vector(first, VEC_DF) &&
        (contributory(vector) || vector == VEC_PF) && !exits) {
        vcpu_triple_fault(vcpu);
        return;
    }
    if (first & INFO_VALID && becomes_double_fault(first, vector) && !exits)
        vcpu->event = (struct pending_event){.info = exception_info(VEC_DF, true)};
    else
        vcpu->event =
            (struct pending_event){.info = exception_info(vector, has_error), .error = error};
    vcpu->event.raised = true;
    vcpu_note(vcpu, WORK_EVENTS);
}

void vcpu_inject_fault(struct vcpu *vcpu, const struct guest_fault *fault)
{
    if (fault->kind != FAULT_EXCEPTION)
        return;
    vcpu_inject(vcpu, fault->vector, fault->vector != VEC_UD && fault->vector != VEC_DB,
                fault->error);
    vcpu->event.address = fault->cr2;
}

// With the quirk an interrupt in service stands for the one on its way while interrupts are
// enabled: a handler enables them after its EOI at the earliest.
static u32 unrecorded_interrupt(u32 info)
{
    if (!CAP_HAS(&vmx.caps, VIRTUAL_INTR_DELIVERY) ||
        !(vmread(F(PROC2_CTRL)) & CTL_VIRTUAL_INTR_DELIVERY))
        return info;
    u32 svi = bits(vmread(F(GUEST_INTR_STATUS)), 15, 8);
    if (!svi || !(vmread(F(GUEST_RFLAGS)) & RFLAGS_IF))
        return info;
    return (u32)INFO_VALID | (u32)EVENT_INTERRUPT << 8 | svi;
}

u32 vcpu_vectoring_info(void)
{
    u32 info = (u32)vmread(F(IDT_VECTORING_INFO));
    if (UNLIKELY(info & INFO_VALID && quirks.unrecorded_virtual_interrupts))
        info = unrecorded_interrupt(info);
    return real_mode_checked(info);
}

void vcpu_redo_iret(u64 qualification)
{
    if (qualification & NMI_UNBLOCKED && !(vmread(F(IDT_VECTORING_INFO)) & INFO_VALID))
        vmwrite(F(GUEST_INTERRUPTIBILITY), vmread(F(GUEST_INTERRUPTIBILITY)) | BLOCKING_NMI);
}

void vcpu_requeue_event(struct vcpu *vcpu)
{
    u32 info = vcpu_vectoring_info();
    if (!(info & INFO_VALID))
        return;
    vcpu->event = (struct pending_event){
        .info = info & ~(u32)BIT(12),
        .error = info & INFO_ERROR_CODE ? (u32)vmread(F(IDT_VECTORING_ERROR)) : 0,
        .length = (u32)vmread(F(EXIT_INSTR_LENGTH))};
    if (INFO_TYPE(info) == EVENT_NMI) {
        // Its delivery has set blocking, which the second try needs clear.
        vmwrite(F(GUEST_INTERRUPTIBILITY), vmread(F(GUEST_INTERRUPTIBILITY)) & ~BLOCKING_NMI);
    }
    vcpu_note(vcpu, WORK_EVENTS);
}

void vcpu_write_event(struct vcpu *vcpu)
{
    u32 info = vcpu->event.info;
    vmwrite(F(ENTRY_INTR_INFO), info);
    if (info & INFO_ERROR_CODE)
        vmwrite(F(ENTRY_ERROR_CODE), vcpu->event.error);
    if (INFO_TYPE(info) >= EVENT_SOFT_INTERRUPT)
        vmwrite(F(ENTRY_INSTR_LENGTH), vcpu->event.length);
    if (vcpu->event.raised && has_vector(info, VEC_PF))
        write_cr2(vcpu->event.address);
    vcpu->event.info = 0;
}

void vcpu_set_window(struct vcpu *vcpu, u32 window, bool on)
{
    u32 proc = on ? vcpu->vmcs->proc | window : vcpu->vmcs->proc & ~window;
    if (proc != vcpu->vmcs->proc) {
        vcpu->vmcs->proc = proc;
        vmwrite(F(PROC_CTRL), proc);
    }
}

static NOINLINE u8 take_extint(struct vcpu *vcpu)
{
    spin_lock(&vcpu->vm->device_lock);
    u8 vector = machine_extint(&vcpu->vm->machine, vcpu->id);
    spin_unlock(&vcpu->vm->device_lock);
    return vector;
}

u8 vcpu_take_interrupt(struct vcpu *vcpu)
{
    struct vlapic *l = vcpu->lapic;
    if (UNLIKELY(vlapic_accepts_extint(l)))
        return take_extint(vcpu);
    u8 vector = (u8)l->pending;
    vlapic_ack(l, vector);
    return vector;
}

static void set_event(struct vcpu *vcpu, enum event_type type, u8 vector)
{
    vcpu->event = (struct pending_event){.info = (u32)(INFO_VALID | (u32)type << 8 | vector)};
    vcpu_write_event(vcpu);
}

static void wake(struct vcpu *vcpu)
{
    if (vcpu->activity == VCPU_HALTED)
        vcpu->activity = VCPU_ACTIVE;
}

// INIT and start-up IPIs of L1. The only vCPU is the boot processor: after an INIT it begins with
// the firmware, and the machine's firmware starts nothing a second time. ("MP Initialization",
// "Restrictions on VMX Operation".)
static void take_init(struct vcpu *vcpu)
{
    vlapic_take(vcpu->lapic, VLAPIC_SIPI); // nobody waits for one
    if (nested_blocks_init(vcpu) || !vlapic_take(vcpu->lapic, VLAPIC_INIT))
        return;
    vm_end(vcpu->vm, VM_END_RESET, 0);
}

// No event at all, and no window that was asked for earlier.
static inline bool nothing_waits(const struct vcpu *vcpu)
{
    return !(vcpu->event.info & INFO_VALID) && !vlapic_wants_attention(vcpu->lapic) &&
           !(vcpu->vmcs->proc & (CTL_NMI_WINDOW | CTL_INTR_WINDOW));
}

// One event goes into the entry; what still waits asks for a window. Vectors of the local APIC are
// the processor's to deliver where it virtualizes the APIC: then none of them is pending here.
bool vcpu_deliver_events(struct vcpu *vcpu)
{
    if (!nested_in_l2(vcpu))
        apicv_prepare(vcpu);
    if (LIKELY(nothing_waits(vcpu)))
        return vcpu->activity == VCPU_ACTIVE;
    bool room = !(vcpu->event.info & INFO_VALID);
    u32 apic = vlapic_events(vcpu->lapic);
    bool nmi = apic & VLAPIC_NMI && vcpu->activity != VCPU_WAIT_SIPI;
    bool interrupt = vlapic_has_interrupt(vcpu->lapic) && vcpu->activity <= VCPU_HALTED;
    if (UNLIKELY(apic & (VLAPIC_INIT | VLAPIC_SIPI)) && !nested_in_l2(vcpu))
        take_init(vcpu);
    if (!room) {
        wake(vcpu);
        vcpu_write_event(vcpu);
    }
    u32 blocking = nmi || interrupt ? (u32)vmread(F(GUEST_INTERRUPTIBILITY)) : 0;
    if (nmi && room && !(blocking & (BLOCKING_NMI | BLOCKING_MOV_SS))) {
        vlapic_take(vcpu->lapic, VLAPIC_NMI);
        vcpu->activity = VCPU_ACTIVE; // from shutdown, too
        set_event(vcpu, EVENT_NMI, VEC_NMI);
        nmi = room = false;
    }
    if (interrupt && room && !(blocking & (BLOCKING_STI | BLOCKING_MOV_SS)) &&
        vmread(F(GUEST_RFLAGS)) & RFLAGS_IF) {
        set_event(vcpu, EVENT_INTERRUPT, vcpu_take_interrupt(vcpu));
        wake(vcpu);
        interrupt = vlapic_has_interrupt(vcpu->lapic);
    }
    vcpu_set_window(vcpu, CTL_NMI_WINDOW, nmi);
    vcpu_set_window(vcpu, CTL_INTR_WINDOW, interrupt);
    return vcpu->activity == VCPU_ACTIVE;
}
