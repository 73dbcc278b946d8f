// Exceptions with their error codes, paging, debug registers, ring 3 and the other modes.

#include "tests/l1/cpu.h"

// A piece of code for ring 3 (or ring 0 by a call): it ends with int 0x80.
#define SNIPPET(name, text)                                                                        \
    asm(".pushsection .text\nsnippet_" #name ": " text "\nint $0x80\n.popsection\n");              \
    extern u8 snippet_##name[]

static void call_snippet(u64 code)
{
    ((void (*)(void))code)();
}

SNIPPET(divide, "xor %eax, %eax; xor %edx, %edx; div %eax");
SNIPPET(int3, "int3");
SNIPPET(ud2, "ud2");
SNIPPET(int1, ".byte 0xf1");
SNIPPET(noncanonical, "mov $0x8000000000000000, %rax; mov (%rax), %rax");
SNIPPET(stack_noncanonical, "mov $0x8000000000000000, %rbp; mov (%rbp), %rax");
SNIPPET(jump_noncanonical, "mov $0x8000000000000000, %rax; jmp *%rax");
SNIPPET(bad_selector, "mov $0x1230, %eax; mov %eax, %ds");
SNIPPET(code_in_ss, "mov $0x08, %eax; mov %eax, %ss");
SNIPPET(null_in_cs, "xor %eax, %eax; push %rax; push %rax; lretq");
SNIPPET(not_present, "mov $0x70, %eax; mov %eax, %ds");
SNIPPET(ss_not_present, "mov $0x70, %eax; mov %eax, %ss");
SNIPPET(int_beyond, "int $0xf3");
SNIPPET(lock_prefix, ".byte 0xf0, 0x90");
SNIPPET(long_insn, ".fill 15, 1, 0x66; nop");

static void test_double_fault(void)
{
    u8 type = idt[VEC_GP].type;
    idt[VEC_GP].type = 0x0e;
    u32 vector = fault_of(call_snippet, (u64)snippet_noncanonical);
    idt[VEC_GP].type = type;
    check_fault(vector, VEC_DF, "#NP while #GP is delivered");
    check_eq(fault.error, 0, "#DF: error code");
}

void test_exceptions(void)
{
    gdt[SEL_FREE / 8] = 0x00cf13000000ffff; // data, not present
    u8 type = idt[0xf3].type;
    idt[0xf3].type = 0x0e; // not present
    static const struct {
        const char *name;
        u8 *code;
        u32 vector, error;
    } rows[] = {
        {"DIV by 0", snippet_divide, VEC_DE, 0},
        {"INT3", snippet_int3, VEC_BP, 0},
        {"INT1", snippet_int1, VEC_DB, 0},
        {"UD2", snippet_ud2, VEC_UD, 0},
        {"a read at a non-canonical address", snippet_noncanonical, VEC_GP, 0},
        {"a stack read at a non-canonical address", snippet_stack_noncanonical, VEC_SS, 0},
        {"a jump to a non-canonical address", snippet_jump_noncanonical, VEC_GP, 0},
        {"DS beyond the GDT", snippet_bad_selector, VEC_GP, 0x1230},
        {"a code segment in SS", snippet_code_in_ss, VEC_GP, 8},
        {"a null selector in CS", snippet_null_in_cs, VEC_GP, 0},
        {"DS not present", snippet_not_present, VEC_NP, SEL_FREE},
        {"SS not present", snippet_ss_not_present, VEC_SS, SEL_FREE},
        {"a gate not present", snippet_int_beyond, VEC_NP, 0xf3 * 8 + 2},
        {"LOCK NOP", snippet_lock_prefix, VEC_UD, 0},
        {"an instruction of 16 bytes", snippet_long_insn, VEC_GP, 0},
    };
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        check_fault(fault_of(call_snippet, (u64)rows[i].code), rows[i].vector, "%s", rows[i].name);
        check_eq(fault.error, rows[i].error, "%s: error code", rows[i].name);
    }
    idt[0xf3].type = type;
    test_double_fault();
}

enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };

u8 page[4096] ALIGNED(4096); // not static: assembly names it

