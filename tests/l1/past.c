// What other hypervisors got wrong once, a section for each: see docs/testing.md.

#include "tests/l1/vmx/events.h"

L2_CODE(vmcall, "");
L2_CODE(load, "mov (%rsi), %rax");
L2_CODE(loop, "mov $20000, %ecx; 2: dec %ecx; jnz 2b");
L2_CODE(set_tpr, "mov %rsi, %cr8");
L2_CODE(store, "mov %rax, (%rsi)");
L2_CODE(function, "vmfunc");
L2_CODE(rdmsr, "rdmsr");
L2_CODE(wrmsr, "wrmsr");

enum { PATTERN = 0xa5 };
#define WINDOW  0x40000000ull // of L2's addresses
#define NOWHERE 0xe0000000ull // a hole in the address space

// Bits from the width of physical addresses on are reserved in EPT entries, those below are not:
// whoever takes another width sees misconfigurations where there are none, or maps what is not
// there.
static void test_ept_physical_width(void)
{
    u32 width = cpuid(0x80000008, 0).a & 0xff, wrong = 0;
    l2_reset(l2_load);
    if (!l2_uses_ept()) {
        skip("no EPT");
        return;
    }
    u64 *entry = ept_entry(WINDOW);
    l2.rsi = WINDOW;
    for (u32 bit = width; bit < 52; bit++) {
        *entry = BIT(bit) | 0x37;
        ept_flush();
        wrong += l2_run() != R_EPT_MISCONFIG;
    }
    check_eq(wrong, 0, "address bits beyond the width that are no misconfiguration");
    *entry = BIT(width - 1) | 0x37;
    ept_flush();
    l2.rax = 0;
    check_run(R_VMCALL, "the highest address bit of the width: no misconfiguration");
    check_eq(l2.rax, ~0ull, "what is read where there is no memory");
    vmwrite(EPTP, ept_pointer() | BIT(width));
    check_run(L2_FAILED | VMX_VALID | 7, "an EPT pointer beyond the width");
}

// The preemption timer ends with the VM exit, and belongs to the VMCS that was entered.
static void test_preemption_timer(void)
{
    u64 first = vmx_region(), second = vmx_region();
    if (!l2_offers(PIN_CTLS, PIN_PREEMPTION)) {
        skip("no preemption timer");
        return;
    }
    l2_vmcs = first;
    l2_reset(l2_vmcall);
    l2_control(PIN_CTLS, PIN_PREEMPTION);
    vmwrite(PREEMPTION_TIMER, 3000 >> (caps.misc & 0x1f));
    check_run(R_VMCALL, "an exit before the timer ends");
    l2_vmcs = second;
    l2_reset(l2_loop);
    check_run(R_VMCALL, "another VMCS runs for longer, without a timer");
    vmclear(first);
    l2_goto(l2_loop);
    check_run(R_VMCALL, "and so when the first is cleared");
    l2_vmcs = first;
    l2_reset(l2_loop);
    check_run(R_VMCALL, "and the first itself, with the timer off");
    l2_goto(l2_loop);
    l2_control(PIN_CTLS, PIN_PREEMPTION);
    check_run(R_PREEMPTION, "and with the timer on it ends it");
}

static u64 changed_bytes(const u8 *page)
{
    u64 n = 0;
    for (u32 i = 0; i < PAGE_SIZE; i++)
        n += page[i] != PATTERN;
    return n;
}

