// "APIC Virtualization and Virtual Interrupts": registers in the virtual-APIC page, delivery of
// virtual interrupts, EOI, posted interrupts.

#include "tests/l1/nestedx.h"

L2_CODE(rdmsr, "rdmsr");
L2_CODE(wrmsr, "wrmsr\n nop");
L2_CODE(mmio_load, "mov (%rsi), %eax");
L2_CODE(mmio_store, "mov %eax, (%rsi)\n nop");
L2_CODE(nothing, "nop\n nop");
L2_CODE(sti, "sti\n nop\n nop");
L2_CODE(halt, "hlt\n nop");
L2_CODE(cr8, "mov %rax, %cr8\n nop");
L2_CODE(spin, "1: pause\n dec %rcx\n jnz 1b");

#define VECTOR 0x51
#define ACCESS 0x50400000ull // where L2 sees its APIC

static u32 *page; // virtual-APIC page
static u64 access_page;
static u32 *desc; // posted-interrupt descriptor

static bool offered(u32 proc2)
{
    bool good = l2_offers(PROC_CTLS, PROC_TPR_SHADOW) && l2_offers(PROC2_CTLS, proc2);
    if (!good)
        skip("no such control");
    if (!page) {
        page = alloc_pages(1);
        access_page = (u64)alloc_pages(1);
        desc = alloc_pages(1);
    }
    return good;
}

static void start(const u8 *code, u32 proc2)
{
    l2_reset(code);
    events_idt();
    memset(page, 0, PAGE_SIZE);
    l2_control(PROC_CTLS, PROC_TPR_SHADOW);
    l2_control(PROC2_CTLS, proc2);
    vmwrite(VAPIC_ADDRESS, (u64)page);
    vmwrite(TPR_THRESHOLD, 0);
    if (proc2 & PROC2_VINTR) {
        l2_control(PIN_CTLS, PIN_EXTINT);
        for (u32 i = 0; i < 4; i++)
            vmwrite(EOI_EXIT0 + 2 * i, 0);
        vmwrite(GUEST_INTR_STATUS, 0);
    }
    vmwrite(GUEST_RFLAGS, 0x202);
}

static void request(u8 vector)
{
    page[(0x200 + vector / 32 * 16) / 4] |= 1u << vector % 32;
    vmwrite(GUEST_INTR_STATUS, (vmread(GUEST_INTR_STATUS) & 0xff00) | vector);
}

static bool in(u32 reg, u8 vector)
{
    return page[(reg + vector / 32 * 16) / 4] >> vector % 32 & 1;
}

static void open_msrs(u8 *map)
{
    l2_control(PROC_CTLS, PROC_MSR_BITMAPS);
    memset(map, 0, PAGE_SIZE);
    vmwrite(MSR_BITMAP, (u64)map);
}

static u8 *map;

static void start_x2(const u8 *code, u32 more, u32 msr, u32 v)
{
    start(code, PROC2_X2APIC | more);
    open_msrs(map);
    page[0x20 / 4] = 0x12345678;
    page[0x30 / 4] = 0x50014;
    page[0x80 / 4] = 0x30;
    l2.rcx = msr;
    l2.rax = v;
}

