// Page faults that L2 resolves itself: with EPT none of them leaves L2; without, L1 keeps shadow
// page tables, in the way that hypervisors do: each fault goes through L1, and so do INVLPG and MOV
// to CR3.

#include "tests/bench/bench.h"

// L2's linear addresses, and what its handler maps there.
#define AREA   0x60000000ull
#define MEMORY (80 * MIB)

enum { PAGES = 64, PRESENT_WRITABLE = 3, ERROR_WRITE = 2, SHADOW_VPID = 6 };
enum { PF_INFO = 0x80000b0e, CR_TO = 0, CR_FROM = 1 };

// Writes to RCX pages from RSI on.
#define TOUCH_ALL "mov %rcx, (%rsi); add $4096, %rsi; dec %ecx; jnz 4b;"
L2_CODE(storm, L2_START "4:" TOUCH_ALL L2_STOP);
// Like a child after fork(): all pages are made read-only first, and CR3 is loaded.
L2_CODE(fork, L2_START "mov %ecx, %ebx; 5: andq $~2, (%rdi); add $8, %rdi; dec %ebx; jnz 5b;"
                       "mov %cr3, %rax; mov %rax, %cr3; 4:" TOUCH_ALL L2_STOP);

// L2's #PF handler: maps the page, writable. R14: the leaf table. (L2's writes go to whole pages,
// so the low bits of CR2 are 0; 5000000H is MEMORY.)
asm(".pushsection .text\n"
    "l2_fault_handler: push %rax; push %rbx; push %rcx; mov %cr2, %rax;"
    "lea -0x60000000(%rax), %rcx; shr $12, %rcx; lea 0x5000003(%rax), %rbx;"
    "sub $0x60000000, %rbx; mov %rbx, (%r14, %rcx, 8); invlpg (%rax); incl bench_faults;"
    "pop %rcx; pop %rbx; pop %rax; add $8, %rsp; iretq\n"
    ".popsection\n");
extern u8 l2_fault_handler[];
u32 bench_faults;

static u64 *guest_cr3, *guest_leaf, *shadow_cr3, *shadow_leaf;
static struct idt_entry l2_idt[256];

// L1's own tables, with a leaf table of their own for AREA.
static u64 *make_tables(u64 **leaf)
{
    u64 *top = alloc_pages(1), *second = alloc_pages(1), *third = alloc_pages(1);
    *leaf = alloc_pages(1);
    memcpy(top, pml4, PAGE_SIZE);
    memcpy(second, pdpt, PAGE_SIZE);
    memcpy(third, pd + (AREA >> 30) * 512, PAGE_SIZE);
    top[0] = (u64)second | PRESENT_WRITABLE;
    second[AREA >> 30] = (u64)third | PRESENT_WRITABLE;
    third[AREA >> 21 & 511] = (u64)*leaf | PRESENT_WRITABLE;
    return top;
}

static void begin(void)
{
    bench_l2(l2_storm);
    if (!guest_cr3) {
        guest_cr3 = make_tables(&guest_leaf);
        shadow_cr3 = make_tables(&shadow_leaf);
    }
    u64 handler = (u64)l2_fault_handler;
    memcpy(l2_idt, idt, sizeof(l2_idt));
    l2_idt[VEC_PF] = (struct idt_entry){(u16)handler,         SEL_CODE64,           0, 0x8e,
                                        (u16)(handler >> 16), (u32)(handler >> 32), 0};
    vmwrite(GUEST_IDTR_BASE, (u64)l2_idt);
    vmwrite(GUEST_CR3, (u64)guest_cr3);
}

static void begin_shadow(void)
{
    begin();
    vmclr(PROC2_CTLS, PROC2_EPT);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_PF));
    vmset(PROC_CTLS, PROC_INVLPG | PROC_CR3_LOAD | PROC_CR3_STORE);
    if (caps.proc2 & PROC2_VPID)
        vmwrite(VPID, SHADOW_VPID);
    vmwrite(GUEST_CR3, (u64)shadow_cr3);
}

static void flush_vpids(void)
{
    if (caps.proc2 & PROC2_VPID)
        invvpid(2, 0, 0);
}

