// "Instructions That Cause VM Exits": round trips, the unconditional exits, the conditional ones
// with their control off and on, I/O and MSR bitmaps.

#include "tests/l1/nested.h"

static u64 memory[8]; // operands of L2's instructions

L2_CODE(vmcall, "");
L2_CODE(cpuid, "mov $0x40000000, %eax; mov $7, %ecx; l2_cpuid_insn: cpuid; jmp l2_cpuid_insn");

L2_CODE(small_stack, "mov $0x28, %eax\n mov %eax, %ss"); // SEL_DATA16: limit 64K, no granularity

// L1 changes RFLAGS only, after L2 changed a segment of which L1 has seen nothing.
static void test_changed_segment(void)
{
    l2_reset(l2_small_stack);
    check_run(R_VMCALL, "L2 loads SS");
    vmwrite(GUEST_RFLAGS, vmread(GUEST_RFLAGS) ^ 1);
    check_run(R_VMCALL, "L1 changes RFLAGS after L2 changed SS");
    check_eq(vmread(GUEST_SS_LIMIT), 0xffff, "limit of SS");
}

void test_round_trip(void)
{
    test_changed_segment();
    l2_reset(l2_vmcall);
    l2.rbx = 0x1122334455667788;
    l2.r15 = 0xfedcba9876543210;
    check_run(R_VMCALL, "VMCALL");
    check_eq(vmread(EXIT_LENGTH), 3, "VMCALL: instruction length");
    check_eq(vmread(QUALIFICATION), 0, "VMCALL: qualification");
    check_eq(l2.rbx, 0x1122334455667788, "VMCALL: RBX");
    check_eq(l2.r15, 0xfedcba9876543210, "VMCALL: R15");
    check(vmread(GUEST_RIP) == (u64)l2_vmcall, "VMCALL: RIP is not advanced");
    check_eq(vmread(EXIT_INTR_INFO) >> 31, 0, "VMCALL: no interruption information");
    check_eq(vmread(IDT_VECTORING) >> 31, 0, "VMCALL: no IDT-vectoring information");
    check_outcome(vmlaunch(), VMX_VALID | 4, "VMLAUNCH of a launched VMCS");
    u32 bad = 0;
    for (u32 i = 0; i < 1000; i++) {
        l2_skip();
        l2.rcx = i;
        bad += l2_run() != R_VMCALL || l2.rcx != i;
        l2_goto(l2_vmcall);
    }
    check_eq(bad, 0, "1000 VMCALLs: bad");
    l2_reset(l2_cpuid);
    check_run(R_CPUID, "CPUID");
    check_eq(l2.rax, 0x40000000, "CPUID: RAX");
    check_eq(l2.rcx, 7, "CPUID: RCX");
    check_eq(vmread(EXIT_LENGTH), 2, "CPUID: instruction length");
    l2_skip();
    check_run(R_CPUID, "CPUID again");
    check_eq(vmread(GUEST_RFLAGS), 2, "RFLAGS");
    check_eq(vmread(GUEST_CS_AR), 0xa09b, "CS access rights");
    check_eq(vmread(GUEST_CR0), read_cr0(), "CR0");
    check_eq(vmread(GUEST_CR3), read_cr3(), "CR3");
}

// The state of the host after an exit: "Loading Host State".
L2_CODE(spoil, "mov $0x2b, %eax; cli; pushfq; orq $0x8d5, (%rsp); popfq");

