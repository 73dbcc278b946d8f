// Random VMX instructions with random and mutated VMCSs, EPTs, MSR lists and bitmaps. The command
// line says seed=N and count=N; the same seed gives the same operations. What must hold: this
// program goes on until the end, each outcome is one that the manual knows, and L2 has written to
// nothing that its EPTs did not allow. (The runner sees to it that L0 says nothing that it should
// not, and that no memory of L0 is lost.) With trace=N each operation from number N on is
// announced, to find the one that did harm.
//
// What would let L2 spoil L1 itself is kept right: the host-state area, and the rules of random.h.

#include "tests/l1/random.h"

static u32 current;
static u64 region; // of the current VMCS
static bool launched[VMCSS];
static bool host_spoilt[VMCSS], unsafe[VMCSS]; // what has to be put right before an entry
static struct field_row rows[FIELD_ROWS];
static u32 row_count;
static struct {
    u64 entered, refused, failed_state, failed_msrs, odd;
} counts;

// ------------------------------------------------------------------------------------ code for L2

L2_CODE(calls, "");
L2_CODE(registers, "cpuid; rdtsc; mov %cr0, %rax; mov %rax, %cr0; mov %cr3, %rax; mov %rax, %cr3;"
                   "mov %cr4, %rax; mov %rax, %cr4; pause; mov %dr7, %rax; mov %rax, %dr7;"
                   "mov %cr8, %rax; mov %rax, %cr8; sidt -32(%rsp); sldt %eax; ud2");
L2_CODE(memory, "mov (%rsi), %rax; mov %rax, (%rsi); lock incl (%rdi); invlpg (%rsi);"
                "movsb; push (%rsi); pop (%rdi); wbinvd");
L2_CODE(privileged, "in %dx, %al; out %al, %dx; rdmsr; wrmsr; in %dx, %eax; rdmsr; rdpmc; xsetbv");
L2_CODE(events, "int3; int $0x40; sti; nop; cli; sti; hlt; nop; cli; hlt");
L2_CODE(nested, "xor %eax, %eax; vmfunc; mov (%rsi), %rax; vmread %rbx, %rax; vmwrite %rax, %rbx;"
                "vmread %rbx, (%rsi); vmptrst (%rsi); vmxoff; invept (%rsi), %rax");
static const u8 *const codes[] = {l2_calls,      l2_registers, l2_memory,
                                  l2_privileged, l2_events,    l2_nested};

static const void *some_code(void)
{
    if (one_in(4)) // whatever the bytes there mean
        return (const void *)(SANDBOX + below(MIB));
    return codes[below(ARRAY_SIZE(codes))];
}

// L2 in real mode or protected mode without paging, in the sandbox.
static void unpaged_guest(void)
{
    bool real = one_in(2);
    if (!l2_control(PROC2_CTLS, PROC2_UNRESTRICTED))
        return;
    vmclr(ENTRY_CTLS, ENTRY_GUEST64);
    vmwrite(GUEST_CR0, read_cr0() & ~(CR0_PG | (real ? CR0_PE : 0)));
    vmwrite(GUEST_CR4, read_cr4() & ~CR4_PAE);
    for (u32 i = 0; real && i < 6; i++) {
        vmwrite(GUEST_ES_BASE + 2 * i, SANDBOX);
        vmwrite(GUEST_ES_LIMIT + 2 * i, 0xffff);
        vmwrite(GUEST_ES_AR + 2 * i, i == 1 ? 0x9b : 0x93);
    }
    if (!real)
        vmwrite(GUEST_CS_AR, 0xc09b);
    vmwrite(GUEST_RIP, below(0x10000) + (real ? 0 : SANDBOX));
    vmwrite(GUEST_RSP, real ? 0x8000 : SANDBOX + MIB);
}

static void defaults(void)
{
    l2_defaults(some_code());
    unsafe[current] = true;
    host_spoilt[current] = false;
    if (one_in(4))
        unpaged_guest();
    else if (one_in(2))
        events_idt();
}

// ------------------------------------------------------------------------------------------- VMCSs

static void make_current(u32 i)
{
    launched[current] = l2_launched;
    current = i;
    region = world_vmcs(i);
    l2_launched = launched[i];
    vmptrld(region);
}

