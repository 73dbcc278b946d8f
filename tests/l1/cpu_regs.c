// CPUID, MSRs and control registers: what exists, and what a wrong value meets.

#include "tests/l1/cpu.h"

static bool has_leaf(u32 leaf)
{
    return cpuid(leaf & 0x80000000, 0).a >= leaf;
}

static u64 phys_limit(void)
{
    return BIT(cpuid(0x80000008, 0).a & 0xff);
}

void test_cpuid(void)
{
    struct cpuid c0 = cpuid(0, 0), c1 = cpuid(1, 0), again = cpuid(1, 0);
    check(c0.b == 0x756e6547 && c0.d == 0x49656e69 && c0.c == 0x6c65746e, "GenuineIntel");
    check(c0.a >= 0xb, "basic leaves up to 0xb at least");
    check(cpuid(0x80000000, 0).a >= 0x80000008, "extended leaves up to 0x80000008");
    check(!memcmp(&c1, &again, sizeof(c1)), "leaf 1 is the same twice");
    struct cpuid beyond = cpuid(c0.a + 0x100, 0), last = cpuid(c0.a, 0);
    check(!memcmp(&beyond, &last, sizeof(last)), "a leaf beyond the last gives the last");
    check(c1.c >> 5 & 1, "VMX");
    static const struct {
        const char *name;
        u8 reg, bit;
    } wanted[] = {{"FPU", 3, 0},   {"PSE", 3, 3},   {"TSC", 3, 4},   {"MSR", 3, 5},
                  {"PAE", 3, 6},   {"CX8", 3, 8},   {"APIC", 3, 9},  {"SEP", 3, 11},
                  {"MTRR", 3, 12}, {"PGE", 3, 13},  {"CMOV", 3, 15}, {"PAT", 3, 16},
                  {"FXSR", 3, 24}, {"SSE2", 3, 26}, {"SSE3", 2, 0},  {"CX16", 2, 13}};
    for (u32 i = 0; i < ARRAY_SIZE(wanted); i++)
        check((wanted[i].reg == 3 ? c1.d : c1.c) >> wanted[i].bit & 1, "%s", wanted[i].name);
    check_eq(c1.b >> 24, rdmsr(0x1b) >> 10 & 1 ? rdmsr(0x802) : read32(0xfee00020) >> 24,
             "initial APIC id and that of the APIC");
    if (has_leaf(0xb))
        check_eq(cpuid(0xb, 0).d, c1.b >> 24, "x2APIC id of leaf 0xb");
    write_cr4(read_cr4() & ~CR4_OSXSAVE);
    check(!(cpuid(1, 0).c >> 27 & 1), "OSXSAVE follows CR4: 0");
    if (c1.c >> 26 & 1) {
        write_cr4(read_cr4() | CR4_OSXSAVE);
        check(cpuid(1, 0).c >> 27 & 1, "OSXSAVE follows CR4: 1");
        check_eq(cpuid(0xd, 0).a & 3, 3, "XCR0 may have x87 and SSE");
        try_xsetbv(0, 1);
        check_eq(cpuid(0xd, 0).b, 576, "save area for x87 alone");
        try_xsetbv(0, 3);
        check_eq(cpuid(0xd, 0).b, 576, "save area with SSE");
        write_cr4(read_cr4() & ~CR4_OSXSAVE);
    }
    u32 width = cpuid(0x80000008, 0).a;
    check((width & 0xff) >= 36 && (width & 0xff) <= 52, "physical addresses have 36 to 52 bits");
    check_eq(width >> 8 & 0xff, 48, "linear address bits");
    check(cpuid(0x80000001, 0).d >> 29 & 1, "long mode");
    check(cpuid(0x80000001, 0).d >> 20 & 1, "NX");
}