void test_host_state(void)
{
    l2_reset(l2_spoil);
    vmwrite(GUEST_DR7, 0x455);
    vmwrite(GUEST_GDTR_LIMIT, 0x7f);
    vmwrite(HOST_FS_BASE, 0x123456000);
    vmwrite(HOST_GS_BASE, 0xffff800000123000);
    vmwrite(HOST_SYSENTER_CS, 0x77);
    vmwrite(HOST_SYSENTER_ESP, 0x1234);
    vmwrite(HOST_SYSENTER_EIP, 0xffff800000000010);
    check_run(R_VMCALL, "VMCALL");
    struct table_pointer gdtr, idtr;
    u64 flags = read_flags(), dr7 = read_dr7();
    asm volatile("sgdt %0; sidt %1" : "=m"(gdtr), "=m"(idtr));
    check_eq(gdtr.limit, 0xffff, "GDTR limit");
    check_eq(idtr.limit, 0xffff, "IDTR limit");
    check(gdtr.base == (u64)gdt && idtr.base == (u64)idt, "bases of GDTR and IDTR");
    asm volatile("lgdt %0; lidt %1" : : "m"(gdt_pointer), "m"(idt_pointer));
    check_eq(dr7, 0x400, "DR7");
    check_eq(flags & ~FLAGS_ALU, 2, "RFLAGS less arithmetic flags");
    check_eq(rdmsr(0xc0000100), 0x123456000, "FS base");
    check_eq(rdmsr(0xc0000101), 0xffff800000123000, "GS base");
    check_eq(rdmsr(0x174), 0x77, "SYSENTER_CS");
    check_eq(rdmsr(0x175), 0x1234, "SYSENTER_ESP");
    check_eq(rdmsr(0x176), 0xffff800000000010, "SYSENTER_EIP");
    check_eq(vmread(GUEST_GDTR_LIMIT), 0x7f, "guest GDTR limit is kept");
    check_eq(vmread(GUEST_RFLAGS) & 0x8d5, 0x8d5, "guest RFLAGS are saved");
    u16 tr;
    asm volatile("str %0" : "=r"(tr));
    check_eq(tr, SEL_TSS, "TR");
    check_eq(gdt[SEL_TSS / 8] >> 40 & 0xf, 0xb, "type of the TSS");
    wrmsr(0xc0000100, 0);
    wrmsr(0xc0000101, 0);
    // CR registers of the host differ from the guest's.
    l2_reset(l2_vmcall);
    vmwrite(HOST_CR4, read_cr4() | CR4_TSD | CR4_DE);
    vmwrite(HOST_CR0, read_cr0() | CR0_TS);
    check_run(R_VMCALL, "VMCALL with other host CRs");
    check_eq(read_cr4() & (CR4_TSD | CR4_DE), CR4_TSD | CR4_DE, "CR4");
    check_eq(read_cr0() & CR0_TS, CR0_TS, "CR0.TS");
    check_eq(vmread(GUEST_CR4) & (CR4_TSD | CR4_DE), 0, "guest CR4");
    write_cr4(read_cr4() & ~(CR4_TSD | CR4_DE));
    asm volatile("clts");
}

// ---------------------------------------------------------------------- instruction by instruction

#define INSN(name, insn)                                                                           \
    asm(".pushsection .text\nl2i_" #name ": " insn "\nl2e_" #name ": vmcall\njmp l2e_" #name       \
        "\n.popsection\n");                                                                        \
    extern u8 l2i_##name[], l2e_##name[]

INSN(invd, "invd");
INSN(vmclear, "vmclear 8(%rsi)");
INSN(vmptrld, "vmptrld (%rsi,%rcx,8)");
INSN(vmptrst, "vmptrst (%rsi)");
INSN(vmread_r, "vmread %rdx, %r9");
INSN(vmread_m, "vmread %rdx, 16(%rsi)");
INSN(vmwrite_r, "vmwrite %r10, %rdx");
INSN(vmlaunch, "vmlaunch");
INSN(vmresume, "vmresume");
INSN(vmxoff, "vmxoff");
INSN(vmxon, "vmxon (%rsi)");
INSN(invept, "invept (%rsi), %rcx");
INSN(invvpid, "invvpid (%rsi), %rcx");
INSN(hlt, "hlt");
INSN(invlpg, "invlpg 0x40(%rsi)");
INSN(rdpmc, "rdpmc");
INSN(rdtsc, "rdtsc");
INSN(rdtscp, "rdtscp");
INSN(pause, "pause");
INSN(monitor, "mov %rsi, %rax; monitor");
INSN(mwait, "mwait");
INSN(mov_cr3, "mov %r11, %cr3");
INSN(mov_from_cr3, "mov %cr3, %r12");
INSN(mov_cr8, "mov %r8, %cr8");
INSN(mov_from_cr8, "mov %cr8, %rbx");
INSN(mov_dr, "mov %r9, %dr3");
INSN(mov_from_dr, "mov %dr7, %rax");
INSN(wbinvd, "wbinvd");
INSN(rdrand, "rdrand %r13");
INSN(rdseed, "rdseed %ebx");
INSN(invpcid, "invpcid (%rsi), %rcx");
INSN(sgdt, "sgdt 16(%rsi)");
INSN(sidt, "sidt (%rsi)");
INSN(lgdt, "lgdt gdt_pointer");
INSN(lidt, "lidt idt_pointer");
INSN(sldt, "sldt %eax");
INSN(str, "str (%rsi)");
INSN(lldt, "lldt %cx");
INSN(ltr, "ltr %dx");
INSN(xsetbv, "xsetbv");
INSN(in, "in %dx, %al");
INSN(out, "out %eax, $0x80");
INSN(rdmsr, "rdmsr");
INSN(wrmsr, "wrmsr");

