// "CR0, CR4: guest/host masks and shadows", CR3 targets, CLTS and LMSW, and guests in other modes:
// 32-bit, PAE with PDPTEs, compatibility mode, unpaged and real mode (unrestricted guest).

#include "tests/l1/nested.h"

L2_CODE(read_cr0, "mov %cr0, %rax");
L2_CODE(write_cr0, "mov %rsi, %cr0");
L2_CODE(read_cr4, "mov %cr4, %rax");
L2_CODE(write_cr4, "mov %rsi, %cr4");
L2_CODE(write_cr3, "mov %rsi, %cr3");
L2_CODE(clts, "clts");
L2_CODE(lmsw, "lmsw %si");
L2_CODE(smsw, "smsw %eax");
L2_CODE(lmsw_mem, "lmsw (%rsi)");

void test_cr_masks(void)
{
    l2_reset(l2_read_cr0);
    u64 cr0 = read_cr0(), cr4 = read_cr4();
    vmwrite(CR0_MASK, CR0_TS | CR0_MP);
    vmwrite(CR0_SHADOW, CR0_TS);
    check_run(R_VMCALL, "MOV from CR0");
    check_eq(l2.rax, (cr0 & ~(CR0_TS | CR0_MP)) | CR0_TS, "CR0 as L2 reads it");
    l2_goto(l2_smsw);
    l2.rax = 0;
    check_run(R_VMCALL, "SMSW");
    check_eq(l2.rax & 0xffff, ((cr0 & ~(CR0_TS | CR0_MP)) | CR0_TS) & 0xffff, "SMSW");
    vmwrite(CR4_MASK, CR4_VMXE | CR4_TSD);
    vmwrite(CR4_SHADOW, CR4_TSD);
    l2_goto(l2_read_cr4);
    check_run(R_VMCALL, "MOV from CR4");
    check_eq(l2.rax, (cr4 & ~CR4_VMXE) | CR4_TSD, "CR4 as L2 reads it");
}

void test_cr0_writes(void)
{
    u64 cr0 = read_cr0();
    l2_reset(l2_write_cr0);
    static const struct {
        const char *name;
        const u8 *code;
        u64 mask, shadow, flip; // flip: what is written differs in these bits from what L2 reads
        u32 reason;
        u64 qualification;
    } rows[] = {
        {"MOV to CR0, a masked bit equal to its shadow", l2_write_cr0, CR0_TS, 0, 0, R_VMCALL, 0},
        {"MOV to CR0, a masked bit changed", l2_write_cr0, CR0_TS, 0, CR0_TS, R_CR_ACCESS, 0x600},
        {"MOV to CR0, an unmasked bit changed", l2_write_cr0, CR0_TS, 0, CR0_MP, R_VMCALL, 0},
        {"CLTS, TS not masked", l2_clts, 0, 0, 0, R_VMCALL, 0},
        {"CLTS, masked, shadow 0", l2_clts, CR0_TS, 0, 0, R_VMCALL, 0},
        {"CLTS, masked, shadow 1", l2_clts, CR0_TS, CR0_TS, 0, R_CR_ACCESS, 0x20},
    };
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        l2_defaults(rows[i].code);
        vmwrite(CR0_MASK, rows[i].mask);
        u64 view = (cr0 & ~rows[i].mask) | rows[i].shadow;
        vmwrite(CR0_SHADOW, view);
        l2.rsi = view ^ rows[i].flip;
        check_run(rows[i].reason, "%s", rows[i].name);
        if (rows[i].reason == R_CR_ACCESS) {
            check_eq(vmread(QUALIFICATION), rows[i].qualification, "%s: qualification",
                     rows[i].name);
            check_eq(vmread(EXIT_LENGTH), rows[i].code == l2_clts ? 2 : 3, "%s: length",
                     rows[i].name);
        }
    }
}

