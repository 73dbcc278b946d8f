// "EPT", "VPID": translation, permissions with the qualification of their violations,
// misconfigurations, accessed and dirty flags, what INVEPT and INVVPID promise.

#include "tests/l1/nested.h"

#define AREA 0x50000000ull // L2's address (linear and guest-physical) for experiments

L2_CODE(read, "mov (%rsi), %rax");
L2_CODE(write, "mov %rax, (%rsi)");
L2_CODE(jump, "jmp *%rsi");
L2_CODE(rmw, "lock addq $1, (%rsi)");
L2_CODE(across, "mov 0xffc(%rsi), %rax");
L2_CODE(idle_ept, "nop");

static u8 *page; // what AREA leads to
static u64 *entry;

static void start(const u8 *code)
{
    l2_defaults(code);
    events_idt();
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_PF));
    l2.rsi = AREA;
    l2.rax = 0x55;
}

static bool begin(void)
{
    if (!l2_uses_ept()) {
        skip("no EPT");
        return false;
    }
    if (!page) {
        page = alloc_pages(1);
        ept_pointer();
    }
    l2_reset(l2_idle_ept);
    entry = ept_entry(AREA);
    // VMCALL over and over, for jumps there.
    for (u32 i = 0; i < 4096; i += 4)
        write32((u64)page + i, 0x90c1010f);
    *entry = (u64)page | 0x37;
    ept_flush();
    return true;
}

static void set_entry(u64 v)
{
    *entry = v;
    ept_flush();
}

void test_ept_translation(void)
{
    if (!begin())
        return;
    write64((u64)page, 0x1122334455667788);
    start(l2_read);
    check_run(R_VMCALL, "a page of 4 KiB");
    check_eq(l2.rax, 0x1122334455667788, "4 KiB: what L2 reads");
    start(l2_write);
    l2.rax = 0x99;
    check_run(R_VMCALL, "a write");
    check_eq(read64((u64)page), 0x99, "what L1 finds");
    start(l2_rmw);
    check_run(R_VMCALL, "a locked addition");
    check_eq(read64((u64)page), 0x9a, "what L1 finds after it");
    // 2 MiB: AREA + 2 MiB leads to L1's first 2 MiB at 64 MiB.
    ept_pd[(AREA + 2 * MIB) >> 21] = 64 * MIB | 0xb7;
    ept_flush();
    write64(64 * MIB + 0x123450, 0xabcdef);
    start(l2_read);
    l2.rsi = AREA + 2 * MIB + 0x123450;
    check_run(R_VMCALL, "a page of 2 MiB");
    check_eq(l2.rax, 0xabcdef, "2 MiB: what L2 reads");
    if (caps.ept_vpid >> 17 & 1) {
        u64 old = ept_pdpt[2];
        ept_pdpt[2] = 0xb7; // 2 GiB leads to 0
        ept_flush();
        start(l2_read);
        l2.rsi = 2 * GIB + 64 * MIB + 0x123450;
        check_run(R_VMCALL, "a page of 1 GiB");
        check_eq(l2.rax, 0xabcdef, "1 GiB: what L2 reads");
        ept_pdpt[2] = old;
        ept_flush();
    } else {
        skip("no pages of 1 GiB");
    }
    ept_pd[(AREA + 2 * MIB) >> 21] = (AREA + 2 * MIB) | 0xb7;
    ept_flush();
}

enum { READ = 1, WRITE = 2, FETCH = 4 };

static void violation(const u8 *code, u32 access, u32 permissions)
{
    static const char *const names[] = {"", "read", "write", "", "fetch"};
    start(code);
    set_entry((u64)page | 0x30 | permissions);
    if (!check_run(R_EPT_VIOLATION, "%s with permissions %u", names[access], permissions))
        return;
    check_eq(vmread(QUALIFICATION) & 0x1bf, access | permissions << 3 | 0x180,
             "%s with permissions %u: qualification", names[access], permissions);
    check_eq(vmread(GUEST_PHYSICAL), AREA, "%s with permissions %u: guest-physical address",
             names[access], permissions);
    check_eq(vmread(GUEST_LINEAR), AREA, "%s with permissions %u: linear address", names[access],
             permissions);
    check_eq(vmread(IDT_VECTORING) >> 31, 0, "%s with permissions %u: IDT-vectoring", names[access],
             permissions);
}

