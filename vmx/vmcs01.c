#include "vmx/vmcs01.h"

#include "libc/x86.h"
#include "vmx/apicv.h"
#include "vmx/cpu.h"
#include "vmx/nested/nested.h"
#include "vmx/vmxop.h"

#define AR_CODE64   0xa09b
#define AR_CODE32   0xc09b
#define AR_DATA     0xc093
#define AR_TSS      0x008b
#define AR_LDT      0x0082
#define AR_UNUSABLE BIT(16)
#define PAT_RESET   0x0007040600070406ull
#define DR7_RESET   0x400

// What the host allows of the wanted bits, and what it forces.
static u32 limit(enum control_word w, u64 want)
{
    return (u32)((want | vmx.caps.word[w].must) & vmx.caps.word[w].may);
}

u32 vmcs01_pin(void)
{
    return limit(WORD_PIN,
                 CTL_EXT_INTR_EXITING | CTL_NMI_EXITING | CTL_VIRTUAL_NMIS | CTL_PREEMPTION_TIMER);
}

u32 vmcs01_exit_controls(void)
{
    return limit(WORD_EXIT, CTL_EXIT_SAVE_DEBUG | CTL_EXIT_HOST_64BIT | CTL_EXIT_ACK_INTR |
                                CTL_EXIT_SAVE_PAT | CTL_EXIT_LOAD_PAT | CTL_EXIT_SAVE_EFER |
                                CTL_EXIT_LOAD_EFER);
}

// #DB and #AC: see exit_exception().
u32 vmcs01_exceptions(void)
{
    return BIT(VEC_DB) | BIT(VEC_AC) | BIT(VEC_MC);
}

static void write_controls(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    u64 proc2 = CTL_EPT | CTL_UNRESTRICTED | CTL_WBINVD_EXITING | (vmx.vpid ? CTL_VPID : 0);
    proc2 |= vm->cpuid.ext[1].edx & BIT(27) ? CTL_RDTSCP : 0;
    proc2 |= vm->cpuid.basic[7].ebx & BIT(10) ? CTL_INVPCID : 0;
    proc2 |= vm->cpuid.xsaves ? CTL_XSAVES : 0;
    vcpu->vmcs->proc = limit(WORD_PROC, CTL_TSC_OFFSETTING | CTL_HLT_EXITING | CTL_MWAIT_EXITING |
                                            CTL_RDPMC_EXITING | CTL_CR8_LOAD_EXITING |
                                            CTL_CR8_STORE_EXITING | CTL_IO_EXITING |
                                            CTL_MSR_BITMAPS | CTL_MONITOR_EXITING | CTL_SECONDARY);
    // Without the TRUE capabilities CR3 accesses exit, which costs and changes nothing else.
    vmwrite(F(PIN_CTRL), vmcs01_pin());
    vmwrite(F(PROC_CTRL), vcpu->vmcs->proc);
    vmwrite(F(PROC2_CTRL), limit(WORD_PROC2, proc2));
    vmwrite(F(EXIT_CTRL), vmcs01_exit_controls());
    vmwrite(F(ENTRY_CTRL),
            limit(WORD_ENTRY, CTL_ENTRY_LOAD_DEBUG | CTL_ENTRY_LOAD_PAT | CTL_ENTRY_LOAD_EFER));
    vmwrite(F(EXCEPTION_BITMAP), vmcs01_exceptions());
    vmwrite(F(PF_ERROR_MASK), 0);
    vmwrite(F(PF_ERROR_MATCH), 0);
    vmwrite(F(CR3_TARGET_COUNT), 0);
    vmwrite(F(EXIT_MSR_STORE_COUNT), 0);
    vmwrite(F(EXIT_MSR_LOAD_COUNT), 0);
    vmwrite(F(ENTRY_MSR_LOAD_COUNT), 0);
    vmwrite(F(ENTRY_INTR_INFO), 0);
    vmwrite(F(TSC_OFFSET), vcpu->tsc_offset);
    vmwrite(F(MSR_BITMAP), vm->msr_bitmap.v);
    vmwrite(F(EPTP), ept_eptp(&vm->ept01));
    vmwrite(F(VMCS_LINK_POINTER), ~0ull);
    if (vmx.vpid)
        vmwrite(F(VPID), vcpu->vpid);
    if (vm->cpuid.xsaves)
        vmwrite(F(XSS_EXITING_BITMAP), 0);
    vmwrite(F(CR0_MASK), CR0_L0);
    vmwrite(F(CR4_MASK), cr4_l0(vcpu));
}