void test_x2apic_registers(void)
{
    if (!offered(PROC2_X2APIC | PROC2_APIC_REGS))
        return;
    map = alloc_pages(1);
    start_x2(l2_rdmsr, 0, 0x808, 0);
    check_run(R_VMCALL, "RDMSR of the TPR");
    check_eq(l2.rax, 0x30, "RDMSR of the TPR: value");
    start_x2(l2_wrmsr, 0, 0x808, 0x70);
    check_run(R_VMCALL, "WRMSR of the TPR");
    check_eq(page[0x80 / 4], 0x70, "WRMSR of the TPR: in the page");
    start_x2(l2_wrmsr, 0, 0x808, 0x100);
    check_delivered(l2_run(), VEC_GP, "WRMSR of the TPR with a reserved bit");
    start_x2(l2_rdmsr, PROC2_APIC_REGS, 0x802, 0);
    check_run(R_VMCALL, "RDMSR of the ID");
    check_eq(l2.rax, 0x12345678, "RDMSR of the ID: value");
    start_x2(l2_rdmsr, PROC2_APIC_REGS, 0x803, 0);
    check_run(R_VMCALL, "RDMSR of the version");
    check_eq(l2.rax, 0x50014, "RDMSR of the version: value");
    start_x2(l2_rdmsr, PROC2_APIC_REGS, 0x802, 0);
    map[0x802 / 8] |= BIT(2);
    check_run(R_RDMSR, "RDMSR of the ID, its bit set");
    start_x2(l2_wrmsr, PROC2_APIC_REGS, 0x808, 0x70);
    map[0x800 + 0x808 / 8] |= BIT(0);
    check_run(R_WRMSR, "WRMSR of the TPR, its bit set");
    start_x2(l2_rdmsr, PROC2_APIC_REGS, 0x802, 0);
    vmclr(PROC_CTLS, PROC_MSR_BITMAPS);
    check_run(R_RDMSR, "without MSR bitmaps");
    // Between two entries nothing changes but the bitmap.
    start_x2(l2_rdmsr, PROC2_APIC_REGS, 0x802, 0);
    for (u32 set = 0; set < 4; set++) {
        l2_goto(l2_rdmsr);
        check_run(set % 2 ? R_RDMSR : R_VMCALL, "RDMSR of the ID, its bit now %u", set % 2);
        map[0x802 / 8] ^= BIT(2);
        l2.rcx = 0x802;
    }
    for (u32 set = 0; set < 4; set++) {
        l2_goto(l2_wrmsr);
        l2.rcx = 0x808;
        l2.rax = l2.rdx = 0;
        check_run(set % 2 ? R_WRMSR : R_VMCALL, "WRMSR of the TPR, its bit now %u", set % 2);
        map[0x800 + 0x808 / 8] ^= BIT(0);
    }
}

void test_apic_page(void)
{
    if (!offered(PROC2_APIC_ACCESS | PROC2_APIC_REGS) || !l2_uses_ept())
        return;
    ept_pointer();
    u64 *entry = ept_entry(ACCESS), good = *entry;
    *entry = access_page | 0x37;
    ept_flush();
    static const struct {
        const char *name;
        u32 offset;
        bool read;
        u32 more, want;
        u64 qualification;
    } rows[] = {
        {"read of the TPR", 0x80, true, 0, R_VMCALL, 0},
        {"read of the ID", 0x20, true, 0, R_APIC_ACCESS, 0x20},
        {"write of the ID", 0x20, false, 0, R_APIC_ACCESS, 0x1020},
        {"registers: read of the ID", 0x20, true, PROC2_APIC_REGS, R_VMCALL, 0},
        {"registers: read of the current count", 0x390, true, PROC2_APIC_REGS, R_APIC_ACCESS,
         0x390},
        {"registers: write of the ID", 0x20, false, PROC2_APIC_REGS, R_APIC_WRITE, 0x20},
        {"registers: write of the ICR", 0x300, false, PROC2_APIC_REGS, R_APIC_WRITE, 0x300},
        {"registers: write of the initial count", 0x380, false, PROC2_APIC_REGS, R_APIC_WRITE,
         0x380},
        {"registers: write of the version", 0x30, false, PROC2_APIC_REGS, R_APIC_ACCESS, 0x1030},
    };
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        start(rows[i].read ? l2_mmio_load : l2_mmio_store, PROC2_APIC_ACCESS | rows[i].more);
        vmwrite(APIC_ACCESS, access_page);
        page[rows[i].offset / 4] = 0x01000010;
        l2.rsi = ACCESS + rows[i].offset;
        l2.rax = 0x02000020;
        check_run(rows[i].want, "%s", rows[i].name);
        if (rows[i].want != R_VMCALL)
            check_eq(vmread(QUALIFICATION) & 0xffff, rows[i].qualification, "%s: qualification",
                     rows[i].name);
        else
            check_eq(l2.rax, 0x01000010, "%s: value", rows[i].name);
        if (rows[i].want == R_APIC_WRITE)
            check_eq(page[rows[i].offset / 4], 0x02000020, "%s: in the page", rows[i].name);
    }
    *entry = good;
    ept_flush();
}