void test_ept_permissions(void)
{
    bool execute_only;
    if (!begin())
        return;
    execute_only = caps.ept_vpid & 1;
    write32((u64)page, 0x90c1010f);
    static const struct {
        const u8 *code;
        u32 access;
    } kinds[] = {{l2_read, READ}, {l2_write, WRITE}, {l2_jump, FETCH}};
    for (u32 permissions = 0; permissions < 8; permissions++)
        for (u32 k = 0; k < 3; k++) {
            u32 need = kinds[k].access;
            bool wrong = (permissions & 3) == 2 || (permissions == 4 && !execute_only);
            if (!wrong && !(permissions & need)) {
                violation(kinds[k].code, need, permissions);
                continue;
            }
            start(kinds[k].code);
            l2.rax = 0x90c1010f;
            set_entry((u64)page | 0x30 | permissions);
            check_run(wrong ? R_EPT_MISCONFIG : R_VMCALL, "access %u, permissions %u", need,
                      permissions);
        }
    // The next levels restrict, too.
    set_entry((u64)page | 0x37);
    u64 *pde = &ept_pd[AREA >> 21];
    *pde &= ~2ull;
    ept_flush();
    start(l2_write);
    check_run(R_EPT_VIOLATION, "write, a directory without W");
    check_eq(vmread(QUALIFICATION) & 0x1bf, 0x1aa, "write, a directory without W: qualification");
    *pde = 0;
    ept_flush();
    start(l2_read);
    check_run(R_EPT_VIOLATION, "read, no directory entry");
    check_eq(vmread(QUALIFICATION) & 0x1bf, 0x181, "read, no directory entry: qualification");
    *pde = ((u64)entry & ~0xfffull) | 7;
    ept_flush();
    // Across two pages, of which the second is missing.
    u64 second = entry[1];
    entry[1] = 0;
    ept_flush();
    start(l2_across);
    check_run(R_EPT_VIOLATION, "a read across into a missing page");
    check_eq(vmread(GUEST_PHYSICAL) & ~0xfffull, AREA + 0x1000, "across: guest-physical page");
    entry[1] = second;
    start(l2_rmw);
    set_entry((u64)page | 0x35);
    check_run(R_EPT_VIOLATION, "a locked addition to a read-only page");
    value(vmread(QUALIFICATION) & 0x1bf, "a locked addition: qualification");
    set_entry((u64)page | 0x37);
}

void test_ept_misconfig(void)
{
    if (!begin())
        return;
    static const struct {
        const char *name;
        u64 set, clear;
    } rows[] = {
        {"memory type 2", 0x10, 0x38}, {"memory type 3", 0x18, 0x38},
        {"memory type 7", 0x38, 0x38}, {"address beyond the width", BIT(51), 0},
        {"write-only", 2, 7},
    };
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        start(l2_read);
        set_entry((((u64)page | 0x37) & ~rows[i].clear) | rows[i].set);
        check_run(R_EPT_MISCONFIG, "%s", rows[i].name);
        check_eq(vmread(GUEST_PHYSICAL), AREA, "%s: guest-physical address", rows[i].name);
    }
    set_entry((u64)page | 0x37);
    static const u64 types[] = {0, 1, 4, 5, 6};
    for (u32 i = 0; i < ARRAY_SIZE(types); i++) {
        start(l2_read);
        set_entry((u64)page | types[i] << 3 | 7);
        check_run(R_VMCALL, "memory type %u", (u32)types[i]);
    }
    set_entry((u64)page | 0x77);
    start(l2_read);
    check_run(R_VMCALL, "ignore PAT");
    set_entry((u64)page | 0x37 | BIT(11) | BIT(52) | BIT(62));
    start(l2_read);
    check_run(R_VMCALL, "ignored bits 11, 52 and 62");
    set_entry((u64)page | 0x37);
    u64 *pde = &ept_pd[AREA >> 21], good = *pde;
    *pde = good | 8;
    ept_flush();
    start(l2_read);
    check_run(R_EPT_MISCONFIG, "a directory entry with reserved bit 3");
    *pde = 0x50001000 | 0xb7;
    ept_flush();
    start(l2_read);
    check_run(R_EPT_MISCONFIG, "a page of 2 MiB with address bit 12");
    *pde = good;
    ept_pml4[0] |= 0x80;
    ept_flush();
    start(l2_read);
    check_run(R_EPT_MISCONFIG, "a top-level entry with bit 7");
    ept_pml4[0] &= ~0x80ull;
    ept_flush();
    start(l2_read);
    check_run(R_VMCALL, "all good again");
}

