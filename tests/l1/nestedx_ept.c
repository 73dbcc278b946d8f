// "Page-Modification Logging", "VM Functions", "Virtualization Exceptions".

#include "tests/l1/nestedx.h"

#define AREA 0x50000000ull // L2's address (linear and guest-physical) for experiments
#define VEC_VE 20

L2_CODE(fill, "1: mov %rax, (%rsi)\n add %rdx, %rsi\n dec %rcx\n jnz 1b");
L2_CODE(store, "mov %rax, (%rsi)");
L2_CODE(load, "mov (%rsi), %rax");
L2_CODE(function, "vmfunc");
L2_CODE(function_load, "vmfunc\n mov (%rsi), %rax");
asm(".pushsection .text\nl2_enter_user:\n"
    "push $0x33\n push $l2_stack_user_top\n push $2\n push $0x3b\n push $l2_user\n iretq\n"
    "l2_user: vmfunc\n vmcall\n jmp l2_user\n.popsection\n"
    ".pushsection .bss\n.balign 64\n.skip 256\nl2_stack_user_top:\n.popsection\n");
extern u8 l2_enter_user[];

static u8 *pages; // what AREA leads to: 8 pages
static u64 *entry;

enum { PAGES = 8 };

static void start(const u8 *code)
{
    l2_defaults(code);
    events_idt();
    l2.rsi = AREA;
    l2.rdx = PAGE_SIZE;
}

// Leaves AREA mapped, with all permissions, no flags set and #VE suppressed.
static bool begin(u32 control)
{
    if (!l2_uses_ept() || !l2_offers(PROC2_CTLS, control)) {
        skip("no such control");
        return false;
    }
    if (!pages)
        pages = alloc_pages(PAGES);
    ept_pointer();
    l2_reset(l2_load);
    entry = ept_entry(AREA);
    for (u32 i = 0; i < PAGES; i++)
        entry[i] = ((u64)pages + i * PAGE_SIZE) | 0x37 | BIT(63);
    ept_flush();
    return true;
}

// ------------------------------------------------------------------------------------------- log

static u64 *pml;

static void start_logging(const u8 *code, u64 writes)
{
    start(code);
    l2.rcx = writes;
    l2_control(PROC2_CTLS, PROC2_PML);
    vmwrite(PML_ADDRESS, (u64)pml);
    vmwrite(EPTP, ept_pointer() | 0x40);
}

static void clear_flags(void)
{
    for (u32 i = 0; i < PAGES; i++)
        entry[i] &= ~0x300ull;
    ept_flush();
}

// Which of the entries `from` to `to` of the log are pages of AREA, and how many other ones there
// are (L2's stack and page tables, which do not matter).
static u32 logged(u32 from, u32 to)
{
    u32 set = 0;
    for (u32 i = from; i <= to && i < 512; i++)
        if (pml[i] >= AREA && pml[i] < AREA + PAGES * PAGE_SIZE && !(pml[i] & 0xfff))
            set |= 1u << (pml[i] - AREA) / PAGE_SIZE;
    return set;
}

