// The local APIC where it is moved, switched off and on, and what its registers say of interrupts
// that wait and are in service. By the page and by CR8.

#include "tests/l1/cpu.h"
#include "tests/l1/vmx/events.h"

#define APIC  0xfee00000ull
#define OTHER 0xc8000000ull

enum {
    ID = 0x20,
    VERSION = 0x30,
    TPR = 0x80,
    PPR = 0xa0,
    EOI = 0xb0,
    SVR = 0xf0,
    ISR = 0x100,
    IRR = 0x200,
    LVT_TIMER = 0x320,
    LVT_ERROR = 0x370,
    INITIAL = 0x380,
    DIVIDE = 0x3e0,
    ICR = 0x300,
    LDR = 0xd0
};

static bool bit(u64 base, u32 reg, u8 vector)
{
    return read32(base + reg + vector / 32 * 16) >> vector % 32 & 1;
}

// Requests `vector`, takes it and ends it: true if each step shows as it should.
static bool one_interrupt(u64 base, u8 vector)
{
    u32 n = irq_count[vector];
    write32(base + ICR, 0x44000 | vector);
    bool requested = bit(base, IRR, vector);
    irq_window();
    bool serviced = irq_count[vector] == n + 1 && bit(base, ISR, vector) &&
                    !bit(base, IRR, vector) && read32(base + PPR) >> 4 == vector >> 4;
    write32(base + EOI, 0);
    return requested && serviced && !bit(base, ISR, vector) && read32(base + PPR) == 0;
}

void test_apic_moved(void)
{
    u64 base = rdmsr(0x1b);
    apic_enable();
    check(one_interrupt(APIC, 0x51), "an interrupt before");
    u32 version = read32(APIC + VERSION);
    check_fault(try_wrmsr(0x1b, (base & 0xfff) | OTHER), NO_FAULT, "moved");
    check_eq(rdmsr(0x1b), (base & 0xfff) | OTHER, "IA32_APIC_BASE");
    check_eq(read32(OTHER + VERSION), version, "version at the new place");
    check_eq(read32(APIC + VERSION), 0xffffffff, "nothing at the old one");
    write32(APIC + TPR, 0x70);
    check_eq(read32(OTHER + TPR), 0, "TPR after a write at the old place");
    check(one_interrupt(OTHER, 0x51), "an interrupt at the new place");
    write32(OTHER + TPR, 0x60);
    check_eq(read_cr8(), 6, "CR8 after a write of the TPR");
    write_cr8(3);
    check_eq(read32(OTHER + TPR), 0x30, "TPR after a write of CR8");
    write_cr8(0);
    write32(OTHER + ICR, 0x44000 | 0x61);
    check(bit(OTHER, IRR, 0x61), "one is requested");
    check_fault(try_wrmsr(0x1b, base), NO_FAULT, "moved back");
    check(bit(APIC, IRR, 0x61), "it is still requested");
    u32 n = irq_count[0x61];
    irq_window();
    check_eq(irq_count[0x61], n + 1, "and delivered: interrupts");
    check_fault(try_wrmsr(0x1b, (base & 0xfff) | OTHER), NO_FAULT, "moved once more");
    check(bit(OTHER, ISR, 0x61), "it is still in service");
    write32(OTHER + EOI, 0);
    check(!bit(OTHER, ISR, 0x61), "and no longer after the EOI");
    check_fault(try_wrmsr(0x1b, base), NO_FAULT, "moved back once more");
    check(one_interrupt(APIC, 0x51), "an interrupt after");
}

