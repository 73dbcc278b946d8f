// Changes of EPT12: pages that come, entries that go.

#include "tests/bench/bench.h"

// L2's addresses (linear and guest-physical), one leaf table each; L1's memory behind each page.
#define FULL   0x50000000ull // 512 pages
#define SPARSE 0x50200000ull // 16 pages
#define FRESH  0x50400000ull // pages that come one by one
#define MEMORY (64 * MIB)

enum { LEAF = 512, FEW = 16, VICTIM = 7, RWX_WB = 0x37 };

// Adds up the first words of RCX pages from RSI on.
#define SUM_PAGES                                                                                  \
    "xor %eax, %eax; xor %ebx, %ebx; 2: add (%rsi), %rbx; add $4096, %rsi; dec %ecx; jnz 2b;"
L2_CODE(sum, L2_START SUM_PAGES L2_STOP);
L2_CODE(touch, L2_START "add (%rsi), %rbx;" L2_STOP);

static u64 *full, *sparse, *fresh;
static u64 left_at;

static u64 value_of(u64 page)
{
    return 0x1000 + page;
}

static void fill(u64 *table, u32 present)
{
    for (u64 i = 0; i < LEAF; i++)
        table[i] = i < present ? (MEMORY + i * PAGE_SIZE) | RWX_WB : 0;
}

static void flush(void)
{
    invept(1, ept_pointer(), 0);
}

static void build(void)
{
    if (!full) {
        ept_pointer();
        full = ept_entry(FULL);
        sparse = ept_entry(SPARSE);
        fresh = ept_entry(FRESH);
        for (u64 i = 0; i < LEAF; i++)
            write64(MEMORY + i * PAGE_SIZE, value_of(i));
    }
    fill(full, LEAF);
    fill(sparse, FEW);
    fill(fresh, 0);
    flush();
}

// L2 sums up `count` pages at `area`: true if the values are right and nothing was in the way.
static bool sum_is_right(u64 area, u32 count)
{
    u64 want = 0;
    for (u32 i = 0; i < count; i++)
        want += value_of(i);
    l2_goto(l2_sum);
    l2.rsi = area;
    l2.rcx = count;
    bench_enter();
    read_reason();
    return left_by(R_VMCALL) && l2.rbx == want;
}

// --- A page that EPT12 lacks ---

static u32 next_page;

static void begin_fresh(void)
{
    bench_l2(l2_touch);
    build();
    next_page = 0;
}

static void before_fresh(void)
{
    l2_goto(l2_touch);
    l2.rsi = FRESH + next_page * PAGE_SIZE;
    l2.rbx = 0;
}

// L1 maps the page where the violation says and lets L2 go on; no INVEPT is needed.
static void run_fresh(void)
{
    bench_enter();
    read_reason();
    if (exit_reason != R_EPT_VIOLATION)
        return;
    left_at = field_read(GUEST_PHYSICAL);
    fresh[(left_at - FRESH) / PAGE_SIZE & (LEAF - 1)] = (MEMORY + next_page * PAGE_SIZE) | RWX_WB;
    bench_enter();
    read_reason();
}

static bool good_fresh(void)
{
    bool good = left_by(R_VMCALL) && left_at == FRESH + next_page * PAGE_SIZE &&
                l2.rbx == value_of(next_page);
    next_page++;
    return good;
}

// --- INVEPT in the handler of a VMCALL ---

static u64 *table, area;
static u32 present;

static void begin_with(u64 *which, u64 where, u32 count)
{
    bench_l2(l2_vmcalls);
    build();
    table = which;
    area = where;
    present = count;
}

static void begin_full(void)
{
    build();
    begin_with(full, FULL, LEAF);
}

static void begin_sparse(void)
{
    build();
    begin_with(sparse, SPARSE, FEW);
}

// All pages are mapped and L2 has been at each.
static void before_invept(void)
{
    if (table[VICTIM] == 0)
        table[VICTIM] = (MEMORY + VICTIM * PAGE_SIZE) | RWX_WB;
    sum_is_right(area, present);
    l2_goto(l2_vmcalls);
}

static void raw_invept(void)
{
    struct invept_desc d = {(u64)ept_pml4 | 3 << 3 | 6, 0};
    asm volatile("invept %0, %1" : : "m"(d), "r"(1ull) : "memory", "cc");
}

// From the handler on, so that what L0 puts off to the next entry counts, too.
static void run_invept(void)
{
    raw_invept();
    bench_enter();
    read_reason();
    skip_insn(VMCALL_LENGTH);
}

static bool good_invept(void)
{
    return left_by(R_VMCALL) && sum_is_right(area, present);
}

static void run_unmap(void)
{
    table[VICTIM] = 0;
    run_invept();
}

// The page is gone for L2, the pages before it are there.
static bool good_unmap(void)
{
    if (!left_by(R_VMCALL) || !sum_is_right(area, VICTIM))
        return false;
    l2_goto(l2_touch);
    l2.rsi = area + VICTIM * PAGE_SIZE;
    bench_enter();
    read_reason();
    return left_by(R_EPT_VIOLATION) && vmread(GUEST_PHYSICAL) == area + VICTIM * PAGE_SIZE;
}

// 16 touches after another page of the table was unmapped: the pages themselves never went away.
static void before_touches(void)
{
    before_invept();
    table[FEW + VICTIM] = 0;
    run_invept();
    l2_goto(l2_sum);
    l2.rsi = area;
    l2.rcx = FEW;
}

static void run_touches(void)
{
    bench_enter();
    read_reason();
}

static bool good_touches(void)
{
    bool good = left_by(R_VMCALL) && l2.rbx == FEW * 0x1000 + FEW * (FEW - 1) / 2;
    table[FEW + VICTIM] = (MEMORY + (FEW + VICTIM) * PAGE_SIZE) | RWX_WB;
    return good;
}

static const char *missing(void)
{
    return l2_uses_ept() ? NULL : "no EPT";
}

static const struct op list[] = {
    {.name = "l2-fresh-page",
     .begin = begin_fresh,
     .before = before_fresh,
     .run = run_fresh,
     .good = good_fresh,
     .in_l2 = true},
    {.name = "invept-unchanged",
     .begin = begin_full,
     .before = before_invept,
     .run = run_invept,
     .good = good_invept},
    {.name = "unmap-1-of-512",
     .begin = begin_full,
     .before = before_invept,
     .run = run_unmap,
     .good = good_unmap},
    {.name = "unmap-1-of-16",
     .begin = begin_sparse,
     .before = before_invept,
     .run = run_unmap,
     .good = good_unmap},
    {.name = "touch-16-after-unmap",
     .begin = begin_full,
     .before = before_touches,
     .run = run_touches,
     .good = good_touches,
     .in_l2 = true},
};
const struct ops ops_ept = {list, ARRAY_SIZE(list), missing};
