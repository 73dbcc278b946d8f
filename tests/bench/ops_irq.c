// Interrupts: one that L1 takes while L2 runs, and a timer that L2 sets and receives.
//
// L2 reads the TSC over and over; the time it was away is in the longest gap between two readings.

#include "tests/bench/bench.h"
#include "tests/l1/vmx/events.h"

enum {
    APIC_BASE = 0x1b,
    TSC_DEADLINE = 0x6e0,
    EOI = 0x80b,
    LVT_TIMER = 0x832,
    LVT_DEADLINE_MODE = 2 << 17,
    VECTOR = 0x61,    // of L1's timer
    L2_VECTOR = 0x62, // of L2's
    MSR_LENGTH = 2,
};
// Longer than any L0 takes from setting the timer to running L2; no multiple of its own timer's
// period.
#define DELAY    130000

#define READ_TSC "rdtsc; shl $32, %rdx; or %rdx, %rax;"
// From a reading in RBX on: R10 = the longest gap until R15 was set, the one around that included.
#define WATCH                                                                                      \
    "xor %r10d, %r10d; 2: mov %r15d, %r14d;" READ_TSC "mov %rax, %rcx; sub %rbx, %rcx;"            \
    "mov %rax, %rbx; cmp %r10, %rcx; jbe 3f; mov %rcx, %r10; 3: test %r14d, %r14d; jz 2b; cli;"

// R9 = the gap. L1 sets R15.
L2_CODE(watch, "xor %r15d, %r15d; sti;" READ_TSC "mov %rax, %rbx;" WATCH "mov %r10, %r9");

// R9 = ticks to set the timer, plus the gap. The interrupt's handler sets R15.
L2_CODE(timer, "xor %r15d, %r15d; sti;" READ_TSC "mov %rax, %r8; add $130000, %rax;"
               "mov %rax, %rdx; shr $32, %rdx; mov $0x6e0, %ecx; wrmsr;" READ_TSC
               "mov %rax, %rbx; sub %r8, %rax; mov %rax, %r9;" WATCH "add %r10, %r9");

asm(".pushsection .text\n"
    "l2_timer_handler: push %rax; push %rcx; push %rdx; mov $0x80b, %ecx; xor %eax, %eax;"
    "xor %edx, %edx; wrmsr; mov $1, %r15d; pop %rdx; pop %rcx; pop %rax; iretq\n"
    ".popsection\n");
extern u8 l2_timer_handler[];

static u32 taken, eois;
static struct idt_entry l2_idt[256];

static void begin(const void *code)
{
    bench_l2(code);
    wrmsr(APIC_BASE, rdmsr(APIC_BASE) | 0xc00); // x2APIC
    apic_enable();
    wrmsr(LVT_TIMER, LVT_DEADLINE_MODE | VECTOR);
    l2_control(PIN_CTLS, PIN_EXTINT);
    l2_control(EXIT_CTLS, EXIT_ACK);
    memcpy(l2_idt, idt, sizeof(l2_idt));
    u64 handler = (u64)l2_timer_handler;
    l2_idt[L2_VECTOR] = (struct idt_entry){(u16)handler,         SEL_CODE64,           0, 0x8e,
                                           (u16)(handler >> 16), (u32)(handler >> 32), 0};
    vmwrite(GUEST_IDTR_BASE, (u64)l2_idt);
}

static void restart(const void *code)
{
    l2_goto(code);
    vmwrite(GUEST_RFLAGS, 2);
    vmwrite(GUEST_INTERRUPTIBILITY, 0);
    taken = eois = 0;
}

// What every hypervisor does with an interrupt of its own that ended L2's turn.
static void take_interrupt(void)
{
    if (field_read(EXIT_INTR_INFO) == (BIT(31) | VECTOR))
        taken++;
    wrmsr(EOI, 0);
}

static void begin_interrupt(void)
{
    begin(l2_watch);
}

static void before_interrupt(void)
{
    restart(l2_watch);
    wrmsr(TSC_DEADLINE, rdtsc() + DELAY);
}

static void run_interrupt(void)
{
    do {
        bench_enter();
        read_reason();
        if (exit_reason != R_EXTINT)
            return;
        take_interrupt();
        l2.r15 = taken;
    } while (!bench_failed);
}

static bool good_interrupt(void)
{
    return left_by(R_VMCALL) && taken == 1;
}

static void begin_timer(void)
{
    begin(l2_timer);
}

static void before_timer(void)
{
    restart(l2_timer);
}

static void emulate_wrmsr(void)
{
    if ((u32)l2.rcx == TSC_DEADLINE)
        wrmsr(TSC_DEADLINE, l2.rdx << 32 | (u32)l2.rax);
    else if ((u32)l2.rcx == EOI)
        eois++;
    skip_insn(MSR_LENGTH);
}

static void run_timer(void)
{
    do {
        bench_enter();
        read_reason();
        if (exit_reason == R_WRMSR) {
            emulate_wrmsr();
        } else if (exit_reason == R_EXTINT) {
            take_interrupt();
            field_write(ENTRY_INTR_INFO, BIT(31) | L2_VECTOR);
        } else {
            return;
        }
    } while (!bench_failed);
}

static bool good_timer(void)
{
    return left_by(R_VMCALL) && taken == 1 && eois == 1 && l2.r15 == 1;
}

static const char *missing(void)
{
    struct cpuid r = cpuid(1, 0);
    if (!(r.c & BIT(21)) || !(r.c & BIT(24)))
        return "no x2APIC, or no TSC deadline";
    return caps.exit & EXIT_ACK ? NULL : "no acknowledge on exit";
}

static const struct op list[] = {
    {.name = "l2-interrupted",
     .begin = begin_interrupt,
     .before = before_interrupt,
     .run = run_interrupt,
     .good = good_interrupt,
     .in_l2 = true},
    {.name = "l2-timer",
     .begin = begin_timer,
     .before = before_timer,
     .run = run_timer,
     .good = good_timer,
     .in_l2 = true},
};
const struct ops ops_irq = {list, ARRAY_SIZE(list), missing};
