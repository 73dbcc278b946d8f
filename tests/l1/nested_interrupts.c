// "External interrupts", NMIs, the windows, the preemption timer, the TSC, activity states.

#include "tests/l1/nested.h"

L2_CODE(spin, "1: pause; jmp 1b");
L2_CODE(idle, "nop");
L2_CODE(sti, "sti; nop; l2_after_sti: nop; nop");
extern u8 l2_after_sti[];
L2_CODE(sti_hlt, "sti; hlt");
L2_CODE(mov_ss, "mov %ss, %eax; mov %eax, %ss; l2_after_ss: nop; l2_after_ss2: nop");
extern u8 l2_after_ss2[];
L2_CODE(iret, "mov %rsp, %rax; push $0x10; push %rax; pushfq; push $8; push $l2_after_iret; iretq;"
              "l2_after_iret: nop; nop");
extern u8 l2_after_iret[];
L2_CODE(rdtsc, "rdtsc");
L2_CODE(nmi_self, "mov $0x830, %ecx; mov $0x400, %eax; xor %edx, %edx; wrmsr; nop; nop");
L2_CODE(irq_self, "mov $0x830, %ecx; mov $0x44051, %eax; xor %edx, %edx; sti; wrmsr; nop; nop");

void test_external(void)
{
    apic_enable();
    l2_reset(l2_idle);
    l2_control(PIN_CTLS, PIN_EXTINT);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    apic_self_ipi(0x51);
    check_run(R_EXTINT, "pending at entry");
    check(vmread(GUEST_RIP) == (u64)l2_idle, "before the first instruction");
    check_eq(vmread(EXIT_INTR_INFO) >> 31, 0, "no information without acknowledge");
    u32 n = irq_count[0x51];
    irq_window();
    check_eq(irq_count[0x51], n + 1, "L1 gets it then: interrupts");
    apic_eoi();
    if (l2_offers(EXIT_CTLS, EXIT_ACK)) {
        l2_defaults(l2_idle);
        l2_control(PIN_CTLS, PIN_EXTINT);
        l2_control(EXIT_CTLS, EXIT_ACK);
        vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
        apic_self_ipi(0x52);
        check_run(R_EXTINT, "pending at entry, acknowledge on exit");
        check_eq(vmread(EXIT_INTR_INFO), 0x80000052, "information");
        check(apic_in_service(0x52), "it is in service");
        n = irq_count[0x52];
        apic_eoi();
        irq_window();
        check_eq(irq_count[0x52], n, "L1 does not get it again: interrupts");
    } else {
        skip("no acknowledge on exit");
    }
    l2_defaults(l2_spin);
    l2_control(PIN_CTLS, PIN_EXTINT);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    apic_timer(0x53, 200000);
    check_run(R_EXTINT, "a timer interrupt while L2 runs");
    irq_drain();
    l2_defaults(l2_sti_hlt);
    l2_control(PIN_CTLS, PIN_EXTINT);
    apic_timer(0x53, 200000);
    check_run(R_EXTINT, "a timer interrupt while L2 halts");
    check_eq(vmread(GUEST_ACTIVITY), 1, "a timer interrupt while L2 halts: activity state");
    irq_drain();
    // Without the control, L2 gets the interrupt.
    l2_defaults(l2_spin);
    events_idt();
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    apic_timer(0x53, 200000);
    check_delivered(l2_run(), 0x53, "not intercepted, L2 runs");
    irq_drain();
    l2_defaults(l2_sti_hlt);
    events_idt();
    apic_timer(0x53, 200000);
    check_delivered(l2_run(), 0x53, "not intercepted, L2 halts");
    irq_drain();
    // IF of L2 does not matter when they exit.
    l2_defaults(l2_idle);
    l2_control(PIN_CTLS, PIN_EXTINT);
    apic_self_ipi(0x51);
    check_run(R_EXTINT, "pending at entry, L2 has IF = 0");
    irq_drain();
}