void test_cr4_writes(void)
{
    u64 cr0 = read_cr0(), cr4 = read_cr4();
    l2_reset(l2_write_cr4);
    l2_defaults(l2_write_cr4);
    vmwrite(CR4_MASK, CR4_TSD);
    l2.rsi = cr4 | CR4_TSD;
    check_run(R_CR_ACCESS, "MOV to CR4, a masked bit changed");
    check_eq(vmread(QUALIFICATION), 0x604, "MOV to CR4: qualification");
    l2_defaults(l2_write_cr4);
    vmwrite(CR4_MASK, CR4_TSD);
    l2.rsi = cr4 | CR4_DE;
    check_run(R_VMCALL, "MOV to CR4, an unmasked bit changed");
    check_eq(vmread(GUEST_CR4), cr4 | CR4_DE, "CR4 after it");
    l2_defaults(l2_lmsw);
    vmwrite(CR0_MASK, CR0_TS);
    l2.rsi = (cr0 & 0xffff) | CR0_TS;
    check_run(R_CR_ACCESS, "LMSW of a register, masked TS changed");
    check_eq(vmread(QUALIFICATION), 0x30 | ((cr0 & 0xffff) | CR0_TS) << 16,
             "LMSW of a register: qualification");
    static u16 word;
    word = (u16)((cr0 & 0xffff) | CR0_TS);
    l2_defaults(l2_lmsw_mem);
    vmwrite(CR0_MASK, CR0_TS);
    l2.rsi = (u64)&word;
    check_run(R_CR_ACCESS, "LMSW of memory, masked TS changed");
    check_eq(vmread(QUALIFICATION), 0x70 | (u64)word << 16, "LMSW of memory: qualification");
    check(vmread(GUEST_LINEAR) == (u64)&word, "LMSW of memory: linear address");
    // Fixed bits of VMX operation: #GP in L2.
    l2_defaults(l2_write_cr0);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_GP));
    events_idt();
    l2.rsi = cr0 & ~CR0_NE;
    check_run(R_EXCEPTION, "CR0.NE off, not masked, #GP intercepted");
    l2_defaults(l2_write_cr0);
    events_idt();
    l2.rsi = cr0 & ~CR0_NE;
    check_delivered(l2_run(), VEC_GP, "CR0.NE off, not masked, #GP not intercepted");
    check_eq(vmread(GUEST_CR0), cr0, "CR0 after it");
    l2_defaults(l2_write_cr4);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_GP));
    events_idt();
    l2.rsi = cr4 & ~CR4_VMXE;
    check_run(R_EXCEPTION, "CR4.VMXE off, not masked, #GP intercepted");
}

void test_cr3_targets(void)
{
    u64 cr3 = read_cr3();
    l2_reset(l2_write_cr3);
    for (u32 count = 0; count < 3; count++) {
        l2_defaults(l2_write_cr3);
        events_idt();
        l2_control(PROC_CTLS, PROC_CR3_LOAD);
        vmwrite(CR3_TARGET_COUNT, count);
        vmwrite(CR3_TARGET0, 0x1234000);
        vmwrite(CR3_TARGET0 + 2, cr3);
        l2.rsi = cr3;
        check_run(count == 2 ? R_VMCALL : R_CR_ACCESS, "CR3 is target 1 of %u", count);
    }
    l2_defaults(l2_write_cr3);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_GP));
    events_idt();
    l2.rsi = cr3 | BIT(51);
    check_run(R_EXCEPTION, "CR3 beyond the width, #GP intercepted");
}

// ------------------------------------------------------------------------------------ other modes

asm(".pushsection .text\n.code32\n"
    "l2_code32: mov $0x12345678, %eax; inc %eax; pushl $7; pop %ebx; mov %cr0, %ecx; cpuid\n"
    "1: vmcall; jmp 1b\n"
    ".code16\n"
    "l2_code16: mov $0x1234, %ax; inc %ax; mov %cs, %bx; push %ax; pop %dx; vmcall\n"
    "1: vmcall; jmp 1b\n"
    "l2_code16_end:\n"
    ".code64\n.popsection\n");