static void restart(const void *code)
{
    l2_goto(code);
    l2.rsi = AREA;
    l2.rcx = PAGES;
    l2.rdi = (u64)guest_leaf;
    l2.r14 = (u64)guest_leaf;
    bench_faults = 0;
}

static void before_storm(void)
{
    memset(guest_leaf, 0, PAGE_SIZE);
    memset(shadow_leaf, 0, PAGE_SIZE);
    flush_vpids();
    restart(l2_storm);
}

// All pages are mapped and writable before.
static void before_fork(void)
{
    for (u64 i = 0; i < PAGES; i++)
        guest_leaf[i] = shadow_leaf[i] = (MEMORY + i * PAGE_SIZE) | PRESENT_WRITABLE;
    flush_vpids();
    restart(l2_fork);
}

static bool good(void)
{
    for (u64 i = 0; i < PAGES; i++)
        if (read64(MEMORY + i * PAGE_SIZE) != PAGES - i)
            return false;
    return left_by(R_VMCALL) && bench_faults == PAGES;
}

static void run_with_ept(void)
{
    bench_enter();
    read_reason();
}

// --- L1's shadow paging ---

static void shadow_flush(void)
{
    struct invvpid_desc d = {SHADOW_VPID, {0}, 0};
    memset(shadow_leaf, 0, PAGES * sizeof(u64));
    asm volatile("invvpid %0, %1" : : "m"(d), "r"(1ull) : "memory", "cc");
}

static void shadow_drop(u64 address)
{
    struct invvpid_desc d = {SHADOW_VPID, {0}, address};
    shadow_leaf[address >> 12 & 511] = 0;
    asm volatile("invvpid %0, %1" : : "m"(d), "r"(0ull) : "memory", "cc");
}

// The fault is L2's own where its tables do not allow the access, else the shadow's.
static void page_fault(void)
{
    u64 address = field_read(QUALIFICATION), error = field_read(EXIT_INTR_ERROR);
    u64 entry = guest_leaf[address >> 12 & 511];
    if ((entry & PTE_P) && ((entry & PTE_W) || !(error & ERROR_WRITE))) {
        shadow_leaf[address >> 12 & 511] = entry;
        return;
    }
    write_cr2(address);
    field_write(ENTRY_INTR_INFO, PF_INFO);
    field_write(ENTRY_ERROR_CODE, error);
}

// MOV to and from CR3, with RAX.
static void cr_access(void)
{
    if ((field_read(QUALIFICATION) >> 4 & 3) == CR_FROM)
        l2.rax = (u64)guest_cr3;
    else
        shadow_flush();
    skip_insn(field_read(EXIT_LENGTH));
}

static void run_with_shadow(void)
{
    do {
        bench_enter();
        read_reason();
        switch (exit_reason) {
        case R_EXCEPTION:
            page_fault();
            break;
        case R_INVLPG:
            shadow_drop(field_read(QUALIFICATION));
            skip_insn(field_read(EXIT_LENGTH));
            break;
        case R_CR_ACCESS:
            cr_access();
            break;
        default:
            return;
        }
    } while (!bench_failed);
}

static const char *missing(void)
{
    bool invvpids = (caps.ept_vpid >> 40 & 7) == 7; // by address, single context, all
    return l2_uses_ept() && (caps.proc2 & PROC2_VPID) && invvpids ? NULL : "no EPT or no VPID";
}

static const struct op list[] = {
    {.name = "l2-faults-64",
     .begin = begin,
     .before = before_storm,
     .run = run_with_ept,
     .good = good,
     .in_l2 = true},
    {.name = "l2-fork-64",
     .begin = begin,
     .before = before_fork,
     .run = run_with_ept,
     .good = good,
     .in_l2 = true},
    {.name = "shadow-faults-64",
     .begin = begin_shadow,
     .before = before_storm,
     .run = run_with_shadow,
     .good = good,
     .in_l2 = true},
    {.name = "shadow-fork-64",
     .begin = begin_shadow,
     .before = before_fork,
     .run = run_with_shadow,
     .good = good,
     .in_l2 = true},
};
const struct ops ops_mmu = {list, ARRAY_SIZE(list), missing};
