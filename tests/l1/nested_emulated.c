// Instructions of L2 that no control of L1's makes exit, but that an L0 has to execute itself: what
// they do to memory is subject to L1's EPT all the same. And what an exit saves, which an L0 may
// fetch when it is asked for.

#include "tests/l1/nested.h"

#define PORT 0x80 // takes and gives anything

L2_CODE(outs, "mov $0x80, %edx; l2_the_outs: outsb");
L2_CODE(ins, "mov $0x80, %edx; l2_the_ins: insb");
extern u8 l2_the_outs[], l2_the_ins[];
L2_CODE(movs, "l2_the_movs: movsl");
extern u8 l2_the_movs[];
L2_CODE(cr3, "mov %rsi, %cr3");
L2_CODE(dr7, "mov %rsi, %dr7");
L2_CODE(get_dr7, "mov %dr7, %rax");
L2_CODE(load_ss, "mov $0x10, %eax; mov %eax, %ss");
L2_CODE(nothing, "");

#define APIC_ID   0xfee00020
#define READ_ANY  (1 | 0x180)
#define WRITE_ANY (2 | 0x180)

static u8 *page;
static u64 *entry, good;

// L2 that begins at `code`, with what `page` is in its EPT cut down to `rights`.
static void start(const void *code, u64 rights)
{
    *entry = (good & ~7ull) | rights;
    ept_flush();
    l2_goto(code);
    l2.rsi = l2.rdi = (u64)page;
}

static void check_denied(const void *rip, u64 qualification, const char *name)
{
    if (!check_run(R_EPT_VIOLATION, "%s", name))
        return;
    check_eq(vmread(QUALIFICATION) & 0x1bf, qualification, "%s: qualification", name);
    check_eq(vmread(GUEST_PHYSICAL) - (u64)page, 0, "%s: guest-physical address", name);
    check_eq(vmread(GUEST_LINEAR) - (u64)page, 0, "%s: linear address", name);
    check(vmread(GUEST_RIP) == (u64)rip, "%s: RIP", name);
    check_eq(vmread(IDT_VECTORING) >> 31, 0, "%s: no event was being delivered", name);
    check(l2.rsi == (u64)page || l2.rsi == APIC_ID, "%s: RSI", name);
    check_eq(l2.rdi - (u64)page, 0, "%s: RDI", name);
}

// A page table of L2 that its EPT does not let it read.
static void check_tables(void)
{
    const u64 linear = 0x51000000;
    u64 *pte = page_entry(linear), old = *pte, *table = ept_entry((u64)pte), rights = *table;
    *pte = (u64)page | 3;
    start(l2_outs, 7);
    l2.rsi = linear + 5;
    *table = rights & ~7ull;
    ept_flush();
    check_run(R_EPT_VIOLATION, "OUTS by a page table that is not there");
    check_eq(vmread(QUALIFICATION) & 0x1bf, 0x81, "the page table: qualification");
    check(vmread(GUEST_PHYSICAL) == (u64)pte, "the page table: guest-physical address");
    check_eq(vmread(GUEST_LINEAR), linear + 5, "the page table: linear address");
    *table = rights;
    *pte = old;
    ept_flush();
    write_cr3(read_cr3());
}

void test_emulated_access(void)
{
    page = alloc_pages(1);
    l2_reset(l2_outs);
    if (!l2_uses_ept()) {
        skip("no EPT");
        return;
    }
    entry = ept_entry((u64)page);
    good = *entry;
    start(l2_outs, 0);
    check_denied(l2_the_outs, READ_ANY, "OUTS from a page that is not there");
    start(l2_ins, 5);
    check_denied(l2_the_ins, WRITE_ANY | 0x28, "INS to a page that cannot be written");
    start(l2_movs, 0);
    l2.rsi = APIC_ID;
    check_denied(l2_the_movs, WRITE_ANY, "MOVS from the local APIC to a page that is not there");
    start(l2_movs, 1);
    l2.rsi = APIC_ID;
    check_denied(l2_the_movs, WRITE_ANY | 8, "MOVS from the local APIC to a page without W");
    start(l2_outs, 2);
    check_run(R_EPT_MISCONFIG, "OUTS from a misconfigured page");
    check(vmread(GUEST_PHYSICAL) == (u64)page, "misconfiguration: guest-physical address");
    check(vmread(GUEST_RIP) == (u64)l2_the_outs, "misconfiguration: RIP");
    start(l2_outs, 7);
    check_run(R_VMCALL, "OUTS with all rights");
    check_eq(l2.rsi - (u64)page, 1, "RSI");
    start(l2_movs, 7);
    l2.rsi = APIC_ID;
    check_run(R_VMCALL, "MOVS from the local APIC with all rights");
    check_eq(l2.rdi - (u64)page, 4, "RDI");
    check_tables();
}