void test_pml(void)
{
    if (!begin(PROC2_PML))
        return;
    pml = alloc_pages(1);
    start_logging(l2_fill, 4);
    vmwrite(PML_INDEX, 511);
    check_run(R_VMCALL, "four pages are written");
    u32 index = (u32)vmread(PML_INDEX);
    check(index < 508 && index < 512, "four pages: the index went down");
    check_eq(logged(index + 1, 511), 0xf, "four pages: which are in the log");
    check_eq(entry[3] & 0x300, 0x300, "four pages: A and D");
    start_logging(l2_fill, 4);
    vmwrite(PML_INDEX, 511);
    check_run(R_VMCALL, "the same pages again");
    check_eq(vmread(PML_INDEX), 511, "the same pages again: the index");
    start_logging(l2_load, 0);
    vmwrite(PML_INDEX, 511);
    l2.rsi = AREA + 5 * PAGE_SIZE;
    check_run(R_VMCALL, "a page that is read");
    check_eq(vmread(PML_INDEX), 511, "a page that is read: the index");
    clear_flags();
    start_logging(l2_fill, 4);
    vmwrite(PML_INDEX, 1); // room for two
    check_run(R_PML_FULL, "flags cleared, room for two");
    check_eq(vmread(PML_INDEX), 0xffff, "log full: the index");
    check_eq(vmread(QUALIFICATION), 0, "log full: qualification");
    check(vmread(GUEST_RIP) == (u64)l2_fill, "log full: RIP");
    check_eq(logged(0, 1), 3, "log full: what is in it");
    check_eq(entry[1] & 0x200, 0x200, "log full: D of the page that had room");
    check_eq(entry[2] & 0x200, 0, "log full: D of the page that had not");
    vmwrite(PML_INDEX, 0x200);
    check_run(R_PML_FULL, "index 512");
    vmwrite(PML_INDEX, 0x1ff);
    check_run(R_VMCALL, "room again");
    check_eq(logged(510, 511), 0xc, "room again: what is in the log");
    check_eq(vmread(PML_INDEX), 509, "room again: the index");
    clear_flags();
    start_logging(l2_fill, 4);
    vmwrite(PML_INDEX, 400);
    vmwrite(EPTP, ept_pointer());
    check_run(R_VMCALL, "without the flags in the EPT pointer");
    check_eq(vmread(PML_INDEX), 400, "without the flags: the index");
    start_logging(l2_store, 0);
    vmwrite(PML_INDEX, 0xffff);
    vmwrite(GUEST_RFLAGS, 0x202);
    vmwrite(ENTRY_INTR_INFO, 0x80000041);
    u64 *stack = ept_entry(l2_stack_top - 64);
    *stack &= ~0x300ull;
    ept_flush();
    check_run(R_PML_FULL, "while an interrupt is delivered");
    check_eq(vmread(IDT_VECTORING), 0x80000041, "while an interrupt is delivered: IDT-vectoring");
    clear_flags();
    for (u32 i = 0; i < 2048; i++)
        ept_pd[i] &= ~(ept_pd[i] & PTE_PS ? 0x300ull : 0x100ull);
    *stack &= ~0x300ull;
    ept_flush();
}

// ------------------------------------------------------------------------------------- functions

static u64 *list;

static void start_function(const u8 *code, u64 function, u64 index)
{
    start(code);
    l2.rax = function;
    l2.rcx = index;
    l2_control(PROC2_CTLS, PROC2_VMFUNC);
    vmwrite(VMFUNC_CTLS, 1);
    vmwrite(EPTP_LIST, (u64)list);
}

void test_vmfunc(void)
{
    if (!begin(PROC2_VMFUNC))
        return;
    check_eq(rdmsr(0x491), 1, "VM functions offered");
    list = alloc_pages(1);
    start(l2_function);
    check_delivered(l2_run(), VEC_UD, "without the control");
    start(l2_function);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_UD));
    check_run(R_EXCEPTION, "without the control, #UD intercepted");
    start_function(l2_function, 0, 0);
    vmwrite(VMFUNC_CTLS, 0);
    check_run(R_VMFUNC, "no function enabled");
    check_eq(vmread(EXIT_LENGTH), 3, "no function enabled: instruction length");
    check_eq(vmread(QUALIFICATION), 0, "no function enabled: qualification");
    start_function(l2_function, 1, 0);
    check_run(R_VMFUNC, "function 1");
    start_function(l2_function, 63, 0);
    check_run(R_VMFUNC, "function 63");
    start_function(l2_function, 64, 0);
    check_delivered(l2_run(), VEC_UD, "function 64");
    start_function(l2_function, 0, 512);
    check_run(R_VMFUNC, "index 512");
    check(vmread(GUEST_RIP) == (u64)l2_function, "index 512: RIP");
    static const struct {
        const char *name;
        u64 eptp;
    } bad[] = {
        {"zero", 0}, {"memory type 1", 1 | 3 << 3}, {"three levels", 6 | 2 << 3},
        {"a reserved bit", 6 | 3 << 3 | BIT(8)},
        {"an address beyond the width", 6 | 3 << 3 | BIT(51)},
    };
    for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
        list[7] = bad[i].eptp;
        start_function(l2_function, 0, 7);
        check_run(R_VMFUNC, "EPT pointer: %s", bad[i].name);
        check(vmread(EPTP) == ept_pointer(), "EPT pointer: %s: EPTP", bad[i].name);
    }
    start_function(l2_function, 0, 0);
    vmwrite(VMFUNC_CTLS, 2);
    check_run(L2_FAILED | VMX_VALID | 7, "entry with a reserved function");
    start_function(l2_function, 0, 0);
    vmwrite(EPTP_LIST, (u64)list | 8);
    check_run(L2_FAILED | VMX_VALID | 7, "entry with a list that is not aligned");
    vmwrite(EPTP_LIST, caps.phys_limit);
    check_run(L2_FAILED | VMX_VALID | 7, "entry with a list beyond the width");
    vmwrite(EPTP_LIST, (u64)list);
    vmclr(PROC2_CTLS, PROC2_EPT);
    check_run(L2_FAILED | VMX_VALID | 7, "entry with EPTP switching and no EPT");
}