void test_msr(void)
{
    static const struct {
        u32 msr;
        const char *name;
    } there[] = {
        {0x10, "IA32_TIME_STAMP_COUNTER"},
        {0x1b, "IA32_APIC_BASE"},
        {0x3a, "IA32_FEATURE_CONTROL"},
        {0xfe, "IA32_MTRRCAP"},
        {0x174, "IA32_SYSENTER_CS"},
        {0x175, "IA32_SYSENTER_ESP"},
        {0x176, "IA32_SYSENTER_EIP"},
        {0x200, "IA32_MTRR_PHYSBASE0"},
        {0x201, "IA32_MTRR_PHYSMASK0"},
        {0x250, "IA32_MTRR_FIX64K_00000"},
        {0x277, "IA32_PAT"},
        {0x2ff, "IA32_MTRR_DEF_TYPE"},
        {0xc0000080, "IA32_EFER"},
        {0xc0000081, "IA32_STAR"},
        {0xc0000082, "IA32_LSTAR"},
        {0xc0000083, "IA32_CSTAR"},
        {0xc0000084, "IA32_FMASK"},
        {0xc0000100, "IA32_FS_BASE"},
        {0xc0000101, "IA32_GS_BASE"},
        {0xc0000102, "IA32_KERNEL_GS_BASE"},
        {0x480, "IA32_VMX_BASIC"},
        {0x481, "IA32_VMX_PINBASED_CTLS"},
        {0x482, "IA32_VMX_PROCBASED_CTLS"},
        {0x483, "IA32_VMX_EXIT_CTLS"},
        {0x484, "IA32_VMX_ENTRY_CTLS"},
        {0x485, "IA32_VMX_MISC"},
        {0x486, "IA32_VMX_CR0_FIXED0"},
        {0x487, "IA32_VMX_CR0_FIXED1"},
        {0x488, "IA32_VMX_CR4_FIXED0"},
        {0x489, "IA32_VMX_CR4_FIXED1"},
        {0x48a, "IA32_VMX_VMCS_ENUM"},
    };
    static const u32 absent[] = {0x2a5,      0x12345,    0x7fffffff, 0x20000000, 0x80000000,
                                 0xbfffffff, 0xc0001234, 0xc0002000, 0xdeadbeef, 0xffffffff};
    u64 v;
    for (u32 i = 0; i < ARRAY_SIZE(there); i++)
        check_fault(try_rdmsr(there[i].msr, &v), NO_FAULT, "RDMSR %s", there[i].name);
    for (u32 i = 0; i < ARRAY_SIZE(absent); i++) {
        check_fault(try_rdmsr(absent[i], &v), VEC_GP, "RDMSR 0x%x", absent[i]);
        check_fault(try_wrmsr(absent[i], 0), VEC_GP, "WRMSR 0x%x", absent[i]);
    }
    check_eq(fault.error, 0, "error code of WRMSR's #GP");
    struct cpuid c1 = cpuid(1, 0), c7 = cpuid(7, 0);
    check((try_rdmsr(0x6e0, &v) == NO_FAULT) == (c1.c >> 24 & 1),
          "IA32_TSC_DEADLINE exists as CPUID says");
    check((try_rdmsr(0x3b, &v) == NO_FAULT) == (c7.b >> 1 & 1),
          "IA32_TSC_ADJUST exists as CPUID says");
    check((try_rdmsr(0xc0000103, &v) == NO_FAULT) == (cpuid(0x80000001, 0).d >> 27 & 1),
          "IA32_TSC_AUX exists as CPUID says");
    check((try_rdmsr(0xda0, &v) == NO_FAULT) == (has_leaf(0xd) && (cpuid(0xd, 1).a >> 3 & 1)),
          "IA32_XSS exists as CPUID says");
    check((try_rdmsr(0x802, &v) == NO_FAULT) == (rdmsr(0x1b) >> 10 & 1),
          "x2APIC MSRs exist in x2APIC mode only");
}

static void check_kept(u32 msr, u64 v, const char *name)
{
    u64 old = rdmsr(msr), got = 0;
    check_fault(try_wrmsr(msr, v), NO_FAULT, "WRMSR %s", name);
    try_rdmsr(msr, &got);
    check_eq(got, v, "%s keeps", name);
    wrmsr(msr, old);
}