static void clear_current(void)
{
    vmclear(region);
    l2_launched = false;
}

// Fields that exist or not, and all operands that VMREAD may have.
static void read_fields(void)
{
    u64 v;
    for (u32 i = 0; i < 4; i++)
        vmread_from(one_in(8) ? random() : random() & 0x7fff, &v);
}

static void write_field(void)
{
    u64 encoding = one_in(8) ? random() : random() & 0x7fff;
    vmwrite_to(encoding, random_value());
    host_spoilt[current] = unsafe[current] = true;
}

static void mutate_field(void)
{
    const struct field_row *f = &rows[below(row_count)];
    if (!f->exists || (f->encoding >> 10 & 3) == 3) // host state
        return;
    u64 v = 0;
    vmread_from(f->encoding, &v);
    vmwrite_to(f->encoding, one_in(2) ? v ^ BIT(below(64)) : random_value());
    unsafe[current] = true;
}

// A VMCS region is memory: what lies there when VMPTRLD loads it may be anything.
static void scribble_region(void)
{
    u8 *bytes = (u8 *)region;
    clear_current();
    if (one_in(4))
        for (u32 i = 8; i < PAGE_SIZE; i += 8)
            *(u64 *)(bytes + i) = random();
    else
        for (u64 i = below(64); i; i--)
            bytes[8 + below(2048)] = (u8)random();
    if (one_in(8))
        *(u32 *)bytes ^= 1u << below(32);
    vmptrld(region); // may fail
    *(u32 *)bytes = caps.revision;
    vmclear(region);
    vmptrld(region);
    host_spoilt[current] = unsafe[current] = true;
}

// The pointers of VMX instructions.
static void wild_pointer(void)
{
    switch (below(4)) {
    case 0:
        vmptrld(one_in(2) ? random() : world_written());
        break;
    case 1:
        vmclear(one_in(2) ? random() & 0xfff0000000000fff : 0x100000000 + random() % BIT(44));
        break;
    case 2:
        vmxon(world_vmcs((u32)below(VMCSS)));
        break;
    default:
        vmptrld(world_shadow((u32)below(SHADOW_VMCSS)));
        write_field();
        vmlaunch();
        vmresume();
    }
    make_current(current);
}

static void leave_vmx(void)
{
    u64 pointer = 0;
    vmptrst(&pointer);
    counts.odd += pointer != region;
    vmxoff();
    counts.odd += vmread_from(EXIT_REASON, &pointer) != (VMX_FAULT | VEC_UD);
    vmxon(vmxon_region);
    counts.odd += vmlaunch() != VMX_INVALID;
    make_current(current);
}

// ------------------------------------------------------------------------------------------
// entries

// A field, if this processor has it.
static void put(u32 encoding, u64 v)
{
    vmwrite_to(encoding, v);
}

static void put_pointers(void)
{
    put(IO_BITMAP_A, world_read((u64)world.io_a));
    put(IO_BITMAP_B, world_read((u64)world.io_b));
    put(MSR_BITMAP, world_read((u64)world.msrs));
    put(EPTP_LIST, world_read((u64)world.eptps));
    put(VMREAD_BITMAP, world_read(SANDBOX + below(16) * PAGE_SIZE));
    put(VMWRITE_BITMAP, world_read(SANDBOX + below(16) * PAGE_SIZE));
    put(VAPIC_ADDRESS, world_written());
    put(APIC_ACCESS, world_written());
    put(PML_ADDRESS, world_written());
    put(VE_INFO, world_written());
    put(POSTED_DESC, world_written() & (one_in(8) ? ~0ull : ~63ull));
    bool shadowing = l2_offers(PROC2_CTLS, PROC2_SHADOW) && vmread(PROC2_CTLS) & PROC2_SHADOW;
    put(LINK_POINTER, shadowing ? world_shadow((u32)below(SHADOW_VMCSS)) : ~0ull);
    if (one_in(64))
        put(LINK_POINTER, one_in(2) ? region : world_written());
}