SNIPPET(user_read, "mov page, %eax");
SNIPPET(user_write, "mov %eax, page");

static void call_page(u64 arg)
{
    (void)arg;
    ((void (*)(void))(u64)page)();
}

static void check_page_fault(u32 got, u32 error, const char *what)
{
    check_fault(got, VEC_PF, "%s", what);
    check_eq(fault.error, error, "%s: error code", what);
    check(fault.cr2 == (u64)page, "%s: CR2", what);
}

void test_paging(void)
{
    u64 *pte = page_entry((u64)page), good = *pte, efer = rdmsr(0xc0000080);
    page[0] = 0xc3;
    wrmsr(0xc0000080, efer | EFER_NXE);
    *pte = 0;
    invlpg(page);
    check_page_fault(try_read((u64)page), 0, "read, not present");
    check_page_fault(try_write((u64)page, 1), PF_W, "write, not present");
    check_page_fault(fault_of(call_page, 0), PF_I, "fetch, not present");
    check_page_fault(fault_of_user(snippet_user_read), PF_U, "user read, not present");
    *pte = good & ~PTE_W;
    invlpg(page);
    check_page_fault(try_write((u64)page, 1), PF_W | PF_P, "write, read-only");
    write_cr0(read_cr0() & ~CR0_WP);
    check_fault(try_write((u64)page, 0xc3), NO_FAULT, "write, read-only, without WP");
    write_cr0(read_cr0() | CR0_WP);
    check_page_fault(fault_of_user(snippet_user_write), PF_W | PF_P | PF_U,
                     "user write, read-only");
    *pte = good & ~PTE_U;
    invlpg(page);
    check_page_fault(fault_of_user(snippet_user_read), PF_P | PF_U, "user read, supervisor page");
    *pte = good | PTE_NX;
    invlpg(page);
    check_page_fault(fault_of(call_page, 0), PF_I | PF_P, "fetch, NX");
    check_fault(try_read((u64)page), NO_FAULT, "read, NX");
    *pte = good | BIT(51);
    invlpg(page);
    check_page_fault(try_read((u64)page), PF_RSVD | PF_P, "read, reserved bit");
    wrmsr(0xc0000080, efer & ~EFER_NXE);
    *pte = good | PTE_NX;
    invlpg(page);
    check_page_fault(try_read((u64)page), PF_RSVD | PF_P, "read, NX bit without NXE");
    wrmsr(0xc0000080, efer);
    *pte = good & ~(PTE_A | PTE_D);
    invlpg(page);
    try_read((u64)page);
    check_eq(*pte & (PTE_A | PTE_D), PTE_A, "A and D after a read");
    try_write((u64)page, 1);
    check_eq(*pte & (PTE_A | PTE_D), PTE_A | PTE_D, "A and D after a write");
    *pte = good;
    invlpg(page);
}

SNIPPET(step, "pushfq; orq $0x100, (%rsp); popfq; nop; step_end: nop");
extern u8 step_end[];
SNIPPET(watched, "watched_insn: nop; nop");
extern u8 watched_insn[];
SNIPPET(dr4, "mov %dr4, %rax");
SNIPPET(dr0, "mov %dr0, %rax");

SNIPPET(out, "mov $0x80, %edx; out %al, %dx; after_out: nop");
extern u8 after_out[];

static volatile u64 data;

static void write_data(u64 v)
{
    data = v;
}

