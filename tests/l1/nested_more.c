// Controls that save and load more state (EFER, PAT, debug controls), the TPR shadow and APIC
// accesses, the monitor trap flag, PAUSE-loop exiting, PML, VM functions, VMCS shadowing.

#include "tests/l1/nested.h"

L2_CODE(done, "");
L2_CODE(rdmsr_rcx, "rdmsr");
L2_CODE(wrmsr_rcx, "wrmsr");
L2_CODE(dr7, "mov %dr7, %rax; mov %rsi, %dr7");
L2_CODE(nops, "nop; nop; nop");
L2_CODE(cr8, "mov %rsi, %cr8; mov %cr8, %rax");
L2_CODE(read32, "mov (%rsi), %eax");
L2_CODE(write32, "mov %edi, (%rsi)");
L2_CODE(pauses, "mov $100, %ecx; 1: pause; dec %ecx; jnz 1b");
L2_CODE(writes, "mov %rax, (%rsi)");
L2_CODE(vmfunc, "vmfunc");
L2_CODE(vmread, "vmread %rdx, %rax");
L2_CODE(vmwrite, "vmwrite %rax, %rdx");
L2_CODE(tf, "nop; l2_after_tf: nop; nop");
extern u8 l2_after_tf[];

// An L2 that may access all MSRs.
static void open_msrs(void)
{
    static u8 *map;
    if (!map)
        map = alloc_pages(1);
    l2_control(PROC_CTLS, PROC_MSR_BITMAPS);
    vmwrite(MSR_BITMAP, (u64)map);
}

static u64 edx_eax(void)
{
    return (u32)l2.rax | l2.rdx << 32;
}

void test_pat(void)
{
    u64 mine = rdmsr(0x277), other = 0x0007010600070106;
    l2_reset(l2_rdmsr_rcx);
    if (!l2_control(ENTRY_CTLS, ENTRY_LOAD_PAT)) {
        skip("not offered");
        return;
    }
    open_msrs();
    vmwrite(GUEST_PAT, other);
    l2.rcx = 0x277;
    check_run(R_VMCALL, "entry loads it");
    check_eq(edx_eax(), other, "entry loads it: L2 reads");
    check_eq(rdmsr(0x277), other, "the exit leaves it without its control");
    l2_defaults(l2_wrmsr_rcx);
    open_msrs();
    l2_control(ENTRY_CTLS, ENTRY_LOAD_PAT);
    l2_control(EXIT_CTLS, EXIT_SAVE_PAT | EXIT_LOAD_PAT);
    vmwrite(GUEST_PAT, other);
    vmwrite(HOST_PAT, mine);
    l2.rcx = 0x277;
    l2.rax = 0x00070406;
    l2.rdx = 0x00070401;
    check_run(R_VMCALL, "the exit saves and loads it");
    check_eq(vmread(GUEST_PAT), 0x0007040100070406, "saved");
    check_eq(rdmsr(0x277), mine, "loaded");
    wrmsr(0x277, mine);
}

void test_efer(void)
{
    u64 mine = rdmsr(0xc0000080);
    l2_reset(l2_rdmsr_rcx);
    if (!l2_control(ENTRY_CTLS, ENTRY_LOAD_EFER)) {
        skip("not offered");
        return;
    }
    open_msrs();
    l2_control(EXIT_CTLS, EXIT_SAVE_EFER | EXIT_LOAD_EFER);
    vmwrite(GUEST_EFER, mine | EFER_SCE);
    vmwrite(HOST_EFER, mine | EFER_NXE);
    l2.rcx = 0xc0000080;
    check_run(R_VMCALL, "loaded both ways");
    check_eq(edx_eax(), mine | EFER_SCE, "L2 reads");
    check_eq(vmread(GUEST_EFER), mine | EFER_SCE, "saved");
    check_eq(rdmsr(0xc0000080), mine | EFER_NXE, "L1 has");
    l2_goto(l2_wrmsr_rcx);
    l2.rcx = 0xc0000080;
    l2.rax = mine | EFER_NXE;
    l2.rdx = 0;
    check_run(R_VMCALL, "L2 writes it");
    check_eq(vmread(GUEST_EFER), mine | EFER_NXE, "saved what L2 wrote");
    wrmsr(0xc0000080, mine);
    l2_defaults(l2_wrmsr_rcx);
    open_msrs();
    l2.rcx = 0xc0000080;
    l2.rax = mine | EFER_SCE;
    check_run(R_VMCALL, "L2 writes it, no controls");
    check_eq(rdmsr(0xc0000080), mine | EFER_SCE, "L1 has what L2 wrote");
    wrmsr(0xc0000080, mine);
}