enum { NONE = 0xffff };

struct exit_row {
    const char *name;
    const u8 *code, *end;
    u16 word;
    u32 bit;
    u16 reason, off; // what happens with the control on and off (NONE: nothing to be tested)
    u64 qualification;
    s64 info; // VM-exit instruction information, -1: none
};

#define ROW(insn) l2i_##insn, l2e_##insn

static const struct exit_row unconditional[] = {
    {"INVD", ROW(invd), 0, 0, R_INVD, NONE, 0, -1},
    {"VMCLEAR", ROW(vmclear), 0, 0, R_VMCLEAR, NONE, 8, 0x3418100},
    {"VMPTRLD", ROW(vmptrld), 0, 0, R_VMPTRLD, NONE, 0, 0x3058103},
    {"VMPTRST", ROW(vmptrst), 0, 0, R_VMPTRST, NONE, 0, -1},
    {"VMREAD to a register", ROW(vmread_r), 0, 0, R_VMREAD, NONE, 0, 0x20000000 | 0x400 | 9 << 3},
    {"VMREAD to memory", ROW(vmread_m), 0, 0, R_VMREAD, NONE, 16, -1},
    {"VMWRITE", ROW(vmwrite_r), 0, 0, R_VMWRITE, NONE, 0, 0x20000000 | 0x400 | 10 << 3},
    {"VMLAUNCH", ROW(vmlaunch), 0, 0, R_VMLAUNCH, NONE, 0, -1},
    {"VMRESUME", ROW(vmresume), 0, 0, R_VMRESUME, NONE, 0, -1},
    {"VMXOFF", ROW(vmxoff), 0, 0, R_VMXOFF, NONE, 0, -1},
    {"VMXON", ROW(vmxon), 0, 0, R_VMXON, NONE, 0, -1},
};