void test_interrupt_window(void)
{
    l2_reset(l2_idle);
    l2_control(PROC_CTLS, PROC_INTR_WINDOW);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    check_run(R_INTR_WINDOW, "open at entry");
    check(vmread(GUEST_RIP) == (u64)l2_idle, "before the first instruction");
    check_eq(vmread(QUALIFICATION), 0, "qualification");
    l2_defaults(l2_sti);
    l2_control(PROC_CTLS, PROC_INTR_WINDOW);
    check_run(R_INTR_WINDOW, "after STI");
    check(vmread(GUEST_RIP) == (u64)l2_after_sti, "one instruction after STI");
    l2_defaults(l2_idle);
    l2_control(PROC_CTLS, PROC_INTR_WINDOW);
    check_run(R_VMCALL, "IF = 0");
    l2_defaults(l2_idle);
    l2_control(PROC_CTLS, PROC_INTR_WINDOW);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    vmwrite(GUEST_INTERRUPTIBILITY, 1);
    check_run(R_INTR_WINDOW, "blocking by STI at entry");
    check_eq(vmread(GUEST_RIP) - (u64)l2_idle, 1, "one instruction later");
    check_eq(vmread(GUEST_INTERRUPTIBILITY), 0, "interruptibility");
    l2_defaults(l2_idle);
    l2_control(PROC_CTLS, PROC_INTR_WINDOW);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    vmwrite(GUEST_INTERRUPTIBILITY, 2);
    check_run(R_INTR_WINDOW, "blocking by MOV SS at entry");
    check_eq(vmread(GUEST_RIP) - (u64)l2_idle, 1, "one instruction after it");
    l2_defaults(l2_mov_ss);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    vmwrite(EXCEPTION_BITMAP, 0);
    l2_control(PROC_CTLS, PROC_HLT);
    check_run(R_VMCALL, "MOV SS without a window");
    // Injection goes first.
    l2_defaults(l2_idle);
    events_idt();
    l2_control(PROC_CTLS, PROC_INTR_WINDOW);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    vmwrite(ENTRY_INTR_INFO, BIT(31) | 0x61);
    check_delivered(l2_run(), 0x61, "an injected interrupt goes first");
}

void test_nmi(void)
{
    l2_reset(l2_idle);
    if (!l2_offers(PIN_CTLS, PIN_NMI | PIN_VNMI)) {
        skip("no virtual NMIs");
        return;
    }
    l2_control(PIN_CTLS, PIN_NMI | PIN_VNMI);
    l2_control(PROC_CTLS, PROC_NMI_WINDOW);
    check_run(R_NMI_WINDOW, "window open at entry");
    check(vmread(GUEST_RIP) == (u64)l2_idle, "before the first instruction");
    l2_defaults(l2_iret);
    l2_control(PIN_CTLS, PIN_NMI | PIN_VNMI);
    l2_control(PROC_CTLS, PROC_NMI_WINDOW);
    vmwrite(GUEST_INTERRUPTIBILITY, 8);
    check_run(R_NMI_WINDOW, "window after IRET");
    check(vmread(GUEST_RIP) == (u64)l2_after_iret, "right after IRET");
    check_eq(vmread(GUEST_INTERRUPTIBILITY), 0, "interruptibility after IRET");
    nmi_unblock();
    l2_defaults(l2_idle);
    events_idt();
    l2_control(PIN_CTLS, PIN_NMI | PIN_VNMI);
    vmwrite(ENTRY_INTR_INFO, BIT(31) | 0x202);
    check_delivered(l2_run(), VEC_NMI, "virtual NMI injected");
    check_eq(vmread(GUEST_INTERRUPTIBILITY), 8, "virtual NMI: blocking by NMI");
    nmi_unblock();
    u64 base = rdmsr(0x1b);
    if (!(cpuid(1, 0).c >> 21 & 1)) {
        skip("no x2APIC to send NMIs by");
        return;
    }
    wrmsr(0x1b, base | 0x400);
    apic_enable();
    u8 *map = alloc_pages(1);
    u32 id = cpuid(0xb, 0).d;
    l2_defaults(l2_nmi_self);
    l2.rdx = id;
    l2_control(PIN_CTLS, PIN_NMI);
    l2_control(PROC_CTLS, PROC_MSR_BITMAPS);
    vmwrite(MSR_BITMAP, (u64)map);
    check_run(R_EXCEPTION, "an NMI that L2 sends exits");
    check_eq(vmread(EXIT_INTR_INFO), 0x80000202, "NMI: information");
    check_eq(vmread(GUEST_INTERRUPTIBILITY) & 8, 0, "NMI: not blocked in L2");
    nmi_unblock();
    l2_defaults(l2_nmi_self);
    events_idt();
    l2_control(PROC_CTLS, PROC_MSR_BITMAPS);
    vmwrite(MSR_BITMAP, (u64)map);
    check_delivered(l2_run(), VEC_NMI, "an NMI without NMI exiting");
    check_eq(vmread(GUEST_INTERRUPTIBILITY), 8, "blocking by NMI after it");
    nmi_unblock();
    l2_defaults(l2_irq_self);
    events_idt();
    l2_control(PROC_CTLS, PROC_MSR_BITMAPS);
    vmwrite(MSR_BITMAP, (u64)map);
    check_delivered(l2_run(), 0x51, "a self IPI of L2");
    irq_drain();
}

