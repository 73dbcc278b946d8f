#include "vmx/exit.h"

#include "drivers/cpu.h"
#include "libc/x86.h"
#include "vmx/apicv.h"
#include "vmx/count.h"
#include "vmx/cpu.h"
#include "vmx/event.h"
#include "vmx/mitigate.h"
#include "vmx/nested/nested.h"

#define DR6_RESET        0xffff0ff0ull
#define DEBUGCTL_CLEARED 3 // LBR and BTF, by each debug exception

struct cpuid_regs host_cpuid(u32 leaf, u32 subleaf)
{
    struct cpuid c = cpuid(leaf, subleaf);
    return (struct cpuid_regs){c.eax, c.ebx, c.ecx, c.edx};
}

static inline void set_cpuid(struct vcpu *vcpu, const struct cpuid_regs *r)
{
    vcpu->gpr[GPR_RAX] = r->eax;
    vcpu->gpr[GPR_RBX] = r->ebx;
    vcpu->gpr[GPR_RCX] = r->ecx;
    vcpu->gpr[GPR_RDX] = r->edx;
}

// A leaf whose answer depends on the subleaf or on the vCPU's state.
static NOINLINE enum run_result variable_cpuid(struct vcpu *vcpu)
{
    struct cpuid_state s = {.apic_id = vcpu->id,
                            .osxsave = vmread(F(GUEST_CR4)) & CR4_OSXSAVE,
                            .apic = vlapic_enabled(vcpu->lapic)};
    struct cpuid_regs r = cpuid_answer(&vcpu->vm->cpuid, host_cpuid, (u32)vcpu->gpr[GPR_RAX],
                                       (u32)vcpu->gpr[GPR_RCX], &s);
    set_cpuid(vcpu, &r);
    vcpu_skip(vcpu);
    return RUN_RESUME;
}

enum run_result exit_cpuid(struct vcpu *vcpu)
{
    if (!count_cpuid(vcpu->gpr)) {
        const struct cpuid_regs *fixed = cpuid_fixed(&vcpu->vm->cpuid, (u32)vcpu->gpr[GPR_RAX]);
        if (UNLIKELY(!fixed))
            return variable_cpuid(vcpu);
        set_cpuid(vcpu, fixed);
    }
    vcpu_skip(vcpu);
    return RUN_RESUME;
}

enum run_result exit_hlt(struct vcpu *vcpu)
{
    vcpu_skip(vcpu);
    vcpu->activity = VCPU_HALTED;
    if (vmread(F(GUEST_PENDING_DEBUG)) & (PENDING_DEBUG_ENABLED | PENDING_DEBUG_BS))
        vcpu->activity = VCPU_ACTIVE; // a debug trap on HLT itself ends it
    vcpu_note(vcpu, WORK_EVENTS);
    return RUN_RESUME;
}

// INVD is WBINVD here: L0 and the other VMs must not lose what they wrote. Both are no-operations,
// because L1's memory is always write-back and shared with no device outside coherency.
enum run_result exit_skip(struct vcpu *vcpu)
{
    vcpu_skip(vcpu);
    return RUN_RESUME;
}

// XCR0 values that the manual allows ("XSETBV—Set Extended Control Register").
static bool xcr0_ok(const struct cpuid_table *t, u64 v)
{
    const u64 x87 = BIT(0), sse = BIT(1), avx = BIT(2), avx512 = 0xe0;
    if (!(v & x87) || v & ~t->xcr0)
        return false;
    if (v & avx && !(v & sse))
        return false;
    return !(v & avx512) || ((v & avx512) == avx512 && v & avx);
}

enum run_result exit_xsetbv(struct vcpu *vcpu)
{
    u64 v = vcpu->gpr[GPR_RDX] << 32 | (u32)vcpu->gpr[GPR_RAX];
    if ((u32)vcpu->gpr[GPR_RCX] != 0 || !xcr0_ok(&vcpu->vm->cpuid, v)) {
        vcpu_inject_gp(vcpu);
        return RUN_RESUME;
    }
    // L0's own CR4 need not have OSXSAVE set.
    write_cr4(read_cr4() | CR4_OSXSAVE);
    xsetbv(0, v);
    vcpu_skip(vcpu);
    return RUN_RESUME;
}

enum run_result exit_external_interrupt(struct vcpu *vcpu)
{
    (void)vcpu;
    vmx.host.irq((u8)vmread(F(EXIT_INTR_INFO)));
    mitigate(BOUNDARY_INTERRUPT);
    return RUN_RESUME;
}

enum run_result exit_interrupt_window(struct vcpu *vcpu)
{
    vcpu_set_window(vcpu, CTL_INTR_WINDOW, false);
    vcpu_note(vcpu, WORK_EVENTS);
    return RUN_RESUME;
}

enum run_result exit_nmi_window(struct vcpu *vcpu)
{
    vcpu_set_window(vcpu, CTL_NMI_WINDOW, false);
    vcpu_note(vcpu, WORK_EVENTS);
    return RUN_RESUME;
}