static void put_lists(void)
{
    put(EXIT_MSR_LOAD, (u64)world.exit_load);
    put(EXIT_MSR_LOAD_COUNT, one_in(4) ? below(LIST) : 0);
    put(EXIT_MSR_STORE, (u64)world.exit_store);
    put(EXIT_MSR_STORE_COUNT, one_in(4) ? below(LIST) : 0);
    put(ENTRY_MSR_LOAD, one_in(64) ? world_written() : (u64)world.entry_load);
    put(ENTRY_MSR_LOAD_COUNT, one_in(64) ? random_value() : one_in(8) ? below(LIST) : 0);
}

// What keeps L1 safe from its own guest, whatever was mutated; and new values for what points
// somewhere.
static void make_safe(void)
{
    if (host_spoilt[current]) {
        l2_host_state();
        put(HOST_EFER, rdmsr(0xc0000080));
        put(HOST_PAT, rdmsr(0x277));
        host_spoilt[current] = false;
    }
    u64 proc = vmread(PROC_CTLS) | PROC_SECONDARY;
    put(PROC_CTLS, proc & PROC_IO_BITMAPS ? proc : proc | PROC_IO);
    put(PROC2_CTLS, vmread(PROC2_CTLS) | PROC2_EPT);
    put(PIN_CTLS, vmread(PIN_CTLS) | PIN_PREEMPTION | PIN_EXTINT | PIN_NMI);
    put(EXIT_CTLS, vmread(EXIT_CTLS) | EXIT_HOST64);
    put(PREEMPTION_TIMER, 2000 >> (caps.misc & 0x1f));
    put(EPTP, world_eptp());
    put_pointers();
    put_lists();
    if (vmread(GUEST_ACTIVITY) == 3) // it would wait for a SIPI that nobody sends
        put(GUEST_ACTIVITY, 0);
    // Bochs 2.7 refuses another RPL also where L2 is an unrestricted guest, for which it is free.
    put(GUEST_CS, (vmread(GUEST_CS) & ~3ull) | (vmread(GUEST_CS_AR) >> 5 & 3));
    unsafe[current] = false;
}

// One bit of a control that this processor offers.
static void mutate_control(void)
{
    static const u32 words[] = {PIN_CTLS, PROC_CTLS, PROC2_CTLS, EXIT_CTLS, ENTRY_CTLS};
    u32 word = words[below(ARRAY_SIZE(words))];
    u64 bit = BIT(below(32));
    if (l2_offers(word, bit) || one_in(16))
        put(word, vmread(word) ^ bit);
    unsafe[current] = true;
}

static void judge(u32 r)
{
    u32 reason = r & 0xffff, error = r & 0xfff;
    if (r & R_ENTRY_FAILED) {
        counts.failed_state += reason == R_BAD_GUEST;
        counts.failed_msrs += reason == R_BAD_MSR;
        counts.odd += reason != R_BAD_GUEST && reason != R_BAD_MSR;
    } else if (r & L2_FAILED) {
        counts.refused++;
        counts.odd += (r & 0xf000) != VMX_VALID || error == 0 || error > 28;
        if (error == 4 || error == 5) // a region may hold any launch state
            l2_launched = error == 4;
    } else {
        counts.entered++;
        counts.odd += reason > R_XRSTORS;
    }
}

static void enter(void)
{
    if (unsafe[current] || one_in(4))
        make_safe();
    for (u64 *p = &l2.rax; one_in(4) && p <= &l2.r15; p++)
        *p = random_value();
    l2.rcx = world_msr();
    l2.rdx = world_port();
    l2.rbx = rows[below(row_count)].encoding;
    l2.rsi = (one_in(2) ? WINDOW : SANDBOX) + below(2 * MIB / 8) * 8;
    l2.rdi = one_in(8) ? below(128 * MIB) : SANDBOX + below(SANDBOX_MB * MIB);
    u32 r = l2_run();
    judge(r);
    if (r & (L2_FAILED | R_ENTRY_FAILED) && one_in(2))
        defaults();
    if (r == R_EXTINT)
        irq_drain();
    else if (r < R_PREEMPTION && one_in(2))
        l2_skip();
    outb(0x80, (u8)r);
}

