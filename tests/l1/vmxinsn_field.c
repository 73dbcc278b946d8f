// VMREAD and VMWRITE of every encoding; INVEPT and INVVPID; operands in every form, and their
// faults; the wrong privilege level and the wrong mode.

#include "tests/l1/vmxinsn.h"

enum { E_UNSUPPORTED_FIELD = 12, E_READ_ONLY_FIELD = 13, E_INVALIDATE = 28 };

static u64 field_mask(u16 encoding)
{
    switch (encoding >> 13 & 3) {
    case 0:
        return 0xffff;
    case 1:
        return encoding & 1 ? 0xffffffff : ~0ull;
    case 2:
        return 0xffffffff;
    default:
        return ~0ull;
    }
}

static bool read_only(u16 encoding)
{
    return (encoding >> 10 & 3) == 1;
}

// One field: is it there, and does it keep a pattern in its own width?
static void check_field(const struct field_row *f)
{
    u64 v = 0, pattern = 0x9a3c5e7f81b2d4e6;
    u32 want = f->exists ? VMX_OK : VMX_VALID | E_UNSUPPORTED_FIELD;
    check_outcome(vmread_from(f->encoding, &v), want, "0x%04x %s: VMREAD", f->encoding, f->name);
    if (f->exists && read_only(f->encoding) && !(caps.misc >> 29 & 1))
        want = VMX_VALID | E_READ_ONLY_FIELD;
    check_outcome(vmwrite_to(f->encoding, pattern), want, "0x%04x %s: VMWRITE", f->encoding,
                  f->name);
    if (want == VMX_OK)
        check_eq(vmread(f->encoding), pattern & field_mask(f->encoding), "0x%04x %s: keeps",
                 f->encoding, f->name);
}

static bool known(const struct field_row *rows, u32 n, u32 encoding)
{
    for (u32 i = 0; i < n; i++)
        if (rows[i].encoding == encoding)
            return true;
    return false;
}

// The encodings that no field has; fields of later manuals are named with their feature.
static bool later_field(u32 e)
{
    static const u16 later[] = {0x202e, 0x2030, 0x2034, 0x2036, 0x2038, 0x203a, 0x203c,
                                0x203e, 0x2040, 0x2042, 0x2044, 0x2046, 0x2048, 0x204a,
                                0x204c, 0x204e, 0x2050, 0x2052, 0x2814, 0x2816, 0x2818,
                                0x281a, 0x2c06, 0x2c08, 0x6828, 0x682a, 0x682c, 0x6c18,
                                0x6c1a, 0x6c1c, 0x4024, 0x0814, 0x0008, 0x0006, 0x2820};
    for (u32 i = 0; i < ARRAY_SIZE(later); i++)
        if ((e & ~1u) == later[i])
            return true;
    return false;
}

static void check_absent(const struct field_row *rows, u32 n)
{
    u32 readable = 0, writable = 0;
    for (u32 e = 0; e < 0x8000; e++) {
        u64 v;
        if (known(rows, n, e) || later_field(e))
            continue;
        readable += vmread_from(e, &v) != (VMX_VALID | E_UNSUPPORTED_FIELD);
        writable += vmwrite_to(e, 0) != (VMX_VALID | E_UNSUPPORTED_FIELD);
    }
    check_eq(readable, 0, "encodings of no field that VMREAD does not refuse");
    check_eq(writable, 0, "encodings of no field that VMWRITE does not refuse");
}

void test_fields(void)
{
    static struct field_row rows[FIELD_ROWS];
    u32 n = field_rows(rows);
    u64 a = vmx_region();
    vmclear(a);
    vmptrld(a);
    for (u32 i = 0; i < n; i++)
        check_field(&rows[i]);
    check_absent(rows, n);
    vmclear(a);
}

