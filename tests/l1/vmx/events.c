// L2's own IDT, and interrupts for it.

#include "tests/l1/vmx/events.h"

static struct idt_entry *table;

// 256 gates of 16 bytes, each a VMCALL over and over. The NOP is for Bochs, which forgets that RIP
// has changed when the first instruction after the delivery of an NMI exits.
asm(".pushsection .text\n.balign 16\nl2_gates:\n.rept 256\n"
    "nop\n1: vmcall\njmp 1b\n.balign 16\n.endr\n.popsection\n");
extern u8 l2_gates[256][16];

void events_idt(void)
{
    if (!table)
        table = alloc_pages(1);
    for (u32 i = 0; i < 256; i++) {
        u64 gate = (u64)l2_gates[i];
        table[i] = (struct idt_entry){(u16)gate, SEL_CODE64, 0, 0x8e, (u16)(gate >> 16), 0, 0};
    }
    vmwrite(GUEST_IDTR_BASE, (u64)table);
    vmwrite(GUEST_IDTR_LIMIT, 4095);
}

struct idt_entry *events_gate(u8 vector)
{
    return &table[vector];
}

u32 events_vector(void)
{
    u64 rip = vmread(GUEST_RIP) - (u64)l2_gates;
    return rip < sizeof(l2_gates) ? (u32)(rip / 16) : NO_FAULT;
}

u64 events_stack(u32 word)
{
    return read64(vmread(GUEST_RSP) + 8 * word);
}

bool check_delivered(u32 result, u32 vector, const char *fmt, ...)
{
    char text[160];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (result != R_VMCALL)
        return check(false, "%s: %s, should be vector %u in L2", text, l2_name(result), vector);
    return check_eq(events_vector(), vector, "%s: vector in L2", text);
}

static bool x2(void)
{
    return rdmsr(0x1b) >> 10 & 1;
}

static void write_apic(u32 reg, u32 v)
{
    if (x2())
        wrmsr(0x800 + reg / 16, v);
    else
        write32(0xfee00000 + reg, v);
}

void apic_enable(void)
{
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    write_apic(0xf0, 0x1ff);
}

void apic_self_ipi(u8 vector)
{
    if (x2())
        wrmsr(0x830, 0x44000 | vector);
    else
        write32(0xfee00300, 0x44000 | vector);
}

void apic_eoi(void)
{
    write_apic(0xb0, 0);
}

static u32 read_apic(u32 reg)
{
    return x2() ? (u32)rdmsr(0x800 + reg / 16) : read32(0xfee00000 + reg);
}

// Ticks of the APIC timer in 2^16 ticks of the TSC.
static u64 apic_rate(void)
{
    static u64 rate;
    if (rate)
        return rate;
    write_apic(0x3e0, 0xb);
    write_apic(0x320, 0x10000);
    write_apic(0x380, 0xffffffff);
    u64 start = rdtsc();
    u32 first = read_apic(0x390);
    while (rdtsc() - start < 0x10000)
        ;
    rate = MAX((u64)(first - read_apic(0x390)), 1u);
    write_apic(0x380, 0);
    return rate;
}

void apic_timer(u8 vector, u64 tsc)
{
    u64 ticks = tsc * apic_rate() >> 16;
    write_apic(0x3e0, 0xb);
    write_apic(0x320, vector);
    write_apic(0x380, (u32)MAX(ticks, 1u));
}

bool apic_in_service(u8 vector)
{
    return read_apic(0x100 + vector / 32 * 16) >> vector % 32 & 1;
}

void nmi_unblock(void)
{
    asm volatile("mov %%rsp, %%rax; push %0; push %%rax; pushfq; push %1; push $1f; iretq; 1:"
                 :
                 : "i"(SEL_DATA), "i"(SEL_CODE64)
                 : "rax", "memory", "cc");
}

void irq_drain(void)
{
    for (u32 i = 0; i < 4; i++) {
        irq_window();
        apic_eoi();
    }
}