void test_msr_write(void)
{
    check_kept(0x174, 0x1234, "IA32_SYSENTER_CS");
    check_kept(0x175, 0x1234567890, "IA32_SYSENTER_ESP");
    check_kept(0x176, 0xffff800012345678, "IA32_SYSENTER_EIP");
    check_kept(0x277, 0x0007010600070406, "IA32_PAT");
    check_kept(0xc0000081, 0x0013000800000000, "IA32_STAR");
    check_kept(0xc0000082, 0xffff800000001000, "IA32_LSTAR");
    check_kept(0xc0000084, 0x47700, "IA32_FMASK");
    check_kept(0xc0000100, 0x123456789000, "IA32_FS_BASE");
    check_kept(0xc0000101, 0xffffffff80001000, "IA32_GS_BASE");
    check_kept(0xc0000102, 0x7fffffff1000, "IA32_KERNEL_GS_BASE");
    check_kept(0x200, 0xc0000000 | 6, "IA32_MTRR_PHYSBASE0");
    static const struct {
        u32 msr;
        u64 v;
        const char *what;
    } bad[] = {
        {0x175, 0x8000000000000000, "IA32_SYSENTER_ESP not canonical"},
        {0x176, 0x8000000000000000, "IA32_SYSENTER_EIP not canonical"},
        {0xc0000082, 0x8000000000000000, "IA32_LSTAR not canonical"},
        {0xc0000083, 0x800000000000, "IA32_CSTAR not canonical"},
        {0xc0000100, 0x8000000000000000, "IA32_FS_BASE not canonical"},
        {0xc0000101, 0xffff000000000000, "IA32_GS_BASE not canonical"},
        {0xc0000102, 0x8000000000000000, "IA32_KERNEL_GS_BASE not canonical"},
        {0x277, 0x0007040600070402, "IA32_PAT with type 2"},
        {0x277, 0x0007040600070403, "IA32_PAT with type 3"},
        {0x277, 0x0807040600070406, "IA32_PAT with a reserved bit"},
        {0xfe, 0, "IA32_MTRRCAP"},
        {0x2ff, 2, "IA32_MTRR_DEF_TYPE with type 2"},
        {0x200, 7, "IA32_MTRR_PHYSBASE0 with type 7"},
        {0x480, 0, "IA32_VMX_BASIC"},
        {0x48a, 0, "IA32_VMX_VMCS_ENUM"},
        {0xc0000080, 0xffffffff00000500, "IA32_EFER with reserved bits 63:32"},
        {0xc0000080, 0x0502, "IA32_EFER with reserved bit 1"},
    };
    for (u32 i = 0; i < ARRAY_SIZE(bad); i++)
        check_fault(try_wrmsr(bad[i].msr, bad[i].v), VEC_GP, "WRMSR %s", bad[i].what);
    u64 efer = rdmsr(0xc0000080), base = rdmsr(0x1b);
    check_fault(try_wrmsr(0xc0000080, efer & ~EFER_LME), VEC_GP, "IA32_EFER.LME off while paging");
    check_fault(try_wrmsr(0xc0000080, efer | EFER_SCE), NO_FAULT, "IA32_EFER.SCE on");
    check_eq(rdmsr(0xc0000080), efer | EFER_SCE | EFER_LMA, "IA32_EFER");
    wrmsr(0xc0000080, efer);
    check_fault(try_wrmsr(0x1b, base | phys_limit()), VEC_GP, "IA32_APIC_BASE beyond the width");
    check_fault(try_wrmsr(0x1b, base | 1), VEC_GP, "IA32_APIC_BASE with a reserved bit");
    check_fault(try_wrmsr(0x1b, (base | 0x400) & ~0x800ull), VEC_GP,
                "IA32_APIC_BASE with EXTD but not EN");
    check_fault(try_wrmsr(0x1b, base), NO_FAULT, "IA32_APIC_BASE as it is");
    check(rdmsr(0x3a) & 1, "IA32_FEATURE_CONTROL is locked");
    check(rdmsr(0x3a) & 4, "and VMX outside SMX on");
    check_fault(try_wrmsr(0x3a, rdmsr(0x3a)), VEC_GP, "WRMSR of the locked IA32_FEATURE_CONTROL");
    wrmsr(0xc0000100, 0x200000);
    u64 v;
    asm volatile("mov %%fs:0, %0" : "=r"(v));
    check_eq(v, read64(0x200000), "FS base is used");
    wrmsr(0xc0000100, 0);
    wrmsr(0xc0000102, 0x1111000);
    wrmsr(0xc0000101, 0x2222000);
    asm volatile("swapgs");
    check_eq(rdmsr(0xc0000101), 0x1111000, "SWAPGS: GS base");
    check_eq(rdmsr(0xc0000102), 0x2222000, "SWAPGS: kernel GS base");
    wrmsr(0xc0000101, 0);
}

