// Outcomes, capabilities and VMX operation.

#include "tests/l1/vmx/vmx.h"

struct vmx_caps caps;
u64 vmxon_region;

u32 vmx_outcome(u64 flags)
{
    flags &= FLAGS_ALU;
    if (fault.vector != NO_FAULT)
        return VMX_FAULT | fault.vector;
    if (flags == 0)
        return VMX_OK;
    if (flags == FLAG_CF)
        return VMX_INVALID;
    if (flags == FLAG_ZF) {
        u64 error = 0;
        asm volatile("vmread %1, %0" : "+r"(error) : "r"((u64)INSTRUCTION_ERROR) : "cc");
        return VMX_VALID | (u32)error;
    }
    return VMX_FLAGS | (u32)flags;
}

const char *outcome_name(u32 outcome)
{
    static char text[2][24];
    static u32 next;
    char *to = text[next++ & 1];
    u32 detail = outcome & 0xfff;
    switch (outcome & 0xf000) {
    case VMX_OK:
        return "VMsucceed";
    case VMX_INVALID:
        return "VMfailInvalid";
    case VMX_VALID:
        snprintf(to, sizeof(text[0]), "VMfailValid %u", detail);
        return to;
    case VMX_FAULT:
        return fault_name(detail);
    default:
        snprintf(to, sizeof(text[0]), "flags 0x%x", detail);
        return to;
    }
}

bool check_outcome(u32 got, u32 want, const char *fmt, ...)
{
    char text[160];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (got == want)
        return check(true, "%s: %s", text, outcome_name(got));
    return check(false, "%s: %s, should be %s", text, outcome_name(got), outcome_name(want));
}

static void must(u32 outcome, const char *what, u32 encoding)
{
    if (outcome == VMX_OK)
        return;
    print("%s 0x%x: %s\n", what, encoding, outcome_name(outcome));
    exit_program(EXIT_BROKEN);
}

u64 vmread(u32 encoding)
{
    u64 v = 0;
    must(vmread_from(encoding, &v), "VMREAD", encoding);
    return v;
}

void vmwrite(u32 encoding, u64 v)
{
    must(vmwrite_to(encoding, v), "VMWRITE", encoding);
}

void vmset(u32 encoding, u64 bits)
{
    vmwrite(encoding, vmread(encoding) | bits);
}

void vmclr(u32 encoding, u64 bits)
{
    vmwrite(encoding, vmread(encoding) & ~bits);
}

static void read_control(u32 msr, u32 *may, u32 *must_be)
{
    u64 v = rdmsr(msr);
    *may = (u32)(v >> 32);
    *must_be = (u32)v;
}

void caps_read(void)
{
    caps.basic = rdmsr(0x480);
    caps.revision = (u32)caps.basic & 0x7fffffff;
    u32 from = caps.basic >> 55 & 1 ? 0x48d : 0x481; // TRUE controls
    read_control(from, &caps.pin, &caps.pin_must);
    read_control(from + 1, &caps.proc, &caps.proc_must);
    read_control(from + 2, &caps.exit, &caps.exit_must);
    read_control(from + 3, &caps.entry, &caps.entry_must);
    if (caps.proc & PROC_SECONDARY)
        caps.proc2 = (u32)(rdmsr(0x48b) >> 32);
    if (caps.proc2 & (PROC2_EPT | PROC2_VPID))
        caps.ept_vpid = rdmsr(0x48c);
    caps.misc = rdmsr(0x485);
    caps.cr0_must = rdmsr(0x486);
    caps.cr0_may = rdmsr(0x487);
    caps.cr4_must = rdmsr(0x488);
    caps.cr4_may = rdmsr(0x489);
    caps.phys_limit = caps.basic >> 48 & 1 ? BIT(32) : BIT(cpuid(0x80000008, 0).a & 0xff);
}

u64 vmx_region(void)
{
    u32 *page = alloc_pages(1);
    page[0] = caps.revision;
    return (u64)page;
}

void vmx_enable(void)
{
    if (!(rdmsr(0x3a) & 1))
        wrmsr(0x3a, 5);
    write_cr0(read_cr0() | caps.cr0_must);
    write_cr4(read_cr4() | caps.cr4_must | CR4_VMXE);
}

void vmx_begin(void)
{
    caps_read();
    vmx_enable();
    if (!vmxon_region)
        vmxon_region = vmx_region();
    must(vmxon(vmxon_region), "VMXON", 0);
}

void vmx_end(void)
{
    must(vmxoff(), "VMXOFF", 0);
    write_cr4(read_cr4() & ~CR4_VMXE);
}

// ------------------------------------------------------------------------------------------ fields

static struct field_row *add(struct field_row *row, u16 encoding, bool exists, const char *name)
{
    *row = (struct field_row){encoding, exists, name};
    return row + 1;
}

// A field of 64 bits has its high half as a field of its own.
static struct field_row *add64(struct field_row *row, u16 encoding, bool exists, const char *name)
{
    row = add(row, encoding, exists, name);
    return add(row, encoding + 1, exists, name);
}

static struct field_row *run_of(struct field_row *row, u16 first, u16 last, const char *name)
{
    for (u16 e = first; e <= last; e = (u16)(e + 2))
        row = add(row, e, true, name);
    return row;
}

