#include "vmx/control.h"

#include "vmx/field.h"

#define MSR_VMX_BASIC      0x480
#define MSR_VMX_PIN        0x481
#define MSR_VMX_PROC       0x482
#define MSR_VMX_EXIT       0x483
#define MSR_VMX_ENTRY      0x484
#define MSR_VMX_MISC       0x485
#define MSR_VMX_CR0_FIXED0 0x486
#define MSR_VMX_CR0_FIXED1 0x487
#define MSR_VMX_CR4_FIXED0 0x488
#define MSR_VMX_CR4_FIXED1 0x489
#define MSR_VMX_VMCS_ENUM  0x48a
#define MSR_VMX_PROC2      0x48b
#define MSR_VMX_EPT_VPID   0x48c
#define MSR_VMX_TRUE_PIN   0x48d
#define MSR_VMX_TRUE_PROC  0x48e
#define MSR_VMX_TRUE_EXIT  0x48f
#define MSR_VMX_TRUE_ENTRY 0x490
#define MSR_VMX_VMFUNC     0x491
#define MSR_VMX_PROC3      0x492
#define MSR_VMX_EXIT2      0x493

// The bits that a processor without the TRUE MSRs wants set: the default1 class ("Reserved Controls
// and Default Settings"), and those of them that the TRUE MSRs of an L1 let it clear.
static const struct {
    u64 default1, true_clears;
} classes[WORD_COUNT] = {
    [WORD_PIN] = {0x16, 0},
    [WORD_PROC] = {0x0401e172, 1u << 15 | 1u << 16}, // CR3-load and CR3-store exiting
    [WORD_EXIT] = {0x00036dff, 1u << 2},             // save debug controls
    [WORD_ENTRY] = {0x000011ff, 1u << 2},            // load debug controls
};

static const struct {
    const char *name;
    u64 bit;
    u8 word, offer;
} controls[CI_COUNT] = {
#define CONTROL(name, word, bit, offer, merge) {#name, 1ull << (bit), WORD_##word, OFFER_##offer},
#include "vmx/control.def"
#undef CONTROL
};

// The words whose limits are in a pair of MSRs: the original one and the TRUE one.
static const struct {
    u8 word;
    u32 msr, true_msr;
} limit_msrs[] = {
    {WORD_PIN, MSR_VMX_PIN, MSR_VMX_TRUE_PIN},
    {WORD_PROC, MSR_VMX_PROC, MSR_VMX_TRUE_PROC},
    {WORD_EXIT, MSR_VMX_EXIT, MSR_VMX_TRUE_EXIT},
    {WORD_ENTRY, MSR_VMX_ENTRY, MSR_VMX_TRUE_ENTRY},
};

const char *control_name(enum control_index c)
{
    return controls[c].name;
}

enum control_word control_word(enum control_index c)
{
    return controls[c].word;
}

u64 control_bit(enum control_index c)
{
    return controls[c].bit;
}

enum control_offer control_offer(enum control_index c)
{
    return controls[c].offer;
}

const char *control_word_name(enum control_word w)
{
    static const char *const names[WORD_COUNT] = {"pin",  "proc",  "proc2", "proc3",
                                                  "exit", "exit2", "entry"};
    return names[w];
}

static struct control_limits split_limits(u64 msr)
{
    return (struct control_limits){.must = (u32)msr, .may = msr >> 32};
}