void test_virtual_interrupts(void)
{
    if (!offered(PROC2_VINTR))
        return;
    start(l2_nothing, PROC2_VINTR);
    request(VECTOR);
    check_delivered(l2_run(), VECTOR, "pending at entry");
    check_eq(vmread(GUEST_INTR_STATUS), VECTOR << 8, "pending at entry: SVI and RVI");
    check(!in(0x200, VECTOR) && in(0x100, VECTOR), "pending at entry: VIRR and VISR");
    check_eq(page[0xa0 / 4], 0x50, "pending at entry: VPPR");
    start(l2_sti, PROC2_VINTR);
    vmwrite(GUEST_RFLAGS, 2);
    request(VECTOR);
    check_delivered(l2_run(), VECTOR, "when L2 enables interrupts");
    start(l2_nothing, PROC2_VINTR);
    vmwrite(GUEST_RFLAGS, 2);
    request(VECTOR);
    check_run(R_VMCALL, "interrupts disabled");
    check_eq(events_vector(), NO_FAULT, "interrupts disabled: not delivered");
    check_eq(vmread(GUEST_INTR_STATUS), VECTOR, "interrupts disabled: status");
    vmwrite(GUEST_RFLAGS, 0x202);
    l2_goto(l2_nothing);
    check_delivered(l2_run(), VECTOR, "enabled by L1");
    start(l2_nothing, PROC2_VINTR);
    page[0x80 / 4] = 0x50;
    request(VECTOR);
    check_run(R_VMCALL, "the TPR is as high");
    check_eq(events_vector(), NO_FAULT, "the TPR is as high: not delivered");
    start(l2_cr8, PROC2_VINTR);
    page[0x80 / 4] = 0x50;
    l2.rax = 4;
    request(VECTOR);
    check_delivered(l2_run(), VECTOR, "L2 lowers the TPR");
    start(l2_nothing, PROC2_VINTR);
    vmwrite(GUEST_INTR_STATUS, 0x6100);
    request(VECTOR);
    check_run(R_VMCALL, "a higher one in service");
    check_eq(vmread(GUEST_INTR_STATUS), 0x6100 | VECTOR, "a higher one in service: status");
    start(l2_nothing, PROC2_VINTR);
    vmclr(PIN_CTLS, PIN_EXTINT);
    check_run(L2_FAILED | VMX_VALID | 7, "entry without external-interrupt exiting");
    // An unrelated exit and entry in between lose nothing.
    start(l2_nothing, PROC2_VINTR);
    vmwrite(GUEST_RFLAGS, 2);
    request(VECTOR);
    u32 bad = 0;
    for (u32 i = 0; i < 10; i++) {
        l2_goto(l2_nothing);
        bad += l2_run() != R_VMCALL || vmread(GUEST_INTR_STATUS) != VECTOR;
    }
    check_eq(bad, 0, "10 entries with it pending: bad");
    if (arg_has("bare"))
        return; // Bochs goes on halting
    start(l2_halt, PROC2_VINTR);
    vmwrite(GUEST_ACTIVITY, 1);
    request(VECTOR);
    check_delivered(l2_run(), VECTOR, "entry to HLT with it pending");
}

