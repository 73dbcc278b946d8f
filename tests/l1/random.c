// Random VMX instructions with random and mutated VMCSs, EPTs, MSR lists and bitmaps. The command
// line says seed=N and count=N; the same seed gives the same operations. What must hold: this
// program goes on until the end, and each outcome is one that the manual knows. With trace=N each
// operation from number N on is announced, to find the one that did harm.
//
// What would let L2 spoil L1 itself is kept right: the host-state area, and who may write where.

#include "tests/l1/vmx/events.h"

enum { VMCSS = 8, LIST = 8 };

static u64 state;
static u64 vmcs[VMCSS];
static bool launched[VMCSS];
static u32 current;
static u64 *root, *arena; // EPT of L2: its own top level; the page table of a part that is mutated
static u8 *bitmaps;
static struct {
    u32 index, reserved;
    u64 v;
} * list;
static struct {
    u64 entered, refused, failed_state, odd;
} counts;

// xorshift64*
static u64 random(void)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1d;
}

static u64 below(u64 n)
{
    return (random() >> 16) % n;
}

static bool one_in(u64 n)
{
    return below(n) == 0;
}

// A value that is likely to matter.
static u64 value_for_field(void)
{
    static const u64 odd[] = {0,
                              1,
                              7,
                              0xff,
                              0xfff,
                              0x1000,
                              0x200000,
                              0xffff,
                              0xffffffff,
                              0x8000000000000000,
                              0x7fffffffffff,
                              0x800000000000,
                              0xffff800000000000,
                              ~0ull,
                              0x80000b0e,
                              0x80000202,
                              0x400,
                              0xc093};
    switch (below(4)) {
    case 0:
        return odd[below(ARRAY_SIZE(odd))];
    case 1:
        return BIT(below(64));
    case 2:
        return random();
    default:
        return random() & 0xffff;
    }
}

L2_CODE(calls, "");
L2_CODE(mixed, "cpuid; rdtsc; mov %cr0, %rax; mov %rax, %cr0; mov %cr3, %rax; mov %rax, %cr3;"
               "mov %cr4, %rax; mov %rax, %cr4; pause; in $0x80, %al; mov $0x10, %ecx; rdmsr;"
               "mov %dr7, %rax; mov %cr8, %rax; sidt -32(%rsp); invlpg (%rsi); mov (%rsi), %rax;"
               "mov %rax, (%rsi); ud2");
L2_CODE(events, "int3; int $0x40; sti; nop; cli; hlt");
static const u8 *const codes[] = {l2_calls, l2_mixed, l2_events};

// All of L1's memory is read and execute for L2; writable are its stack and the arena.
static void build_ept(void)
{
    ept_pointer();
    for (u32 i = 0; i < 2048; i++)
        ept_pd[i] &= ~2ull;
    root = alloc_pages(1);
    arena = alloc_pages(1);
    root[0] = ept_pml4[0];
    ept_pd[0x40000000 >> 21] = (u64)arena | 7;
    for (u64 i = 0; i < 512; i++)
        arena[i] = (80 * MIB + (i << 12)) | 0x37;
    *ept_entry(l2_stack_top) |= 2;
    *ept_entry(l2_stack_top - PAGE_SIZE) |= 2;
}

static void select_vmcs(u32 i)
{
    launched[current] = l2_launched;
    current = i;
    l2_launched = launched[i];
    vmptrld(vmcs[i]);
}

static void mutate_field(void)
{
    static struct field_row rows[FIELD_ROWS];
    static u32 n;
    if (!n)
        n = field_rows(rows);
    const struct field_row *f = &rows[below(n)];
    if (f->exists && (f->encoding >> 10 & 3) != 3 && (f->encoding & ~1u) != EPTP) {
        u64 v = 0;
        vmread_from(f->encoding, &v);
        vmwrite_to(f->encoding, one_in(2) ? v ^ BIT(below(64)) : value_for_field());
    }
}

static void mutate_memory(void)
{
    u64 i = below(512);
    switch (below(4)) {
    case 0:
        arena[i] = (80 * MIB + (below(512) << 12)) | below(64) | (one_in(8) ? BIT(below(12)) : 0);
        break;
    case 1:
        arena[i] = (random() & 0xfffff000) >> below(3) << 12 | 5; // anywhere, but not writable
        break;
    case 2:
        bitmaps[below(3 * PAGE_SIZE)] = (u8)random();
        break;
    default:
        list[below(LIST)].index = one_in(2) ? 0xc0000102 : (u32)random();
        list[below(LIST)].v = value_for_field();
    }
}