void vmx_caps_from_msrs(u64 (*read)(u32 msr, void *ctx), void *ctx, struct vmx_caps *caps)
{
    *caps = (struct vmx_caps){
        .basic = read(MSR_VMX_BASIC, ctx),
        .misc = read(MSR_VMX_MISC, ctx),
        .cr0_fixed0 = read(MSR_VMX_CR0_FIXED0, ctx),
        .cr0_fixed1 = read(MSR_VMX_CR0_FIXED1, ctx),
        .cr4_fixed0 = read(MSR_VMX_CR4_FIXED0, ctx),
        .cr4_fixed1 = read(MSR_VMX_CR4_FIXED1, ctx),
        .vmcs_enum = read(MSR_VMX_VMCS_ENUM, ctx),
    };
    for (unsigned i = 0; i < ARRAY_SIZE(limit_msrs); i++)
        caps->word[limit_msrs[i].word] = split_limits(read(
            caps->basic & BASIC_TRUE_CONTROLS ? limit_msrs[i].true_msr : limit_msrs[i].msr, ctx));
    if (CAP_HAS(caps, SECONDARY))
        caps->word[WORD_PROC2] = split_limits(read(MSR_VMX_PROC2, ctx));
    if (CAP_HAS(caps, TERTIARY))
        caps->word[WORD_PROC3].may = read(MSR_VMX_PROC3, ctx);
    if (CAP_HAS(caps, EXIT_SECONDARY))
        caps->word[WORD_EXIT2].may = read(MSR_VMX_EXIT2, ctx);
    if (CAP_HAS(caps, EPT) || CAP_HAS(caps, VPID))
        caps->ept_vpid = read(MSR_VMX_EPT_VPID, ctx);
    if (CAP_HAS(caps, VMFUNC))
        caps->vmfunc = read(MSR_VMX_VMFUNC, ctx);
}

// The 1-settings that L1 sees of one word.
static u64 offered_bits(enum control_word w, const struct vmx_caps *host,
                        const struct vmx_offer *offer)
{
    u64 bits = 0;
    for (unsigned i = 0; i < CI_COUNT; i++) {
        if (controls[i].word != w)
            continue;
        bool have = host->word[w].may & controls[i].bit;
        if (controls[i].offer == OFFER_SOFT || (controls[i].offer == OFFER_HW && have))
            bits |= controls[i].bit;
    }
    return bits & ~offer->hide[w];
}

// Controls whose 1-setting makes no sense without another one's.
static void drop_dependents(struct vmx_caps *l1)
{
    u64 *proc2 = &l1->word[WORD_PROC2].may;
    if (!CAP_HAS(l1, SECONDARY))
        *proc2 = 0;
    if (!CAP_HAS(l1, EPT))
        *proc2 &= ~(CTL_UNRESTRICTED | CTL_PML | CTL_EPT_VIOLATION_VE | CTL_MODE_BASED_EXECUTE);
    if (!CAP_HAS(l1, TPR_SHADOW))
        *proc2 &= ~(CTL_VIRTUALIZE_X2APIC | CTL_APIC_REGISTERS | CTL_VIRTUAL_INTR_DELIVERY);
    if (!CAP_HAS(l1, PREEMPTION_TIMER))
        l1->word[WORD_EXIT].may &= ~CTL_EXIT_SAVE_TIMER;
    if (!CAP_HAS(l1, NMI_EXITING))
        l1->word[WORD_PIN].may &= ~CTL_VIRTUAL_NMIS;
    if (!CAP_HAS(l1, VIRTUAL_NMIS))
        l1->word[WORD_PROC].may &= ~CTL_NMI_WINDOW;
    if (!CAP_HAS(l1, VIRTUAL_INTR_DELIVERY))
        l1->word[WORD_PIN].may &= ~CTL_POSTED_INTERRUPTS;
}

static u64 offered_ept_vpid(const struct vmx_caps *l1, const struct vmx_caps *host,
                            const struct vmx_offer *offer)
{
    u64 cap = 0;
    if (CAP_HAS(l1, EPT)) // INVEPT and the walk of EPT12 are L0's own work, the rights are hardware
        cap |= EPT_CAP_WALK_4 | EPT_CAP_WB | EPT_CAP_2M | EPT_CAP_1G | EPT_CAP_INVEPT |
               EPT_CAP_INVEPT_SINGLE | EPT_CAP_INVEPT_ALL |
               (host->ept_vpid & (EPT_CAP_EXEC_ONLY | EPT_CAP_UC | EPT_CAP_AD));
    if (CAP_HAS(l1, VPID))
        cap |= VPID_CAP_INVVPID | VPID_CAP_ADDRESS | VPID_CAP_SINGLE | VPID_CAP_ALL |
               VPID_CAP_RETAIN_GLOBALS;
    return cap & ~offer->hide_ept_vpid;
}