void test_vmread(void)
{
    u64 a = vmx_region(), v = 0;
    check_outcome(vmread_from(GUEST_RIP, &v), VMX_INVALID, "VMREAD without a current VMCS");
    check_outcome(vmwrite_to(GUEST_RIP, 0), VMX_INVALID, "VMWRITE without a current VMCS");
    check_outcome(vmread_from(0x7fff, &v), VMX_INVALID,
                  "VMREAD of no field without a current VMCS");
    vmclear(a);
    vmptrld(a);
    check_outcome(vmread_from(GUEST_RIP | BIT(32), &v), VMX_VALID | E_UNSUPPORTED_FIELD,
                  "VMREAD with bit 32 of the encoding");
    check_outcome(vmread_from(GUEST_RIP | BIT(15), &v), VMX_VALID | E_UNSUPPORTED_FIELD,
                  "VMREAD with bit 15 of the encoding");
    check_outcome(vmwrite_to(GUEST_RIP | BIT(63), 1), VMX_VALID | E_UNSUPPORTED_FIELD,
                  "VMWRITE with bit 63 of the encoding");
    check_outcome(vmread_from(GUEST_RIP + 1, &v), VMX_VALID | E_UNSUPPORTED_FIELD,
                  "VMREAD of the high half of a field of natural width");
    check_outcome(vmwrite_to(EXCEPTION_BITMAP + 1, 0), VMX_VALID | E_UNSUPPORTED_FIELD,
                  "VMWRITE of the high half of a field of 32 bits");
    vmwrite(IO_BITMAP_A, 0x1111222233334444);
    check_eq(vmread(IO_BITMAP_A + 1), 0x11112222, "the high half");
    vmwrite(IO_BITMAP_A + 1, 0xaaaabbbbccccdddd);
    check_eq(vmread(IO_BITMAP_A), 0xccccdddd33334444, "the field after a write of the high half");
    vmwrite(IO_BITMAP_A, 0x5555666677778888);
    check_eq(vmread(IO_BITMAP_A + 1), 0x55556666, "the high half after a write of the field");
    v = ~0ull;
    vmwrite(GUEST_ES, 0xffff8001);
    vmread_from(GUEST_ES, &v);
    check_eq(v, 0x8001, "a field of 16 bits is zero-extended");
    u64 r = ~0ull, encoding = GUEST_ES;
    asm volatile("vmread %1, %0" : "+r"(r) : "r"(encoding) : "cc");
    check_eq(r, 0x8001, "and into a register");
    v = 0x1122334455667788;
    vmread_from(0x7ffe, &v);
    check_eq(v, 0x1122334455667788, "a failing VMREAD leaves its destination");
    u32 outcome = vmwrite_to(EXIT_REASON, 5);
    if (caps.misc >> 29 & 1) {
        check_outcome(outcome, VMX_OK, "VMWRITE of the exit reason");
        check_eq(vmread(EXIT_REASON), 5, "the exit reason");
    } else {
        check_outcome(outcome, VMX_VALID | E_READ_ONLY_FIELD, "VMWRITE of the exit reason");
    }
    vmread_from(0x7ffe, &v);
    check_eq(vmread(INSTRUCTION_ERROR), 12, "the error field after a failing VMREAD");
    vmwrite(GUEST_RIP, 1);
    check_eq(vmread(INSTRUCTION_ERROR), 12, "it stays when an instruction succeeds");
    vmclear(a);
}