void test_cr0(void)
{
    u64 cr0 = read_cr0();
    check_eq(cr0 & 0x80000011, 0x80000011, "PG, ET, PE");
    static const struct {
        u64 set, clear;
        u32 vector;
        const char *what;
    } rows[] = {
        {0, CR0_PE, VEC_GP, "PE off with PG on"},
        {CR0_NW, CR0_CD, VEC_GP, "NW on with CD off"},
        {BIT(32), 0, VEC_GP, "reserved bit 32"},
        {BIT(63), 0, VEC_GP, "reserved bit 63"},
        {0, CR0_PG, VEC_GP, "PG off in 64-bit mode"},
        {CR0_TS, 0, NO_FAULT, "TS on"},
        {CR0_CD, CR0_NW, NO_FAULT, "CD on"},
        {0, CR0_WP, NO_FAULT, "WP off"},
        {BIT(18), 0, NO_FAULT, "AM on"},
        {0, BIT(4), NO_FAULT, "ET off"},
        {BIT(6), 0, NO_FAULT, "reserved bit 6"},
    };
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        u64 want = (cr0 | rows[i].set) & ~rows[i].clear;
        u32 vector = try_write_cr0(want);
        u64 got = read_cr0();
        write_cr0(cr0);
        check_fault(vector, rows[i].vector, "%s", rows[i].what);
        if (rows[i].vector == NO_FAULT)
            want = (want | BIT(4)) & 0xe005003f;
        else
            want = cr0;
        check_eq(got, want, "%s: CR0", rows[i].what);
    }
    u16 word;
    asm volatile("smsw %0" : "=r"(word));
    check_eq(word, cr0 & 0xffff, "SMSW");
    asm volatile("lmsw %w0" : : "r"(word | CR0_TS));
    check_eq(read_cr0(), cr0 | CR0_TS, "LMSW sets TS");
    fault_clear();
    asm volatile(TRY("fninit") : : : "memory");
    check_fault(fault.vector, VEC_NM, "FNINIT with TS");
    asm volatile("clts");
    check_eq(read_cr0(), cr0, "CLTS");
    asm volatile("lmsw %w0" : : "r"(word & ~1));
    check_eq(read_cr0(), cr0, "LMSW does not clear PE");
}

void test_cr3(void)
{
    u64 cr3 = read_cr3();
    check_fault(try_write_cr3(cr3 | phys_limit()), VEC_GP, "a bit beyond the physical width");
    check_fault(try_write_cr3(cr3 | BIT(63)), VEC_GP, "bit 63 without PCIDE");
    check_fault(try_write_cr3(cr3 | 0x18), NO_FAULT, "PWT and PCD");
    check_eq(read_cr3(), cr3 | 0x18, "CR3");
    write_cr3(cr3);
}

void test_cr4(void)
{
    u64 cr4 = read_cr4();
    struct cpuid c1 = cpuid(1, 0), c7 = cpuid(7, 0);
    const struct {
        u8 bit;
        bool there;
        const char *name;
    } bits[] = {
        {0, c1.d >> 1 & 1, "VME"},       {1, c1.d >> 1 & 1, "PVI"},
        {2, c1.d >> 4 & 1, "TSD"},       {3, c1.d >> 2 & 1, "DE"},
        {4, c1.d >> 3 & 1, "PSE"},       {6, true, "MCE"},
        {7, c1.d >> 13 & 1, "PGE"},      {8, true, "PCE"},
        {9, c1.d >> 24 & 1, "OSFXSR"},   {10, c1.d >> 25 & 1, "OSXMMEXCPT"},
        {11, c7.c >> 2 & 1, "UMIP"},     {13, c1.c >> 5 & 1, "VMXE"},
        {16, c7.b & 1, "FSGSBASE"},      {17, c1.c >> 17 & 1, "PCIDE"},
        {18, c1.c >> 26 & 1, "OSXSAVE"}, {20, c7.b >> 7 & 1, "SMEP"},
        {22, c7.c >> 3 & 1, "PKE"},      {23, c7.c >> 7 & 1, "CET"},
        {24, c7.c >> 31 & 1, "PKS"},
    };
    for (u32 i = 0; i < ARRAY_SIZE(bits); i++) {
        u32 vector = try_write_cr4(cr4 | BIT(bits[i].bit));
        u64 got = read_cr4();
        write_cr4(cr4);
        check((vector == NO_FAULT) == bits[i].there, "%s can be set as CPUID says", bits[i].name);
        check_eq(got != cr4, bits[i].there, "%s and CPUID: reads back", bits[i].name);
    }
    check_fault(try_write_cr4(cr4 & ~CR4_PAE), VEC_GP, "PAE off in long mode");
    check_fault(try_write_cr4(cr4 | BIT(15)), VEC_GP, "reserved bit 15");
    check_fault(try_write_cr4(cr4 | BIT(31)), VEC_GP, "reserved bit 31");
    check_fault(try_write_cr4(cr4 | BIT(32)), VEC_GP, "reserved bit 32");
    check_fault(try_write_cr4(cr4 | BIT(63)), VEC_GP, "reserved bit 63");
    if (c1.c >> 17 & 1) {
        u64 cr3 = read_cr3();
        write_cr3(cr3 | 0x18);
        check_fault(try_write_cr4(cr4 | CR4_PCIDE), VEC_GP, "PCIDE on with CR3[11:0] not 0");
        write_cr3(cr3);
        write_cr4(cr4 | CR4_PCIDE);
        check_fault(try_write_cr3(cr3 | 5), NO_FAULT, "CR3 with a PCID");
        check_fault(try_write_cr3(cr3 | BIT(63)), NO_FAULT, "CR3 bit 63 with PCIDE");
        check_eq(read_cr3(), cr3, "CR3 bit 63 reads 0");
        check_fault(try_write_cr0(read_cr0() & ~CR0_PG), VEC_GP, "PG off with PCIDE on");
        write_cr4(cr4);
    }
    check_eq(read_cr4(), cr4, "CR4 in the end");
}