void test_debug(void)
{
    u64 cr4 = read_cr4();
    check_fault(fault_of(call_snippet, (u64)snippet_step), VEC_DB, "single step");
    check(fault.rip == (u64)step_end, "single step: after the instruction");
    check_eq(read_dr6() & 0xe00f, 0x4000, "single step: DR6");
    try_write_dr6(0xffff0ff0);
    try_write_dr0((u64)watched_insn);
    try_write_dr7(0x402);
    check_fault(fault_of(call_snippet, (u64)snippet_watched), VEC_DB, "execution breakpoint");
    check(fault.rip == (u64)watched_insn, "execution breakpoint: before the instruction");
    check_eq(read_dr6() & 0xe00f, 1, "execution breakpoint: DR6");
    try_write_dr6(0xffff0ff0);
    try_write_dr1((u64)&data);
    try_write_dr7(0x400 | 8 | 0xd00000); // DR1, global, write, 4 bytes
    check_fault(fault_of(write_data, 1), VEC_DB, "write breakpoint");
    check_eq(read_dr6() & 0xe00f, 2, "write breakpoint: DR6");
    check_fault(try_read((u64)&data), NO_FAULT, "a read of it");
    try_write_dr6(0xffff0ff0);
    write_cr4(cr4 | CR4_DE);
    try_write_dr2(0x80);
    try_write_dr7(0x400 | 0x20 | 0x2000000); // DR2, global, I/O, 1 byte
    check_fault(fault_of(call_snippet, (u64)snippet_out), VEC_DB, "I/O breakpoint");
    check(fault.rip == (u64)after_out, "I/O breakpoint: after the instruction");
    check_eq(read_dr6() & 0xe00f, 4, "I/O breakpoint: DR6");
    check_fault(fault_of(call_snippet, (u64)snippet_dr4), VEC_UD, "MOV from DR4 with DE");
    write_cr4(cr4);
    try_write_dr7(0x400);
    check_fault(fault_of(call_snippet, (u64)snippet_dr4), 0x80, "MOV from DR4 without DE");
    try_write_dr6(0xffff0ff0);
    try_write_dr7(0x2400);
    check_fault(fault_of(call_snippet, (u64)snippet_dr0), VEC_DB, "MOV from DR0 with DR7.GD");
    check_eq(read_dr6() & 0xe00f, 0x2000, "general detect: DR6");
    check_eq(read_dr7() & 0x2000, 0, "general detect: GD is off in the handler");
    try_write_dr7(0x400);
    check_fault(try_write_dr7(BIT(32)), VEC_GP, "DR7 bit 32");
    check_fault(try_write_dr6(BIT(32)), VEC_GP, "DR6 bit 32");
    try_write_dr6(0);
    check_eq(read_dr6(), 0xffff0ff0, "DR6 after 0");
    try_write_dr7(0);
    check_eq(read_dr7(), 0x400, "DR7 after 0");
    try_write_dr3(0xffff800012345678);
    check_eq(read_dr3(), 0xffff800012345678, "DR3");
}

SNIPPET(u_hlt, "hlt");
SNIPPET(u_cli, "cli");
SNIPPET(u_in, "in $0x80, %al");
SNIPPET(u_out, "out %al, $0x80");
SNIPPET(u_rdmsr, "mov $0x10, %ecx; rdmsr");
SNIPPET(u_wrmsr, "mov $0x10, %ecx; wrmsr");
SNIPPET(u_cr0, "mov %cr0, %rax");
SNIPPET(u_cr8, "mov %rax, %cr8");
SNIPPET(u_dr7, "mov %dr7, %rax");
SNIPPET(u_lgdt, "lgdt gdt_pointer");
SNIPPET(u_invlpg, "invlpg (%rsp)");
SNIPPET(u_wbinvd, "wbinvd");
SNIPPET(u_invd, "invd");
SNIPPET(u_clts, "clts");
SNIPPET(u_swapgs, "swapgs");
SNIPPET(u_rdtsc, "rdtsc");
SNIPPET(u_cpuid, "xor %eax, %eax; cpuid");
SNIPPET(u_int, "int $0x20");
SNIPPET(u_int3, "int3");
SNIPPET(u_xsetbv, "xor %ecx, %ecx; xsetbv");
SNIPPET(u_popf_if, "pushfq; orq $0x200, (%rsp); popfq; pushfq; pop %rax; and $0x200, %eax; jz 1f;"
                   "ud2; 1:");
SNIPPET(u_align, "pushfq; orq $0x40000, (%rsp); popfq; mov 1(%rsp), %eax");