void test_invalidate(void)
{
    u64 a = vmx_region();
    if (!(caps.proc2 & PROC2_EPT)) {
        check_outcome(invept(2, 0, 0), VMX_FAULT | VEC_UD, "INVEPT without EPT");
    } else {
        u64 eptp = (u64)alloc_pages(1) | 0x1e;
        check_outcome(invept(0, 0, 0), VMX_INVALID, "INVEPT type 0, without a current VMCS");
        vmclear(a);
        vmptrld(a);
        check_outcome(invept(2, 0, 0), VMX_OK, "INVEPT of all contexts");
        check_outcome(invept(2, ~0ull, 0), VMX_OK, "INVEPT of all contexts, EPTP not looked at");
        check_outcome(invept(1, eptp, 0), VMX_OK, "INVEPT of one context");
        check_outcome(invept(1, 0x7, 0), VMX_VALID | E_INVALIDATE, "INVEPT with a wrong EPTP");
        check_outcome(invept(1, eptp | caps.phys_limit, 0), VMX_VALID | E_INVALIDATE,
                      "INVEPT with an EPTP beyond the width");
        check_outcome(invept(0, eptp, 0), VMX_VALID | E_INVALIDATE, "INVEPT type 0");
        check_outcome(invept(3, eptp, 0), VMX_VALID | E_INVALIDATE, "INVEPT type 3");
        check_outcome(invept(BIT(32) | 2, eptp, 0), VMX_VALID | E_INVALIDATE,
                      "INVEPT type with bit 32");
        vmclear(a);
    }
    if (!(caps.proc2 & PROC2_VPID)) {
        check_outcome(invvpid(2, 0, 0), VMX_FAULT | VEC_UD, "INVVPID without VPID");
        return;
    }
    vmclear(a);
    vmptrld(a);
    u64 types = caps.ept_vpid >> 40 & 15;
    for (u64 type = 0; type < 4; type++)
        check_outcome(invvpid(type, 1, 0x200000),
                      types >> type & 1 ? VMX_OK : VMX_VALID | E_INVALIDATE, "INVVPID type %u",
                      (u32)type);
    check_outcome(invvpid(4, 1, 0), VMX_VALID | E_INVALIDATE, "INVVPID type 4");
    check_outcome(invvpid(0, 0, 0), VMX_VALID | E_INVALIDATE, "INVVPID of an address, VPID 0");
    check_outcome(invvpid(1, 0, 0), VMX_VALID | E_INVALIDATE, "INVVPID of one context, VPID 0");
    check_outcome(invvpid(3, 0, 0), VMX_VALID | E_INVALIDATE, "INVVPID but globals, VPID 0");
    check_outcome(invvpid(2, 0, 0), VMX_OK, "INVVPID of all contexts, VPID 0");
    check_outcome(invvpid(3, 1, BIT(63)), VMX_OK, "INVVPID but globals, address not looked at");
    check_outcome(invvpid(1, 1, BIT(63)), VMX_OK, "INVVPID of one context, address not looked at");
    check_outcome(invvpid(0, 1, BIT(47)), VMX_VALID | E_INVALIDATE,
                  "INVVPID of the first non-canonical address");
    check_outcome(invvpid(0, 1, ~0ull << 47), VMX_OK, "INVVPID of a high canonical address");
    check_outcome(invvpid(0, 1, BIT(63)), VMX_VALID | E_INVALIDATE,
                  "INVVPID of a non-canonical address");
    struct invvpid_desc d = {1, {1, 0, 0}, 0};
    check_outcome(VMX_INSN("invvpid %[d], %[t]", [d] "m"(d), [t] "r"(1ull)),
                  VMX_VALID | E_INVALIDATE, "INVVPID with a reserved bit in the descriptor");
    vmclear(a);
}

// ---------------------------------------------------------------------------------------- operands

u64 operand[8]; // not static: assembly names it

#define FORM(insn, ...)                                                                            \
    do {                                                                                           \
        operand[0] = 0;                                                                            \
        u32 outcome = VMX_INSN(insn, "d"((u64)GUEST_RSP), __VA_ARGS__);                            \
        check(outcome == VMX_OK && operand[0] == 0x123456789abcdef0, "VMREAD: %s", insn);          \
    } while (0)