void test_eptp_switching(void)
{
    if (!begin(PROC2_VMFUNC))
        return;
    list = alloc_pages(1);
    // A second tree, which differs in where AREA leads.
    u64 *top = alloc_pages(1), *pdpt2 = alloc_pages(1), *pd2 = alloc_pages(1);
    u64 *table = alloc_pages(1);
    memcpy(pdpt2, ept_pdpt, PAGE_SIZE);
    memcpy(pd2, ept_pd + 512, PAGE_SIZE);
    top[0] = (u64)pdpt2 | 7;
    pdpt2[1] = (u64)pd2 | 7;
    pd2[(AREA - GIB) >> 21] = (u64)table | 7;
    table[0] = ((u64)pages + PAGE_SIZE) | 0x37;
    u64 second = (u64)top | 3 << 3 | 6;
    list[0] = ept_pointer();
    list[5] = second;
    list[511] = second | 0x40;
    write64((u64)pages, 0x1111);
    write64((u64)pages + PAGE_SIZE, 0x2222);
    ept_flush();
    start_function(l2_function_load, 0, 5);
    check_run(R_VMCALL, "to the second tree");
    check_eq(l2.rax, 0x2222, "to the second tree: what L2 reads");
    check(vmread(EPTP) == second, "to the second tree: EPTP");
    if (l2_offers(PROC2_CTLS, PROC2_VE))
        check_eq(vmread(EPTP_INDEX), 5, "to the second tree: EPTP index");
    l2_goto(l2_load);
    l2.rsi = AREA;
    check_run(R_VMCALL, "a new entry stays there");
    check_eq(l2.rax, 0x2222, "a new entry stays there: what L2 reads");
    l2_goto(l2_function_load);
    l2.rax = 0;
    l2.rcx = 0xabcd000000000000ull;
    check_run(R_VMCALL, "back, with bits above ECX");
    check_eq(l2.rax, 0x1111, "back: what L2 reads");
    u32 bad = 0;
    for (u32 i = 0; i < 50; i++) {
        l2_goto(l2_function_load);
        l2.rax = 0;
        l2.rcx = i & 1 ? 0 : 5;
        bad += l2_run() != R_VMCALL || l2.rax != (i & 1 ? 0x1111 : 0x2222);
    }
    check_eq(bad, 0, "50 times to and fro: wrong reads");
    if (caps.ept_vpid >> 21 & 1) {
        start_function(l2_function_load, 0, 511);
        check_run(R_VMCALL, "to the second tree with accessed and dirty flags");
        check_eq(table[0] & 0x300, 0x100, "with flags: A");
    }
    start_function(l2_enter_user, 0, 5);
    for (u64 a = 0; a < 4 * GIB; a += 2 * MIB)
        pd[a >> 21] |= PTE_U;
    pdpt[0] |= PTE_U, pml4[0] |= PTE_U;
    write_cr3(read_cr3());
    check_run(R_VMCALL, "in ring 3");
    check(vmread(EPTP) == second, "in ring 3: EPTP");
    check_eq(vmread(GUEST_CS) & 3, 3, "in ring 3: RPL of CS");
    for (u64 a = 0; a < 4 * GIB; a += 2 * MIB)
        pd[a >> 21] &= ~PTE_U;
    pdpt[0] &= ~PTE_U, pml4[0] &= ~PTE_U;
    write_cr3(read_cr3());
    table[0] = 0;
    ept_flush();
    start_function(l2_function_load, 0, 5);
    check_run(R_EPT_VIOLATION, "the page is missing in the second tree");
    check_eq(vmread(GUEST_PHYSICAL), AREA, "missing: guest-physical address");
    check_eq(vmread(GUEST_RIP) - (u64)l2_function_load, 3, "missing: RIP");
}

// -------------------------------------------------------------------------------------- exceptions

static u64 *area; // the information area

static void start_ve(const u8 *code)
{
    start(code);
    memset(area, 0, 64);
    l2_control(PROC2_CTLS, PROC2_VE);
    vmwrite(VE_INFO, (u64)area);
    vmwrite(EPTP_INDEX, 0x1234);
}

static void set_entry(u64 v)
{
    *entry = v;
    ept_flush();
}