static const struct exit_row conditional[] = {
    {"HLT", ROW(hlt), PROC_CTLS, PROC_HLT, R_HLT, NONE, 0, -1},
    {"INVLPG", ROW(invlpg), PROC_CTLS, PROC_INVLPG, R_INVLPG, R_VMCALL, (u64)memory + 0x40, -1},
    {"RDPMC", ROW(rdpmc), PROC_CTLS, PROC_RDPMC, R_RDPMC, NONE, 0, -1},
    {"RDTSC", ROW(rdtsc), PROC_CTLS, PROC_RDTSC, R_RDTSC, R_VMCALL, 0, -1},
    {"PAUSE", ROW(pause), PROC_CTLS, PROC_PAUSE, R_PAUSE, R_VMCALL, 0, -1},
    {"MONITOR", ROW(monitor), PROC_CTLS, PROC_MONITOR, R_MONITOR, NONE, 0, -1},
    {"MWAIT", ROW(mwait), PROC_CTLS, PROC_MWAIT, R_MWAIT, NONE, 0, -1},
    {"MOV to CR3", ROW(mov_cr3), PROC_CTLS, PROC_CR3_LOAD, R_CR_ACCESS, R_VMCALL, 0xb03, -1},
    {"MOV from CR3", ROW(mov_from_cr3), PROC_CTLS, PROC_CR3_STORE, R_CR_ACCESS, R_VMCALL, 0xc13,
     -1},
    {"MOV to CR8", ROW(mov_cr8), PROC_CTLS, PROC_CR8_LOAD, R_CR_ACCESS, R_VMCALL, 0x808, -1},
    {"MOV from CR8", ROW(mov_from_cr8), PROC_CTLS, PROC_CR8_STORE, R_CR_ACCESS, R_VMCALL, 0x318,
     -1},
    {"MOV to DR3", ROW(mov_dr), PROC_CTLS, PROC_MOV_DR, R_MOV_DR, R_VMCALL, 0x903, -1},
    {"MOV from DR7", ROW(mov_from_dr), PROC_CTLS, PROC_MOV_DR, R_MOV_DR, R_VMCALL, 0x17, -1},
    {"IN", ROW(in), PROC_CTLS, PROC_IO, R_IO, R_VMCALL, 0x12340008, -1},
    {"OUT", ROW(out), PROC_CTLS, PROC_IO, R_IO, R_VMCALL, 0x800043, -1},
    {"WBINVD", ROW(wbinvd), PROC2_CTLS, PROC2_WBINVD, R_WBINVD, R_VMCALL, 0, -1},
    {"RDRAND", ROW(rdrand), PROC2_CTLS, PROC2_RDRAND, R_RDRAND, R_VMCALL, 0, (13 << 3) | (2 << 11)},
    {"RDSEED", ROW(rdseed), PROC2_CTLS, PROC2_RDSEED, R_RDSEED, R_VMCALL, 0, (3 << 3) | (1 << 11)},
    {"SGDT", ROW(sgdt), PROC2_CTLS, PROC2_DESC_TABLE, R_GDTR_IDTR, R_VMCALL, 16, -1},
    {"SIDT", ROW(sidt), PROC2_CTLS, PROC2_DESC_TABLE, R_GDTR_IDTR, R_VMCALL, 0, -1},
    {"LGDT", ROW(lgdt), PROC2_CTLS, PROC2_DESC_TABLE, R_GDTR_IDTR, R_VMCALL, (u64)&gdt_pointer, -1},
    {"LIDT", ROW(lidt), PROC2_CTLS, PROC2_DESC_TABLE, R_GDTR_IDTR, R_VMCALL, (u64)&idt_pointer, -1},
    {"SLDT", ROW(sldt), PROC2_CTLS, PROC2_DESC_TABLE, R_LDTR_TR, R_VMCALL, 0, -1},
    {"STR", ROW(str), PROC2_CTLS, PROC2_DESC_TABLE, R_LDTR_TR, R_VMCALL, 0, -1},
    {"LLDT", ROW(lldt), PROC2_CTLS, PROC2_DESC_TABLE, R_LDTR_TR, R_VMCALL, 0, -1},
    {"LTR", ROW(ltr), PROC2_CTLS, PROC2_DESC_TABLE, R_LDTR_TR, NONE, 0, -1},
};

static void registers_for(const struct exit_row *row)
{
    l2_defaults(row->code);
    l2.rsi = (u64)memory;
    l2.rdx = 0x1234;
    l2.r8 = 0;
    l2.r9 = 0;
    l2.r11 = read_cr3();
}

static void check_details(const struct exit_row *row)
{
    u32 length = (u32)(row->end - row->code);
    if (row->code == l2i_monitor)
        length = 3;
    check_eq(vmread(EXIT_LENGTH), length, "%s: instruction length", row->name);
    check_eq(vmread(QUALIFICATION), row->qualification, "%s: qualification", row->name);
    check(vmread(GUEST_RIP) == (u64)row->end - length, "%s: RIP", row->name);
    bool random = row->reason == R_RDRAND || row->reason == R_RDSEED;
    u64 defined = random ? 0x1878 : ~0ull;
    if (row->info >= 0)
        check_eq(vmread(EXIT_INSN_INFO) & defined, (u64)row->info, "%s: instruction information",
                 row->name);
}

static bool has_instruction(const struct exit_row *row)
{
    if (row->code == l2i_monitor || row->code == l2i_mwait)
        return cpuid(1, 0).c >> 3 & 1;
    return true;
}

