// An L1 that does what no sane one would: do=NAME on the command line says what. It must come out
// of it as on a real machine, or be stopped; Nestor itself goes on in any case.

#include "tests/l1/vmx/events.h"

L2_CODE(vmcall, "");
L2_CODE(read, "mov (%rsi), %rax");
L2_CODE(cpuid, "cpuid");

// Addresses without RAM behind them: beyond the VM's RAM, in holes, at devices, where L0 may be.
static const u64 nowhere[] = {0xa0000,     0xf0000000,   0xfee00000,   0xfec00000,   0xfffff000,
                              0x100000000, 0x1000000000, 0x4000000000, 0x7ffffff000, 0x12345000};

static void do_triple_fault(void)
{
    struct table_pointer none = {0, 0};
    asm volatile("lidt %0; ud2" : : "m"(none));
}

static void do_reset(void)
{
    outb(0xcf9, 2);
    outb(0xcf9, 6);
}

// Finds the sleep type of S5 in the DSDT: Name (_S5_, Package () {type, ...}).
static void do_power_off(void)
{
    const u8 *fadt = acpi_table("FACP");
    u64 dsdt = read32((u64)fadt + 40);
    const u8 *p = (const u8 *)dsdt + 36, *end = (const u8 *)dsdt + read32(dsdt + 4) - 8;
    while (p < end && memcmp(p, "_S5_", 4))
        p++;
    if (!check(p < end, "the DSDT has _S5"))
        return;
    p += 7; // name, package operator, length, number of elements
    u16 type = *p == 0x0a ? p[1] : *p & 1;
    outw((u16)read32((u64)fadt + 64), (u16)(type << 10 | 0x2000));
}

static void do_debug_exit(void)
{
    outb(0xf4, 7);
}

// No misdeed of an L1 but of a test: the runner must not take such a run for a complete one.
static void do_unexpected_fault(void)
{
    check(true, "all well so far");
    asm volatile("ud2");
}

static void do_absent(void)
{
    u64 v, bad = 0;
    for (u32 msr = 0x3000; msr < 0x3400; msr++)
        bad += try_rdmsr(msr, &v) != VEC_GP || try_wrmsr(msr, ~0ull) != VEC_GP;
    for (u32 msr = 0xc0001000; msr < 0xc0001100; msr++)
        bad += try_rdmsr(msr, &v) != VEC_GP || try_wrmsr(msr, 0) != VEC_GP;
    check_eq(bad, 0, "absent MSRs that do not fault");
    bad = 0;
    for (u32 port = 0x5000; port < 0x6000; port += 4) {
        bad += inl((u16)port) != ~0u;
        outl((u16)port, port);
    }
    check_eq(bad, 0, "absent ports that read anything");
    bad = 0;
    for (u32 i = 0; i < 64; i++) {
        u64 a = 0xe0000000 + i * 0x100000;
        write32(a, 0x12345678);
        bad += read32(a) != ~0u;
    }
    check_eq(bad, 0, "absent memory that reads anything");
    asm volatile("lock orl $1, (%0)" : : "r"(0xe0000000ull) : "memory");
    check(true, "a locked access to absent memory");
}

// ------------------------------------------------------------------------- pointers to no memory

static void do_vmcs_nowhere(void)
{
    vmx_begin();
    u64 good = vmx_region();
    vmptrld(good);
    u32 bad = 0;
    for (u32 i = 0; i < ARRAY_SIZE(nowhere); i++) {
        u32 r = vmptrld(nowhere[i]);
        bad += r != (VMX_VALID | 11) && r != (VMX_VALID | 9);
        r = vmclear(nowhere[i]);
        bad += r != VMX_OK && r != (VMX_VALID | 2);
    }
    check_eq(bad, 0, "VMPTRLD and VMCLEAR of no memory: unexpected outcomes");
    u64 pointer;
    vmptrst(&pointer);
    check(pointer == good, "the current VMCS is as before");
    vmx_end();
    vmx_enable();
    bad = 0;
    for (u32 i = 0; i < ARRAY_SIZE(nowhere); i++)
        bad += vmxon(nowhere[i]) != VMX_INVALID;
    check_eq(bad, 0, "VMXON of no memory: unexpected outcomes");
}

struct pointer_row {
    u32 field, word;
    u64 control;
    u64 flags; // low bits that the pointer needs
};