// A page that the VMCS named before, but does not any more, is L1's alone.
static void test_virtual_apic_page(void)
{
    u8 *first = alloc_pages(1), *second = alloc_pages(1);
    l2_reset(l2_set_tpr);
    if (!l2_control(PROC_CTLS, PROC_TPR_SHADOW)) {
        skip("no TPR shadow");
        return;
    }
    vmwrite(TPR_THRESHOLD, 0);
    vmwrite(VAPIC_ADDRESS, (u64)first);
    l2.rsi = 7;
    check_run(R_VMCALL, "L2 writes CR8");
    check_eq(first[0x80], 0x70, "VTPR in the page");
    memset(first, PATTERN, PAGE_SIZE);
    vmwrite(VAPIC_ADDRESS, (u64)second);
    l2_goto(l2_set_tpr);
    check_run(R_VMCALL, "with another page");
    check_eq(second[0x80], 0x70, "VTPR in the other page");
    check_eq(changed_bytes(first), 0, "bytes changed in the first page");
    memset(second, PATTERN, PAGE_SIZE);
    vmclear(l2_vmcs);
    l2_reset(l2_set_tpr);
    l2.rsi = 3;
    check_run(R_VMCALL, "without TPR shadow");
    u64 cr8;
    asm volatile("mov %%cr8, %0; mov %1, %%cr8" : "=&r"(cr8) : "r"(0ull));
    check_eq(cr8, 3, "CR8 is L1's");
    check_eq(changed_bytes(first) + changed_bytes(second), 0, "bytes changed in the pages");
}

// A posted-interrupt descriptor is one only while its VMCS is in use: a notification that comes at
// another time is an interrupt like any other.
static void test_posted_descriptor(void)
{
    enum { NOTIFICATION = 0xf2 };
    u64 *descriptor = alloc_pages(1);
    apic_enable();
    l2_reset(l2_vmcall);
    if (!l2_control(PIN_CTLS, PIN_EXTINT | PIN_POSTED)) {
        skip("no posted interrupts");
        return;
    }
    l2_control(PROC_CTLS, PROC_TPR_SHADOW);
    l2_control(PROC2_CTLS, PROC2_VINTR);
    l2_control(EXIT_CTLS, EXIT_ACK);
    vmwrite(VAPIC_ADDRESS, (u64)alloc_pages(1));
    vmwrite(TPR_THRESHOLD, 0);
    vmwrite(POSTED_DESC, (u64)descriptor);
    vmwrite(POSTED_NV, NOTIFICATION);
    check_run(R_VMCALL, "L2 with a descriptor");
    memset(descriptor, PATTERN, PAGE_SIZE);
    apic_self_ipi(NOTIFICATION);
    irq_window();
    apic_eoi();
    check_eq(changed_bytes((u8 *)descriptor), 0, "bytes changed by a notification to L1");
    vmclear(l2_vmcs);
    l2_reset(l2_vmcall);
    vmset(PIN_CTLS, PIN_EXTINT);
    apic_self_ipi(NOTIFICATION);
    check_run(R_EXTINT, "L2 without a descriptor: an exit");
    irq_drain();
    check_eq(changed_bytes((u8 *)descriptor), 0, "bytes changed by a notification to L2");
}

// A memory operand of a VMX instruction that L0 cannot reach as memory is no page fault of which
// nobody has filled in the record.
static void test_fault_record(void)
{
    enum { CR2 = 0x123456789000 };
    u64 *page = page_entry(0x38000000), pointer = NOWHERE;
    u64 good = vmx_region();
    vmptrld(good);
    asm volatile("mov %0, %%cr2" : : "r"((u64)CR2));
    u32 r = VMX_INSN("vmptrld (%[a])", [a] "r"(pointer));
    check_outcome(r, VMX_VALID | 9, "VMPTRLD with an operand in no memory");
    r = VMX_INSN("vmclear (%[a])", [a] "r"(pointer));
    check_outcome(r, VMX_VALID | 2, "VMCLEAR");
    r = VMX_INSN("invept (%[a]), %[t]", [a] "r"(pointer), [t] "r"(1ull));
    check_outcome(r, VMX_VALID | 28, "INVEPT");
    r = VMX_INSN("invvpid (%[a]), %[t]", [a] "r"(pointer), [t] "r"(1ull));
    check_outcome(r, VMX_VALID | 28, "INVVPID");
    r = VMX_INSN("vmptrst (%[a])", [a] "r"(pointer));
    check_outcome(r, VMX_OK, "VMPTRST");
    r = VMX_INSN("vmread %[e], (%[a])", [a] "r"(pointer), [e] "r"((u64)GUEST_RIP));
    check_outcome(r, VMX_OK, "VMREAD");
    r = VMX_INSN("vmwrite (%[a]), %[e]", [a] "r"(pointer), [e] "r"((u64)GUEST_RIP));
    check_outcome(r, VMX_OK, "VMWRITE");
    check_eq(vmread(GUEST_RIP), ~0ull, "what it wrote");
    check_eq(read_cr2(), CR2, "CR2");
    *page &= ~PTE_P;
    asm volatile("invlpg (%0)" : : "r"(0x38000000ull) : "memory");
    r = VMX_INSN("vmptrst (%[a])", [a] "r"(0x38000010ull));
    check_outcome(r, VMX_FAULT | VEC_PF, "a page that is not present");
    check_eq(fault.error, 2, "a page that is not present: error code");
    check_eq(fault.cr2, 0x38000010, "a page that is not present: CR2");
    *page |= PTE_P;
}

