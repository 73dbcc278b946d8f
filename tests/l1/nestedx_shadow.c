// "VMCS Types: Ordinary and Shadow" and "VMCS Shadowing": VMREAD and VMWRITE in L2.

#include "tests/l1/nestedx.h"

L2_CODE(vmread, "vmread %rdx, %rax\n pushfq\n pop %rbx");
L2_CODE(vmread_memory, "vmread %rdx, (%rsi)\n pushfq\n pop %rbx");
L2_CODE(vmwrite, "vmwrite %rax, %rdx\n pushfq\n pop %rbx");
L2_CODE(vmwrite_memory, "vmwrite (%rsi), %rdx\n pushfq\n pop %rbx");

static u64 shadow; // a shadow VMCS
static u8 *read_map, *write_map;
static u64 *buffer; // a page of its own

static bool begin(void)
{
    if (!l2_offers(PROC2_CTLS, PROC2_SHADOW)) {
        skip("no VMCS shadowing");
        return false;
    }
    if (!shadow) {
        shadow = vmx_region();
        write32(shadow, caps.revision | BIT(31));
        buffer = alloc_pages(1);
        read_map = alloc_pages(1);
        write_map = alloc_pages(1);
    }
    return true;
}

void test_shadow_regions(void)
{
    if (!begin())
        return;
    u64 ordinary = vmx_region(), pointer, v;
    check_outcome(vmclear(shadow), VMX_OK, "VMCLEAR of a shadow VMCS");
    check_outcome(vmptrld(shadow), VMX_OK, "VMPTRLD of a shadow VMCS");
    vmptrst(&pointer);
    check(pointer == shadow, "VMPTRST");
    check_outcome(vmwrite_to(GUEST_RIP, 0x1234), VMX_OK, "VMWRITE to it");
    check_outcome(vmread_from(GUEST_RIP, &v), VMX_OK, "VMREAD of it");
    check_eq(v, 0x1234, "VMREAD of it: value");
    check_outcome(vmlaunch(), VMX_INVALID, "VMLAUNCH of it");
    check_outcome(vmresume(), VMX_INVALID, "VMRESUME of it");
    check_outcome(vmclear(shadow), VMX_OK, "VMCLEAR of the current one");
    u64 bad = vmx_region();
    write32(bad, (caps.revision ^ 1) | BIT(31));
    vmclear(ordinary);
    vmptrld(ordinary);
    check_outcome(vmptrld(bad), VMX_VALID | 11, "VMPTRLD, another revision with the indicator");
    write32(bad, caps.revision | BIT(31));
    vmclear(ordinary);
    check_outcome(vmxoff(), VMX_OK, "VMXOFF");
    check_outcome(vmxon(bad), VMX_INVALID, "VMXON with the indicator");
    check_outcome(vmxon(vmxon_region), VMX_OK, "VMXON");
}

static void start(const u8 *code, u64 field)
{
    l2_reset(code);
    events_idt();
    l2.rdx = field;
    l2.rsi = (u64)buffer;
    l2_control(PROC2_CTLS, PROC2_SHADOW);
    vmwrite(VMREAD_BITMAP, (u64)read_map);
    vmwrite(VMWRITE_BITMAP, (u64)write_map);
    vmwrite(LINK_POINTER, shadow);
    memset(read_map, 0, PAGE_SIZE);
    memset(write_map, 0, PAGE_SIZE);
}

static u64 field_of_shadow(u32 encoding)
{
    vmptrld(shadow);
    u64 v = vmread(encoding);
    vmclear(shadow);
    vmptrld(l2_vmcs);
    return v;
}

static void check_flags(u64 want, const char *what)
{
    check_eq(l2.rbx & FLAGS_ALU, want, "%s: flags", what);
}

static void fill_shadow(void)
{
    vmclear(shadow);
    vmptrld(shadow);
    vmwrite(GUEST_RIP, 0x1122334455667788);
    vmwrite(GUEST_ES, 0x4321);
    vmwrite(TSC_OFFSET, 0xaabbccdd11223344);
    vmclear(shadow);
}

static void accesses(void)
{
    start(l2_vmread, GUEST_RIP);
    check_run(R_VMCALL, "VMREAD");
    check_eq(l2.rax, 0x1122334455667788, "VMREAD: value");
    check_flags(0, "VMREAD");
    start(l2_vmread, GUEST_ES);
    check_run(R_VMCALL, "VMREAD of 16 bits");
    check_eq(l2.rax, 0x4321, "VMREAD of 16 bits: value");
    start(l2_vmread, TSC_OFFSET + 1);
    check_run(R_VMCALL, "VMREAD of a high half");
    check_eq(l2.rax, 0xaabbccdd, "VMREAD of a high half: value");
    start(l2_vmread_memory, GUEST_RIP);
    check_run(R_VMCALL, "VMREAD to memory");
    check_eq(buffer[0], 0x1122334455667788, "VMREAD to memory: value");
    start(l2_vmwrite, GUEST_RSP);
    l2.rax = 0x1234567890;
    check_run(R_VMCALL, "VMWRITE");
    check_flags(0, "VMWRITE");
    check_eq(field_of_shadow(GUEST_RSP), 0x1234567890, "VMWRITE: value");
    start(l2_vmwrite_memory, GUEST_CS);
    buffer[0] = 0x99998888;
    check_run(R_VMCALL, "VMWRITE from memory");
    check_eq(field_of_shadow(GUEST_CS), 0x8888, "VMWRITE from memory, of 16 bits: value");
}