extern u8 l2_code32[], l2_code16[], l2_code16_end[];

// L2's registers for 32-bit protected mode without paging or with the tables of its CR3.
static void to_32bit(u64 cr0, u64 cr4)
{
    vmclr(ENTRY_CTLS, ENTRY_GUEST64);
    vmwrite(GUEST_CS, SEL_CODE32);
    vmwrite(GUEST_CS_AR, 0xc09b);
    vmwrite(GUEST_TR_AR, 0x8b);
    vmwrite(GUEST_CR0, cr0);
    vmwrite(GUEST_CR4, cr4);
    if (l2_offers(ENTRY_CTLS, ENTRY_LOAD_EFER)) {
        l2_control(ENTRY_CTLS, ENTRY_LOAD_EFER);
        vmwrite(GUEST_EFER, 0);
    }
}

static void check_32bit(const char *what)
{
    l2.rbx = 0;
    if (!check_run(R_CPUID, "%s", what))
        return;
    check_eq(l2.rax, 0x12345679, "%s: EAX", what);
    check_eq(l2.rbx, 7, "%s: EBX", what);
    check_eq(vmread(ENTRY_CTLS) & ENTRY_GUEST64, 0, "%s: IA-32e mode guest", what);
    l2_skip();
    check_run(R_VMCALL, "%s, again", what);
}

void test_compatibility(void)
{
    l2_reset(l2_code32);
    vmwrite(GUEST_CS, SEL_CODE32);
    vmwrite(GUEST_CS_AR, 0xc09b);
    l2.rbx = 0;
    check_run(R_CPUID, "compatibility mode");
    check_eq(l2.rax, 0x12345679, "EAX");
    check_eq(vmread(ENTRY_CTLS) & ENTRY_GUEST64, ENTRY_GUEST64, "IA-32e mode guest");
}

void test_paged_32bit(void)
{
    u32 *directory = alloc_pages(1);
    for (u32 i = 0; i < 1024; i++)
        directory[i] = i << 22 | 0x83;
    l2_reset(l2_code32);
    to_32bit(read_cr0(), (read_cr4() & ~CR4_PAE) | BIT(4));
    vmwrite(GUEST_CR3, (u64)directory);
    check_32bit("32-bit paging");
}

void test_pae(void)
{
    u64 *pdptes = alloc_pages(1);
    for (u32 i = 0; i < 4; i++)
        pdptes[i] = ((u64)pd + i * PAGE_SIZE) | 1;
    l2_reset(l2_code32);
    to_32bit(read_cr0(), read_cr4() | CR4_PAE);
    vmwrite(GUEST_CR3, (u64)pdptes);
    if (l2_uses_ept())
        for (u32 i = 0; i < 4; i++)
            vmwrite(GUEST_PDPTE0 + 2 * i, pdptes[i]);
    check_32bit("PAE paging");
    if (l2_uses_ept()) {
        for (u32 i = 0; i < 4; i++)
            check(vmread(GUEST_PDPTE0 + 2 * i) == pdptes[i], "PDPTE %u is saved", i);
        l2_goto(l2_code32);
        vmwrite(GUEST_PDPTE0, pdptes[0] | 2);
    } else {
        l2_goto(l2_code32);
        pdptes[0] |= 2;
    }
    check_run(R_BAD_GUEST | R_ENTRY_FAILED, "a PDPTE with a reserved bit");
    check_eq(vmread(QUALIFICATION), 2, "a PDPTE with a reserved bit: qualification");
    if (!l2_uses_ept())
        pdptes[0] &= ~2ull;
    else
        vmwrite(GUEST_PDPTE0, pdptes[0]);
    check_run(R_CPUID, "and without it");
}

void test_unpaged(void)
{
    l2_reset(l2_code32);
    if (!l2_uses_ept() || !l2_control(PROC2_CTLS, PROC2_UNRESTRICTED)) {
        skip("no unrestricted guest");
        return;
    }
    to_32bit((read_cr0() & ~CR0_PG), read_cr4() & ~CR4_PAE);
    check_32bit("protected mode without paging");
}