static void test_apic_tpr(void)
{
    u32 n = irq_count[0x51];
    write32(APIC + TPR, 0x57);
    check_eq(read_cr8(), 5, "CR8 after a write of the TPR");
    check_eq(read32(APIC + TPR), 0x57, "TPR");
    write32(APIC + ICR, 0x44000 | 0x51);
    irq_window();
    check_eq(irq_count[0x51], n, "the TPR holds it back: interrupts");
    sti();
    write_cr8(4);
    cli();
    check_eq(irq_count[0x51], n + 1, "CR8 lets it in: interrupts");
    check_eq(read32(APIC + PPR), 0x50, "PPR in service of it");
    write32(APIC + TPR, 0x63);
    check_eq(read32(APIC + PPR), 0x63, "PPR with a higher TPR");
    write32(APIC + EOI, 0);
    check_eq(read32(APIC + PPR), 0x63, "PPR after the EOI");
    write32(APIC + ICR, 0x44000 | 0x62);
    irq_window();
    check(bit(APIC, IRR, 0x62), "of the same class as the TPR: requested");
    sti();
    write32(APIC + TPR, 0);
    cli();
    check_eq(read32(APIC + PPR), 0x60, "the TPR lets it in: PPR");
    write32(APIC + EOI, 0);
    check_eq(read32(APIC + PPR), 0, "PPR in the end");
}

// Several in service, of which each ends with one EOI, the highest first.
static void test_apic_stack(void)
{
    static const u8 vectors[] = {0x41, 0x62, 0x83, 0xe4};
    for (u32 i = 0; i < ARRAY_SIZE(vectors); i++) {
        write32(APIC + ICR, 0x44000 | vectors[i]);
        irq_window();
        check_eq(read32(APIC + PPR), vectors[i] & 0xf0, "in service: PPR");
    }
    write32(APIC + ICR, 0x44000 | 0x63);
    irq_window();
    check(bit(APIC, IRR, 0x63), "one of a class in service waits");
    for (u32 i = ARRAY_SIZE(vectors); i-- > 0;) {
        u32 n = irq_count[0x63];
        write32(APIC + EOI, 0);
        check(!bit(APIC, ISR, vectors[i]), "ended by an EOI");
        irq_window();
        check_eq(irq_count[0x63] - n, vectors[i] == 0x62, "that one delivered: interrupts");
        if (irq_count[0x63] != n) {
            check(bit(APIC, ISR, 0x63), "it is in service then");
            write32(APIC + EOI, 0);
        }
    }
    check_eq(read32(APIC + PPR), 0, "in service at the end: PPR");
}

void test_apic_priority(void)
{
    apic_enable();
    test_apic_tpr();
    test_apic_stack();
}

void test_apic_software_enable(void)
{
    apic_enable();
    write32(APIC + LVT_TIMER, 0x10055);
    write32(APIC + ICR, 0x44000 | 0x41);
    irq_window();
    write32(APIC + SVR, 0xff);
    check_eq(read32(APIC + SVR), 0xff, "off: SVR");
    check(bit(APIC, ISR, 0x41), "off: one stays in service");
    write32(APIC + LVT_TIMER, 0x55);
    check_eq(read32(APIC + LVT_TIMER), 0x10055, "off: the timer stays masked");
    write32(APIC + TPR, 0x20);
    check_eq(read_cr8(), 2, "off: CR8 follows the TPR");
    write_cr8(0);
    write32(APIC + SVR, 0x1ff);
    check(bit(APIC, ISR, 0x41), "on: one is still in service");
    write32(APIC + EOI, 0);
    check(!bit(APIC, ISR, 0x41), "on: and no longer after the EOI");
    check(one_interrupt(APIC, 0x51), "on: an interrupt");
    write32(APIC + LVT_TIMER, 0x55);
    check_eq(read32(APIC + LVT_TIMER), 0x55, "on: the timer can be unmasked");
    write32(APIC + LVT_TIMER, 0x10000);
    check_eq(read32(APIC + EOI), 0, "EOI reads 0");
    write32(APIC + LVT_ERROR, 0xffffffff);
    check_eq(read32(APIC + LVT_ERROR) & 0x100ff, 0x100ff, "LVT error: what can be set");
    write32(APIC + LVT_ERROR, 0x100fe);
    write32(APIC + DIVIDE, 0xfffffff3);
    check_eq(read32(APIC + DIVIDE) & 0xb, 3, "divide register");
    u32 version = read32(APIC + VERSION);
    write32(APIC + VERSION, 0);
    check_eq(read32(APIC + VERSION), version, "version after a write");
}
