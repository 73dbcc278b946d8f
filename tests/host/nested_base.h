#pragma once
// A processor as an L1 may see it and a vmcs12 that passes every entry check on it, for the tests
// of nested VMX.

#include "libc/string.h"
#include "libc/x86.h"
#include "vmx/nested/check.h"

#define BASE_RAM 0x10000ull

// L1's processor: every control that the tables know, so that the rules of those that are not
// offered yet are tested, too.
static inline struct vmx_caps base_caps(void)
{
    struct vmx_caps c = {
        .basic = NESTED_VMCS_REVISION | BASIC_SIZE(4096) | BASIC_MEMTYPE_WB | BASIC_TRUE_CONTROLS,
        .misc = MISC_STORES_LMA | MISC_ACTIVITY_HLT | MISC_ACTIVITY_SHUTDOWN |
                MISC_ACTIVITY_WAIT_SIPI | MISC_CR3_TARGETS(4) | MISC_VMWRITE_ANY,
        .word = {[WORD_PIN] = {0x16, 0x16},
                 [WORD_PROC] = {0x04006172, 0x04006172},
                 [WORD_EXIT] = {0x36dfb, 0x36dfb},
                 [WORD_ENTRY] = {0x11fb, 0x11fb}},
        .cr0_fixed0 = 0x80000021,
        .cr0_fixed1 = 0xffffffff,
        .cr4_fixed0 = 0x2000,
        .cr4_fixed1 = 0x3767ff,
        .ept_vpid = EPT_CAP_WALK_4 | EPT_CAP_WB | EPT_CAP_AD,
        .vmfunc = VMFUNC_EPTP_SWITCHING,
    };
    for (unsigned i = 0; i < CI_COUNT; i++)
        if (control_offer(i) != OFFER_NEVER)
            c.word[control_word(i)].may |= control_bit(i);
    return c;
}

static inline struct entry_env base_env(const struct vmx_caps *caps, const struct guest_mem *mem)
{
    return (struct entry_env){
        .caps = caps,
        .mem = mem,
        .current_vmcs = GPA(0x7000),
        .cr4_valid = 0x3767ff,
        .efer_valid = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE,
        .debugctl_valid = 3,
        .perf_global_valid = 0x70000000full,
        .phys_bits = 40,
        .linear_bits = 48,
        .lma = true,
    };
}

// A 64-bit L2 of a 64-bit L1.
static inline void base_vmcs12(struct vmcs12 *v)
{
    static const struct {
        vmcs_field_t f;
        u64 value;
    } base[] = {
        {F(PIN_CTRL), 0x16},
        {F(PROC_CTRL), 0x04006172 | CTL_SECONDARY},
        {F(EXIT_CTRL), 0x36dfb | CTL_EXIT_HOST_64BIT},
        {F(ENTRY_CTRL), 0x11fb | CTL_ENTRY_IA32E_GUEST},
        {F(HOST_CR0), 0x80050033},
        {F(HOST_CR3), 0x1000},
        {F(HOST_CR4), 0x2020},
        {F(HOST_CS_SELECTOR), 8},
        {F(HOST_SS_SELECTOR), 0x10},
        {F(HOST_TR_SELECTOR), 0x18},
        {F(HOST_RIP), 0xffffffff81000000},
        {F(HOST_RSP), 0xffffffff82000000},
        {F(HOST_GS_BASE), 0xffff888000000000},
        {F(GUEST_CR0), 0x80050033},
        {F(GUEST_CR3), 0x1000},
        {F(GUEST_CR4), 0x2020},
        {F(GUEST_CS_SELECTOR), 8},
        {F(GUEST_CS_LIMIT), 0xffffffff},
        {F(GUEST_CS_AR), 0xa09b},
        {F(GUEST_SS_SELECTOR), 0x10},
        {F(GUEST_SS_LIMIT), 0xffffffff},
        {F(GUEST_SS_AR), 0xc093},
        {F(GUEST_DS_LIMIT), 0xffffffff},
        {F(GUEST_DS_AR), 0xc093},
        {F(GUEST_ES_LIMIT), 0xffffffff},
        {F(GUEST_ES_AR), 0xc093},
        {F(GUEST_FS_LIMIT), 0xffffffff},
        {F(GUEST_FS_AR), 0xc093},
        {F(GUEST_GS_LIMIT), 0xffffffff},
        {F(GUEST_GS_AR), 0xc093},
        {F(GUEST_LDTR_AR), 0x10000},
        {F(GUEST_TR_SELECTOR), 0x18},
        {F(GUEST_TR_LIMIT), 0x67},
        {F(GUEST_TR_AR), 0x8b},
        {F(GUEST_RIP), 0xffffffff81000000},
        {F(GUEST_RFLAGS), 2},
        {F(GUEST_DR7), 0x400},
        {F(VMCS_LINK_POINTER), ~0ull},
    };
    memset(v, 0, sizeof(*v));
    for (unsigned i = 0; i < ARRAY_SIZE(base); i++)
        v12_set(v, base[i].f, base[i].value);
    v->unchecked = GROUP_ALL;
    v->unmerged = GROUP_ALL;
}