// What keeps L1 safe from its own guest, whatever was mutated.
static void make_safe(void)
{
    l2_host_state();
    vmwrite(EPTP, (u64)root | 0x1e);
    vmset(PROC_CTLS, PROC_SECONDARY);
    vmset(PROC2_CTLS, PROC2_EPT);
    // Nothing through which the processor would write to memory at a random address.
    vmclr(PROC2_CTLS, PROC2_PML | PROC2_VE | PROC2_VINTR | PROC2_APIC_REGS | PROC2_SHADOW |
                          PROC2_VMFUNC | PROC2_X2APIC | PROC2_APIC_ACCESS);
    vmclr(PROC_CTLS, PROC_TPR_SHADOW);
    vmclr(PIN_CTLS, PIN_POSTED);
    vmset(PIN_CTLS, PIN_PREEMPTION | PIN_EXTINT | PIN_NMI);
    vmwrite(PREEMPTION_TIMER, 2000 >> (caps.misc & 0x1f));
    vmset(EXIT_CTLS, EXIT_HOST64);
    vmclr(EXIT_CTLS, EXIT_LOAD_EFER | EXIT_LOAD_PAT | EXIT_LOAD_PERF | EXIT_ACK);
    vmwrite(EXIT_MSR_LOAD_COUNT, 0);
    vmwrite(EXIT_MSR_STORE_COUNT, 0);
    vmwrite(ENTRY_MSR_LOAD, (u64)list);
    vmwrite(ENTRY_MSR_LOAD_COUNT, one_in(8) ? below(LIST) : 0);
    vmwrite(IO_BITMAP_A, (u64)bitmaps);
    vmwrite(IO_BITMAP_B, (u64)bitmaps + PAGE_SIZE);
    vmwrite(MSR_BITMAP, (u64)bitmaps + 2 * PAGE_SIZE);
    vmclr(PROC_CTLS, PROC_MSR_BITMAPS | PROC_CR8_LOAD);
    vmset(PROC_CTLS, PROC_IO | PROC_MOV_DR);
    if (vmread(GUEST_ACTIVITY) > 2)
        vmwrite(GUEST_ACTIVITY, 0);
}

static void enter(void)
{
    make_safe();
    l2.rsi = 0x40000000 + below(512) * PAGE_SIZE + below(64) * 8;
    u32 r = l2_run();
    u32 reason = r & 0xffff;
    if (r & R_ENTRY_FAILED) {
        counts.failed_state++;
        counts.odd += reason != R_BAD_GUEST && reason != R_BAD_MSR;
    } else if (r & L2_FAILED) {
        counts.refused++;
        u32 error = r & 0xfff;
        counts.odd += (r & 0xf000) != VMX_VALID || error == 0 || error > 28;
    } else {
        counts.entered++;
        counts.odd += reason > 70;
    }
    outb(0x80, (u8)reason);
}

static void operation(void)
{
    u64 v;
    switch (below(16)) {
    case 0:
        select_vmcs((u32)below(VMCSS));
        break;
    case 1:
        if (one_in(8)) {
            vmclear(vmcs[current]);
            l2_launched = 0;
            select_vmcs(current);
        }
        break;
    case 2:
        l2_defaults(codes[below(ARRAY_SIZE(codes))]);
        break;
    case 3:
        invept(below(4), one_in(2) ? (u64)root | 0x1e : random(), 0);
        break;
    case 4:
        invvpid(below(5), (u16)random(), value_for_field());
        break;
    case 5:
        vmread_from(random() & 0x7fff, &v);
        break;
    case 6:
        if (one_in(4)) {
            vmptrld(random());
            vmclear(random() & 0xfff0000000000fff);
        }
        break;
    case 7:
    case 8:
        mutate_field();
        break;
    case 9:
    case 10:
        mutate_memory();
        break;
    default:
        enter();
    }
}

static void test_random(void)
{
    u64 count = arg_u64("count", 1000);
    state = arg_u64("seed", 1);
    print("random: seed 0x%llx, %llu operations\n", (unsigned long long)state,
          (unsigned long long)count);
    if (!state)
        state = 1;
    vmx_begin();
    if (!l2_uses_ept() || !l2_offers(PIN_CTLS, PIN_PREEMPTION)) {
        skip("no EPT or preemption timer to hold L2 by");
        check(true, "nothing to do");
        return;
    }
    bitmaps = alloc_pages(3);
    list = alloc_pages(1);
    for (u32 i = 0; i < VMCSS; i++)
        vmcs[i] = vmx_region();
    vmptrld(vmcs[0]);
    l2_defaults(l2_calls);
    build_ept();
    for (u32 i = 0; i < VMCSS; i++) {
        vmclear(vmcs[i]);
        select_vmcs(i);
        l2_defaults(codes[i % ARRAY_SIZE(codes)]);
    }
    u64 trace = arg_u64("trace", count);
    for (u64 i = 0; i < count; i++) {
        if (i >= trace)
            print("random: operation %llu, VMCS %u, RIP 0x%llx, seed then 0x%llx\n",
                  (unsigned long long)i, current, (unsigned long long)vmread(GUEST_RIP),
                  (unsigned long long)state);
        operation();
        if (i % 10000 == 9999)
            print("random: %llu operations\n", (unsigned long long)i + 1);
    }
    print("random: entered %llu, refused %llu, failed by state %llu\n",
          (unsigned long long)counts.entered, (unsigned long long)counts.refused,
          (unsigned long long)counts.failed_state);
    check_eq(counts.odd, 0, "outcomes that the manual does not know");
    check(counts.entered && counts.refused && counts.failed_state, "each kind of outcome was seen");
}

int main(void);
int main(void)
{
    static const struct test tests[] = {{"random", test_random}};
    return run_tests("random", tests, 1);
}