void vmx_caps_for_l1(const struct vmx_caps *host, const struct vmx_offer *offer,
                     struct vmx_caps *l1)
{
    *l1 = (struct vmx_caps){
        .basic = NESTED_VMCS_REVISION | BASIC_SIZE(PAGE_SIZE) | BASIC_MEMTYPE_WB |
                 BASIC_INS_OUTS_INFO | BASIC_TRUE_CONTROLS | (host->basic & BASIC_ANY_ERROR_CODE),
        .misc = (host->misc & (MISC_TIMER_RATE | MISC_ACTIVITY_HLT | MISC_ACTIVITY_SHUTDOWN |
                               MISC_ACTIVITY_WAIT_SIPI | MISC_INJECT_LENGTH_0)) |
                MISC_CR3_TARGETS(4) | MISC_MSR_LIST_MAX(512) | MISC_VMWRITE_ANY,
        .cr0_fixed0 = host->cr0_fixed0,
        .cr0_fixed1 = host->cr0_fixed1,
        .cr4_fixed0 = host->cr4_fixed0,
        .cr4_fixed1 = host->cr4_fixed1 & ~offer->hide_cr4,
    };
    for (unsigned w = 0; w < WORD_COUNT; w++) {
        l1->word[w].must = classes[w].default1 & ~classes[w].true_clears;
        l1->word[w].may = offered_bits(w, host, offer) | l1->word[w].must;
    }
    drop_dependents(l1);
    if (CAP_HAS(l1, VMFUNC))
        l1->vmfunc = VMFUNC_EPTP_SWITCHING;
    if (CAP_HAS(l1, UNRESTRICTED))
        l1->misc |= MISC_STORES_LMA;
    l1->ept_vpid = offered_ept_vpid(l1, host, offer);
    l1->vmcs_enum = field_vmcs_enum(l1);
}

static u64 limits_msr(const struct vmx_caps *caps, unsigned i, bool as_true)
{
    enum control_word w = limit_msrs[i].word;
    u64 must = caps->word[w].must | (as_true ? 0 : classes[w].default1);
    return must | (caps->word[w].may | must) << 32;
}

// The MSRs that are there only when a control or another MSR says so. The value in `*value`.
static bool conditional_msr(const struct vmx_caps *caps, u32 msr, u64 *value)
{
    switch (msr) {
    case MSR_VMX_PROC2:
        *value = caps->word[WORD_PROC2].must | caps->word[WORD_PROC2].may << 32;
        return CAP_HAS(caps, SECONDARY);
    case MSR_VMX_EPT_VPID:
        *value = caps->ept_vpid;
        return CAP_HAS(caps, EPT) || CAP_HAS(caps, VPID);
    case MSR_VMX_VMFUNC:
        *value = caps->vmfunc;
        return CAP_HAS(caps, VMFUNC);
    case MSR_VMX_PROC3:
        *value = caps->word[WORD_PROC3].may;
        return CAP_HAS(caps, TERTIARY);
    case MSR_VMX_EXIT2:
        *value = caps->word[WORD_EXIT2].may;
        return CAP_HAS(caps, EXIT_SECONDARY);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(limit_msrs); i++) {
        if (msr == limit_msrs[i].true_msr) {
            *value = limits_msr(caps, i, true);
            return caps->basic & BASIC_TRUE_CONTROLS;
        }
        if (msr == limit_msrs[i].msr) {
            *value = limits_msr(caps, i, false);
            return true;
        }
    }
    return false;
}

u64 vmx_caps_msr(const struct vmx_caps *caps, u32 msr, bool *exists)
{
    *exists = true;
    switch (msr) {
    case MSR_VMX_BASIC:
        return caps->basic;
    case MSR_VMX_MISC:
        return caps->misc;
    case MSR_VMX_CR0_FIXED0:
        return caps->cr0_fixed0;
    case MSR_VMX_CR0_FIXED1:
        return caps->cr0_fixed1;
    case MSR_VMX_CR4_FIXED0:
        return caps->cr4_fixed0;
    case MSR_VMX_CR4_FIXED1:
        return caps->cr4_fixed1;
    case MSR_VMX_VMCS_ENUM:
        return caps->vmcs_enum;
    }
    u64 value = 0;
    *exists = conditional_msr(caps, msr, &value);
    return *exists ? value : 0;
}