void vmcs01_init(struct vcpu *vcpu)
{
    vmcs_init_host(&vmx.host);
    write_controls(vcpu);
    apicv_init_vmcs01(vcpu);
}

static void write_cr(u64 cr0, u64 cr4)
{
    vmwrite(F(CR0_SHADOW), cr0);
    vmwrite(F(GUEST_CR0), cr0 | CR0_NE);
    vmwrite(F(CR4_SHADOW), cr4);
    vmwrite(F(GUEST_CR4), (cr4 | vmx.caps.cr4_fixed0) & vmx.caps.cr4_fixed1);
}

#define WRITE_SEG(NAME, selector, base, limit, ar)                                                 \
    do {                                                                                           \
        vmwrite(F(GUEST_##NAME##_SELECTOR), selector);                                             \
        vmwrite(F(GUEST_##NAME##_BASE), base);                                                     \
        vmwrite(F(GUEST_##NAME##_LIMIT), limit);                                                   \
        vmwrite(F(GUEST_##NAME##_AR), ar);                                                         \
    } while (0)

static void write_segments(const struct vcpu_start *s)
{
    WRITE_SEG(CS, s->code_selector, 0, 0xffffffff, s->long_mode ? AR_CODE64 : AR_CODE32);
    WRITE_SEG(SS, s->data_selector, 0, 0xffffffff, AR_DATA);
    WRITE_SEG(DS, s->data_selector, 0, 0xffffffff, AR_DATA);
    WRITE_SEG(ES, s->data_selector, 0, 0xffffffff, AR_DATA);
    WRITE_SEG(FS, s->data_selector, 0, 0xffffffff, AR_DATA);
    WRITE_SEG(GS, s->data_selector, 0, 0xffffffff, AR_DATA);
    WRITE_SEG(LDTR, 0, 0, 0xffff, AR_LDT);
    WRITE_SEG(TR, 0, 0, 0xffff, AR_TSS);
    vmwrite(F(GUEST_GDTR_BASE), s->gdt_base);
    vmwrite(F(GUEST_GDTR_LIMIT), s->gdt_limit);
    vmwrite(F(GUEST_IDTR_BASE), 0);
    vmwrite(F(GUEST_IDTR_LIMIT), s->long_mode ? 0 : 0xffff);
}

static void write_rest(const struct vcpu_start *s)
{
    vmwrite(F(GUEST_CR3), s->cr3);
    vmwrite(F(GUEST_RIP), s->rip);
    vmwrite(F(GUEST_RSP), s->rsp);
    vmwrite(F(GUEST_RFLAGS), RFLAGS_FIXED);
    vmwrite(F(GUEST_DR7), DR7_RESET);
    vmwrite(F(GUEST_EFER), s->long_mode ? EFER_LME | EFER_LMA : 0);
    vmwrite(F(GUEST_PAT), PAT_RESET);
    vmwrite(F(GUEST_DEBUGCTL), 0);
    vmwrite(F(GUEST_SYSENTER_CS), 0);
    vmwrite(F(GUEST_SYSENTER_ESP), 0);
    vmwrite(F(GUEST_SYSENTER_EIP), 0);
    vmwrite(F(GUEST_INTERRUPTIBILITY), 0);
    vmwrite(F(GUEST_ACTIVITY), 0);
    vmwrite(F(GUEST_PENDING_DEBUG), 0);
    if (s->long_mode)
        vmwrite(F(ENTRY_CTRL), vmread(F(ENTRY_CTRL)) | CTL_ENTRY_IA32E_GUEST);
}

void vcpu_start(struct vcpu *vcpu, const struct vcpu_start *s)
{
    vmcs_load(&vcpu->vmcs01);
    write_cr(s->long_mode ? CR0_PG | CR0_PE | CR0_ET : CR0_PE | CR0_ET, s->long_mode ? CR4_PAE : 0);
    write_segments(s);
    write_rest(s);
    vcpu->gpr[GPR_RAX] = s->rax;
    vcpu->gpr[GPR_RBX] = s->rbx;
    vcpu->gpr[GPR_RSI] = s->rsi;
    vcpu->activity = VCPU_ACTIVE;
}
