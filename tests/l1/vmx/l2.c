// The default VMCS, entering L2, and the default EPT.

#include "tests/l1/vmx/l2.h"

struct l2_regs l2;
u8 l2_launched;
u64 l2_vmcs, l2_stack_top;
u64 *ept_pml4, *ept_pdpt, *ept_pd;

u64 l2_enter_raw(void);

bool l2_uses_ept(void)
{
    const char *mmu = arg_text("mmu");
    return (caps.proc2 & PROC2_EPT) && !(mmu && !strncmp(mmu, "none", 4));
}

static void ept_build(void)
{
    ept_pml4 = alloc_pages(1);
    ept_pdpt = alloc_pages(1);
    ept_pd = alloc_pages(4);
    ept_pml4[0] = (u64)ept_pdpt | 7;
    for (u64 i = 0; i < 4; i++)
        ept_pdpt[i] = ((u64)ept_pd + i * PAGE_SIZE) | 7;
    for (u64 i = 0; i < 4 * 512; i++)
        ept_pd[i] = i << 21 | (i < 3 * 512 ? 6 : 0) << 3 | PTE_PS | 7; // devices are uncached
}

u64 ept_pointer(void)
{
    if (!ept_pml4)
        ept_build();
    return (u64)ept_pml4 | 3 << 3 | 6; // four levels, write-back
}

u64 *ept_entry(u64 a)
{
    u64 *pde = &ept_pd[a >> 21];
    if (*pde & PTE_PS) {
        u64 *table = alloc_pages(1);
        for (u64 i = 0; i < 512; i++)
            table[i] = (*pde & ~PTE_PS) + (i << 12);
        *pde = (u64)table | 7;
        ept_flush();
    }
    return (u64 *)(*pde & ~0xfffull) + (a >> 12 & 511);
}

void ept_flush(void)
{
    invept(2, 0, 0);
}

static void default_controls(void)
{
    vmwrite(PIN_CTLS, caps.pin_must);
    vmwrite(EXIT_CTLS, caps.exit_must | EXIT_HOST64);
    vmwrite(ENTRY_CTLS, caps.entry_must | ENTRY_GUEST64);
    u32 proc2 = 0;
    if (l2_uses_ept()) {
        proc2 = PROC2_EPT;
        vmwrite(EPTP, ept_pointer());
    }
    vmwrite(PROC_CTLS, caps.proc_must | (proc2 ? PROC_SECONDARY : 0));
    if (caps.proc & PROC_SECONDARY)
        vmwrite(PROC2_CTLS, proc2);
    static const u16 zero[] = {EXCEPTION_BITMAP,
                               PF_MASK,
                               PF_MATCH,
                               CR3_TARGET_COUNT,
                               ENTRY_INTR_INFO,
                               EXIT_MSR_STORE_COUNT,
                               EXIT_MSR_LOAD_COUNT,
                               CR0_MASK,
                               CR4_MASK,
                               ENTRY_MSR_LOAD_COUNT,
                               ENTRY_ERROR_CODE,
                               ENTRY_LENGTH,
                               TSC_OFFSET};
    for (u32 i = 0; i < ARRAY_SIZE(zero); i++)
        vmwrite(zero[i], 0);
}

void l2_host_state(void)
{
    static const u16 data[] = {HOST_ES, HOST_SS, HOST_DS};
    vmwrite(HOST_CS, SEL_CODE64);
    for (u32 i = 0; i < ARRAY_SIZE(data); i++)
        vmwrite(data[i], SEL_DATA);
    vmwrite(HOST_FS, 0);
    vmwrite(HOST_GS, 0);
    vmwrite(HOST_TR, SEL_TSS);
    vmwrite(HOST_CR0, read_cr0());
    vmwrite(HOST_CR3, read_cr3());
    vmwrite(HOST_CR4, read_cr4());
    vmwrite(HOST_FS_BASE, 0);
    vmwrite(HOST_GS_BASE, 0);
    vmwrite(HOST_TR_BASE, (u64)&tss);
    vmwrite(HOST_GDTR_BASE, (u64)gdt);
    vmwrite(HOST_IDTR_BASE, (u64)idt);
    vmwrite(HOST_SYSENTER_CS, 0);
    vmwrite(HOST_SYSENTER_ESP, 0);
    vmwrite(HOST_SYSENTER_EIP, 0);
}

static void guest_segment(u32 i, u16 selector, u64 base, u32 limit, u32 ar)
{
    vmwrite(GUEST_ES + 2 * i, selector);
    vmwrite(GUEST_ES_BASE + 2 * i, base);
    vmwrite(GUEST_ES_LIMIT + 2 * i, limit);
    vmwrite(GUEST_ES_AR + 2 * i, ar);
}