void test_ept_accessed_dirty(void)
{
    if (!begin())
        return;
    if (!(caps.ept_vpid >> 21 & 1)) {
        skip("no accessed and dirty flags");
        return;
    }
    u64 flags = 0x300;
    start(l2_read);
    vmwrite(EPTP, ept_pointer() | 0x40);
    set_entry((u64)page | 0x37);
    check_run(R_VMCALL, "a read");
    check_eq(*entry & flags, 0x100, "after a read: A");
    check_eq(ept_pd[AREA >> 21] & 0x100, 0x100, "after a read: A of the directory entry");
    check_eq(ept_pml4[0] & 0x100, 0x100, "after a read: A of the top level");
    start(l2_write);
    vmwrite(EPTP, ept_pointer() | 0x40);
    check_run(R_VMCALL, "a write");
    check_eq(*entry & flags, 0x300, "after a write: A and D");
    set_entry((u64)page | 0x37);
    start(l2_jump);
    write32((u64)page, 0x90c1010f);
    vmwrite(EPTP, ept_pointer() | 0x40);
    check_run(R_VMCALL, "a fetch");
    check_eq(*entry & flags, 0x100, "after a fetch: A");
    set_entry((u64)page | 0x37);
    start(l2_write);
    check_run(R_VMCALL, "a write with the flags off in the EPT pointer");
    check_eq(*entry & flags, 0, "the flags stay");
    for (u32 i = 0; i < 2048; i++)
        ept_pd[i] &= ~flags;
}

// Guest paging structures are memory of L2, too.
void test_ept_guest_tables(void)
{
    if (!begin())
        return;
    u64 *pte = page_entry(AREA), *table_entry = ept_entry((u64)pte), good = *table_entry;
    write64((u64)page, 0x4242);
    *pte &= ~(PTE_A | PTE_D);
    *table_entry = good & ~2ull;
    ept_flush();
    start(l2_read);
    if (check_run(R_EPT_VIOLATION, "a read whose page table cannot be written to set A")) {
        check_eq(vmread(QUALIFICATION) & 0x180, 0x80, "not to set A: not the final address");
        check_eq(vmread(QUALIFICATION) & 0x38, 0x28, "not to set A: permissions of its page");
    }
    *table_entry = good & ~7ull;
    ept_flush();
    start(l2_read);
    check_run(R_EPT_VIOLATION, "a read whose page table is missing");
    check_eq(vmread(QUALIFICATION) & 0x1b8, 0x80, "qualification: linear address, no permissions");
    check((vmread(GUEST_PHYSICAL) ^ (u64)pte) < PAGE_SIZE, "guest-physical page");
    check_eq(vmread(GUEST_LINEAR), AREA, "linear address");
    *table_entry = good;
    ept_flush();
    start(l2_read);
    check_run(R_VMCALL, "a read with all there");
    check_eq(l2.rax, 0x4242, "what L2 reads");
    check_eq(*pte & (PTE_A | PTE_D), PTE_A, "A and D of the guest's entry");
}