static void do_pointers_nowhere(void)
{
    static const struct pointer_row rows[] = {
        {IO_BITMAP_A, PROC_CTLS, PROC_IO_BITMAPS, 0},
        {IO_BITMAP_B, PROC_CTLS, PROC_IO_BITMAPS, 0},
        {MSR_BITMAP, PROC_CTLS, PROC_MSR_BITMAPS, 0},
        {VAPIC_ADDRESS, PROC_CTLS, PROC_TPR_SHADOW, 0},
        {APIC_ACCESS, PROC2_CTLS, PROC2_APIC_ACCESS, 0},
        {EPTP, PROC2_CTLS, PROC2_EPT, 0x1e},
        {PML_ADDRESS, PROC2_CTLS, PROC2_PML | PROC2_EPT, 0},
        {VMREAD_BITMAP, PROC2_CTLS, PROC2_SHADOW, 0},
        {VMWRITE_BITMAP, PROC2_CTLS, PROC2_SHADOW, 0},
        {VE_INFO, PROC2_CTLS, PROC2_VE, 0},
        {XSS_BITMAP, PROC2_CTLS, PROC2_XSAVES, 0},
        {LINK_POINTER, PROC_CTLS, 0, 0},
    };
    u32 entered = 0, refused = 0;
    vmx_begin();
    l2_reset(l2_vmcall);
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++)
        for (u32 j = 0; j < ARRAY_SIZE(nowhere); j++) {
            l2_defaults(l2_vmcall);
            if (!l2_control(rows[i].word, rows[i].control))
                continue;
            vmwrite(rows[i].field, nowhere[j] | rows[i].flags);
            u32 r = l2_run();
            *(r & (L2_FAILED | R_ENTRY_FAILED) ? &refused : &entered) += 1;
        }
    check(entered + refused > 0, "VMCSs with pointers to no memory were tried");
    l2_defaults(l2_vmcall);
    check_run(R_VMCALL, "a good VMCS after them");
}

// ------------------------------------------------------------------------------------ MSR lists

struct msr_entry {
    u32 index, reserved;
    u64 v;
};

static u32 run_list(u32 count_field, u32 address_field, u64 address, u64 count)
{
    l2_defaults(l2_vmcall);
    vmwrite(address_field, address);
    vmwrite(count_field, count);
    return l2_run();
}

static void do_msr_lists(void)
{
    static const u64 counts[] = {513, 4096, 0x10000, 0x1000000, 0xffffffff};
    struct msr_entry *list = alloc_pages(4);
    vmx_begin();
    l2_reset(l2_vmcall);
    u32 tried = 0;
    for (u32 i = 0; i < 1024; i++)
        list[i] = (struct msr_entry){0xc0000102, 0, i};
    for (u32 i = 0; i < ARRAY_SIZE(counts); i++) {
        run_list(ENTRY_MSR_LOAD_COUNT, ENTRY_MSR_LOAD, (u64)list, counts[i]);
        run_list(ENTRY_MSR_LOAD_COUNT, ENTRY_MSR_LOAD, caps.phys_limit - 4096, counts[i]);
        run_list(EXIT_MSR_STORE_COUNT, EXIT_MSR_STORE, caps.phys_limit - 4096, counts[i]);
        run_list(EXIT_MSR_LOAD_COUNT, EXIT_MSR_LOAD, caps.phys_limit - 4096, counts[i]);
        tried += 4;
    }
    for (u32 i = 0; i < ARRAY_SIZE(nowhere); i++, tried++)
        run_list(ENTRY_MSR_LOAD_COUNT, ENTRY_MSR_LOAD, nowhere[i], 1);
    check(tried > 0, "huge lists and lists in no memory were tried");
    static const u32 forbidden[] = {0xc0000100, 0xc0000101, 0x9e, 0x9b,   0x802,     0x8ff,
                                    0x79,       0x480,      0x3a, 0x3000, 0x40000000};
    u32 bad = 0;
    for (u32 i = 0; i < ARRAY_SIZE(forbidden); i++) {
        list[0].index = forbidden[i];
        u32 r = run_list(ENTRY_MSR_LOAD_COUNT, ENTRY_MSR_LOAD, (u64)list, 1);
        bad += r != (R_BAD_MSR | R_ENTRY_FAILED) || vmread(QUALIFICATION) != 1;
    }
    check_eq(bad, 0, "forbidden MSRs in the list of an entry that do not fail it");
    l2_defaults(l2_vmcall);
    check_run(R_VMCALL, "a good VMCS after them");
}

// ------------------------------------------------------------------------------------------ EPT

static void do_ept_nowhere(void)
{
    u64 *root = alloc_pages(1), *loop = alloc_pages(1);
    vmx_begin();
    if (!l2_uses_ept()) {
        skip("no EPT");
        return;
    }
    l2_reset(l2_read);
    u32 wrong = 0;
    for (u32 i = 0; i < ARRAY_SIZE(nowhere); i++) {
        l2_defaults(l2_read); // a page of L2 leads nowhere
        u64 *entry = ept_entry(0x40000000);
        *entry = nowhere[i] | 0x37;
        ept_flush();
        l2.rsi = 0x40000000;
        u32 r = l2_run();
        wrong += r != R_VMCALL && r != R_EPT_VIOLATION && r != R_EPT_MISCONFIG;
        l2_defaults(l2_read); // the top level leads nowhere
        memset(root, 0, 4096);
        root[0] = nowhere[i] | 7;
        vmwrite(EPTP, (u64)root | 0x1e);
        r = l2_run();
        wrong += r == R_VMCALL;
    }
    check_eq(wrong, 0, "EPTs that lead nowhere: unexpected outcomes");
    for (u32 i = 0; i < 512; i++)
        loop[i] = (u64)loop | 7;
    l2_defaults(l2_read);
    vmwrite(EPTP, (u64)loop | 0x1e);
    l2.rsi = 0;
    u32 r = l2_run();
    check(r != R_VMCALL, "an EPT that is its own table");
    l2_defaults(l2_vmcall);
    check_run(R_VMCALL, "a good EPT after them");
}

