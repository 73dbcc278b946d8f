// Interrupt controllers, timers and the ports of the platform.

#include "tests/l1/cpu.h"

enum { PIC_VECTOR = 0x20, APIC_VECTOR = 0x40, X2APIC = 0x800 };

static void pic_init(u16 mask)
{
    outb(0x20, 0x11);
    outb(0xa0, 0x11);
    outb(0x21, PIC_VECTOR);
    outb(0xa1, PIC_VECTOR + 8);
    outb(0x21, 4);
    outb(0xa1, 2);
    outb(0x21, 1);
    outb(0xa1, 1);
    outb(0x21, (u8)mask);
    outb(0xa1, (u8)(mask >> 8));
}

// The PIC's interrupts reach the processor by LINT0 while the local APIC is on.
static void lint0(u32 entry)
{
    write32(0xfee000f0, 0x1ff);
    write32(0xfee00350, entry);
}

enum { LINT0_EXTINT = 0x700, LINT0_MASKED = 0x10700 };

static void pic_eoi(void)
{
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

// Waits with interrupts on until `vector` came once more; false when it does not come.
static bool wait_irq(u8 vector)
{
    u32 before = irq_count[vector];
    for (u32 i = 0; i < 3000000 && irq_count[vector] == before; i++)
        irq_window();
    return irq_count[vector] != before;
}

static void pit_start(u8 mode, u16 count)
{
    outb(0x43, (u8)(0x30 | mode << 1));
    outb(0x40, (u8)count);
    outb(0x40, (u8)(count >> 8));
}

static void pit_stop(void)
{
    outb(0x43, 0x30); // waits for a count that never comes
}

void test_pic(void)
{
    pic_init(0xffff);
    lint0(LINT0_EXTINT);
    check_eq(inb(0x21), 0xff, "mask of the master");
    outb(0x21, 0xa5);
    outb(0xa1, 0x5a);
    check_eq(inb(0x21), 0xa5, "mask of the master reads back");
    check_eq(inb(0xa1), 0x5a, "mask of the slave reads back");
    pic_init(0xffff);
    pit_start(0, 100);
    for (u32 i = 0; i < 20000; i++)
        asm volatile("pause");
    outb(0x20, 0x0a);
    check_eq(inb(0x20) & 1, 1, "IRQ 0 is requested while masked");
    u32 before = irq_count[PIC_VECTOR];
    irq_window();
    check_eq(irq_count[PIC_VECTOR] - before, 0, "but not delivered: interrupts");
    outb(0x21, 0xfe);
    lint0(LINT0_MASKED);
    irq_window();
    check_eq(irq_count[PIC_VECTOR] - before, 0, "nor by a masked LINT0: interrupts");
    if (irq_count[PIC_VECTOR] != before) {
        pic_eoi();
        pit_start(0, 100);
    }
    before = irq_count[PIC_VECTOR];
    lint0(LINT0_EXTINT);
    for (u32 i = 0; i < 20000; i++)
        irq_window();
    check_eq(irq_count[PIC_VECTOR] - before, 1, "delivered when unmasked: interrupts");
    outb(0x20, 0x0b);
    check_eq(inb(0x20) & 1, 1, "IRQ 0 is in service");
    pic_eoi();
    outb(0x20, 0x0b);
    check_eq(inb(0x20) & 1, 0, "and no longer after the EOI");
    outb(0x20, 0x0a);
    pic_init(0xffff);
}

void test_pit(void)
{
    pic_init(0xfffe);
    pit_start(2, 11932); // 100 Hz
    check(wait_irq(PIC_VECTOR), "rate generator: an interrupt");
    pic_eoi();
    check(wait_irq(PIC_VECTOR), "rate generator: another");
    pic_eoi();
    u32 before = irq_count[PIC_VECTOR];
    sti_hlt_cli();
    check_eq(irq_count[PIC_VECTOR] - before, 1, "HLT ends with it");
    pic_eoi();
    outb(0x43, 0);
    u32 a = inb(0x40) | (u32)inb(0x40) << 8;
    check(a <= 11932, "the latched count is within the period");
    pit_start(0, 1000);
    check(wait_irq(PIC_VECTOR), "terminal count: an interrupt");
    pic_eoi();
    before = irq_count[PIC_VECTOR];
    for (u32 i = 0; i < 30000; i++)
        irq_window();
    check_eq(irq_count[PIC_VECTOR] - before, 0, "terminal count: only one, interrupts");
    outb(0x43, 0xe2); // read-back: status of channel 0
    u8 status = inb(0x40);
    check_eq(status & 0x3f, 0x30, "read-back: mode and access");
    check_eq(status >> 7, 1, "read-back: OUT is high");
    pit_stop();
    outb(0x61, (u8)((inb(0x61) & ~2) | 1)); // channel 2 by its gate
    outb(0x43, 0xb0);
    outb(0x42, 0xe8);
    outb(0x42, 3);
    u32 spins = 0;
    while (!(inb(0x61) & 0x20) && spins < 1000000)
        spins++;
    check(spins < 1000000, "channel 2 reaches its end");
    u8 first = inb(0x61) & 0x10, toggles = 0;
    for (u32 i = 0; i < 100000 && toggles < 2; i++)
        if ((inb(0x61) & 0x10) != first) {
            first ^= 0x10;
            toggles++;
        }
    check_eq(toggles, 2, "the refresh bit of port 0x61 toggles");
    pic_init(0xffff);
}

// Both modes of the local APIC behind one pair of functions.
static bool x2;

static u32 apic_read(u32 reg)
{
    return x2 ? (u32)rdmsr(X2APIC + reg / 16) : read32(0xfee00000 + reg);
}

static void apic_write(u32 reg, u32 v)
{
    if (x2)
        wrmsr(X2APIC + reg / 16, v);
    else
        write32(0xfee00000 + reg, v);
}

static void apic_eoi(void)
{
    apic_write(0xb0, 0);
}

// Takes what is still pending of a source that was stopped.
static void apic_drain(u8 vector)
{
    u32 before = irq_count[vector];
    apic_eoi();
    irq_window();
    if (irq_count[vector] != before)
        apic_eoi();
}

static void test_apic_timer(void)
{
    u8 v = APIC_VECTOR;
    apic_write(0x3e0, 0xb); // divide by 1
    apic_write(0x320, v);
    apic_write(0x380, 10000);
    check(wait_irq(v), "one-shot timer: an interrupt");
    check_eq(apic_read(0x100 + v / 32 * 16) >> v % 32 & 1, 1, "its bit in the ISR");
    apic_eoi();
    check_eq(apic_read(0x100 + v / 32 * 16) >> v % 32 & 1, 0, "its bit in the ISR after EOI");
    check_eq(apic_read(0x390), 0, "current count at the end");
    u32 before = irq_count[v];
    for (u32 i = 0; i < 10000; i++)
        irq_window();
    check_eq(irq_count[v] - before, 0, "one-shot timer: only one, interrupts");
    apic_write(0x320, v | 0x20000);
    apic_write(0x380, 20000);
    check(wait_irq(v), "periodic timer: an interrupt");
    apic_eoi();
    check(wait_irq(v), "periodic timer: another");
    apic_eoi();
    before = irq_count[v];
    sti_hlt_cli();
    check_eq(irq_count[v] - before, 1, "HLT ends with it");
    apic_eoi();
    apic_write(0x320, v | 0x10000);
    apic_drain(v);
    before = irq_count[v];
    for (u32 i = 0; i < 20000; i++)
        irq_window();
    check_eq(irq_count[v] - before, 0, "masked timer: interrupts");
    check(apic_read(0x390) <= 20000, "the count goes on when masked");
    apic_write(0x380, 0);
    check_eq(apic_read(0x390), 0, "stopped by a count of 0");
    apic_write(0x380, 100000000);
    u32 a = apic_read(0x390), b = apic_read(0x390);
    check(a <= 100000000 && b <= a, "the count goes down");
    apic_write(0x380, 0);
}

static void test_deadline(void)
{
    u8 v = APIC_VECTOR + 1;
    if (!(cpuid(1, 0).c >> 24 & 1)) {
        skip("no TSC deadline");
        return;
    }
    apic_write(0x320, v | 0x40000);
    asm volatile("mfence");
    wrmsr(0x6e0, rdtsc() + 50000);
    check(rdmsr(0x6e0) != 0, "TSC deadline: armed");
    check(wait_irq(v), "TSC deadline: an interrupt");
    check_eq(rdmsr(0x6e0), 0, "TSC deadline: disarmed by it, MSR");
    apic_eoi();
    wrmsr(0x6e0, rdtsc() - 1);
    check(wait_irq(v), "TSC deadline in the past: an interrupt");
    apic_eoi();
    wrmsr(0x6e0, rdtsc() + 20000);
    u32 before = irq_count[v];
    sti_hlt_cli();
    check_eq(irq_count[v] - before, 1, "HLT ends with the deadline");
    apic_eoi();
    wrmsr(0x6e0, rdtsc() + 20000);
    wrmsr(0x6e0, 0);
    before = irq_count[v];
    for (u32 i = 0; i < 20000; i++)
        irq_window();
    u32 after = irq_count[v];
    apic_drain(v);
    check_eq(after - before, 0, "disarmed: interrupts");
    apic_write(0x320, v);
    wrmsr(0x6e0, rdtsc() + 100);
    check_eq(rdmsr(0x6e0), 0, "in another timer mode the MSR stays");
    apic_write(0x320, 0x10000);
}

static void apic_ipi(u32 icr)
{
    if (x2) {
        wrmsr(X2APIC + 0x30, (u64)cpuid(0xb, 0).d << 32 | icr);
    } else {
        write32(0xfee00310, cpuid(1, 0).b & 0xff000000);
        write32(0xfee00300, icr);
    }
}

static void test_ipi(void)
{
    u8 low = 0x51, high = 0x82;
    u32 n = irq_count[low];
    apic_ipi(0x4000 | low);
    check(wait_irq(low), "IPI to the own APIC id");
    apic_eoi();
    apic_ipi(0x44000 | low);
    check(wait_irq(low), "self IPI by shorthand");
    apic_eoi();
    apic_ipi(0x84000 | low);
    check(wait_irq(low), "IPI to all including self");
    apic_eoi();
    check_eq(irq_count[low], n + 3, "interrupts in all");
    apic_ipi(0x44000 | low);
    apic_ipi(0x44000 | high);
    check_eq(apic_read(0x200 + high / 32 * 16) >> high % 32 & 1, 1, "requested in the IRR");
    write_cr8(5);
    irq_window();
    check_eq(irq_count[low], n + 3, "a TPR of 0x50 holds vector 0x51 back: interrupts");
    check_eq(irq_count[high], x2 ? 2 : 1, "but not vector 0x82: interrupts");
    check_eq(apic_read(0xa0), 0x80, "PPR in service of it");
    apic_eoi();
    write_cr8(0);
    irq_window();
    check_eq(irq_count[low], n + 4, "delivered with TPR 0: interrupts");
    apic_eoi();
}

static u32 nmis;
static void count_nmi(struct regs *r)
{
    (void)r;
    nmis++;
}

static void test_nmi(void)
{
    set_handler(VEC_NMI, count_nmi);
    nmis = 0;
    apic_ipi(0x4400);
    check_eq(nmis, 1, "NMI to self: interrupts");
    set_handler(VEC_NMI, NULL);
}

static void test_apic_registers(void)
{
    check((apic_read(0x30) & 0xff) >= 0x10 && (apic_read(0x30) & 0xff) <= 0x1f,
          "version is that of an integrated APIC");
    check((apic_read(0x30) >> 16 & 0xff) >= 4, "five LVT entries at least");
    apic_write(0xf0, 0x1ff);
    check_eq(apic_read(0xf0) & 0x1ff, 0x1ff, "spurious-interrupt register");
    apic_write(0x350, 0x10700);
    apic_write(0x360, 0x10400);
    check_eq(apic_read(0x350) & 0x10700, 0x10700, "LINT0 as external interrupt, masked");
    check_eq(apic_read(0x360) & 0x10700, 0x10400, "LINT1 as NMI, masked");
    apic_write(0x370, 0x100fe);
    check_eq(apic_read(0x370) & 0x100ff, 0x100fe, "LVT error");
    apic_write(0x280, 0);
    apic_write(0x370, 0x100fe);
    apic_write(0x320, 0x10000 | 5);
    apic_write(0x280, 0);
    value(apic_read(0x280), "ESR after a masked LVT entry with vector 5");
    apic_write(0x320, 0x10000 | APIC_VECTOR);
    apic_write(0x3e0, 0);
    check_eq(apic_read(0x3e0), 0, "divide register");
}

void test_xapic(void)
{
    pic_init(0xffff);
    x2 = false;
    check_eq(rdmsr(0x1b) & 0xfffff000, 0xfee00000, "base");
    check_eq(rdmsr(0x1b) >> 8 & 0xd, 9, "EN and BSP, not EXTD");
    test_apic_registers();
    apic_write(0xe0, 0xffffffff);
    apic_write(0xd0, 0x01000000);
    check_eq(apic_read(0xe0), 0xffffffff, "DFR");
    check_eq(apic_read(0xd0), 0x01000000, "LDR");
    test_apic_timer();
    test_deadline();
    test_ipi();
    test_nmi();
    apic_write(0xf0, 0xff);
    check_eq(apic_read(0x320) >> 16 & 1, 1, "software disable masks the LVT");
    apic_write(0xf0, 0x1ff);
}

void test_x2apic(void)
{
    u64 base = rdmsr(0x1b);
    if (!(cpuid(1, 0).c >> 21 & 1)) {
        skip("no x2APIC");
        return;
    }
    check_fault(try_wrmsr(0x1b, base | 0x400), NO_FAULT, "EXTD on");
    x2 = true;
    check_eq(rdmsr(0x1b), base | 0x400, "IA32_APIC_BASE");
    check_eq(apic_read(0x20), cpuid(0xb, 0).d, "id");
    u64 v;
    check_fault(try_wrmsr(0x802, 0), VEC_GP, "WRMSR of the id");
    check_fault(try_wrmsr(0x803, 0), VEC_GP, "WRMSR of the version");
    check_fault(try_wrmsr(0x80d, 0), VEC_GP, "WRMSR of the LDR");
    check_fault(try_rdmsr(0x80b, &v), VEC_GP, "RDMSR of EOI");
    check_fault(try_wrmsr(0x80b, 1), VEC_GP, "WRMSR of EOI with 1");
    check_fault(try_rdmsr(0x80e, &v), VEC_GP, "RDMSR of the DFR");
    check_fault(try_rdmsr(0x831, &v), VEC_GP, "RDMSR of the high half of the ICR");
    check_fault(try_rdmsr(0x83f, &v), VEC_GP, "RDMSR of SELF IPI");
    check_fault(try_wrmsr(0x83f, 0x100), VEC_GP, "WRMSR of SELF IPI with a reserved bit");
    check_fault(try_wrmsr(0x808, 0x100), VEC_GP, "WRMSR of the TPR with a reserved bit");
    check_fault(try_rdmsr(0x8ff, &v), VEC_GP, "RDMSR 0x8ff");
    test_apic_registers();
    test_apic_timer();
    test_deadline();
    test_ipi();
    test_nmi();
    u32 n = irq_count[0x60];
    wrmsr(0x83f, 0x60);
    irq_window();
    check_eq(irq_count[0x60], n + 1, "SELF IPI: interrupts");
    apic_eoi();
    check_fault(try_wrmsr(0x1b, base), VEC_GP, "from x2APIC mode to xAPIC mode");
    check_eq(rdmsr(0x1b), base | 0x400, "IA32_APIC_BASE after it");
}

static u32 ioapic_read(u8 reg)
{
    write32(0xfec00000, reg);
    return read32(0xfec00010);
}

static void ioapic_write(u8 reg, u32 v)
{
    write32(0xfec00000, reg);
    write32(0xfec00010, v);
}

// The global system interrupt of an ISA interrupt, from the MADT.
static u32 gsi_of(u8 irq)
{
    const u8 *madt = acpi_table("APIC");
    for (const u8 *p = madt + 44; madt && p < madt + read32((u64)madt + 4); p += p[1])
        if (p[0] == 2 && p[3] == irq)
            return read32((u64)p + 4);
    return irq;
}

static void rtc_write(u8 reg, u8 v)
{
    outb(0x70, reg);
    outb(0x71, v);
}

static u8 rtc_read(u8 reg)
{
    outb(0x70, reg);
    return inb(0x71);
}

void test_ioapic(void)
{
    u8 v = 0x71;
    u32 pit = gsi_of(0);
    pic_init(0xffff);
    x2 = rdmsr(0x1b) >> 10 & 1;
    apic_write(0xf0, 0x1ff);
    check_eq(ioapic_read(1) >> 16 & 0xff, 23, "redirection entries less 1");
    for (u8 i = 0; i < 24; i++) {
        ioapic_write((u8)(0x10 + 2 * i), 0x10000);
        ioapic_write((u8)(0x11 + 2 * i), 0);
    }
    check_eq(ioapic_read(0x10), 0x10000, "a masked entry reads back");
    ioapic_write((u8)(0x11 + 2 * pit), cpuid(1, 0).b & 0xff000000);
    ioapic_write((u8)(0x10 + 2 * pit), v);
    pit_start(2, 11932);
    check(wait_irq(v), "PIT by the IOAPIC");
    apic_eoi();
    check(wait_irq(v), "PIT by the IOAPIC again");
    apic_eoi();
    ioapic_write((u8)(0x10 + 2 * pit), 0x10000 | v);
    u32 before = irq_count[v];
    for (u32 i = 0; i < 20000; i++)
        irq_window();
    check_eq(irq_count[v] - before, 0, "masked: interrupts");
    pit_stop();
    u32 rtc = gsi_of(8);
    ioapic_write((u8)(0x11 + 2 * rtc), cpuid(1, 0).b & 0xff000000);
    ioapic_write((u8)(0x10 + 2 * rtc), v + 1);
    rtc_read(0xc);
    rtc_write(0xa, 0x26); // 1024 Hz
    rtc_write(0xb, 0x42); // periodic interrupts
    check(wait_irq((u8)(v + 1)), "RTC by the IOAPIC");
    rtc_write(0xb, 2);
    u8 first = rtc_read(0xc), second = rtc_read(0xc);
    check(first & 0x40, "its cause is in register C");
    check_eq(second, 0, "register C is cleared by the read");
    apic_eoi();
    ioapic_write((u8)(0x10 + 2 * rtc), 0x10000);
}

void test_rtc(void)
{
    pic_init(0xfefb);
    lint0(LINT0_EXTINT);
    u8 b = rtc_read(0xb);
    check(b & 2, "24-hour mode");
    check(rtc_read(0xd) & 0x80, "the battery is good");
    check((rtc_read(0) & 0x7f) < 0x60 && rtc_read(2) < 0x60 && rtc_read(4) < 0x24, "a time of day");
    check(rtc_read(8) >= 1 && rtc_read(8) <= 0x12, "a month");
    rtc_write(0x40, 0x5a);
    check_eq(rtc_read(0x40), 0x5a, "a byte of CMOS keeps");
    rtc_read(0xc);
    rtc_write(0xa, 0x26);
    rtc_write(0xb, b | 0x40);
    check(wait_irq(PIC_VECTOR + 8), "periodic interrupt by the PIC");
    check_eq(rtc_read(0xc) & 0xc0, 0xc0, "register C: IRQF and PF");
    pic_eoi();
    check(wait_irq(PIC_VECTOR + 8), "another after register C was read");
    rtc_write(0xb, b);
    rtc_read(0xc);
    pic_eoi();
    pic_init(0xffff);
}

void test_pmtimer(void)
{
    const u8 *fadt = acpi_table("FACP");
    u16 port = fadt ? (u16)read32((u64)fadt + 76) : 0;
    if (!check(port != 0, "FADT names the PM timer"))
        return;
    u32 a = inl(port), b = a;
    check(a >> 24 == 0 || (read32((u64)fadt + 112) >> 8 & 1), "24 bits, or 32 as FADT says");
    for (u32 i = 0; i < 100000 && b == a; i++)
        b = inl(port);
    check(b != a, "it counts");
    // Against the PIT: 10 ms are 35795 ticks. Twice or half of it would be another clock.
    outb(0x61, (u8)((inb(0x61) & ~2) | 1));
    outb(0x43, 0xb0);
    outb(0x42, 0x9c);
    outb(0x42, 0x2e);
    a = inl(port);
    while (!(inb(0x61) & 0x20))
        ;
    b = (inl(port) - a) & 0xffffff;
    check(b > 35795 * 3 / 4 && b < 35795 * 3 / 2, "10 ms of the PIT are 10 ms of the PM timer");
}

static u32 pci_read(u32 address)
{
    outl(0xcf8, 0x80000000 | address);
    return inl(0xcfc);
}

void test_ports(void)
{
    static const u16 absent[] = {0x240, 0x5678, 0xabc0};
    for (u32 i = 0; i < ARRAY_SIZE(absent); i++) {
        check_eq(inb(absent[i]), 0xff, "byte at absent port 0x%x", absent[i]);
        check_eq(inw(absent[i]), 0xffff, "word at absent port 0x%x", absent[i]);
        check_eq(inl(absent[i]), 0xffffffff, "double word at absent port 0x%x", absent[i]);
        outl(absent[i], 0);
    }
    u8 buffer[8] = {0};
    void *to = buffer;
    u64 n = 3;
    asm volatile("rep insb" : "+D"(to), "+c"(n) : "d"(0x5678) : "memory");
    check(n == 0 && to == buffer + 3 && buffer[2] == 0xff && buffer[3] == 0, "REP INSB of 3");
    const void *from = buffer;
    n = 2;
    asm volatile("rep outsw" : "+S"(from), "+c"(n) : "d"(0x5678) : "memory");
    check(n == 0 && from == buffer + 4, "REP OUTSW of 2");
    to = buffer + 7;
    n = 2;
    asm volatile("std; rep insb; cld" : "+D"(to), "+c"(n) : "d"(0x5678) : "memory");
    check(n == 0 && to == buffer + 5 && buffer[6] == 0xff && buffer[5] == 0, "REP INSB backwards");
    fault_clear();
    to = (void *)0x8000000000000000;
    asm volatile(TRY("insb") : "+D"(to) : "d"(0x5678) : "memory");
    check_fault(fault.vector, VEC_GP, "INSB to a non-canonical address");
    outl(0xcf8, 0x80000008);
    check_eq(inl(0xcf8), 0x80000008, "PCI address register");
    check_eq(pci_read(0x08) >> 16, 0x0600, "class of 00:00.0: host bridge");
    check_eq(pci_read(31 << 11), 0xffffffff, "an absent PCI function");
    outb(0x3f8 + 7, 0x5a);
    check_eq(inb(0x3f8 + 7), 0x5a, "scratch register of COM1");
    u32 spins = 0;
    while (!(inb(0x3f8 + 5) & 0x40) && spins < 1000000)
        spins++;
    check_eq(inb(0x3f8 + 5) & 0x60, 0x60, "COM1 has sent all: line status");
    check_eq(inb(0x3f8 + 2) & 0xc1, 0xc1, "COM1 has FIFOs and no interrupt");
}