static void failures(void)
{
    start(l2_vmread, 0x4c02);
    vmwrite_to(INSTRUCTION_ERROR, 0x55);
    check_run(R_VMCALL, "VMREAD of no field");
    check_flags(FLAG_ZF, "VMREAD of no field");
    check_eq(vmread(INSTRUCTION_ERROR), 12, "VMREAD of no field: error in the current VMCS");
    l2_goto(l2_vmread);
    l2.rdx = INSTRUCTION_ERROR;
    check_run(R_VMCALL, "VMREAD of the error field");
    check(l2.rax != 12, "the linked VMCS does not get it");
    start(l2_vmwrite, 0x4c02);
    check_run(R_VMCALL, "VMWRITE of no field");
    check_flags(FLAG_ZF, "VMWRITE of no field");
    start(l2_vmread, GUEST_RIP);
    vmwrite(LINK_POINTER, ~0ull);
    check_run(R_VMCALL, "VMREAD without a link pointer");
    check_flags(FLAG_CF, "VMREAD without a link pointer");
    start(l2_vmwrite, GUEST_RIP);
    vmwrite(LINK_POINTER, ~0ull);
    check_run(R_VMCALL, "VMWRITE without a link pointer");
    check_flags(FLAG_CF, "VMWRITE without a link pointer");
    start(l2_vmread_memory, GUEST_RIP);
    l2.rsi = 0x800000000000;
    check_delivered(l2_run(), VEC_GP, "VMREAD to an address that is not canonical");
    start(l2_vmread_memory, GUEST_RIP);
    l2.rsi = 0x800000000000;
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_GP));
    check_run(R_EXCEPTION, "the same with #GP intercepted");
    check_eq(vmread(EXIT_INTR_INFO), 0x80000b0d, "the same with #GP intercepted: information");
    start(l2_vmwrite_memory, GUEST_RIP);
    u64 *pte = page_entry((u64)buffer), good = *pte;
    *pte = 0;
    invlpg(buffer);
    check_delivered(l2_run(), VEC_PF, "VMWRITE from a missing page");
    start(l2_vmwrite_memory, GUEST_RIP);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_PF));
    write_cr2(0x7777);
    check_run(R_EXCEPTION, "the same with #PF intercepted");
    check(vmread(QUALIFICATION) == (u64)buffer, "the same with #PF intercepted: qualification");
    check_eq(read_cr2(), 0x7777, "the same with #PF intercepted: CR2");
    *pte = good;
    invlpg(buffer);
}

static void exits(void)
{
    start(l2_vmread, GUEST_RIP);
    read_map[GUEST_RIP / 8] |= (u8)BIT(GUEST_RIP % 8);
    check_run(R_VMREAD, "VMREAD, its bit set");
    check_eq(vmread(EXIT_LENGTH), 3, "VMREAD, its bit set: instruction length");
    check_eq(vmread(EXIT_INSN_INFO) & 0xf0000478, 0x20000400,
             "VMREAD, its bit set: instruction information");
    start(l2_vmwrite, GUEST_RIP);
    read_map[GUEST_RIP / 8] |= (u8)BIT(GUEST_RIP % 8);
    check_run(R_VMCALL, "VMWRITE, the bit for VMREAD set");
    start(l2_vmwrite, GUEST_RIP);
    write_map[GUEST_RIP / 8] |= (u8)BIT(GUEST_RIP % 8);
    check_run(R_VMWRITE, "VMWRITE, its bit set");
    start(l2_vmread, GUEST_RIP | BIT(15));
    check_run(R_VMREAD, "VMREAD, bit 15 of the operand set");
    start(l2_vmread, GUEST_RIP | BIT(63));
    check_run(R_VMREAD, "VMREAD, bit 63 of the operand set");
    start(l2_vmread, GUEST_RIP);
    vmclr(PROC2_CTLS, PROC2_SHADOW);
    vmwrite(LINK_POINTER, ~0ull);
    check_run(R_VMREAD, "VMREAD without the control");
}

static void entries(void)
{
    start(l2_vmread, GUEST_RIP);
    vmwrite(VMREAD_BITMAP, (u64)read_map | 16);
    check_run(L2_FAILED | VMX_VALID | 7, "entry with a bitmap that is not aligned");
    start(l2_vmread, GUEST_RIP);
    vmwrite(VMWRITE_BITMAP, caps.phys_limit);
    check_run(L2_FAILED | VMX_VALID | 7, "entry with a bitmap beyond the width");
    start(l2_vmread, GUEST_RIP);
    write32(shadow, caps.revision);
    check_run(R_BAD_GUEST | R_ENTRY_FAILED, "entry with shadowing, an ordinary VMCS linked");
    check_eq(vmread(QUALIFICATION), 4, "an ordinary VMCS linked: qualification");
    write32(shadow, caps.revision | BIT(31));
    start(l2_vmread, GUEST_RIP);
    vmclr(PROC2_CTLS, PROC2_SHADOW);
    check_run(R_BAD_GUEST | R_ENTRY_FAILED, "entry without shadowing, a shadow VMCS linked");
}

void test_shadow_access(void)
{
    if (!begin())
        return;
    fill_shadow();
    accesses();
    failures();
    exits();
    entries();
}
