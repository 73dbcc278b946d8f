// VMCSs that come, go and take turns.

#include "tests/bench/bench.h"

static u64 region[2]; // two L2s, both launched
static u32 turn;

static void raw_vmptrld(u64 where)
{
    asm volatile("vmptrld %0" : : "m"(where) : "cc", "memory");
}

static void raw_vmclear(u64 where)
{
    asm volatile("vmclear %0" : : "m"(where) : "cc", "memory");
}

static void begin_two(void)
{
    for (u32 i = 0; i < 2; i++) {
        if (!region[i])
            region[i] = vmx_region();
        bench_vmcs(region[i], l2_vmcalls, l2_uses_ept() ? ept_pointer() : 0);
        l2.rbx = 0;
        bench_enter();
        read_reason();
        skip_insn(VMCALL_LENGTH);
    }
    turn = 1;
}

static void run_and_back(void)
{
    raw_vmptrld(region[0]);
    raw_vmptrld(region[1]);
}

static bool good_and_back(void)
{
    u64 now;
    vmptrst(&now);
    return now == region[1] && vmread(GUEST_RIP) == (u64)l2_vmcalls + VMCALL_LENGTH;
}

// The other L2's turn, up to its next exit.
static void run_switch(void)
{
    turn ^= 1;
    raw_vmptrld(region[turn]);
    bench_enter();
    read_reason();
    skip_insn(VMCALL_LENGTH);
}

static bool good_switch(void)
{
    u64 now;
    vmptrst(&now);
    return left_by(R_VMCALL) && now == region[turn];
}

static void before_relaunch(void)
{
    l2_goto(l2_vmcalls);
}

static void run_relaunch(void)
{
    raw_vmclear(region[1]);
    raw_vmptrld(region[1]);
    l2_launched = 0;
    bench_enter();
    read_reason();
}

static bool good_vmcall(void)
{
    return left_by(R_VMCALL) && vmread(GUEST_RIP) == (u64)l2_vmcalls;
}

// A VMCS in memory that was none before, with an EPT of its own.
static u64 fresh_region, fresh_pml4;

static void before_first(void)
{
    if (fresh_region)
        vmclear(fresh_region);
    fresh_region = vmx_region();
    if (l2_uses_ept()) {
        fresh_pml4 = (u64)alloc_pages(1);
        ept_pointer(); // builds the tables whose lower levels are shared
        write64(fresh_pml4, ept_pml4[0]);
    }
}

static void run_first(void)
{
    bench_vmcs(fresh_region, l2_vmcalls, fresh_pml4 | 3 << 3 | 6);
    bench_enter();
    read_reason();
}

static const struct op list[] = {
    {.name = "vmptrld-and-back", .begin = begin_two, .run = run_and_back, .good = good_and_back},
    {.name = "switch-l2", .begin = begin_two, .run = run_switch, .good = good_switch},
    {.name = "vmclear-vmptrld-vmlaunch",
     .begin = begin_two,
     .before = before_relaunch,
     .run = run_relaunch,
     .good = good_vmcall},
    {.name = "first-entry",
     .before = before_first,
     .run = run_first,
     .good = good_vmcall,
     .samples = 11},
};
const struct ops ops_vmcs = {list, ARRAY_SIZE(list), NULL};
