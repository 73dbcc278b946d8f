// Events that meet: debug traps, the monitor trap flag, windows, the preemption timer, interrupts,
// INIT and injected events. "Priority Among Concurrent Events", "Other Causes of VM Exits", and
// what is said of each control. And instructions that an L0 may have to execute itself in between.

#include "tests/l1/nested.h"

L2_CODE(two, "nop; nop");
L2_CODE(io, "mov $0x80, %edx; l2_the_io: out %al, %dx; l2_after_io: nop");
extern u8 l2_the_io[], l2_after_io[];
L2_CODE(reps, "l2_the_reps: rep outsb; l2_after_reps: nop");
extern u8 l2_the_reps[], l2_after_reps[];
L2_CODE(apic, "l2_the_apic: mov (%rsi), %eax; l2_after_apic: nop");
extern u8 l2_the_apic[], l2_after_apic[];
L2_CODE(apics, "l2_the_apics: rep movsl; l2_after_apics: nop");
extern u8 l2_the_apics[], l2_after_apics[];
L2_CODE(halt, "l2_the_halt: hlt; l2_after_halt: nop");
extern u8 l2_the_halt[], l2_after_halt[];
L2_CODE(undefined, "ud2");

#define VALID   BIT(31)
#define APIC_ID 0xfee00020
#define PORT    0x80

static void start(const void *code)
{
    l2_defaults(code);
    events_idt();
}

static void check_rip(const void *want, const char *name)
{
    check_eq(vmread(GUEST_RIP) - (u64)want, 0, "%s: RIP", name);
}

// ------------------------------------------------------------------------------ single-stepping

static void check_step(const void *code, const void *after, const char *name)
{
    l2_goto(code);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_TF);
    check_run(R_EXCEPTION, "%s", name);
    check_eq(vmread(EXIT_INTR_INFO), VALID | 0x301, "%s: information", name);
    check_eq(vmread(QUALIFICATION), 0x4000, "%s: qualification", name);
    check_rip(after, name);
}

void test_single_step(void)
{
    u8 *page = alloc_pages(1);
    l2_reset(l2_io);
    start(l2_io);
    check_run(R_VMCALL, "without TF");
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_DB));
    l2.rdx = PORT;
    check_step(l2_the_io, l2_after_io, "OUT");
    l2.rcx = 3;
    l2.rsi = (u64)page;
    check_step(l2_the_reps, l2_the_reps, "REP OUTS, first of 3");
    check_eq(l2.rcx, 2, "REP OUTS: RCX");
    check_eq(l2.rsi - (u64)page, 1, "REP OUTS: RSI");
    l2.rcx = 1;
    check_step(l2_the_reps, l2_after_reps, "REP OUTS, last");
    l2.rsi = APIC_ID;
    check_step(l2_the_apic, l2_after_apic, "a read of the local APIC");
    l2.rcx = 2;
    l2.rsi = APIC_ID;
    l2.rdi = (u64)page;
    check_step(l2_the_apics, l2_the_apics, "REP MOVS from the local APIC");
    check_eq(l2.rcx, 1, "REP MOVS: RCX");
    if (!arg_has("bare")) { // Bochs goes on halting
        check_step(l2_the_halt, l2_after_halt, "HLT");
        check_eq(vmread(GUEST_ACTIVITY), 0, "HLT: activity state");
    }
    // RF does not outlive the instruction.
    start(l2_the_io);
    l2.rdx = PORT;
    vmwrite(GUEST_RFLAGS, 2 | FLAG_RF);
    check_run(R_VMCALL, "OUT with RF");
    check_eq(vmread(GUEST_RFLAGS) & FLAG_RF, 0, "OUT with RF: RF after it");
}

// ---------------------------------------------------------------------------- monitor trap flag

static bool begin_trap(const void *code)
{
    start(code);
    return l2_control(PROC_CTLS, PROC_MTF);
}

static void check_trap(const void *code, const void *after, const char *name)
{
    l2_goto(code);
    check_run(R_MTF, "%s", name);
    check_rip(after, name);
    check_eq(vmread(QUALIFICATION), 0, "%s: qualification", name);
    check_eq(vmread(IDT_VECTORING) >> 31, 0, "%s: no event was being delivered", name);
}