void test_exits(void)
{
    l2_reset(l2_vmcall);
    for (u32 i = 0; i < ARRAY_SIZE(unconditional); i++) {
        registers_for(&unconditional[i]);
        if (check_run(unconditional[i].reason, "%s", unconditional[i].name))
            check_details(&unconditional[i]);
    }
    for (u32 i = 0; i < ARRAY_SIZE(conditional); i++) {
        const struct exit_row *row = &conditional[i];
        registers_for(row);
        if (!has_instruction(row) || !l2_offers(row->word, row->bit)) {
            skip("%s: no such control", row->name);
            continue;
        }
        if (row->off != NONE)
            check_run(row->off, "%s with its control off", row->name);
        registers_for(row);
        l2_control(row->word, row->bit);
        if (check_run(row->reason, "%s with its control on", row->name))
            check_details(row);
    }
}

// -------------------------------------------------------------- instructions that need an "enable"

void test_enables(void)
{
    static const struct {
        const char *name;
        const u8 *code;
        u32 bit;
    } rows[] = {{"RDTSCP", l2i_rdtscp, PROC2_RDTSCP}, {"INVPCID", l2i_invpcid, PROC2_INVPCID}};
    l2_reset(l2_vmcall);
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        if (!l2_offers(PROC2_CTLS, rows[i].bit)) {
            skip("%s: no such control", rows[i].name);
            continue;
        }
        l2_defaults(rows[i].code);
        vmwrite(EXCEPTION_BITMAP, BIT(VEC_UD));
        l2_control(PROC2_CTLS, PROC2_WBINVD); // secondary controls are on in any case
        check_run(R_EXCEPTION, "%s without its control", rows[i].name);
        check_eq(vmread(EXIT_INTR_INFO), 0x80000306, "%s: #UD", rows[i].name);
        l2_defaults(rows[i].code);
        memset(memory, 0, sizeof(memory));
        l2.rsi = (u64)memory;
        l2.rcx = 2;
        l2_control(PROC2_CTLS, rows[i].bit);
        check_run(R_VMCALL, "%s with its control", rows[i].name);
    }
    if (l2_offers(PROC2_CTLS, PROC2_RDTSCP)) {
        l2_defaults(l2i_rdtscp);
        l2_control(PROC2_CTLS, PROC2_RDTSCP);
        l2_control(PROC_CTLS, PROC_RDTSC);
        check_run(R_RDTSCP, "RDTSCP with RDTSC exiting");
        check_eq(vmread(EXIT_LENGTH), 3, "RDTSCP: instruction length");
    }
    if (l2_offers(PROC2_CTLS, PROC2_INVPCID)) {
        l2_defaults(l2i_invpcid);
        l2.rsi = (u64)memory;
        l2.rcx = 2;
        l2_control(PROC2_CTLS, PROC2_INVPCID);
        l2_control(PROC_CTLS, PROC_INVLPG);
        check_run(R_INVPCID, "INVPCID with INVLPG exiting");
    }
    if (cpuid(1, 0).c >> 26 & 1) {
        l2_defaults(l2i_xsetbv);
        vmset(GUEST_CR4, CR4_OSXSAVE);
        l2.rax = 3;
        check_run(R_XSETBV, "XSETBV");
        check_eq(vmread(EXIT_LENGTH), 3, "XSETBV: instruction length");
        l2_defaults(l2i_xsetbv);
        vmwrite(EXCEPTION_BITMAP, BIT(VEC_UD));
        check_run(R_EXCEPTION, "XSETBV without OSXSAVE is #UD");
    }
}

// ------------------------------------------------------------------------------------- I/O bitmaps

INSN(inb, "in %dx, %al");
INSN(inw, "in %dx, %ax");
INSN(inl, "in %dx, %eax");
INSN(outb, "out %al, %dx");
INSN(insb, "insb");
INSN(rep_outsw, "rep outsw");
INSN(rep_insl, "addr32 rep insl");
INSN(outsb_fs, "outsb %fs:(%rsi), %dx");