// Host state that no check may let through: had L2 run, L1 would not come back.
static void enter_with_bad_host(void)
{
    static const struct {
        u32 field;
        u64 bad;
    } spoilt[] = {{HOST_CR0, 0},
                  {HOST_CR3, 1ull << 52},
                  {HOST_CR4, 0},
                  {HOST_CR4, ~0ull},
                  {HOST_CS, 0},
                  {HOST_CS, SEL_CODE64 | 3},
                  {HOST_SS, SEL_DATA | 4},
                  {HOST_TR, 0},
                  {HOST_GS_BASE, 1ull << 63},
                  {HOST_IDTR_BASE, 0x800000000000},
                  {HOST_TR_BASE, 0xffff000000000000}};
    u64 i = below(ARRAY_SIZE(spoilt));
    make_safe();
    put(spoilt[i].field, spoilt[i].bad);
    host_spoilt[current] = true;
    u32 r = l2_run();
    judge(r);
    counts.odd += r != (L2_FAILED | VMX_VALID | 7) && r != (L2_FAILED | VMX_VALID | 8) &&
                  r != (L2_FAILED | VMX_VALID | 4) && r != (L2_FAILED | VMX_VALID | 5);
}

// -------------------------------------------------------------------------------------- operations

static void operation(void)
{
    switch (below(32)) {
    case 0:
        make_current((u32)below(VMCSS));
        break;
    case 1:
        make_current((u32)below(4));
        break;
    case 2:
        if (one_in(4))
            clear_current();
        make_current(current);
        break;
    case 3:
    case 4:
        defaults();
        break;
    case 5:
        invept(below(4), one_in(2) ? world_eptp() : random(), one_in(8) ? random() : 0);
        break;
    case 6:
        invvpid(below(5), (u16)random(), random_value());
        break;
    case 7:
        read_fields();
        break;
    case 8:
        if (one_in(4))
            write_field();
        break;
    case 9:
        if (one_in(4))
            scribble_region();
        break;
    case 10:
        if (one_in(4))
            wild_pointer();
        break;
    case 11:
        if (one_in(16))
            leave_vmx();
        break;
    case 12:
        if (one_in(4))
            enter_with_bad_host();
        break;
    case 13:
        apic_self_ipi((u8)(0x40 + below(4)));
        break;
    case 14:
        mutate_field();
        break;
    case 15:
        mutate_control();
        break;
    case 16:
    case 17:
    case 18:
    case 19:
        world_mutate();
        break;
    default:
        enter();
    }
}

static void prepare(void)
{
    apic_enable();
    region = world_vmcs(0);
    l2_vmcs = vmx_region();
    vmptrld(l2_vmcs);
    l2_defaults(l2_calls); // for its stack
    world_init();
    row_count = field_rows(rows);
    for (u32 i = 0; i < VMCSS; i++) {
        vmclear(world_vmcs(i));
        make_current(i);
        defaults();
    }
}

static void finish(void)
{
    for (u32 i = 0; i < VMCSS; i++)
        vmclear(world_vmcs(i));
    vmx_end();
    irq_drain();
    print("random: entered %llu, refused %llu, failed by state %llu, by MSRs %llu\n",
          (unsigned long long)counts.entered, (unsigned long long)counts.refused,
          (unsigned long long)counts.failed_state, (unsigned long long)counts.failed_msrs);
    check_eq(counts.odd, 0, "outcomes that the manual does not know");
    check(counts.entered && counts.refused && counts.failed_state && counts.failed_msrs,
          "each kind of outcome was seen");
    check(world_canary(), "memory that L2 may not write to is as it was");
}

static void test_random(void)
{
    u64 seed = arg_u64("seed", 1), count = arg_u64("count", 1000), trace = arg_u64("trace", count);
    random_seed(seed);
    print("random: seed 0x%llx, %llu operations\n", (unsigned long long)seed,
          (unsigned long long)count);
    vmx_begin();
    if (!l2_uses_ept() || !l2_offers(PIN_CTLS, PIN_PREEMPTION)) {
        check(false, "EPT and a preemption timer to hold L2 by");
        return;
    }
    prepare();
    for (u64 i = 0; i < count; i++) {
        if (i >= trace)
            print("random: operation %llu, VMCS %u, RIP 0x%llx\n", (unsigned long long)i, current,
                  (unsigned long long)vmread(GUEST_RIP));
        operation();
        if (i % 20000 == 19999)
            print("random: %llu operations\n", (unsigned long long)i + 1);
    }
    finish();
}

int main(void);
int main(void)
{
    static const struct test tests[] = {{"random", test_random}};
    return run_tests("random", tests, 1);
}