void test_ring3(void)
{
    static const struct {
        const char *name;
        u8 *code;
        u32 vector, error;
    } rows[] = {
        {"HLT", snippet_u_hlt, VEC_GP, 0},
        {"CLI", snippet_u_cli, VEC_GP, 0},
        {"IN", snippet_u_in, VEC_GP, 0},
        {"OUT", snippet_u_out, VEC_GP, 0},
        {"RDMSR", snippet_u_rdmsr, VEC_GP, 0},
        {"WRMSR", snippet_u_wrmsr, VEC_GP, 0},
        {"MOV from CR0", snippet_u_cr0, VEC_GP, 0},
        {"MOV to CR8", snippet_u_cr8, VEC_GP, 0},
        {"MOV from DR7", snippet_u_dr7, VEC_GP, 0},
        {"LGDT", snippet_u_lgdt, VEC_GP, 0},
        {"INVLPG", snippet_u_invlpg, VEC_GP, 0},
        {"WBINVD", snippet_u_wbinvd, VEC_GP, 0},
        {"INVD", snippet_u_invd, VEC_GP, 0},
        {"CLTS", snippet_u_clts, VEC_GP, 0},
        {"SWAPGS", snippet_u_swapgs, VEC_GP, 0},
        {"RDTSC", snippet_u_rdtsc, 0x80, 0},
        {"CPUID", snippet_u_cpuid, 0x80, 0},
        {"INT 0x20", snippet_u_int, VEC_GP, 0x102},
        {"INT3", snippet_u_int3, VEC_BP, 0},
        {"POPF of IF", snippet_u_popf_if, 0x80, 0},
        {"an unaligned read", snippet_u_align, 0x80, 0},
    };
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        check_fault(fault_of_user(rows[i].code), rows[i].vector, "%s", rows[i].name);
        check_eq(fault.error, rows[i].error, "%s: error code", rows[i].name);
    }
    u64 cr4 = read_cr4();
    write_cr4(cr4 | CR4_TSD);
    check_fault(fault_of_user(snippet_u_rdtsc), VEC_GP, "RDTSC with TSD");
    write_cr4(cr4);
    if (cpuid(1, 0).c >> 26 & 1) {
        write_cr4(cr4 | CR4_OSXSAVE);
        check_fault(fault_of_user(snippet_u_xsetbv), VEC_GP, "XSETBV");
        write_cr4(cr4);
    }
    write_cr0(read_cr0() | BIT(18));
    check_fault(fault_of_user(snippet_u_align), VEC_AC, "an unaligned read with AM");
    write_cr0(read_cr0() & ~BIT(18));
}

// 32-bit code, encoded by hand where the 64-bit assembler would refuse it.
asm(".pushsection .text\n.code32\n"
    "c32_add: add $5, %eax; ret\n"
    "c32_inc: .byte 0x40; ret\n"
    "c32_into: mov $0x7fffffff, %eax; add $1, %eax; into; ret\n"
    "c32_bound: mov $9, %eax; bound %eax, c32_limits; ret\n"
    "c32_limit: mov %ds, %ecx; mov $0x58, %eax; mov %eax, %ds; mov 0x100, %eax;"
    "           mov %ecx, %ds; ret\n"
    "c32_inside: mov %ds, %ecx; mov $0x58, %eax; mov %eax, %ds; mov 0xfc, %eax; mov %ecx, %ds;"
    "            xor %eax, %eax; ret\n"
    "c32_readonly: mov %ds, %ecx; mov $0x60, %eax; mov %eax, %ds; mov %eax, c32_limits;"
    "              mov %ecx, %ds; ret\n"
    "c32_exec: mov %cs:0x200000, %eax; ret\n"
    "c32_user: int $0x80\n"
    "c32_null: mov %ds, %ecx; xor %eax, %eax; mov %eax, %ds; mov 0x200000, %eax; ret\n"
    "c32_wrap: mov $0xffffffff, %eax; lea 0x10(%eax), %eax; ret\n"
    ".code64\n.balign 8\nc32_limits: .long 1, 5\n.popsection\n");
extern u8 c32_add[], c32_inc[], c32_into[], c32_bound[], c32_limit[], c32_inside[], c32_readonly[],
    c32_exec[], c32_user[], c32_null[], c32_wrap[];