void test_debug_controls(void)
{
    l2_reset(l2_dr7);
    if (!l2_control(ENTRY_CTLS, ENTRY_LOAD_DEBUG) || !l2_control(EXIT_CTLS, EXIT_SAVE_DEBUG)) {
        skip("not offered");
        return;
    }
    vmwrite(GUEST_DR7, 0x402);
    l2.rsi = 0x410;
    try_write_dr0(0x1234567);
    check_run(R_VMCALL, "DR7 loaded and saved");
    check_eq(l2.rax, 0x402, "L2 reads");
    check_eq(vmread(GUEST_DR7), 0x410, "saved");
    check_eq(read_dr7(), 0x400, "L1 has");
    check_eq(read_dr0(), 0x1234567, "DR0 is not switched");
}

// Pending debug exceptions and TF at entry.
void test_pending_debug(void)
{
    l2_reset(l2_tf);
    events_idt();
    try_write_dr6(0xffff0ff0);
    vmwrite(GUEST_RFLAGS, 0x102);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_DB));
    check_run(R_EXCEPTION, "TF at entry");
    check(vmread(GUEST_RIP) == (u64)l2_after_tf, "TF at entry: after one instruction");
    check_eq(vmread(QUALIFICATION), 0x4000, "TF at entry: qualification");
    l2_defaults(l2_tf);
    events_idt();
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_DB));
    vmwrite(GUEST_PENDING_DEBUG, 0x1001);
    check_run(R_EXCEPTION, "a pending breakpoint at entry");
    check(vmread(GUEST_RIP) == (u64)l2_tf, "pending: before the first instruction");
    check_eq(vmread(QUALIFICATION) & 0xf, 1, "pending: qualification");
}

// ------------------------------------------------------------------------------------ virtual APIC

void test_tpr_shadow(void)
{
    u8 *apic = alloc_pages(1);
    l2_reset(l2_cr8);
    if (!l2_control(PROC_CTLS, PROC_TPR_SHADOW)) {
        skip("not offered");
        return;
    }
    vmwrite(VAPIC_ADDRESS, (u64)apic);
    vmwrite(TPR_THRESHOLD, 0);
    l2.rsi = 5;
    check_run(R_VMCALL, "CR8 by the virtual APIC page");
    check_eq(l2.rax, 5, "L2 reads");
    check_eq(read32((u64)apic + 0x80), 0x50, "VTPR");
    check_eq(read_cr8(), 0, "L1's CR8");
    l2_goto(l2_cr8);
    vmwrite(TPR_THRESHOLD, 4);
    l2.rsi = 3;
    check_run(R_TPR_THRESHOLD, "below the threshold");
    check(vmread(GUEST_RIP) == (u64)l2_cr8 + 4, "after the instruction");
    l2_goto(l2_cr8);
    l2.rsi = 4;
    write32((u64)apic + 0x80, 0x50);
    check_run(R_VMCALL, "at the threshold");
    l2_goto(l2_cr8);
    write32((u64)apic + 0x80, 0x30);
    u32 r = l2_run();
    check(r == R_TPR_THRESHOLD || r == (L2_FAILED | VMX_VALID | 7),
          "below the threshold at entry: an exit or a failing entry");
    check_eq(r == R_VMCALL, 0, "below the threshold at entry: L2 ran");
}

void test_apic_access(void)
{
    u8 *page = alloc_pages(1), *apic = alloc_pages(1);
    l2_reset(l2_read32);
    if (!l2_control(PROC2_CTLS, PROC2_APIC_ACCESS)) {
        skip("not offered");
        return;
    }
    vmwrite(APIC_ACCESS, (u64)page);
    l2.rsi = (u64)page + 0x20;
    check_run(R_APIC_ACCESS, "a read");
    check_eq(vmread(QUALIFICATION), 0x20, "a read: qualification");
    l2_goto(l2_write32);
    l2.rsi = (u64)page + 0x300;
    check_run(R_APIC_ACCESS, "a write");
    check_eq(vmread(QUALIFICATION), 0x1300, "a write: qualification");
    if (!l2_control(PROC_CTLS, PROC_TPR_SHADOW))
        return;
    vmwrite(VAPIC_ADDRESS, (u64)apic);
    vmwrite(TPR_THRESHOLD, 0);
    l2_goto(l2_write32);
    l2.rsi = (u64)page + 0x80;
    l2.rdi = 0x60;
    check_run(R_VMCALL, "a write of the TPR with its shadow");
    check_eq(read32((u64)apic + 0x80), 0x60, "VTPR");
    l2_goto(l2_read32);
    check_run(R_VMCALL, "a read of the TPR with its shadow");
    check_eq(l2.rax, 0x60, "L2 reads");
}

// --------------------------------------------------------------------------------- single features

void test_monitor_trap(void)
{
    l2_reset(l2_nops);
    if (!l2_control(PROC_CTLS, PROC_MTF)) {
        skip("not offered");
        return;
    }
    check_run(R_MTF, "one instruction");
    check_eq(vmread(GUEST_RIP) - (u64)l2_nops, 1, "RIP");
}