// An EPT violation while a virtual interrupt is delivered; another event was delivered before.
void test_virtual_vectoring(void)
{
    if (!offered(PROC2_VINTR) || !l2_uses_ept())
        return;
    start(l2_nothing, PROC2_VINTR);
    ept_pointer();
    vmwrite(ENTRY_INTR_INFO, 0x80000b0d);
    vmwrite(ENTRY_ERROR_CODE, 0);
    check_delivered(l2_run(), VEC_GP, "an injected #GP");
    u64 *stack = ept_entry(l2_stack_top - 64), good = *stack;
    start(l2_nothing, PROC2_VINTR);
    *stack = good & ~7ull;
    ept_flush();
    request(VECTOR);
    check_run(R_EPT_VIOLATION, "a virtual interrupt, the stack is missing");
    check_eq(vmread(IDT_VECTORING), 0x80000000 | VECTOR, "IDT-vectoring information");
    check_eq(vmread(GUEST_INTR_STATUS), VECTOR << 8, "status");
    check(vmread(GUEST_RIP) == (u64)l2_nothing, "RIP");
    *stack = good;
    ept_flush();
    vmwrite(ENTRY_INTR_INFO, 0x80000000 | VECTOR);
    check_delivered(l2_run(), VECTOR, "injected again");
    check_eq(vmread(GUEST_INTR_STATUS), VECTOR << 8, "injected again: status");
    // The stack is another page since L2 used it last: L0 may have to look it up anew.
    u64 other = (u64)alloc_pages(1);
    start(l2_nothing, PROC2_VINTR);
    vmwrite(ENTRY_INTR_INFO, 0x80000b0d);
    check_delivered(l2_run(), VEC_GP, "an injected #GP");
    start(l2_nothing, PROC2_VINTR);
    *stack = other | (good & 0xfff);
    ept_flush();
    request(VECTOR);
    check_delivered(l2_run(), VECTOR, "a virtual interrupt onto a new stack page");
    *stack = good;
    ept_flush();
}

void test_virtual_eoi(void)
{
    if (!offered(PROC2_VINTR | PROC2_X2APIC))
        return;
    map = alloc_pages(1);
    start_x2(l2_wrmsr, PROC2_VINTR, 0x80b, 0);
    page[0x80 / 4] = 0;
    vmwrite(GUEST_INTR_STATUS, VECTOR << 8);
    page[0x100 / 4 + VECTOR / 32 * 4] = 1u << VECTOR % 32;
    check_run(R_VMCALL, "EOI");
    check_eq(vmread(GUEST_INTR_STATUS), 0, "EOI: status");
    check(!in(0x100, VECTOR), "EOI: VISR");
    start_x2(l2_wrmsr, PROC2_VINTR, 0x80b, 0);
    page[0x80 / 4] = 0;
    vmwrite(GUEST_INTR_STATUS, VECTOR << 8);
    page[0x100 / 4 + VECTOR / 32 * 4] = 1u << VECTOR % 32;
    page[0x100 / 4 + 4] = 1u << (0x33 - 32);
    check_run(R_VMCALL, "EOI, another in service");
    check_eq(vmread(GUEST_INTR_STATUS), 0x3300, "EOI, another in service: status");
    start_x2(l2_wrmsr, PROC2_VINTR, 0x80b, 0);
    page[0x80 / 4] = 0;
    vmwrite(GUEST_INTR_STATUS, VECTOR << 8);
    page[0x100 / 4 + VECTOR / 32 * 4] = 1u << VECTOR % 32;
    vmwrite(EOI_EXIT0 + 2 * (VECTOR / 64), BIT(VECTOR % 64));
    check_run(R_VEOI, "EOI with its bit in the EOI-exit bitmap");
    check_eq(vmread(QUALIFICATION), VECTOR, "EOI with its bit: qualification");
    check_eq(vmread(GUEST_INTR_STATUS), 0, "EOI with its bit: status");
    check(vmread(GUEST_RIP) == (u64)l2_wrmsr + 2, "EOI with its bit: RIP is after it");
    start_x2(l2_wrmsr, PROC2_VINTR, 0x83f, VECTOR);
    page[0x80 / 4] = 0;
    check_delivered(l2_run(), VECTOR, "self IPI");
    // L1's own interrupts have nothing to do with it.
    apic_enable();
    apic_self_ipi(0x91);
    irq_window();
    start_x2(l2_wrmsr, PROC2_VINTR, 0x80b, 0);
    page[0x80 / 4] = 0;
    vmwrite(GUEST_INTR_STATUS, VECTOR << 8);
    page[0x100 / 4 + VECTOR / 32 * 4] = 1u << VECTOR % 32;
    apic_self_ipi(0x61);
    check_run(R_VMCALL, "EOI while L1 has one in service");
    check_eq(vmread(GUEST_INTR_STATUS), 0, "EOI while L1 has one in service: status");
    check(apic_in_service(0x91), "L1's is still in service");
    u32 n = irq_count[0x61];
    irq_window();
    check_eq(irq_count[0x61], n, "and holds a lower one back: interrupts");
    apic_eoi();
    irq_window();
    check_eq(irq_count[0x61], n + 1, "which comes after L1's EOI: interrupts");
    apic_eoi();
}