// Instructions that a processor executes: not where the emulator's flag does nothing.
static void trap_processor(void)
{
    begin_trap(l2_two);
    if (l2_run() != R_MTF) {
        skip("the processor's flag does nothing");
        return;
    }
    check_rip(l2_two + 1, "NOP");
    begin_trap(l2_undefined);
    check_run(R_MTF, "UD2");
    check_eq(events_vector(), VEC_UD, "UD2: at the handler");
    begin_trap(l2_two);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    vmwrite(ENTRY_INTR_INFO, VALID | 0x41);
    check_run(R_MTF, "an interrupt injected");
    check_eq(events_vector(), 0x41, "an interrupt injected: at the handler");
    begin_trap(l2_two);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_TF);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_DB));
    check_run(R_MTF, "and TF");
    check_eq(vmread(GUEST_PENDING_DEBUG), 0x4000, "and TF: the debug exception is pending");
    check_run(R_EXCEPTION, "the next entry");
    check_rip(l2_two + 1, "the next entry");
}

void test_trap_flag(void)
{
    u8 *page = alloc_pages(1);
    l2_reset(l2_two);
    if (!begin_trap(l2_two)) {
        skip("not offered");
        return;
    }
    l2.rdx = PORT;
    check_trap(l2_the_io, l2_after_io, "OUT");
    l2.rcx = 3;
    l2.rsi = (u64)page;
    check_trap(l2_the_reps, l2_the_reps, "REP OUTS, first of 3");
    check_eq(l2.rcx, 2, "REP OUTS: RCX");
    l2.rcx = 1;
    check_trap(l2_the_reps, l2_after_reps, "REP OUTS, last");
    l2.rsi = APIC_ID;
    check_trap(l2_the_apic, l2_after_apic, "a read of the local APIC");
    vmwrite(GUEST_RFLAGS, 2 | FLAG_TF);
    check_trap(l2_the_io, l2_after_io, "OUT with TF");
    check_eq(vmread(GUEST_PENDING_DEBUG), 0x4000, "OUT with TF: the debug exception is pending");
    vmwrite(GUEST_PENDING_DEBUG, 0);
    vmwrite(GUEST_RFLAGS, 2);
    check_trap(l2_the_halt, l2_after_halt, "HLT");
    check_eq(vmread(GUEST_ACTIVITY), 1, "HLT: activity state");
    trap_processor();
}

// A pending MTF VM exit as the injected event (not on a bare Bochs, which ends there).
void test_trap_injected(void)
{
    l2_reset(l2_two);
    if (!l2_offers(PROC_CTLS, PROC_MTF) || arg_has("bare")) {
        skip("not offered, or a defect of the emulator");
        return;
    }
    start(l2_two);
    vmwrite(ENTRY_INTR_INFO, VALID | 0x700);
    check_run(R_MTF, "injected");
    check_rip(l2_two, "injected");
    check_eq(vmread(ENTRY_INTR_INFO) >> 31, 0, "the valid bit is cleared");
    start(l2_two);
    vmwrite(GUEST_ACTIVITY, 1);
    vmwrite(ENTRY_INTR_INFO, VALID | 0x700);
    check_run(R_MTF, "injected into HLT");
    check_eq(vmread(GUEST_ACTIVITY), 1, "injected into HLT: activity state");
}

// ------------------------------------------------------------------------------- HLT and windows

// Not on a bare Bochs, which wakes from HLT for none of these reliably.
void test_halted(void)
{
    if (arg_has("bare")) {
        skip("a defect of the emulator");
        return;
    }
    l2_reset(l2_two);
    start(l2_two);
    l2_control(PROC_CTLS, PROC_INTR_WINDOW);
    vmwrite(GUEST_ACTIVITY, 1);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    check_run(R_INTR_WINDOW, "entry to HLT with an interrupt window");
    check_rip(l2_two, "entry to HLT with an interrupt window");
    if (l2_offers(PIN_CTLS, PIN_NMI | PIN_VNMI)) {
        start(l2_two);
        l2_control(PIN_CTLS, PIN_NMI | PIN_VNMI);
        l2_control(PROC_CTLS, PROC_NMI_WINDOW);
        vmwrite(GUEST_ACTIVITY, 1);
        check_run(R_NMI_WINDOW, "entry to HLT with an NMI window");
        check_rip(l2_two, "entry to HLT with an NMI window");
    }
    start(l2_two);
    vmwrite(GUEST_ACTIVITY, 1);
    vmwrite(GUEST_PENDING_DEBUG, 0x1001);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_DB));
    check_run(R_EXCEPTION, "entry to HLT with a breakpoint pending");
    check_eq(vmread(QUALIFICATION) & 0xf, 1, "entry to HLT with a breakpoint pending: which");
    u8 *apic = alloc_pages(1);
    start(l2_two);
    if (l2_control(PROC2_CTLS, PROC2_APIC_ACCESS) && l2_control(PROC_CTLS, PROC_TPR_SHADOW)) {
        vmwrite(APIC_ACCESS, (u64)alloc_pages(1));
        vmwrite(VAPIC_ADDRESS, (u64)apic);
        vmwrite(TPR_THRESHOLD, 5);
        vmwrite(GUEST_ACTIVITY, 1);
        check_run(R_TPR_THRESHOLD, "entry to HLT below the TPR threshold");
        vmwrite(GUEST_ACTIVITY, 0);
        check_run(R_TPR_THRESHOLD, "entry below the TPR threshold");
        check_rip(l2_two, "entry below the TPR threshold");
    }
}