// An exception that has an error code elsewhere: a read beyond the segment's limit.
static void check_real_exceptions(u8 *low)
{
    static const u8 beyond[] = {0x67, 0x66, 0xa1, 0, 0, 1, 0}; // mov eax, [dword 0x10000]
    memcpy(low, beyond, sizeof(beyond));
    vmwrite(GUEST_RFLAGS, 2);
    vmwrite(GUEST_RIP, 0);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_GP));
    check_run(R_EXCEPTION, "#GP in real mode, intercepted");
    check_eq(vmread(EXIT_INTR_INFO), 0x80000300 | VEC_GP, "it has no error code");
    vmwrite(EXCEPTION_BITMAP, 0);
    u64 *page = ept_entry(0x9000);
    vmwrite(GUEST_IDTR_BASE, 0x9000);
    write32(0x9000 + 4 * VEC_GP, 0x0500000b);
    memcpy(low + 0xb, "\x0f\x01\xc1", 3); // VMCALL
    *page &= ~7ull;
    ept_flush();
    check_run(R_EPT_VIOLATION, "the interrupt table cannot be read");
    check_eq(vmread(IDT_VECTORING), 0x80000300 | VEC_GP,
             "IDT-vectoring information: #GP without error code");
    *page |= 7; // the first access is now L0's to see to, in the middle of the delivery
    check_run(R_VMCALL, "the exception is delivered where the table can be read");
    check_eq(vmread(GUEST_RIP), 0xb, "the exception is delivered: IP");
}

void test_real_mode(void)
{
    u8 *low = (u8 *)0x5000;
    l2_reset(l2_code16);
    if (!l2_uses_ept() || !l2_control(PROC2_CTLS, PROC2_UNRESTRICTED)) {
        skip("no unrestricted guest");
        return;
    }
    memcpy(low, l2_code16, (size_t)(l2_code16_end - l2_code16));
    to_32bit(read_cr0() & ~(CR0_PG | CR0_PE), read_cr4() & ~CR4_PAE);
    for (u32 i = 0; i < 6; i++) {
        vmwrite(GUEST_ES + 2 * i, 0x500);
        vmwrite(GUEST_ES_BASE + 2 * i, 0x5000);
        vmwrite(GUEST_ES_LIMIT + 2 * i, 0xffff);
        vmwrite(GUEST_ES_AR + 2 * i, 0x93);
    }
    vmwrite(GUEST_CS_AR, 0x9b);
    vmwrite(GUEST_RIP, 0);
    vmwrite(GUEST_RSP, 0x800);
    l2 = (struct l2_regs){0};
    check_run(R_VMCALL, "real mode");
    check_eq(l2.rax & 0xffff, 0x1235, "AX");
    check_eq(l2.rbx & 0xffff, 0x500, "BX is CS");
    check_eq(l2.rdx & 0xffff, 0x1235, "DX by the stack");
    check_eq(vmread(GUEST_CR0) & (CR0_PE | CR0_PG), 0, "CR0.PE and PG");
    // An interrupt by the interrupt table at 0.
    vmwrite(GUEST_IDTR_BASE, 0x5400);
    vmwrite(GUEST_IDTR_LIMIT, 0x3ff);
    write32(0x5400 + 4 * 0x21, 0x0500000b); // the second VMCALL
    vmwrite(ENTRY_INTR_INFO, 0x80000021);
    vmwrite(GUEST_RFLAGS, 0x202);
    vmwrite(GUEST_RIP, 0);
    check_run(R_VMCALL, "an interrupt injected into real mode");
    check_eq(vmread(GUEST_RIP), 0xb, "an interrupt injected into real mode: IP");
    check_eq(vmread(GUEST_RSP) & 0xffff, 0x800 - 6, "three words on the stack: SP");
    check_real_exceptions(low);
}
