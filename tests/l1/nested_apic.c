// L1's own local APIC beside L2: what is in service or held back at L1 decides which interrupts end
// L2's turn, and L2 reaches L1's APIC where L1 lets it.

#include "tests/l1/nested.h"

#define APIC 0xfee00000ull

L2_CODE(work, "mov $100, %ecx; 1: dec %ecx; jnz 1b");
L2_CODE(apic_read, "mov (%rsi), %eax");
L2_CODE(apic_write, "mov %eax, (%rsi)");
L2_CODE(cr8_write, "mov %rax, %cr8; mov %cr8, %rcx");

static void start(const void *code)
{
    l2_defaults(code);
    l2_control(PIN_CTLS, PIN_EXTINT);
    l2_control(EXIT_CTLS, EXIT_ACK);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
}

void test_l1_apic(void)
{
    apic_enable();
    l2_reset(l2_work);
    start(l2_work);
    if (!l2_offers(EXIT_CTLS, EXIT_ACK)) {
        skip("no acknowledge on exit");
        return;
    }
    apic_self_ipi(0x91);
    check_run(R_EXTINT, "the first interrupt");
    check_eq(vmread(EXIT_INTR_INFO), 0x80000091, "the first interrupt: information");
    apic_self_ipi(0x51);
    start(l2_work);
    check_run(R_VMCALL, "a lower one waits for its end");
    apic_self_ipi(0xa2);
    start(l2_work);
    check_run(R_EXTINT, "a higher one does not");
    check_eq(vmread(EXIT_INTR_INFO), 0x800000a2, "a higher one: information");
    check(apic_in_service(0x91) && apic_in_service(0xa2), "both are in service");
    apic_eoi();
    check(apic_in_service(0x91) && !apic_in_service(0xa2), "the higher one ends first");
    start(l2_work);
    check_run(R_VMCALL, "the lower one still waits");
    apic_eoi();
    start(l2_work);
    check_run(R_EXTINT, "and comes after the last EOI");
    check_eq(vmread(EXIT_INTR_INFO), 0x80000051, "the lower one: information");
    u32 n = irq_count[0x52], m = irq_count[0x61];
    apic_self_ipi(0x52);
    apic_self_ipi(0x61);
    irq_window();
    check_eq(irq_count[0x61] - m, 1, "at L1 one of a higher class comes: interrupts");
    check_eq(irq_count[0x52] - n, 0, "and none of the same class: interrupts");
    start(l2_work);
    check_run(R_VMCALL, "which does not end L2's turn");
    apic_eoi();
    apic_eoi();
    irq_window();
    check_eq(irq_count[0x52] - n, 1, "and comes to L1 when that ends: interrupts");
    apic_eoi();
    write_cr8(6);
    apic_self_ipi(0x53);
    start(l2_work);
    check_run(R_VMCALL, "L1's TPR holds one back");
    write_cr8(4);
    start(l2_work);
    check_run(R_EXTINT, "and then no longer");
    check_eq(vmread(EXIT_INTR_INFO), 0x80000053, "L1's TPR: information");
    apic_eoi();
    write_cr8(0);
    irq_drain();
}

void test_l1_apic_of_l2(void)
{
    if (rdmsr(0x1b) >> 10 & 1 || !l2_uses_ept()) {
        skip("no page of the APIC for L2");
        return;
    }
    apic_enable();
    u32 version = read32(APIC + 0x30);
    l2_reset(l2_apic_read);
    l2.rsi = APIC + 0x30;
    check_run(R_VMCALL, "L2 reads the version of L1's APIC");
    check_eq(l2.rax, version, "version");
    irq_count[0x51] = 0;
    apic_self_ipi(0x51);
    irq_window();
    check(apic_in_service(0x51), "an interrupt is in service at L1");
    l2_defaults(l2_apic_write);
    l2.rsi = APIC + 0xb0;
    check_run(R_VMCALL, "L2 writes the EOI register of L1's APIC");
    check(!apic_in_service(0x51), "the interrupt has ended");
    apic_self_ipi(0x51);
    irq_window();
    check_eq(irq_count[0x51], 2, "and another one comes: interrupts");
    apic_eoi();
    l2_defaults(l2_apic_write);
    l2.rsi = APIC + 0x80;
    l2.rax = 0x60;
    check_run(R_VMCALL, "L2 writes the TPR of L1's APIC");
    check_eq(read_cr8(), 6, "CR8 of L1");
    apic_self_ipi(0x51);
    irq_window();
    check_eq(irq_count[0x51], 2, "it holds interrupts back: interrupts");
    l2_defaults(l2_cr8_write);
    l2.rax = 2;
    check_run(R_VMCALL, "L2 writes CR8");
    check_eq(l2.rcx, 2, "CR8 of L2");
    check_eq(read_cr8(), 2, "CR8 of L1 after it");
    irq_window();
    check_eq(irq_count[0x51], 3, "it lets one in: interrupts");
    apic_eoi();
    write_cr8(0);
    l2_defaults(l2_apic_write);
    l2.rsi = APIC + 0x300;
    l2.rax = 0x44051;
    check_run(R_VMCALL, "L2 sends an IPI to itself by L1's APIC");
    irq_window();
    check_eq(irq_count[0x51], 4, "L1 gets it: interrupts");
    apic_eoi();
}