// The notification is an interrupt of L1 that is pending at entry.
static void start_posted(const u8 *code, u8 notification)
{
    start(code, PROC2_VINTR);
    l2_control(PIN_CTLS, PIN_POSTED);
    l2_control(EXIT_CTLS, EXIT_ACK);
    memset(desc, 0, 64);
    vmwrite(POSTED_NV, notification);
    vmwrite(POSTED_DESC, (u64)desc);
}

void test_posted(void)
{
    if (!l2_offers(PIN_CTLS, PIN_POSTED) || !offered(PROC2_VINTR)) {
        skip("no posted interrupts");
        return;
    }
    apic_enable();
    cli();
    start_posted(l2_nothing, 0xf2);
    desc[VECTOR / 32] = 1u << VECTOR % 32 | 2;
    desc[8] = 3;
    apic_self_ipi(0xf2);
    check_delivered(l2_run(), VECTOR, "one posted interrupt");
    check_eq(desc[VECTOR / 32], 0, "one posted interrupt: requests");
    check_eq(desc[8], 2, "one posted interrupt: outstanding notification");
    check(!apic_in_service(0xf2), "one posted interrupt: end of interrupt for L1");
    check_eq(vmread(GUEST_INTR_STATUS), 0x5141, "one posted interrupt: SVI and RVI");
    check(in(0x200, (VECTOR & ~31) + 1), "the other one waits");
    start_posted(l2_nothing, 0xf2);
    apic_self_ipi(0xf3);
    check_run(R_EXTINT, "another vector of L1");
    check_eq(vmread(EXIT_INTR_INFO), 0x800000f3, "another vector: information");
    apic_eoi();
    start_posted(l2_nothing, 0xf2);
    vmwrite(GUEST_RFLAGS, 2);
    desc[VECTOR / 32] = 1u << VECTOR % 32;
    apic_self_ipi(0xf2);
    check_run(R_VMCALL, "L2 has interrupts disabled");
    check_eq(vmread(GUEST_INTR_STATUS), VECTOR, "L2 has interrupts disabled: status");
    check(in(0x200, VECTOR), "L2 has interrupts disabled: VIRR");
    start_posted(l2_halt, 0xf2);
    desc[VECTOR / 32] = 1u << VECTOR % 32;
    apic_timer(0xf2, 2000);
    check_delivered(l2_run(), VECTOR, "while L2 halts");
    start_posted(l2_spin, 0xf2);
    l2.rcx = 1000000;
    desc[VECTOR / 32] = 1u << VECTOR % 32;
    apic_timer(0xf2, 2000);
    check_delivered(l2_run(), VECTOR, "while L2 runs");
    start_posted(l2_nothing, 0xf2);
    vmclr(EXIT_CTLS, EXIT_ACK);
    check_run(L2_FAILED | VMX_VALID | 7, "entry without acknowledge on exit");
    start_posted(l2_nothing, 0xf2);
    vmwrite(POSTED_NV, 0x100);
    check_run(L2_FAILED | VMX_VALID | 7, "entry with a vector of 9 bits");
    start_posted(l2_nothing, 0xf2);
    vmwrite(POSTED_DESC, (u64)desc | 32);
    check_run(L2_FAILED | VMX_VALID | 7, "entry with a descriptor that is not aligned");
    start_posted(l2_nothing, 0xf2);
    vmwrite(POSTED_DESC, caps.phys_limit);
    check_run(L2_FAILED | VMX_VALID | 7, "entry with a descriptor beyond the width");
    irq_drain();
}