// ----------------------------------------------------------------------- VMCS regions as memory

static void do_vmcs_overwritten(void)
{
    u32 outcomes = 0;
    vmx_begin();
    l2_reset(l2_vmcall);
    l2_run();
    memset((void *)(l2_vmcs + 4), 0xff, 4092); // while it is current
    u32 bad = 0;
    for (u32 i = 0; i < 16; i++) { // what was checked once is what runs, whatever is in memory now
        l2_goto(l2_vmcall);
        bad += l2_run() != R_VMCALL || vmread(GUEST_CR3) != read_cr3();
        memset((void *)(l2_vmcs + 4), (int)i, 4092);
    }
    check_eq(bad, 0, "a current VMCS region is overwritten: entries that noticed");
    for (u32 pattern = 0; pattern < 256; pattern += 15) {
        u64 region = vmx_region();
        memset((void *)(region + 4), (int)pattern, 4092);
        outcomes += vmptrld(region) == VMX_OK;
        vmlaunch();
        vmresume();
        for (u32 e = 0; e < 0x8000; e += 2) {
            u64 v;
            vmread_from(e, &v);
        }
        vmclear(region);
    }
    check(outcomes > 0, "VMCS regions full of one byte were loaded");
    l2_reset(l2_vmcall);
    check_run(R_VMCALL, "a good VMCS after them");
}

static void do_many_vmcs(void)
{
    u64 base = 64 * MIB, bad = 0;
    vmx_begin();
    for (u64 i = 0; i < 600; i++) {
        l2_vmcs = base + i * PAGE_SIZE;
        memset((void *)l2_vmcs, 0, PAGE_SIZE);
        *(u32 *)l2_vmcs = caps.revision;
        l2_reset(l2_cpuid);
        l2.rax = i;
        bad += l2_run() != R_CPUID || l2.rax != i;
    }
    check_eq(bad, 0, "600 active VMCSs: bad entries");
    for (u64 i = 0; i < 600; i += 7) {
        vmptrld(base + i * PAGE_SIZE);
        l2_launched = 1;
        l2_skip();
        bad += l2_run() != R_VMCALL;
    }
    check_eq(bad, 0, "some of them resumed: bad entries");
    // As many EPTs, each a copy of the top level.
    l2_vmcs = 0;
    l2_reset(l2_vmcall);
    for (u64 i = 0; i < 600; i++) {
        u64 *root = (u64 *)(base + (1000 + i) * PAGE_SIZE);
        if (!l2_uses_ept())
            break;
        memcpy(root, ept_pml4, PAGE_SIZE);
        vmwrite(EPTP, (u64)root | 0x1e);
        l2_goto(l2_vmcall);
        bad += l2_run() != R_VMCALL;
    }
    check_eq(bad, 0, "600 EPTs: bad entries");
}

static void do_shutdown_in_vmx(void)
{
    vmx_begin();
    l2_reset(l2_vmcall);
    check_run(R_VMCALL, "L2 runs");
    do_triple_fault();
}

// An exit that cannot load an MSR: VMX abort, the processor shuts down.
static void do_vmx_abort(void)
{
    struct msr_entry *list = alloc_pages(1);
    list[0] = (struct msr_entry){0x3000, 0, 0};
    vmx_begin();
    l2_reset(l2_vmcall);
    check_run(R_VMCALL, "L2 runs");
    run_list(EXIT_MSR_LOAD_COUNT, EXIT_MSR_LOAD, (u64)list, 1);
    check(false, "the exit must not complete");
}

static const struct {
    const char *name;
    void (*run)(void);
} things[] = {
    {"triple-fault", do_triple_fault},
    {"reset", do_reset},
    {"power-off", do_power_off},
    {"debug-exit", do_debug_exit},
    {"unexpected-fault", do_unexpected_fault},
    {"absent", do_absent},
    {"vmcs-nowhere", do_vmcs_nowhere},
    {"pointers-nowhere", do_pointers_nowhere},
    {"msr-lists", do_msr_lists},
    {"ept-nowhere", do_ept_nowhere},
    {"vmcs-overwritten", do_vmcs_overwritten},
    {"many-vmcs", do_many_vmcs},
    {"shutdown-in-vmx", do_shutdown_in_vmx},
    {"vmx-abort", do_vmx_abort},
};

static void run_one(void)
{
    const char *what = arg_text("do");
    for (u32 i = 0; what && i < ARRAY_SIZE(things); i++) {
        size_t n = strlen(things[i].name);
        if (!strncmp(what, things[i].name, n) && (!what[n] || what[n] == ' ')) {
            things[i].run();
            return;
        }
    }
    check(false, "do= names nothing that is known");
}

int main(void);
int main(void)
{
    static const struct test tests[] = {{"robust", run_one}};
    return run_tests("robust", tests, 1);
}