void test_io(void)
{
    u8 *a = alloc_pages(2), *b = a + 4096;
    l2_reset(l2_vmcall);
    if (!l2_offers(PROC_CTLS, PROC_IO_BITMAPS)) {
        skip("no I/O bitmaps");
        return;
    }
    const struct {
        const char *name;
        const u8 *code;
        u16 port, set; // set: the port whose bit is set
        u32 reason;
        u64 qualification;
    } rows[] = {
        {"byte, bit clear", l2i_inb, 0x5678, 0x5679, R_VMCALL, 0},
        {"byte, bit set", l2i_inb, 0x5678, 0x5678, R_IO, 0x56780008},
        {"word, its second bit set", l2i_inw, 0x5678, 0x5679, R_IO, 0x56780009},
        {"word, the bit after it set", l2i_inw, 0x5678, 0x567a, R_VMCALL, 0},
        {"double word, its last bit set", l2i_inl, 0x5678, 0x567b, R_IO, 0x5678000b},
        {"bitmap B", l2i_inb, 0xabc0, 0xabc0, R_IO, 0xabc00008},
        {"bitmap B, bit clear", l2i_inb, 0xabc0, 0x2bc0, R_VMCALL, 0},
        {"across the bitmaps", l2i_inw, 0x7fff, 0x8000, R_IO, 0x7fff0009},
        {"output", l2i_outb, 0x5678, 0x5678, R_IO, 0x56780000},
        {"port 0xffff", l2i_inb, 0xffff, 0xffff, R_IO, 0xffff0008},
        {"word at 0xffff wraps", l2i_inw, 0xffff, 1, R_IO, 0xffff0009},
        {"INSB", l2i_insb, 0x5678, 0x5678, R_IO, 0x56780018},
        {"REP OUTSW", l2i_rep_outsw, 0x5678, 0x5678, R_IO, 0x56780031},
        {"REP INSD", l2i_rep_insl, 0x5678, 0x5678, R_IO, 0x5678003b},
        {"OUTSB by FS", l2i_outsb_fs, 0x5678, 0x5678, R_IO, 0x56780010},
    };
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        memset(a, 0, 8192);
        a[rows[i].set / 8] |= (u8)(1 << rows[i].set % 8);
        l2_defaults(rows[i].code);
        l2_control(PROC_CTLS, PROC_IO_BITMAPS | PROC_IO);
        vmwrite(IO_BITMAP_A, (u64)a);
        vmwrite(IO_BITMAP_B, (u64)b);
        l2.rdx = rows[i].port;
        l2.rsi = l2.rdi = (u64)memory;
        l2.rcx = 3;
        check_run(rows[i].reason, "%s", rows[i].name);
        if (rows[i].reason != R_IO)
            continue;
        check_eq(vmread(QUALIFICATION), rows[i].qualification, "%s: qualification", rows[i].name);
        if (rows[i].qualification & 0x10) {
            check(vmread(GUEST_LINEAR) == (u64)memory, "%s: linear address", rows[i].name);
            u64 defined = rows[i].qualification & 8 ? 0x380 : 0x38380; // INS: no segment
            value(vmread(EXIT_INSN_INFO) & defined, "%s: instruction information", rows[i].name);
        }
    }
}

// ------------------------------------------------------------------------------------- MSR bitmaps

// Between two entries the bitmap may change, and nothing but the bitmap.
static void check_changing_bitmap(u8 *map)
{
    static const struct {
        u32 msr, bit;
        bool write;
    } rows[] = {
        {0x10, 0x10, false},
        {0x174, 0x174, false},
        {0xc0000081, 0x2000 + 0x81, false},
        {0xc0000084, 0x6000 + 0x84, true},
        {0xc0000100, 0x2000 + 0x100, false},
        {0xc0000102, 0x6000 + 0x102, true},
    };
    memset(map, 0, 4096);
    l2_defaults(l2i_rdmsr);
    l2_control(PROC_CTLS, PROC_MSR_BITMAPS);
    vmwrite(MSR_BITMAP, (u64)map);
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        const u8 *code = rows[i].write ? l2i_wrmsr : l2i_rdmsr;
        u32 exit = rows[i].write ? R_WRMSR : R_RDMSR;
        for (u32 set = 0; set < 4; set++) {
            l2_goto(code);
            l2 = (struct l2_regs){.rcx = rows[i].msr};
            check_run(set % 2 ? exit : R_VMCALL, "MSR 0x%x, its bit now %u", rows[i].msr, set % 2);
            map[rows[i].bit / 8] ^= (u8)(1 << rows[i].bit % 8);
        }
    }
}

