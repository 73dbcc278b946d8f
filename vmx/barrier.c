// The barriers of mitigate.h on the machine.

#include "drivers/cpu.h"
#include "libc/x86.h"
#include "vmx/mitigate.h"

#define MSR_SPEC_CTRL   0x48
#define MSR_PRED_CMD    0x49
#define MSR_ARCH_CAPS   0x10a
#define MSR_FLUSH_CMD   0x10b
#define SPEC_CTRL_IBRS  1
#define PRED_CMD_IBPB   1
#define FLUSH_CMD_L1D   1
#define LEAF7_ARCH_CAPS BIT(29)
#define LEAF_FEATURES   7

struct mitigations mitigations;

static struct speculation read_speculation(void)
{
    struct speculation s = {0};
    if (cpuid(0, 0).eax < LEAF_FEATURES)
        return s;
    struct cpuid leaf = cpuid(LEAF_FEATURES, 0);
    s.leaf7_ebx = leaf.ebx;
    s.leaf7_edx = leaf.edx;
    if (leaf.edx & LEAF7_ARCH_CAPS)
        rdmsr_safe(MSR_ARCH_CAPS, &s.arch_caps);
    return s;
}

void mitigate_init(bool enabled)
{
    const struct speculation s = read_speculation();
    if (!enabled)
        return;
    mitigations = mitigate_select(&s);
    if (mitigations.ibrs)
        wrmsr_safe(MSR_SPEC_CTRL, SPEC_CTRL_IBRS);
}

void mitigate_now(unsigned barriers)
{
    static const u16 selector = SEL_DATA;
    if (barriers & BARRIER_IBPB)
        wrmsr_safe(MSR_PRED_CMD, PRED_CMD_IBPB);
    if (barriers & BARRIER_L1D_FLUSH)
        wrmsr_safe(MSR_FLUSH_CMD, FLUSH_CMD_L1D);
    if (barriers & BARRIER_VERW)
        asm volatile("verw %0" ::"m"(selector) : "cc", "memory"); // the memory form clears
}