// An EPT violation while an event is delivered.
void test_ept_vectoring(void)
{
    if (!begin())
        return;
    start(l2_idle_ept);
    u64 *stack = ept_entry(l2_stack_top - 64), good = *stack;
    *stack = good & ~7ull;
    ept_flush();
    vmwrite(GUEST_RFLAGS, 0x202);
    vmwrite(ENTRY_INTR_INFO, 0x80000041);
    check_run(R_EPT_VIOLATION, "an injected interrupt, the stack is missing");
    check_eq(vmread(IDT_VECTORING), 0x80000041, "IDT-vectoring information");
    check_eq(vmread(QUALIFICATION) & 7, 2, "qualification: a write");
    check(vmread(GUEST_RIP) == (u64)l2_idle_ept, "RIP");
    *stack = good;
    ept_flush();
    vmwrite(ENTRY_INTR_INFO, vmread(IDT_VECTORING));
    check_delivered(l2_run(), 0x41, "injected again");
    start(l2_idle_ept);
    vmwrite(ENTRY_INTR_INFO, 0x80000b0d);
    vmwrite(ENTRY_ERROR_CODE, 0x4321);
    *stack = good & ~2ull;
    ept_flush();
    check_run(R_EPT_VIOLATION, "an injected #GP, the stack is read-only");
    check_eq(vmread(IDT_VECTORING), 0x80000b0d, "#GP: IDT-vectoring information");
    check_eq(vmread(IDT_VECTORING_ERROR), 0x4321, "#GP: IDT-vectoring error code");
    *stack = good;
    ept_flush();
}

// What a flush promises: after it, the new mapping is used.
void test_invept(void)
{
    if (!begin())
        return;
    u64 *other = alloc_pages(1);
    write64((u64)page, 1);
    write64((u64)other, 2);
    u32 bad = 0;
    for (u32 i = 0; i < 100; i++) {
        *entry = (u64)(i & 1 ? (u64)other : (u64)page) | 0x37;
        invept(1 + (i >> 1 & 1), ept_pointer(), 0);
        start(l2_read);
        bad += l2_run() != R_VMCALL || l2.rax != 1 + (i & 1);
    }
    check_eq(bad, 0, "100 changes with INVEPT: stale reads");
    *entry = (u64)page | 0x35;
    ept_flush();
    start(l2_write);
    check_run(R_EPT_VIOLATION, "W taken away");
    *entry |= 2; // rights that are added need no flush
    check_run(R_VMCALL, "W given back without INVEPT");
    *entry = 0;
    ept_flush();
    start(l2_read);
    check_run(R_EPT_VIOLATION, "taken away");
    *entry = (u64)page | 0x37;
    check_run(R_VMCALL, "given back without INVEPT");
}

void test_vpid(void)
{
    if (!l2_offers(PROC2_CTLS, PROC2_VPID)) {
        skip("no VPID");
        return;
    }
    u64 *one = alloc_pages(1), *two = alloc_pages(1), *pte = page_entry(AREA), good = *pte;
    *one = 1;
    *two = 2;
    l2_reset(l2_read);
    u32 bad = 0;
    for (u32 i = 0; i < 100; i++) {
        u32 type = i % 4, want = 1 + (i & 1);
        *pte = (u64)(i & 1 ? two : one) | 7;
        l2_defaults(l2_read);
        l2_control(PROC2_CTLS, PROC2_VPID);
        vmwrite(VPID, 7);
        l2.rsi = AREA;
        if (caps.ept_vpid >> (40 + type) & 1)
            invvpid(type, 7, AREA);
        else
            invvpid(2, 0, 0);
        bad += l2_run() != R_VMCALL || l2.rax != want;
    }
    check_eq(bad, 0, "100 changes with INVVPID: stale reads");
    for (u32 i = 0; i < 100; i++) { // without VPID each transition flushes
        *pte = (u64)(i & 1 ? two : one) | 7;
        l2_defaults(l2_read);
        l2.rsi = AREA;
        bad += l2_run() != R_VMCALL || l2.rax != 1 + (i & 1);
    }
    check_eq(bad, 0, "100 changes without VPID: stale reads");
    *pte = good;
    write_cr3(read_cr3());
}