struct msr_entry {
    u32 index, reserved;
    u64 v;
};

// Lists of MSRs: their end, and what may stand in them. (Huge ones: robust-msr-lists.)
static void test_msr_lists(void)
{
    static const u32 forbidden[] = {0xc0000100, 0xc0000101, 0x802, 0x8ff, 0x3000};
    static const u32 fields[][2] = {{ENTRY_MSR_LOAD, ENTRY_MSR_LOAD_COUNT},
                                    {EXIT_MSR_LOAD, EXIT_MSR_LOAD_COUNT},
                                    {EXIT_MSR_STORE, EXIT_MSR_STORE_COUNT}};
    struct msr_entry *list = alloc_pages(1);
    l2_reset(l2_vmcall);
    for (u32 i = 0; i < ARRAY_SIZE(fields); i++) {
        vmwrite(fields[i][0], caps.phys_limit - 32);
        vmwrite(fields[i][1], 3);
        check_run(L2_FAILED | VMX_VALID | 7, "list %u ends beyond the physical width", i);
        vmwrite(fields[i][1], 0);
    }
    vmwrite(ENTRY_MSR_LOAD, (u64)list);
    vmwrite(ENTRY_MSR_LOAD_COUNT, 2);
    list[0].index = 0xc0000102;
    for (u32 i = 0; i < ARRAY_SIZE(forbidden); i++) {
        list[1].index = forbidden[i];
        check_run(R_BAD_MSR | R_ENTRY_FAILED, "MSR 0x%x", forbidden[i]);
        check_eq(vmread(QUALIFICATION), 2, "MSR 0x%x: which", forbidden[i]);
    }
}

static u64 l2_msr(const void *code, u32 msr, u64 v)
{
    l2_goto(code);
    l2.rcx = msr;
    l2.rax = (u32)v;
    l2.rdx = v >> 32;
    u32 r = l2_run();
    return r == R_VMCALL ? (u32)l2.rax | l2.rdx << 32 : r | BIT(63);
}