void test_pause_loop(void)
{
    l2_reset(l2_pauses);
    if (!l2_control(PROC2_CTLS, PROC2_PLE)) {
        skip("not offered");
        return;
    }
    vmwrite(PLE_GAP, 0x10000);
    vmwrite(PLE_WINDOW, 50);
    check_run(R_PAUSE, "a loop of PAUSEs");
}

void test_pml(void)
{
    u64 *log = alloc_pages(1), *page = alloc_pages(1), *entry;
    l2_reset(l2_writes);
    if (!l2_uses_ept() || !l2_offers(PROC2_CTLS, PROC2_PML) || !(caps.ept_vpid >> 21 & 1)) {
        skip("not offered");
        return;
    }
    entry = ept_entry((u64)page);
    *entry &= ~0x300ull;
    ept_flush();
    l2_control(PROC2_CTLS, PROC2_PML);
    vmwrite(EPTP, ept_pointer() | 0x40);
    vmwrite(PML_ADDRESS, (u64)log);
    vmwrite(PML_INDEX, 511);
    l2.rsi = (u64)page;
    check_run(R_VMCALL, "a write");
    u32 at = (u32)vmread(PML_INDEX);
    bool found = false;
    for (u32 i = at + 1; i < 512; i++)
        found |= log[i] == (u64)page;
    check(found, "its page is in the log");
    *entry &= ~0x300ull;
    ept_flush();
    l2_goto(l2_writes);
    vmwrite(PML_INDEX, 0xffff);
    check_run(R_PML_FULL, "a write with the log full");
}

void test_vm_functions(void)
{
    u64 *roots = alloc_pages(1), *other = alloc_pages(1);
    l2_reset(l2_vmfunc);
    if (!l2_uses_ept() || !l2_offers(PROC2_CTLS, PROC2_VMFUNC)) {
        skip("not offered");
        return;
    }
    ept_pointer();
    memcpy(other, ept_pml4, PAGE_SIZE);
    roots[0] = ept_pointer();
    roots[3] = (u64)other | 0x1e;
    l2_control(PROC2_CTLS, PROC2_VMFUNC);
    vmwrite(VMFUNC_CTLS, 1);
    vmwrite(EPTP_LIST, (u64)roots);
    l2.rax = 0;
    l2.rcx = 3;
    check_run(R_VMCALL, "EPTP switching");
    check(vmread(EPTP) == roots[3], "the EPT pointer");
    l2_goto(l2_vmfunc);
    l2.rax = 0;
    l2.rcx = 1;
    check_run(R_VMFUNC, "an empty entry of the list");
    l2_goto(l2_vmfunc);
    l2.rax = 0;
    l2.rcx = 512;
    check_run(R_VMFUNC, "beyond the list");
    l2_goto(l2_vmfunc);
    l2.rax = 5;
    check_run(R_VMFUNC, "another function");
}

void test_vmcs_shadowing(void)
{
    u8 *bitmaps = alloc_pages(2);
    u64 region = vmx_region();
    l2_reset(l2_vmread);
    if (!l2_offers(PROC2_CTLS, PROC2_SHADOW)) {
        skip("not offered");
        return;
    }
    vmclear(region);
    vmptrld(region);
    vmwrite(GUEST_RIP, 0x1122334455667788);
    vmclear(region);
    *(u32 *)region |= BIT(31);
    l2_reset(l2_vmread);
    l2_control(PROC2_CTLS, PROC2_SHADOW);
    vmwrite(VMREAD_BITMAP, (u64)bitmaps);
    vmwrite(VMWRITE_BITMAP, (u64)bitmaps + PAGE_SIZE);
    vmwrite(LINK_POINTER, region);
    l2.rdx = GUEST_RIP;
    check_run(R_VMCALL, "VMREAD of a shadowed field");
    check_eq(l2.rax, 0x1122334455667788, "what L2 reads");
    l2_goto(l2_vmwrite);
    l2.rax = 0x99;
    check_run(R_VMCALL, "VMWRITE of a shadowed field");
    l2_goto(l2_vmread);
    l2.rax = 0;
    check_run(R_VMCALL, "VMREAD after it");
    check_eq(l2.rax, 0x99, "what L2 reads after it");
    bitmaps[GUEST_RIP / 8] |= 1 << GUEST_RIP % 8;
    l2_goto(l2_vmread);
    check_run(R_VMREAD, "VMREAD of a field whose bit is set");
    vmwrite(LINK_POINTER, ~0ull);
    bitmaps[GUEST_RIP / 8] = 0;
    l2_goto(l2_vmread);
    check_run(R_VMCALL, "VMREAD without a shadow VMCS fails in L2");
    check_eq(vmread(GUEST_RFLAGS) & FLAGS_ALU, FLAG_CF, "VMfailInvalid");
}