void test_addressing(void)
{
    u64 a = vmx_region(), base = (u64)operand, pointer;
    vmclear(a);
    vmptrld(a);
    vmwrite(GUEST_RSP, 0x123456789abcdef0);
    FORM("vmread %%rdx, (%%rax)", "a"(base));
    FORM("vmread %%rdx, 16(%%rax)", "a"(base - 16));
    FORM("vmread %%rdx, -0x1000(%%rax)", "a"(base + 0x1000));
    FORM("vmread %%rdx, (%%rax,%%rcx)", "a"(base - 0x30), "c"(0x30ull));
    FORM("vmread %%rdx, (%%rax,%%rcx,8)", "a"(base - 0x80), "c"(0x10ull));
    FORM("vmread %%rdx, 4(%%rax,%%rcx,4)", "a"(base + 60), "c"(-16ull));
    FORM("vmread %%rdx, -8(,%%rcx,2)", "c"((base + 8) / 2));
    FORM("vmread %%rdx, operand", "a"(0));
    FORM("vmread %%rdx, operand(%%rip)", "a"(0));
    FORM("vmread %%rdx, (%%eax)", "a"(base | 0xabcd00000000));
    FORM("vmread %%rdx, 8(%%eax,%%ecx,2)", "a"(base - 8 - 0x200), "c"(0xf00000100));
    FORM("mov %%rax, %%r12; vmread %%rdx, (%%r12)", "a"(base));
    FORM("mov %%rax, %%r13; vmread %%rdx, 0(%%r13)", "a"(base));
    FORM("xchg %%rax, %%r9; mov %%rdx, %%r15; vmread %%r15, (%%r9); xchg %%rax, %%r9", "a"(base));
    FORM("mov %%rsp, %%rdi; mov %%rax, %%rsp; vmread %%rdx, (%%rsp); mov %%rdi, %%rsp", "a"(base));
    FORM("mov %%rsp, %%rdi; mov %%rax, %%rsp; vmread %%rdx, 8(%%rsp,%%rcx,1); mov %%rdi, %%rsp",
         "a"(base), "c"(-8ull));
    wrmsr(0xc0000100, base - 0x40);
    FORM("vmread %%rdx, %%fs:0x40", "a"(0));
    wrmsr(0xc0000101, base - 0x400);
    FORM("vmread %%rdx, %%gs:(%%rax)", "a"(0x400ull));
    wrmsr(0xc0000100, 0);
    wrmsr(0xc0000101, 0);
    u64 out = 0;
    asm volatile("vmread %1, %%r11; mov %%r11, %0" : "=r"(out) : "r"((u64)GUEST_RSP) : "r11", "cc");
    check_eq(out, 0x123456789abcdef0, "VMREAD into R11");
    operand[0] = 0x1234;
    check_outcome(VMX_INSN("vmwrite (%[p]), %[e]", [p] "r"(operand), [e] "r"((u64)GUEST_RSP)),
                  VMX_OK, "VMWRITE from memory");
    check_eq(vmread(GUEST_RSP), 0x1234, "the field after it");
    u64 sp;
    asm volatile("mov %%rsp, %0; vmwrite %%rsp, %1" : "=&r"(sp) : "r"((u64)GUEST_RSP) : "cc");
    check(vmread(GUEST_RSP) == sp, "VMWRITE from RSP");
    operand[3] = a;
    check_outcome(VMX_INSN("vmptrld 8(%[p],%[i],8)", [p] "r"(operand), [i] "r"(2ull)), VMX_OK,
                  "VMPTRLD with base, index and displacement");
    check_outcome(VMX_INSN("vmptrst -8(%[p])", [p] "r"(&pointer + 1)), VMX_OK,
                  "VMPTRST with a displacement");
    check(pointer == a, "the pointer");
    vmclear(a);
}

// Every instruction with a memory operand at `address`.
static void memory_operands(u64 address, u32 want, u32 read_error, u32 write_error,
                            const char *where)
{
    struct {
        const char *name;
        u32 outcome, error, want_error;
    } r[5];
    u32 n = 0;
#define OPERAND(label, err, insn, ...)                                                             \
    r[n].name = label;                                                                             \
    r[n].want_error = err;                                                                         \
    r[n].outcome = VMX_INSN(insn, [p] "r"(address), __VA_ARGS__);                                  \
    r[n++].error = fault.error
    OPERAND("VMCLEAR", read_error, "vmclear (%[p])", "r"(0));
    OPERAND("VMPTRLD", read_error, "vmptrld (%[p])", "r"(0));
    OPERAND("VMPTRST", write_error, "vmptrst (%[p])", "r"(0));
    OPERAND("VMREAD", write_error, "vmread %[e], (%[p])", [e] "r"((u64)GUEST_RIP));
    OPERAND("VMWRITE", read_error, "vmwrite (%[p]), %[e]", [e] "r"((u64)GUEST_RIP));
    for (u32 i = 0; i < n; i++) {
        check_outcome(r[i].outcome, want, "%s %s", r[i].name, where);
        check_eq(r[i].error, r[i].want_error, "%s %s: error code", r[i].name, where);
    }
}

asm(".pushsection .text\nvmptrst_rbp: mov $0x8000000000000000, %rbp; vmptrst (%rbp); ret\n"
    ".popsection\n");
extern u8 vmptrst_rbp[];

static void call_code(u64 code)
{
    ((void (*)(void))code)();
}