// ------------------------------------------------------------------- where a ROM might be, and is
// not

L2_CODE(load, "mov (%rsi), %rax");
L2_CODE(store, "mov %eax, (%rsi); mov (%rsi), %eax");
L2_CODE(increment, "incl (%rsi); mov (%rsi), %eax");
L2_CODE(jump, "jmp *%rsi");

#define NO_ROM 0xd8000

void test_no_rom(void)
{
    volatile u32 *rom = (u32 *)NO_ROM;
    check_eq(*rom, ~0u, "L1: read");
    *rom = 0x12345678;
    check_eq(*rom, ~0u, "L1: read after a write");
    __asm__ volatile("incl %0" : "+m"(*rom));
    check_eq(*rom, ~0u, "L1: read after INC");
    page = alloc_pages(1);
    l2_reset(l2_load);
    if (!l2_uses_ept()) {
        skip("no EPT");
        return;
    }
    entry = ept_entry((u64)page);
    u64 old = *entry;
    good = (old & 0xfff) | NO_ROM;
    start(l2_load, 7);
    check_run(R_VMCALL, "L2: load");
    check_eq(l2.rax, ~0ull, "L2: load");
    start(l2_store, 7);
    check_run(R_VMCALL, "L2: store");
    check_eq(l2.rax, ~0u, "L2: load after a store");
    start(l2_increment, 7);
    check_run(R_VMCALL, "L2: INC");
    check_eq(l2.rax, ~0u, "L2: load after INC");
    start(l2_store, 5);
    check_run(R_EPT_VIOLATION, "L2: store without the right");
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_UD));
    start(l2_jump, 7);
    check_run(R_EXCEPTION, "L2: jump there");
    check(vmread(GUEST_RIP) == (u64)page, "L2: jump there: RIP");
    *entry = old;
    ept_flush();
}

// --------------------------------------------------------------------------- what an exit saves

// Guest state is that of the exit, by the controls of the exit, whenever L1 reads it.
void test_saved_state(void)
{
    l2_reset(l2_dr7);
    if (l2_control(ENTRY_CTLS, ENTRY_LOAD_DEBUG) && l2_offers(EXIT_CTLS, EXIT_SAVE_DEBUG)) {
        vmset(EXIT_CTLS, EXIT_SAVE_DEBUG);
        l2.rsi = 0x410;
        check_run(R_VMCALL, "DR7 written, save debug controls");
        vmclr(EXIT_CTLS, EXIT_SAVE_DEBUG);
        check_eq(vmread(GUEST_DR7), 0x410, "DR7 after the control is cleared");
        l2_goto(l2_dr7);
        l2.rsi = 0x420;
        if (l2_offers(EXIT_CTLS, EXIT_SAVE_DEBUG) && !(caps.exit_must & EXIT_SAVE_DEBUG)) {
            vmset(PROC_CTLS, PROC_HLT); // the processor-based controls are new as well
            check_run(R_VMCALL, "DR7 written, no save debug controls");
            l2_goto(l2_get_dr7);
            check_run(R_VMCALL, "DR7 read");
            check_eq(l2.rax, 0x410, "L2 finds in DR7 what the entry loaded");
            vmset(EXIT_CTLS, EXIT_SAVE_DEBUG);
            check_eq(vmread(GUEST_DR7), 0x410, "DR7 after the control is set");
        }
    }
    // L2 loads SS; L1 changes nothing but flags. The limit that counts is the one L2 has now.
    l2_defaults(l2_load_ss);
    if (l2_uses_ept() && l2_control(PROC2_CTLS, PROC2_UNRESTRICTED)) {
        vmwrite(GUEST_SS_LIMIT, 0x1234);
        vmwrite(GUEST_SS_AR, 0x4093);
        check_run(R_VMCALL, "SS loaded");
        l2_goto(l2_nothing);
        vmwrite(GUEST_RFLAGS, 2 | FLAG_CF);
        check_run(R_VMCALL, "an entry with other flags");
        check_eq(vmread(GUEST_SS_LIMIT), 0xffffffff, "the limit of SS");
    }
}