static u32 compat_result;

static void call_compat(u64 code)
{
    compat_result = compat_call((void *)code, 0x100);
}

void test_compat(void)
{
    static const struct {
        const char *name;
        u8 *code;
        u32 vector, result;
    } rows[] = {
        {"an addition", c32_add, NO_FAULT, 0x105},
        {"0x40 is INC", c32_inc, NO_FAULT, 0x101},
        {"INTO", c32_into, VEC_OF, 0},
        {"BOUND", c32_bound, VEC_BR, 0},
        {"a read beyond the limit", c32_limit, VEC_GP, 0},
        {"a read up to the limit", c32_inside, NO_FAULT, 0},
        {"a write to a read-only segment", c32_readonly, VEC_GP, 0},
        {"a read by a null segment", c32_null, VEC_GP, 0},
        {"a read by CS", c32_exec, NO_FAULT, 0},
        {"addresses wrap at 4 GiB", c32_wrap, NO_FAULT, 0xf},
    };
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        compat_result = 0;
        check_fault(fault_of(call_compat, (u64)rows[i].code), rows[i].vector, "%s", rows[i].name);
        if (rows[i].vector == NO_FAULT && rows[i].code != c32_exec)
            check_eq(compat_result, rows[i].result, "%s: EAX", rows[i].name);
    }
    check_fault(fault_of_user32(c32_user), 0x80, "INT 0x80 in 32-bit ring 3");
}

void test_real(void)
{
    static const struct {
        const char *name;
        enum real_routine routine;
        u32 vector;
    } rows[] = {
        {"there and back", REAL_NOTHING, NO_FAULT},
        {"UD2", REAL_UD2, VEC_UD},
        {"DIV by 0", REAL_DIVIDE, VEC_DE},
        {"beyond 64 KiB", REAL_LIMIT, VEC_GP},
        {"VMXOFF", REAL_VMXOFF, VEC_UD},
        {"VMCALL", REAL_VMCALL, VEC_UD},
        {"INT 5", REAL_SOFTWARE_INT, VEC_BR},
        {"CPUID", REAL_CPUID, NO_FAULT},
        {"RDMSR of an absent MSR", REAL_ABSENT_MSR, VEC_GP},
    };
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++)
        check_fault(run_real(rows[i].routine).vector, rows[i].vector, "%s", rows[i].name);
    check_eq(run_real(REAL_NOTHING).a, 0x1234, "a word written");
    check_eq(run_real(REAL_CPUID).a, cpuid(0, 0).b, "CPUID");
    struct real_result r = run_real(REAL_MODE_BITS);
    check_eq(r.a & 0x80000001, 0, "CR0.PG and PE");
    check_eq(r.b & (BIT(17) | FLAG_IF), 0, "EFLAGS.VM and IF");
    check_eq(run_real(REAL_BIG_SEGMENT).a, read32(0x200000), "a read by a segment of 4 GiB");
    check_eq(rdmsr(0xc0000080) & (EFER_LMA | EFER_LME), EFER_LMA | EFER_LME, "EFER after it");
}

void test_cache(void)
{
    static volatile u64 word;
    word = 0x1122334455667788;
    asm volatile("wbinvd" : : : "memory");
    check_eq(word, 0x1122334455667788, "memory after WBINVD");
    asm volatile("clflush %0" : : "m"(word) : "memory");
    check_eq(word, 0x1122334455667788, "memory after CLFLUSH");
    asm volatile("wbinvd; invd" : : : "memory");
    check_eq(word, 0x1122334455667788, "memory after WBINVD and INVD");
    u64 cr0 = read_cr0();
    write_cr0(cr0 | CR0_CD);
    word = 0x99;
    check_eq(word, 0x99, "memory with CR0.CD");
    write_cr0(cr0);
    u64 mtrr = rdmsr(0x2ff);
    wrmsr(0x2ff, mtrr & ~0x800ull);
    word = 0x9a;
    check_eq(word, 0x9a, "memory without MTRRs");
    wrmsr(0x2ff, mtrr);
}