void test_operand_faults(void)
{
    u64 a = vmx_region(), page = (u64)alloc_pages(2), *pte = page_entry(page), good = *pte;
    vmclear(a);
    vmptrld(a);
    *pte = 0;
    invlpg((void *)page);
    memory_operands(page + 0x10, VMX_FAULT | VEC_PF, 0, 2, "not present");
    check_eq(fault.cr2, page + 0x10, "CR2");
    if (caps.proc2 & PROC2_EPT)
        check_outcome(VMX_INSN("invept (%[p]), %[t]", [p] "r"(page), [t] "r"(2ull)),
                      VMX_FAULT | VEC_PF, "INVEPT not present");
    if (caps.proc2 & PROC2_VPID)
        check_outcome(VMX_INSN("invvpid (%[p]), %[t]", [p] "r"(page), [t] "r"(2ull)),
                      VMX_FAULT | VEC_PF, "INVVPID not present");
    // An unsupported type comes before the operand.
    if (caps.proc2 & PROC2_EPT)
        check_outcome(VMX_INSN("invept (%[p]), %[t]", [p] "r"(page), [t] "r"(9ull)),
                      VMX_VALID | E_INVALIDATE, "INVEPT type 9, not present");
    if (caps.proc2 & PROC2_VPID)
        check_outcome(VMX_INSN("invvpid (%[p]), %[t]", [p] "r"(page), [t] "r"(9ull)),
                      VMX_VALID | E_INVALIDATE, "INVVPID type 9, not present");
    *pte = good & ~PTE_W;
    invlpg((void *)page);
    check_outcome(VMX_INSN("vmptrst (%[p])", [p] "r"(page)), VMX_FAULT | VEC_PF,
                  "VMPTRST to a read-only page");
    check_eq(fault.error, 3, "VMPTRST to a read-only page: error code");
    check_outcome(VMX_INSN("vmread %[e], (%[p])", [p] "r"(page), [e] "r"((u64)GUEST_RIP)),
                  VMX_FAULT | VEC_PF, "VMREAD to a read-only page");
    check_outcome(VMX_INSN("vmread %[e], (%[p])", [p] "r"(page), [e] "r"(0x7ffeull)),
                  VMX_VALID | E_UNSUPPORTED_FIELD, "VMREAD of no field to a read-only page");
    check_outcome(VMX_INSN("vmwrite (%[p]), %[e]", [p] "r"(page), [e] "r"((u64)GUEST_RIP)), VMX_OK,
                  "VMWRITE from a read-only page");
    *pte = good;
    u64 *next = page_entry(page + 0x1000);
    *next &= ~PTE_P;
    invlpg((void *)page);
    invlpg((void *)(page + 0x1000));
    check_outcome(VMX_INSN("vmptrst (%[p])", [p] "r"(page + 0xffc)), VMX_FAULT | VEC_PF,
                  "VMPTRST across into a page that is not present");
    check_eq(fault.cr2, page + 0x1000, "its CR2");
    *next |= PTE_P;
    invlpg((void *)(page + 0x1000));
    check_outcome(VMX_INSN("vmread %[e], (%[p])", [p] "r"(page + 0xffc), [e] "r"((u64)GUEST_RIP)),
                  VMX_OK, "VMREAD across two pages");
    memory_operands(BIT(63), VMX_FAULT | VEC_GP, 0, 0, "non-canonical");
    memory_operands(0x7ffffffffffc, VMX_FAULT | VEC_GP, 0, 0, "across the canonical end");
    check_fault(fault_of(call_code, (u64)vmptrst_rbp), VEC_SS, "VMPTRST non-canonical by RBP");
    vmclear(a);
}

// VMPTRLD whose operand is where that of the one before was, as far as its linear address goes.
void test_operand_moves(void)
{
    u64 a = vmx_region(), b = vmx_region(), *page = alloc_pages(1), *first = alloc_pages(1);
    u64 *second = alloc_pages(1), *pte = page_entry((u64)page), good = *pte;
    u64 flags = (good & 0xfff & ~PTE_U) | PTE_A | PTE_D, pointer;
    first[1] = a;
    second[1] = b;
    for (u32 round = 0; round < 3; round++) {
        *pte = (u64)first | flags;
        invlpg(page);
        for (u32 i = 0; i < 2; i++)
            check_outcome(VMX_INSN("vmptrld 8(%[p])", [p] "r"(page)), VMX_OK, "the first page");
        check(vmptrst(&pointer) == VMX_OK && pointer == a, "the pointer in the first page");
        *pte = (u64)second | flags;
        invlpg(page);
        check_outcome(VMX_INSN("vmptrld 8(%[p])", [p] "r"(page)), VMX_OK, "the second page");
        check(vmptrst(&pointer) == VMX_OK && pointer == b, "the pointer in the second page");
        *pte = round == 0 ? 0 : round == 1 ? (u64)second | flags | BIT(51) : BIT(63);
        invlpg(page);
        check_outcome(VMX_INSN("vmptrld 8(%[p])", [p] "r"(page)), VMX_FAULT | VEC_PF, "no page");
    }
    *pte = good;
    invlpg(page);
    vmclear(a);
    vmclear(b);
}