// What L1 opens to L2 is L1's own, of whatever L0 has itself; what it does not open, exits.
static void test_msr_bitmap(void)
{
    u8 *bitmap = alloc_pages(1);
    apic_enable();
    if (!(cpuid(1, 0).c >> 21 & 1)) {
        skip("no x2APIC");
        return;
    }
    wrmsr(0x1b, rdmsr(0x1b) | 0xc00);
    wrmsr(0x80f, 0x1ff);
    l2_reset(l2_rdmsr);
    l2_control(PROC_CTLS, PROC_MSR_BITMAPS);
    vmwrite(MSR_BITMAP, (u64)bitmap);
    wrmsr(0x838, 0);
    wrmsr(0x832, 0x10000 | 0x55);
    check_eq(l2_msr(l2_rdmsr, 0x802, 0), rdmsr(0x802), "L2 reads the APIC's ID");
    check_eq(l2_msr(l2_rdmsr, 0x832, 0), 0x10055, "L2 reads the timer's vector as L1 wrote it");
    l2_msr(l2_wrmsr, 0x832, 0x10066);
    check_eq(rdmsr(0x832), 0x10066, "L2 writes it for L1");
    l2_msr(l2_wrmsr, 0x808, 0x50);
    check_eq(rdmsr(0x808), 0x50, "L2 writes L1's TPR");
    wrmsr(0x808, 0);
    u32 before = irq_count[0x51];
    l2_msr(l2_wrmsr, 0x83f, 0x51);
    irq_window();
    apic_eoi();
    check_eq(irq_count[0x51] - before, 1, "an interrupt that L2 sends to itself comes to L1");
    check_eq(l2_msr(l2_rdmsr, 0x3a, 0), rdmsr(0x3a), "L2 reads L1's IA32_FEATURE_CONTROL");
    check_eq(l2_msr(l2_rdmsr, 0x1b, 0), rdmsr(0x1b), "L2 reads L1's IA32_APIC_BASE");
    check_eq(l2_msr(l2_rdmsr, 0x40000000, 0), R_RDMSR | BIT(63), "beyond the bitmap: an exit");
    memset(bitmap, 0xff, PAGE_SIZE);
    check_eq(l2_msr(l2_rdmsr, 0x802, 0), R_RDMSR | BIT(63), "a bit that is set: an exit");
    check_eq(l2_msr(l2_wrmsr, 0x808, 0x50), R_WRMSR | BIT(63), "a bit that is set: an exit, too");
    check_eq(rdmsr(0x808), 0, "and L1's TPR stays");
}

// Pointers that L0 follows for L1: beyond the width they fail the entry, within it they may lead
// nowhere.
static void test_lists_out_of_range(void)
{
    l2_reset(l2_function);
    if (!l2_uses_ept() || !l2_control(PROC2_CTLS, PROC2_VMFUNC)) {
        skip("no VM functions");
        return;
    }
    vmwrite(VMFUNC_CTLS, 1);
    vmwrite(EPTP_LIST, caps.phys_limit);
    check_run(L2_FAILED | VMX_VALID | 7, "a list of EPT pointers beyond the width");
    vmwrite(EPTP_LIST, NOWHERE);
    l2.rax = l2.rcx = 0;
    check_run(R_VMFUNC, "a list of EPT pointers in no memory");
    vmwrite(EPTP_LIST, (u64)alloc_pages(1));
    l2.rcx = 512;
    check_run(R_VMFUNC, "an entry beyond the list");
    l2_defaults(l2_store);
    if (!l2_control(PROC2_CTLS, PROC2_PML)) {
        skip("no page-modification log");
        return;
    }
    vmwrite(EPTP, ept_pointer() | 0x40);
    vmwrite(PML_INDEX, 511);
    vmwrite(PML_ADDRESS, caps.phys_limit);
    check_run(L2_FAILED | VMX_VALID | 7, "a log beyond the width");
    vmwrite(PML_ADDRESS, NOWHERE);
    l2.rsi = 0x3000000;
    check_run(R_VMCALL, "a log in no memory");
}

int main(void);
int main(void)
{
    static const struct test tests[] = {
        {"ept-physical-width", test_ept_physical_width},
        {"preemption-timer", test_preemption_timer},
        {"virtual-apic-page", test_virtual_apic_page},
        {"posted-descriptor", test_posted_descriptor},
        {"fault-record", test_fault_record},
        {"msr-lists", test_msr_lists},
        {"lists-out-of-range", test_lists_out_of_range},
        {"msr-bitmap", test_msr_bitmap}, // last: the APIC stays in x2APIC mode
    };
    vmx_begin();
    return run_tests("past", tests, ARRAY_SIZE(tests));
}