// #DB and #AC exit so that no guest can keep the processor in their endless delivery; the guest
// gets them as if L0 were not there.
enum run_result exit_exception(struct vcpu *vcpu)
{
    u32 info = (u32)vmread(F(EXIT_INTR_INFO));
    if (INFO_TYPE(info) == EVENT_NMI) {
        this_cpu()->nmis++;
        return RUN_RESUME;
    }
    if (INFO_VECTOR(info) == VEC_MC) {
        vcpu_fail(vcpu, "machine check");
        return RUN_STOPPED;
    }
    vcpu_requeue_event(vcpu);
    if (INFO_VECTOR(info) == VEC_DB) {
        u64 dr6;
        asm volatile("mov %%dr6, %0" : "=r"(dr6));
        dr6 = (dr6 & ~0xfull) | vmread(F(EXIT_QUALIFICATION)) | DR6_RESET;
        asm volatile("mov %0, %%dr6" ::"r"(dr6));
        vmwrite(F(GUEST_DR7), vmread(F(GUEST_DR7)) & ~BIT(13));
        vmwrite(F(GUEST_DEBUGCTL), vmread(F(GUEST_DEBUGCTL)) & ~(u64)DEBUGCTL_CLEARED);
    }
    if (INFO_TYPE(info) == EVENT_HARD_EXCEPTION && !(vcpu->event.info & INFO_VALID)) {
        vcpu->event = (struct pending_event){
            .info = info & ~(u32)BIT(12),
            .error = info & INFO_ERROR_CODE ? (u32)vmread(F(EXIT_INTR_ERROR)) : 0};
        vcpu_note(vcpu, WORK_EVENTS);
        return RUN_RESUME;
    }
    if (INFO_TYPE(info) != EVENT_HARD_EXCEPTION) { // INT1
        vcpu->event = (struct pending_event){.info = info & ~(u32)BIT(12),
                                             .length = (u32)vmread(F(EXIT_INSTR_LENGTH))};
        vcpu_note(vcpu, WORK_EVENTS);
        return RUN_RESUME;
    }
    vcpu_inject(vcpu, (u8)INFO_VECTOR(info), info & INFO_ERROR_CODE,
                info & INFO_ERROR_CODE ? (u32)vmread(F(EXIT_INTR_ERROR)) : 0);
    return RUN_RESUME;
}

static enum run_result exit_triple_fault(struct vcpu *vcpu)
{
    vcpu_triple_fault(vcpu);
    return RUN_RESUME;
}

static enum run_result exit_ept_violation(struct vcpu *vcpu)
{
    vcpu_requeue_event(vcpu);
    return mmio_exit(vcpu, GPA(vmread(F(GUEST_PHYSICAL_ADDR))), vmread(F(EXIT_QUALIFICATION)));
}

static enum run_result exit_preemption_timer(struct vcpu *vcpu)
{
    (void)vcpu;
    return RUN_RESUME; // prepare() looks at the deadlines
}

static enum run_result exit_undefined(struct vcpu *vcpu)
{
    vcpu_inject_ud(vcpu);
    return RUN_RESUME;
}

// With EPT and unrestricted guest, a task switch is all that the processor leaves to software.
// Operating systems of this century switch tasks in software, Nestor does not emulate it.
static enum run_result exit_task_switch(struct vcpu *vcpu)
{
    vcpu_fail(vcpu, "hardware task switch, which Nestor does not emulate");
    return RUN_STOPPED;
}

enum run_result exit_unhandled(struct vcpu *vcpu)
{
    u32 reason = (u32)vmread(F(EXIT_REASON));
    vcpu_fail(vcpu, "VM exit for reason %u (%s), which Nestor does not handle", reason & 0xffff,
              exit_reason_name(reason));
    return RUN_STOPPED;
}

// Who handles an exit of L1. What is not here cannot happen with the controls of vmcs01.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init" // of the first row by the others
const exit_handler exit_handlers[STAT_REASONS] = {
    [0 ... STAT_REASONS - 1] = exit_unhandled,
    [EXIT_EXCEPTION_NMI] = exit_exception,
    [EXIT_EXTERNAL_INTERRUPT] = exit_external_interrupt,
    [EXIT_TRIPLE_FAULT] = exit_triple_fault,
    [EXIT_INTERRUPT_WINDOW] = exit_interrupt_window,
    [EXIT_NMI_WINDOW] = exit_nmi_window,
    [EXIT_TASK_SWITCH] = exit_task_switch,
    [EXIT_CPUID] = exit_cpuid,
    [EXIT_GETSEC] = exit_undefined,
    [EXIT_HLT] = exit_hlt,
    [EXIT_INVD] = exit_skip,
    [EXIT_RDPMC] = exit_undefined,
    [EXIT_VMCALL] = nested_vmcall,
    [EXIT_VMCLEAR] = nested_vmclear,
    [EXIT_VMLAUNCH] = nested_vmlaunch,
    [EXIT_VMPTRLD] = nested_vmptrld,
    [EXIT_VMPTRST] = nested_vmptrst,
    [EXIT_VMREAD] = nested_vmread,
    [EXIT_VMRESUME] = nested_vmresume,
    [EXIT_VMWRITE] = nested_vmwrite,
    [EXIT_VMXOFF] = nested_vmxoff,
    [EXIT_VMXON] = nested_vmxon,
    [EXIT_CR_ACCESS] = exit_cr_access,
    [EXIT_IO] = exit_io,
    [EXIT_RDMSR] = exit_rdmsr,
    [EXIT_WRMSR] = exit_wrmsr,
    [EXIT_MWAIT] = exit_undefined,
    [EXIT_MONITOR] = exit_undefined,
    [EXIT_APIC_ACCESS] = exit_apic_access,
    [EXIT_EOI] = exit_eoi,
    [EXIT_EPT_VIOLATION] = exit_ept_violation,
    [EXIT_INVEPT] = nested_invept,
    [EXIT_PREEMPTION_TIMER] = exit_preemption_timer,
    [EXIT_INVVPID] = nested_invvpid,
    [EXIT_WBINVD] = exit_skip,
    [EXIT_XSETBV] = exit_xsetbv,
    [EXIT_APIC_WRITE] = exit_apic_write,
};
#pragma GCC diagnostic pop