void test_preemption_timer(void)
{
    l2_reset(l2_spin);
    if (!l2_control(PIN_CTLS, PIN_PREEMPTION)) {
        skip("no preemption timer");
        return;
    }
    u32 rate = caps.misc & 0x1f;
    vmwrite(PREEMPTION_TIMER, 0);
    check_run(R_PREEMPTION, "0 at entry");
    check(vmread(GUEST_RIP) == (u64)l2_spin, "before the first instruction");
    check_eq(vmread(QUALIFICATION), 0, "qualification");
    vmwrite(PREEMPTION_TIMER, 10000 >> rate);
    u64 before = rdtsc();
    check_run(R_PREEMPTION, "10000 TSC ticks");
    u64 after = rdtsc() - before;
    check(after + (1u << rate) >= 10000, "not before its time");
    check_eq(vmread(PREEMPTION_TIMER), 10000 >> rate, "the field stays without the save control");
    if (l2_control(EXIT_CTLS, EXIT_SAVE_TIMER)) {
        check_run(R_PREEMPTION, "with save");
        check_eq(vmread(PREEMPTION_TIMER), 0, "saved when it ran out");
        l2_goto(l2_idle);
        vmwrite(PREEMPTION_TIMER, 0x10000000);
        check_run(R_VMCALL, "a VMCALL before it");
        u64 left = vmread(PREEMPTION_TIMER);
        check(left <= 0x10000000 && left > 0x0f000000, "saved in between");
    } else {
        skip("no saving of it");
    }
    l2_defaults(l2_spin);
    l2_control(PIN_CTLS, PIN_PREEMPTION);
    l2_control(PROC_CTLS, PROC_HLT);
    vmwrite(GUEST_ACTIVITY, 1);
    vmwrite(PREEMPTION_TIMER, 3000 >> rate);
    check_run(R_PREEMPTION, "in HLT");
    check_eq(vmread(GUEST_ACTIVITY), 1, "activity state");
    l2_defaults(l2_idle);
    check_run(R_VMCALL, "off");
}

void test_tsc(void)
{
    l2_reset(l2_rdtsc);
    u64 before = rdtsc();
    check_run(R_VMCALL, "RDTSC without offset");
    u64 got = (u32)l2.rax | l2.rdx << 32;
    check(got >= before && got <= rdtsc(), "it is L1's TSC");
    l2_defaults(l2_rdtsc);
    l2_control(PROC_CTLS, PROC_TSC_OFFSET);
    vmwrite(TSC_OFFSET, BIT(50));
    before = rdtsc();
    check_run(R_VMCALL, "RDTSC with an offset");
    got = ((u32)l2.rax | l2.rdx << 32) - BIT(50);
    check(got >= before && got <= rdtsc(), "the offset is added");
    vmwrite(TSC_OFFSET, -0x1000000ull);
    l2_goto(l2_rdtsc);
    before = rdtsc();
    check_run(R_VMCALL, "RDTSC with a negative offset");
    got = ((u32)l2.rax | l2.rdx << 32) + 0x1000000;
    check(got >= before && got <= rdtsc(), "the negative offset is added");
    if (!l2_offers(PROC2_CTLS, PROC2_TSC_SCALING)) {
        skip("no TSC scaling");
        return;
    }
    l2_defaults(l2_rdtsc);
    l2_control(PROC_CTLS, PROC_TSC_OFFSET);
    l2_control(PROC2_CTLS, PROC2_TSC_SCALING);
    vmwrite(TSC_MULTIPLIER, BIT(49)); // times 2
    vmwrite(TSC_OFFSET, 0);
    before = rdtsc();
    check_run(R_VMCALL, "RDTSC with a multiplier of 2");
    got = ((u32)l2.rax | l2.rdx << 32) / 2;
    check(got + 1 >= before && got <= rdtsc(), "it is multiplied");
    vmclr(PROC_CTLS, PROC_TSC_OFFSET);
    l2_goto(l2_rdtsc);
    before = rdtsc();
    check_run(R_VMCALL, "RDTSC with a multiplier, but without offsetting");
    got = (u32)l2.rax | l2.rdx << 32;
    check(got >= before && got <= rdtsc(), "it is not multiplied");
}

// "Activity State": what an entry into each does.
void test_activity(void)
{
    apic_enable();
    l2_reset(l2_idle);
    l2_control(PIN_CTLS, PIN_EXTINT);
    vmwrite(GUEST_ACTIVITY, 1);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    apic_timer(0x53, 200000);
    check_run(R_EXTINT, "HLT until an external interrupt");
    check_eq(vmread(GUEST_ACTIVITY), 1, "HLT until an external interrupt: activity state");
    check(vmread(GUEST_RIP) == (u64)l2_idle, "no instruction was executed");
    irq_drain();
    l2_defaults(l2_idle);
    events_idt();
    vmwrite(GUEST_ACTIVITY, 1);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    apic_timer(0x53, 200000);
    check_delivered(l2_run(), 0x53, "HLT until an interrupt of its own");
    check_eq(vmread(GUEST_ACTIVITY), 0, "active after it");
    irq_drain();
}