void test_ve(void)
{
    if (!begin(PROC2_VE))
        return;
    area = alloc_pages(1);
    set_entry(0);
    start_ve(l2_store);
    l2.rsi = AREA + 0x123;
    check_delivered(l2_run(), VEC_VE, "a write to a missing page");
    check_eq((u32)area[0], R_EPT_VIOLATION, "area: exit reason");
    check_eq(area[0] >> 32, 0xffffffff, "area: busy");
    check_eq(area[1] & 0x1bf, 0x182, "area: qualification");
    check_eq(area[2], AREA + 0x123, "area: linear address");
    check_eq(area[3], AREA + 0x123, "area: guest-physical address");
    check_eq(area[4], 0x1234, "area: EPTP index");
    check(events_stack(0) == (u64)l2_store, "on the stack: RIP of the instruction");
    set_entry((u64)pages | 0x35);
    start_ve(l2_store);
    check_delivered(l2_run(), VEC_VE, "a write to a read-only page");
    check_eq(area[1] & 0x1bf, 0x1aa, "a read-only page: qualification");
    start_ve(l2_store);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_VE));
    check_run(R_EXCEPTION, "#VE intercepted");
    check_eq(vmread(EXIT_INTR_INFO), 0x80000314, "#VE intercepted: information");
    check_eq(area[0] >> 32, 0xffffffff, "#VE intercepted: area is written");
    check(vmread(GUEST_RIP) == (u64)l2_store, "#VE intercepted: RIP");
    // It can be repeated after the guest has cleared the busy word.
    start_ve(l2_load);
    set_entry(0);
    u32 bad = 0;
    for (u32 i = 0; i < 20; i++) {
        area[0] = 0;
        l2_goto(l2_load);
        bad += l2_run() != R_VMCALL || events_vector() != VEC_VE;
    }
    check_eq(bad, 0, "20 times: bad");
    set_entry((u64)pages | 0x37);
}

void test_ve_not(void)
{
    if (!begin(PROC2_VE))
        return;
    area = alloc_pages(1);
    set_entry(BIT(63));
    start_ve(l2_load);
    check_run(R_EPT_VIOLATION, "a missing page with bit 63");
    check_eq(area[0], 0, "bit 63: the area");
    set_entry((u64)pages | 0x34 | BIT(63));
    start_ve(l2_store);
    check_run(R_EPT_VIOLATION, "a page without W with bit 63");
    set_entry(0);
    start_ve(l2_load);
    area[0] = BIT(32);
    check_run(R_EPT_VIOLATION, "busy is not 0");
    check_eq(area[0], BIT(32), "busy is not 0: the area");
    u64 *pde = &ept_pd[AREA >> 21], good = *pde;
    *pde = BIT(63);
    ept_flush();
    start_ve(l2_load);
    check_run(R_EPT_VIOLATION, "a missing table with bit 63");
    *pde = 0;
    ept_flush();
    start_ve(l2_load);
    check_delivered(l2_run(), VEC_VE, "a missing table without bit 63");
    *pde = good | BIT(63); // ignored in an entry that refers to a table
    ept_flush();
    start_ve(l2_load);
    check_delivered(l2_run(), VEC_VE, "bit 63 in a present directory entry");
    *pde = good;
    ept_flush();
    start_ve(l2_load);
    u64 *stack = ept_entry(l2_stack_top - 64), stack_good = *stack;
    *stack = 0;
    ept_flush();
    vmwrite(ENTRY_INTR_INFO, 0x80000b0d);
    check_run(R_EPT_VIOLATION, "while an event is delivered");
    check_eq(vmread(IDT_VECTORING), 0x80000b0d, "while an event is delivered: IDT-vectoring");
    check_eq(area[0], 0, "while an event is delivered: the area");
    *stack = stack_good;
    ept_flush();
    set_entry((u64)pages | 0x32); // write-only
    start_ve(l2_load);
    check_run(R_EPT_MISCONFIG, "a misconfiguration");
    start_ve(l2_load);
    vmclr(PROC2_CTLS, PROC2_VE);
    set_entry(0);
    check_run(R_EPT_VIOLATION, "without the control");
    start_ve(l2_load);
    vmwrite(VE_INFO, (u64)area | 0x800);
    check_run(L2_FAILED | VMX_VALID | 7, "entry with an area that is not aligned");
    vmwrite(VE_INFO, caps.phys_limit);
    check_run(L2_FAILED | VMX_VALID | 7, "entry with an area beyond the width");
    set_entry((u64)pages | 0x37);
}