static struct field_row *fields_64(struct field_row *r)
{
    u32 sec = caps.proc2;
    for (u16 e = IO_BITMAP_A; e <= IO_BITMAP_B; e = (u16)(e + 2))
        r = add64(r, e, true, "I/O bitmap");
    r = add64(r, MSR_BITMAP, caps.proc & PROC_MSR_BITMAPS, "MSR bitmap");
    for (u16 e = EXIT_MSR_STORE; e <= EXECUTIVE_VMCS; e = (u16)(e + 2))
        r = add64(r, e, true, "MSR lists and executive VMCS");
    r = add64(r, PML_ADDRESS, sec & PROC2_PML, "PML address");
    r = add64(r, TSC_OFFSET, true, "TSC offset");
    r = add64(r, VAPIC_ADDRESS, caps.proc & PROC_TPR_SHADOW, "virtual-APIC address");
    r = add64(r, APIC_ACCESS, sec & PROC2_APIC_ACCESS, "APIC-access address");
    r = add64(r, POSTED_DESC, caps.pin & PIN_POSTED, "posted-interrupt descriptor");
    r = add64(r, VMFUNC_CTLS, sec & PROC2_VMFUNC, "VM-function controls");
    r = add64(r, EPTP, sec & PROC2_EPT, "EPT pointer");
    for (u16 i = 0; i < 4; i++)
        r = add64(r, (u16)(EOI_EXIT0 + 2 * i), sec & PROC2_VINTR, "EOI-exit bitmap");
    bool switching = (sec & PROC2_VMFUNC) && (rdmsr(0x491) & 1);
    r = add64(r, EPTP_LIST, switching, "EPTP list");
    r = add64(r, VMREAD_BITMAP, sec & PROC2_SHADOW, "VMREAD bitmap");
    r = add64(r, VMWRITE_BITMAP, sec & PROC2_SHADOW, "VMWRITE bitmap");
    r = add64(r, VE_INFO, sec & PROC2_VE, "#VE information");
    r = add64(r, XSS_BITMAP, sec & PROC2_XSAVES, "XSS-exiting bitmap");
    r = add64(r, TSC_MULTIPLIER, sec & PROC2_TSC_SCALING, "TSC multiplier");
    r = add64(r, GUEST_PHYSICAL, sec & PROC2_EPT, "guest-physical address");
    r = add64(r, LINK_POINTER, true, "VMCS link pointer");
    r = add64(r, GUEST_DEBUGCTL, true, "guest IA32_DEBUGCTL");
    r = add64(r, GUEST_PAT, (caps.entry & ENTRY_LOAD_PAT) || (caps.exit & EXIT_SAVE_PAT),
              "guest IA32_PAT");
    r = add64(r, GUEST_EFER, (caps.entry & ENTRY_LOAD_EFER) || (caps.exit & EXIT_SAVE_EFER),
              "guest IA32_EFER");
    r = add64(r, GUEST_PERF_GLOBAL, caps.entry & ENTRY_LOAD_PERF, "guest PERF_GLOBAL_CTRL");
    for (u16 i = 0; i < 4; i++)
        r = add64(r, (u16)(GUEST_PDPTE0 + 2 * i), sec & PROC2_EPT, "guest PDPTE");
    r = add64(r, GUEST_BNDCFGS, (caps.entry & ENTRY_LOAD_BNDCFG) || (caps.exit & EXIT_CLEAR_BNDCFG),
              "guest BNDCFGS");
    r = add64(r, HOST_PAT, caps.exit & EXIT_LOAD_PAT, "host IA32_PAT");
    r = add64(r, HOST_EFER, caps.exit & EXIT_LOAD_EFER, "host IA32_EFER");
    return add64(r, HOST_PERF_GLOBAL, caps.exit & EXIT_LOAD_PERF, "host PERF_GLOBAL_CTRL");
}

u32 field_rows(struct field_row *rows)
{
    struct field_row *r = rows;
    u32 sec = caps.proc2;
    r = add(r, VPID, sec & PROC2_VPID, "VPID");
    r = add(r, POSTED_NV, caps.pin & PIN_POSTED, "posted-interrupt vector");
    r = add(r, EPTP_INDEX, sec & PROC2_VE, "EPTP index");
    r = run_of(r, GUEST_ES, GUEST_TR, "guest selector");
    r = add(r, GUEST_INTR_STATUS, sec & PROC2_VINTR, "guest interrupt status");
    r = add(r, PML_INDEX, sec & PROC2_PML, "PML index");
    r = run_of(r, HOST_ES, HOST_TR, "host selector");
    r = fields_64(r);
    r = run_of(r, PIN_CTLS, ENTRY_LENGTH, "control");
    r = add(r, TPR_THRESHOLD, caps.proc & PROC_TPR_SHADOW, "TPR threshold");
    r = add(r, PROC2_CTLS, caps.proc & PROC_SECONDARY, "secondary controls");
    r = add(r, PLE_GAP, sec & PROC2_PLE, "PLE gap");
    r = add(r, PLE_WINDOW, sec & PROC2_PLE, "PLE window");
    r = run_of(r, INSTRUCTION_ERROR, EXIT_INSN_INFO, "exit information");
    r = run_of(r, GUEST_ES_LIMIT, GUEST_SYSENTER_CS, "guest state");
    r = add(r, PREEMPTION_TIMER, caps.pin & PIN_PREEMPTION, "preemption timer");
    r = add(r, HOST_SYSENTER_CS, true, "host SYSENTER_CS");
    r = run_of(r, CR0_MASK, CR4_SHADOW, "CR mask and shadow");
    r = run_of(r, CR3_TARGET0, CR3_TARGET0 + 6, "CR3 target");
    r = run_of(r, QUALIFICATION, GUEST_LINEAR, "exit information");
    r = run_of(r, GUEST_CR0, GUEST_SYSENTER_EIP, "guest state");
    r = run_of(r, HOST_CR0, HOST_RIP, "host state");
    return (u32)(r - rows);
}
