#pragma once
// VM exits: their reasons, who handles them, and what handlers share.

#include "vmx/access.h"
#include "vmx/vm.h"
#include "vmx/vmxop.h"

enum exit_reason {
    EXIT_EXCEPTION_NMI = 0,
    EXIT_EXTERNAL_INTERRUPT,
    EXIT_TRIPLE_FAULT,
    EXIT_INIT,
    EXIT_SIPI,
    EXIT_INTERRUPT_WINDOW = 7,
    EXIT_NMI_WINDOW,
    EXIT_TASK_SWITCH,
    EXIT_CPUID,
    EXIT_GETSEC,
    EXIT_HLT,
    EXIT_INVD,
    EXIT_INVLPG,
    EXIT_RDPMC,
    EXIT_RDTSC,
    EXIT_RSM,
    EXIT_VMCALL,
    EXIT_VMCLEAR,
    EXIT_VMLAUNCH,
    EXIT_VMPTRLD,
    EXIT_VMPTRST,
    EXIT_VMREAD,
    EXIT_VMRESUME,
    EXIT_VMWRITE,
    EXIT_VMXOFF,
    EXIT_VMXON,
    EXIT_CR_ACCESS,
    EXIT_MOV_DR,
    EXIT_IO,
    EXIT_RDMSR,
    EXIT_WRMSR,
    EXIT_BAD_GUEST_STATE,
    EXIT_BAD_MSR_LOAD,
    EXIT_MWAIT = 36,
    EXIT_MTF,
    EXIT_MONITOR = 39,
    EXIT_PAUSE,
    EXIT_MACHINE_CHECK_ENTRY,
    EXIT_TPR_THRESHOLD = 43,
    EXIT_APIC_ACCESS,
    EXIT_EOI,
    EXIT_GDTR_IDTR,
    EXIT_LDTR_TR,
    EXIT_EPT_VIOLATION,
    EXIT_EPT_MISCONFIG,
    EXIT_INVEPT,
    EXIT_RDTSCP,
    EXIT_PREEMPTION_TIMER,
    EXIT_INVVPID,
    EXIT_WBINVD,
    EXIT_XSETBV,
    EXIT_APIC_WRITE,
    EXIT_RDRAND,
    EXIT_INVPCID,
    EXIT_VMFUNC,
    EXIT_ENCLS,
    EXIT_RDSEED,
    EXIT_PML_FULL,
    EXIT_XSAVES,
    EXIT_XRSTORS,
};

typedef enum run_result (*exit_handler)(struct vcpu *vcpu);

// The name of a basic exit reason for messages; "unknown" if it has none.
const char *exit_reason_name(u32 reason);

// What is rare in vcpu_advance(): the 4 GiB of a 32-bit code segment wrap around, blocking by STI
// or MOV SS ends, RFLAGS.RF is cleared, a single step becomes pending.
void vcpu_advance_rare(struct vcpu *vcpu, u64 next, u64 blocking, u64 rflags);

// An instruction, or one iteration of a string instruction, ended with these flags: single-stepping
// makes a debug exception pending ("Single-Step Exception Condition", "Single-Stepping on
// Branches": no instruction that L0 executes is a branch).
void vcpu_single_step(u64 rflags);

// Whether the guest sees each iteration of a string instruction, by RFLAGS.TF or by L1's monitor
// trap flag.
bool vcpu_is_traced(struct vcpu *vcpu);

// Goes on at `next`; `wrap` is not 0 where 4 GiB may be passed outside 64-bit code.
static inline void vcpu_go_on(struct vcpu *vcpu, u64 next, u64 rflags, u64 wrap)
{
    u64 blocking = vmread(F(GUEST_INTERRUPTIBILITY));
    vmwrite(F(GUEST_RIP), next);
    if (UNLIKELY(wrap | (rflags & (RFLAGS_TF | RFLAGS_RF)) | blocking))
        vcpu_advance_rare(vcpu, next, blocking, rflags);
}

// Ends the instruction at `rip` that exited; `next` is the next one.
static inline void vcpu_advance(struct vcpu *vcpu, u64 rip, u64 next, u64 rflags)
{
    vcpu_go_on(vcpu, next, rflags, (rip ^ next) >> 32);
}

// The same by the length that the exit reported, in 64-bit code.
static inline void vcpu_skip_64(struct vcpu *vcpu, u64 rflags)
{
    vcpu_go_on(vcpu, vmread(F(GUEST_RIP)) + vmread(F(EXIT_INSTR_LENGTH)), rflags, 0);
}

// The same in any code.
static inline void vcpu_skip_with(struct vcpu *vcpu, u64 rflags)
{
    u64 rip = vmread(F(GUEST_RIP));
    vcpu_advance(vcpu, rip, rip + vmread(F(EXIT_INSTR_LENGTH)), rflags);
}

static inline void vcpu_skip(struct vcpu *vcpu)
{
    vcpu_skip_with(vcpu, vmread(F(GUEST_RFLAGS)));
}

// A register operand; RSP is in the VMCS.
static inline u64 vcpu_gpr(const struct vcpu *vcpu, unsigned reg)
{
    return reg == GPR_RSP ? vmread(F(GUEST_RSP)) : vcpu->gpr[reg];
}

static inline void vcpu_set_gpr(struct vcpu *vcpu, unsigned reg, u64 value)
{
    if (reg == GPR_RSP)
        vmwrite(F(GUEST_RSP), value);
    else
        vcpu->gpr[reg] = value;
}

// Handlers of exits that L1 causes, and of exits of L2 that are L0's to emulate: they act on the
// current VMCS.
enum run_result exit_cr_access(struct vcpu *vcpu);
enum run_result exit_rdmsr(struct vcpu *vcpu);
enum run_result exit_wrmsr(struct vcpu *vcpu);
enum run_result exit_io(struct vcpu *vcpu);
enum run_result exit_xsetbv(struct vcpu *vcpu);
enum run_result exit_cpuid(struct vcpu *vcpu);
enum run_result exit_hlt(struct vcpu *vcpu);
enum run_result exit_skip(struct vcpu *vcpu);
enum run_result exit_external_interrupt(struct vcpu *vcpu);
enum run_result exit_exception(struct vcpu *vcpu);
enum run_result exit_interrupt_window(struct vcpu *vcpu);
enum run_result exit_nmi_window(struct vcpu *vcpu);

// Executes the instruction at RIP, whose memory operand is no RAM; `gpa` is where the exit found
// that (L1's guest-physical).
enum run_result mmio_exit(struct vcpu *vcpu, gpa_t gpa, u64 qualification);

// The processor's own CPUID, as a cpuid_reader.
struct cpuid_regs host_cpuid(u32 leaf, u32 subleaf);

// The VM's devices were used: the next deadline may have changed.
void vcpu_update_deadline(struct vcpu *vcpu);

// The one dispatch of an exit that is L0's own business: the handler for each reason, and the one
// for a reason that is none.
extern const exit_handler exit_handlers[STAT_REASONS];
enum run_result exit_unhandled(struct vcpu *vcpu);

static inline enum run_result exit_dispatch(struct vcpu *vcpu, u32 reason)
{
    return LIKELY(reason < STAT_REASONS) ? exit_handlers[reason](vcpu) : exit_unhandled(vcpu);
}