// ----------------------------------------------------------------------------------- priorities

void test_priorities(void)
{
    apic_enable();
    l2_reset(l2_two);
    start(l2_two);
    bool timer = l2_control(PIN_CTLS, PIN_PREEMPTION);
    if (timer) {
        vmwrite(PREEMPTION_TIMER, 0);
        vmwrite(EXCEPTION_BITMAP, BIT(VEC_DB));
        vmwrite(GUEST_PENDING_DEBUG, 0x1001);
        check_run(R_EXCEPTION, "a pending breakpoint and the preemption timer");
        vmwrite(GUEST_PENDING_DEBUG, 0);
        l2_control(PROC_CTLS, PROC_INTR_WINDOW);
        vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
        check_run(R_PREEMPTION, "the preemption timer and an interrupt window");
        vmwrite(ENTRY_INTR_INFO, VALID | 0x41);
        check_run(R_PREEMPTION, "an injected interrupt and the preemption timer");
        check_eq(events_vector(), 0x41, "an injected interrupt comes first");
    }
    // External interrupts that exit.
    start(l2_two);
    l2_control(PIN_CTLS, PIN_EXTINT);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_DB));
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    vmwrite(GUEST_PENDING_DEBUG, 0x1001);
    apic_self_ipi(0x51);
    check_run(R_EXCEPTION, "a pending breakpoint and an external interrupt");
    vmwrite(GUEST_PENDING_DEBUG, 0);
    check_run(R_EXTINT, "the external interrupt after it");
    check_rip(l2_two, "the external interrupt after it");
    l2_control(PROC_CTLS, PROC_INTR_WINDOW);
    check_run(R_INTR_WINDOW, "an interrupt window and an external interrupt");
    vmclr(PROC_CTLS, PROC_INTR_WINDOW);
    if (timer) {
        l2_control(PIN_CTLS, PIN_PREEMPTION);
        vmwrite(PREEMPTION_TIMER, 0);
        check_run(R_PREEMPTION, "the preemption timer and an external interrupt");
        vmclr(PIN_CTLS, PIN_PREEMPTION);
    }
    vmwrite(GUEST_INTERRUPTIBILITY, 1);
    check_run(R_EXTINT, "an external interrupt and blocking by STI");
    check_rip(l2_two + 1, "an external interrupt and blocking by STI");
    l2_goto(l2_two);
    vmwrite(GUEST_INTERRUPTIBILITY, 2);
    check_run(R_EXTINT, "an external interrupt and blocking by MOV SS");
    check_rip(l2_two + 1, "an external interrupt and blocking by MOV SS");
    l2_goto(l2_two);
    vmwrite(ENTRY_INTR_INFO, VALID | 0x61);
    check_run(R_EXTINT, "an injected interrupt and an external one");
    value(events_vector(), "an injected interrupt and an external one: vector in L2");
    irq_drain();
}

// --------------------------------------------------------------------------------------- INIT

L2_CODE(icr, "mov %edi, (%rsi); l2_after_icr: nop; nop");
extern u8 l2_after_icr[];

static void send_init(void)
{
    write32(0xfee00310, cpuid(1, 0).b & 0xff000000);
    write32(0xfee00300, 0x4500);
}

// An INIT in VMX root operation stays pending.
static void init_that_waits(void)
{
    start(l2_two);
    send_init();
    check_run(R_INIT, "an INIT that was pending");
    check_rip(l2_two, "an INIT that was pending");
    start(l2_two);
    if (l2_control(PIN_CTLS, PIN_PREEMPTION)) {
        vmwrite(PREEMPTION_TIMER, 0);
        send_init();
        check_run(R_INIT, "INIT and the preemption timer");
        check_run(R_PREEMPTION, "the timer after it");
    }
    start(l2_two);
    vmwrite(GUEST_ACTIVITY, 1);
    send_init();
    check_run(R_INIT, "INIT in HLT");
    check_eq(vmread(GUEST_ACTIVITY), 1, "INIT in HLT: activity state");
}