void test_msr_bitmaps(void)
{
    u8 *map = alloc_pages(1);
    l2_reset(l2_vmcall);
    static const struct {
        const char *name;
        bool write;
        u32 msr;
        s32 bit; // set in the bitmap, -1: none
        u32 reason;
    } rows[] = {
        {"read, clear", false, 0x10, -1, R_VMCALL},
        {"read, set", false, 0x10, 0x10, R_RDMSR},
        {"read, write bit set", false, 0x10, 0x4000 + 0x10, R_VMCALL},
        {"write, clear", true, 0x174, -1, R_VMCALL},
        {"write, set", true, 0x174, 0x4000 + 0x174, R_WRMSR},
        {"write, read bit set", true, 0x174, 0x174, R_VMCALL},
        {"high read, clear", false, 0xc0000081, -1, R_VMCALL},
        {"high read, set", false, 0xc0000081, 0x2000 + 0x81, R_RDMSR},
        {"high write, set", true, 0xc0000084, 0x6000 + 0x84, R_WRMSR},
        {"high write, clear", true, 0xc0000084, -1, R_VMCALL},
        {"0x1fff read, set", false, 0x1fff, 0x1fff, R_RDMSR},
        {"0xc0001fff read, set", false, 0xc0001fff, 0x3fff, R_RDMSR},
        {"beyond the low range", false, 0x2000, -1, R_RDMSR},
        {"beyond the high range", true, 0xc0002000, -1, R_WRMSR},
        {"between the ranges", false, 0x40000000, -1, R_RDMSR},
    };
    if (!l2_offers(PROC_CTLS, PROC_MSR_BITMAPS)) {
        skip("no MSR bitmaps");
        return;
    }
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        memset(map, 0, 4096);
        if (rows[i].bit >= 0)
            map[rows[i].bit / 8] |= (u8)(1 << rows[i].bit % 8);
        l2_defaults(rows[i].write ? l2i_wrmsr : l2i_rdmsr);
        l2_control(PROC_CTLS, PROC_MSR_BITMAPS);
        vmwrite(MSR_BITMAP, (u64)map);
        l2.rcx = rows[i].msr;
        check_run(rows[i].reason, "%s", rows[i].name);
        if (rows[i].reason != R_VMCALL)
            check_eq(vmread(EXIT_LENGTH), 2, "%s: instruction length", rows[i].name);
    }
    l2_defaults(l2i_rdmsr);
    l2.rcx = 0x10;
    check_run(R_RDMSR, "without bitmaps every RDMSR exits");
    // An MSR that does not exist, passed through: #GP in L2.
    memset(map, 0, 4096);
    l2_defaults(l2i_rdmsr);
    l2_control(PROC_CTLS, PROC_MSR_BITMAPS);
    vmwrite(MSR_BITMAP, (u64)map);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_GP));
    events_idt();
    l2.rcx = 0x1ffe;
    if (check_run(R_EXCEPTION, "an absent MSR that does not exit"))
        check_eq(vmread(EXIT_INTR_INFO), 0x80000b0d, "an absent MSR: #GP");
    l2_defaults(l2i_rdmsr);
    l2_control(PROC_CTLS, PROC_MSR_BITMAPS);
    events_idt();
    l2.rcx = 0x1ffe;
    check_delivered(l2_run(), VEC_GP, "an absent MSR, #GP not intercepted");
    check_eq(events_stack(0), 0, "an absent MSR, #GP not intercepted: error code");
    // What L2 writes to an MSR that passes through is what L1 finds.
    l2_defaults(l2i_wrmsr);
    l2_control(PROC_CTLS, PROC_MSR_BITMAPS);
    l2.rcx = 0xc0000084;
    l2.rax = 0x47700;
    check_run(R_VMCALL, "WRMSR of IA32_FMASK by L2");
    check_eq(rdmsr(0xc0000084), 0x47700, "IA32_FMASK in L1");
    check_changing_bitmap(map);
}