static void default_guest(void)
{
    // Not SMBASE: nothing here depends on it, and not every L0 has the field.
    static const u16 zero[] = {GUEST_INTERRUPTIBILITY, GUEST_ACTIVITY,     GUEST_SYSENTER_CS,
                               GUEST_SYSENTER_ESP,     GUEST_SYSENTER_EIP, GUEST_PENDING_DEBUG,
                               GUEST_DEBUGCTL};
    for (u32 i = 0; i < ARRAY_SIZE(zero); i++)
        vmwrite(zero[i], 0);
    for (u32 i = 0; i < 6; i++)
        guest_segment(i, i < 4 ? SEL_DATA : 0, 0, ~0u, i < 4 ? 0xc093 : 0x10000);
    guest_segment(1, SEL_CODE64, 0, ~0u, 0xa09b);
    guest_segment(6, 0, 0, 0, 0x10000);
    guest_segment(7, SEL_TSS, (u64)&tss, sizeof(tss) - 1, 0x8b);
    vmwrite(GUEST_GDTR_BASE, (u64)gdt);
    vmwrite(GUEST_GDTR_LIMIT, gdt_pointer.limit);
    vmwrite(GUEST_IDTR_BASE, (u64)idt);
    vmwrite(GUEST_IDTR_LIMIT, idt_pointer.limit);
    vmwrite(GUEST_CR0, read_cr0());
    vmwrite(GUEST_CR3, read_cr3());
    vmwrite(GUEST_CR4, read_cr4());
    vmwrite(CR0_SHADOW, read_cr0());
    vmwrite(CR4_SHADOW, read_cr4());
    vmwrite(GUEST_DR7, 0x400);
    vmwrite(GUEST_RFLAGS, 2);
    vmwrite(LINK_POINTER, ~0ull);
}

void l2_defaults(const void *code)
{
    static u8 *stack;
    if (!stack)
        stack = alloc_pages(2);
    l2_stack_top = (u64)stack + 2 * PAGE_SIZE - 64;
    default_controls();
    l2_host_state();
    default_guest();
    l2 = (struct l2_regs){0};
    l2_goto(code);
}

void l2_reset(const void *code)
{
    if (!l2_vmcs)
        l2_vmcs = vmx_region();
    vmclear(l2_vmcs);
    vmptrld(l2_vmcs);
    l2_launched = 0;
    l2_defaults(code);
}

u32 l2_run(void)
{
    fault_clear();
    u64 flags = l2_enter_raw();
    if (flags)
        return L2_FAILED | vmx_outcome(flags);
    u32 reason = (u32)vmread(EXIT_REASON);
    if (!(reason & R_ENTRY_FAILED))
        l2_launched = 1;
    return reason;
}

void l2_skip(void)
{
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + vmread(EXIT_LENGTH));
}

void l2_goto(const void *code)
{
    vmwrite(GUEST_RIP, (u64)code);
    vmwrite(GUEST_RSP, l2_stack_top);
}

const char *l2_name(u32 result)
{
    static char text[2][40];
    static u32 next;
    char *to = text[next++ & 1];
    if (result & L2_FAILED && !(result & R_ENTRY_FAILED))
        return outcome_name(result & 0xffff);
    snprintf(to, sizeof(text[0]), "exit %u%s", result & 0xffff,
             result & R_ENTRY_FAILED ? " of a failed entry" : "");
    return to;
}

static bool check_text(u32 got, u32 want, const char *fmt, va_list args)
{
    char text[160];
    vsnprintf(text, sizeof(text), fmt, args);
    if (got == want)
        return check(true, "%s: %s", text, l2_name(got));
    return check(false, "%s: %s, should be %s", text, l2_name(got), l2_name(want));
}

bool check_exit(u32 got, u32 want, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    bool good = check_text(got, want, fmt, args);
    va_end(args);
    return good;
}

bool check_run(u32 want, const char *fmt, ...)
{
    va_list args;
    u32 got = l2_run();
    va_start(args, fmt);
    bool good = check_text(got, want, fmt, args);
    va_end(args);
    return good;
}

bool l2_offers(u32 word, u64 bits)
{
    u64 may = word == PIN_CTLS     ? caps.pin
              : word == PROC_CTLS  ? caps.proc
              : word == PROC2_CTLS ? caps.proc2
              : word == EXIT_CTLS  ? caps.exit
                                   : caps.entry;
    return (may & bits) == bits;
}

bool l2_control(u32 word, u64 bits)
{
    if (!l2_offers(word, bits))
        return false;
    if (word == PROC2_CTLS)
        vmset(PROC_CTLS, PROC_SECONDARY);
    vmset(word, bits);
    return true;
}