// Not on a bare Bochs, where an INIT stays pending after its exit.
void test_init(void)
{
    apic_enable();
    if (rdmsr(0x1b) >> 10 & 1 || arg_has("bare")) {
        skip("x2APIC mode, or a defect of the emulator");
        return;
    }
    l2_reset(l2_icr);
    start(l2_icr);
    write32(0xfee00310, cpuid(1, 0).b & 0xff000000);
    l2.rsi = 0xfee00300;
    l2.rdi = 0x4500;
    check_run(R_INIT, "an INIT that L2 sends itself");
    check_rip(l2_after_icr, "an INIT that L2 sends itself");
    check_eq(vmread(QUALIFICATION), 0, "qualification");
    check_run(R_VMCALL, "the next entry");
    init_that_waits();
}

// --------------------------------------------------------------------------------- task switches

asm(".pushsection .text\n.code32\n"
    "l2_call_task: lcall $0x70, $0\n"
    "l2_jump_task: ljmp $0x70, $0\n"
    "l2_int_task: int $0x40\n"
    "l2_iret_task: iret\n"
    "l2_bad_task: ud2\n"
    ".code64\n.popsection");
extern u8 l2_call_task[], l2_jump_task[], l2_int_task[], l2_iret_task[], l2_bad_task[];

#define SEL_TASK 0x70

// L2 in 32-bit protected mode without paging, with a task in the GDT and task gates in the IDT.
static bool start_task(const void *code)
{
    static u64 gates[256];
    static u8 tss32[104];
    start(code);
    if (!l2_uses_ept() || !l2_control(PROC2_CTLS, PROC2_UNRESTRICTED))
        return false;
    u64 base = (u64)tss32;
    gdt[SEL_TASK / 8] = 103 | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24) << 56;
    *(u16 *)tss32 = SEL_TASK; // where IRET goes back to
    for (u32 i = 0; i < 256; i++)
        gates[i] = (u64)SEL_TASK << 16 | 0x85ull << 40;
    vmclr(ENTRY_CTLS, ENTRY_GUEST64);
    vmwrite(GUEST_CR0, read_cr0() & ~CR0_PG);
    vmwrite(GUEST_CS, SEL_CODE32);
    vmwrite(GUEST_CS_AR, 0xc09b);
    vmwrite(GUEST_TR_BASE, base);
    vmwrite(GUEST_IDTR_BASE, (u64)gates);
    vmwrite(GUEST_IDTR_LIMIT, sizeof(gates) - 1);
    return true;
}

void test_task_switch(void)
{
    static const struct {
        const char *name;
        const void *code;
        u64 flags, qualification;
        u32 inject, vectoring, length;
    } rows[] = {
        {"CALL", l2_call_task, 2, SEL_TASK, 0, 0, 7},
        {"JMP", l2_jump_task, 2, SEL_TASK | 2u << 30, 0, 0, 7},
        {"INT 0x40 by a task gate", l2_int_task, 2, SEL_TASK | 3u << 30, 0, VALID | 0x440, 2},
        {"IRET", l2_iret_task, 2 | BIT(14), SEL_TASK | 1u << 30, 0, 0, 1},
        {"#UD by a task gate", l2_bad_task, 2, SEL_TASK | 3u << 30, 0, VALID | 0x306, 0},
        {"an injected interrupt by a task gate", l2_bad_task, 2 | FLAG_IF, SEL_TASK | 3u << 30,
         VALID | 0x41, VALID | 0x41, 0},
    };
    l2_reset(l2_two);
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        if (!start_task(rows[i].code)) {
            skip("no unrestricted guest");
            return;
        }
        if (rows[i].flags & BIT(14)) // IRET goes back to a task that is busy
            gdt[SEL_TASK / 8] |= 2ull << 40;
        vmwrite(GUEST_RFLAGS, rows[i].flags);
        vmwrite(ENTRY_INTR_INFO, rows[i].inject);
        if (!check_run(R_TASK_SWITCH, "%s", rows[i].name))
            continue;
        check_eq(vmread(QUALIFICATION), rows[i].qualification, "%s: qualification", rows[i].name);
        check_eq(vmread(IDT_VECTORING), rows[i].vectoring, "%s: IDT-vectoring information",
                 rows[i].name);
        if (rows[i].length)
            check_eq(vmread(EXIT_LENGTH), rows[i].length, "%s: instruction length", rows[i].name);
        check_rip(rows[i].code, rows[i].name);
    }
    gdt[SEL_TASK / 8] = 0;
}