void test_cr8(void)
{
    bool good = true;
    for (u64 v = 0; v < 16; v++) {
        write_cr8(v);
        good &= read_cr8() == v;
    }
    check(good, "0 to 15 read back");
    write_cr8(9);
    check_eq(read32(0xfee00080), 0x90, "the APIC's TPR with CR8 = 9");
    write32(0xfee00080, 0x35);
    check_eq(read_cr8(), 3, "CR8 with TPR = 0x35");
    check_fault(try_write_cr8(16), VEC_GP, "16");
    check_fault(try_write_cr8(BIT(63)), VEC_GP, "bit 63");
    write_cr8(0);
}

void test_xcr0(void)
{
    if (!(cpuid(1, 0).c >> 26 & 1)) {
        skip("no XSAVE");
        return;
    }
    u64 cr4 = read_cr4();
    u32 supported = cpuid(0xd, 0).a;
    check_fault(try_xsetbv(0, 1), VEC_UD, "XSETBV without OSXSAVE");
    write_cr4(cr4 | CR4_OSXSAVE);
    check_fault(try_xsetbv(0, 1), NO_FAULT, "x87");
    check_fault(try_xsetbv(0, 3), NO_FAULT, "x87 and SSE");
    check_eq(xgetbv(0), 3, "XCR0");
    check_fault(try_xsetbv(0, 0), VEC_GP, "nothing");
    check_fault(try_xsetbv(0, 2), VEC_GP, "SSE without x87");
    check_fault(try_xsetbv(0, 5), VEC_GP, "AVX without SSE");
    check((try_xsetbv(0, 7) == NO_FAULT) == (supported >> 2 & 1), "AVX as CPUID says");
    check_fault(try_xsetbv(0, 0x27), VEC_GP, "a part of AVX-512");
    check_fault(try_xsetbv(0, BIT(63) | 3), VEC_GP, "reserved bit 63");
    check_fault(try_xsetbv(0, BIT(40) | 3), VEC_GP, "reserved bit 40");
    check_fault(try_xsetbv(1, 3), VEC_GP, "XCR1");
    check_fault(try_xsetbv(0xffffffff, 3), VEC_GP, "XCR 0xffffffff");
    try_xsetbv(0, 3);
    write_cr4(cr4);
}

// The last section: an emulator may compare TSC deadlines with a count of its own.
void test_tsc(void)
{
    u64 before = rdtsc();
    check(rdtsc() > before, "it counts");
    wrmsr(0x10, BIT(48));
    check(rdtsc() - BIT(48) < BIT(20), "it can be set");
    if (cpuid(7, 0).b >> 1 & 1) {
        u64 adjust = rdmsr(0x3b);
        wrmsr(0x3b, adjust + BIT(40));
        check(rdtsc() - BIT(48) - BIT(40) < BIT(20), "IA32_TSC_ADJUST moves it");
        wrmsr(0x10, rdtsc() + BIT(41));
        u64 moved = adjust + BIT(40) + BIT(41) - rdmsr(0x3b); // less what passed in between
        check(moved < BIT(20), "a write of it moves the MSR");
    }
}