// ------------------------------------------------------------------------------ ring 3 and 32 bits

#define USER(name, insn)                                                                           \
    asm(".pushsection .text\nuser_" #name ": " insn "; int $0x80\n"                                \
        ".code32\ncompat_" #name ": " insn "; ret\n.code64\n.popsection\n");                       \
    extern u8 user_##name[], compat_##name[]
USER(vmclear, "vmclear operand");
USER(vmptrld, "vmptrld operand");
USER(vmptrst, "vmptrst operand");
USER(vmlaunch, "vmlaunch");
USER(vmresume, "vmresume");
USER(vmxoff, "vmxoff");
USER(vmcall, "vmcall");
asm(".pushsection .text\n"
    "user_vmread: mov $0x681e, %eax; vmread %rax, %rcx; int $0x80\n"
    "user_vmwrite: mov $0x681e, %eax; vmwrite %rcx, %rax; int $0x80\n"
    "user_invept: mov $2, %eax; invept operand, %rax; int $0x80\n"
    "user_invvpid: mov $2, %eax; invvpid operand, %rax; int $0x80\n"
    ".code32\n"
    "compat_vmread: mov $0x681e, %eax; vmread %eax, %ecx; ret\n"
    "compat_vmwrite: mov $0x681e, %eax; vmwrite %ecx, %eax; ret\n"
    "compat_invept: mov $2, %eax; invept operand, %eax; ret\n"
    "compat_invvpid: mov $2, %eax; invvpid operand, %eax; ret\n"
    ".code64\n.popsection\n");
extern u8 user_vmread[], user_vmwrite[], compat_vmread[], compat_vmwrite[], user_invept[],
    user_invvpid[], compat_invept[], compat_invvpid[];

static const struct {
    const char *name;
    u8 *user, *compat;
} instructions[] = {
    {"VMCLEAR", user_vmclear, compat_vmclear},    {"VMPTRLD", user_vmptrld, compat_vmptrld},
    {"VMPTRST", user_vmptrst, compat_vmptrst},    {"VMREAD", user_vmread, compat_vmread},
    {"VMWRITE", user_vmwrite, compat_vmwrite},    {"VMLAUNCH", user_vmlaunch, compat_vmlaunch},
    {"VMRESUME", user_vmresume, compat_vmresume}, {"VMXOFF", user_vmxoff, compat_vmxoff},
    {"VMCALL", user_vmcall, compat_vmcall},       {"INVEPT", user_invept, compat_invept},
    {"INVVPID", user_invvpid, compat_invvpid},
};

static bool offered(const char *name)
{
    if (!strcmp(name, "INVEPT"))
        return caps.proc2 & PROC2_EPT;
    if (!strcmp(name, "INVVPID"))
        return caps.proc2 & PROC2_VPID;
    return true;
}

void test_ring3_vmx(void)
{
    for (u32 i = 0; i < ARRAY_SIZE(instructions); i++) {
        u32 want = offered(instructions[i].name) ? VEC_GP : VEC_UD;
        check_fault(fault_of_user(instructions[i].user), want, "%s", instructions[i].name);
        check_eq(fault.error, 0, "%s: error code", instructions[i].name);
    }
}

static void call_compat(u64 code)
{
    compat_call((void *)code, 0);
}

void test_compat_vmx(void)
{
    for (u32 i = 0; i < ARRAY_SIZE(instructions); i++)
        check_fault(fault_of(call_compat, (u64)instructions[i].compat), VEC_UD, "%s",
                    instructions[i].name);
}
