#pragma once
// The one table of VMX control bits and what a processor says about them in its IA32_VMX_* MSRs.
// Intel SDM volume 3, appendix "VMX Capability Reporting Facility".

#include "libc/types.h"

// The words that hold control bits.
enum control_word {
    WORD_PIN,
    WORD_PROC,
    WORD_PROC2,
    WORD_PROC3,
    WORD_EXIT,
    WORD_EXIT2,
    WORD_ENTRY,
    WORD_COUNT,
// CW_X: the word of control X.
#define CONTROL(name, word, bit, offer, merge) CW_##name = WORD_##word,
#include "vmx/control.def"
#undef CONTROL
};

// Index of each control, and its mask in its word: CTL_X.
enum control_index {
#define CONTROL(name, word, bit, offer, merge) CI_##name,
#include "vmx/control.def"
#undef CONTROL
    CI_COUNT
};

enum {
    CTL_TYPE_IS_U64 = 1ull << 63, // so that ~CTL_X has 64 bits
#define CONTROL(name, word, bit, offer, merge) CTL_##name = 1ull << (bit),
#include "vmx/control.def"
#undef CONTROL
};

enum control_offer { OFFER_HW, OFFER_SOFT, OFFER_LATER, OFFER_NEVER };

enum control_merge {
    CTL_PASS, // vmcs02 has what L1 set
    CTL_ON,   // set whatever L1 says: L0 needs it, if the host has it
    CTL_OFF,  // clear whatever L1 says: L0 does the work in software
    CTL_OWN,  // a named function of the merge decides
};

// What one word of controls allows. A bit set in `must` has to be 1 (the "allowed 0-setting" is 1),
// a bit clear in `may` has to be 0.
struct control_limits {
    u64 must;
    u64 may;
};

// Bits of IA32_VMX_BASIC, IA32_VMX_MISC, IA32_VMX_EPT_VPID_CAP and IA32_VMX_VMFUNC.
#define BASIC_REVISION          0x7fffffffull
#define BASIC_SIZE(bytes)       ((u64)(bytes) << 32)
#define BASIC_PHYS_32           BIT(48)
#define BASIC_DUAL_MONITOR      BIT(49)
#define BASIC_MEMTYPE_WB        (6ull << 50)
#define BASIC_INS_OUTS_INFO     BIT(54)
#define BASIC_TRUE_CONTROLS     BIT(55)
#define BASIC_ANY_ERROR_CODE    BIT(56) // injected exceptions may or may not have an error code
#define BASIC_NESTED_EXCEPTION  BIT(58)

#define MISC_TIMER_RATE         0x1full
#define MISC_STORES_LMA         BIT(5)
#define MISC_ACTIVITY_HLT       BIT(6)
#define MISC_ACTIVITY_SHUTDOWN  BIT(7)
#define MISC_ACTIVITY_WAIT_SIPI BIT(8)
#define MISC_PT_IN_VMX          BIT(14)
#define MISC_RDMSR_SMBASE       BIT(15)
#define MISC_CR3_TARGETS(n)     ((u64)(n) << 16)
#define MISC_MSR_LIST_MAX(n)    (((u64)(n) / 512 - 1) << 25)
#define MISC_BLOCK_SMI          BIT(28)
#define MISC_VMWRITE_ANY        BIT(29)
#define MISC_INJECT_LENGTH_0    BIT(30)

#define EPT_CAP_EXEC_ONLY       BIT(0)
#define EPT_CAP_WALK_4          BIT(6)
#define EPT_CAP_WALK_5          BIT(7)
#define EPT_CAP_UC              BIT(8)
#define EPT_CAP_WB              BIT(14)
#define EPT_CAP_2M              BIT(16)
#define EPT_CAP_1G              BIT(17)
#define EPT_CAP_INVEPT          BIT(20)
#define EPT_CAP_AD              BIT(21)
#define EPT_CAP_ADVANCED_INFO   BIT(22)
#define EPT_CAP_SHADOW_STACK    BIT(23)
#define EPT_CAP_INVEPT_SINGLE   BIT(25)
#define EPT_CAP_INVEPT_ALL      BIT(26)
#define VPID_CAP_INVVPID        BIT(32)
#define VPID_CAP_ADDRESS        BIT(40)
#define VPID_CAP_SINGLE         BIT(41)
#define VPID_CAP_ALL            BIT(42)
#define VPID_CAP_RETAIN_GLOBALS BIT(43)
// Where the bits of the types begin: bit n of them for type n.
#define EPT_CAP_INVEPT_TYPES 24
#define VPID_CAP_TYPES       40

#define VMFUNC_EPTP_SWITCHING   BIT(0)

// The capabilities of a processor: the host's own, or those that an L1 sees. The limits of a word
// are the TRUE ones where the processor reports them.
struct vmx_caps {
    u64 basic;
    u64 misc;
    struct control_limits word[WORD_COUNT];
    u64 cr0_fixed0, cr0_fixed1;
    u64 cr4_fixed0, cr4_fixed1;
    u64 ept_vpid;
    u64 vmfunc;
    u64 vmcs_enum;
};

// What the command line, a quirk or a VM's description takes away from L1.
struct vmx_offer {
    u64 hide[WORD_COUNT]; // controls that L1 is not to see
    u64 hide_ept_vpid;    // bits of IA32_VMX_EPT_VPID_CAP that L1 is not to see
    u64 hide_cr4;         // bits of CR4 that L1 cannot set: features that its CPUID does not show
};

// The VMCS revision identifier that L1 sees: Nestor's own layout of a VMCS region.
#define NESTED_VMCS_REVISION 0x4e530001u

// Whether the processor supports the 1-setting of a control, or forces it: CAP_HAS(caps, EPT).
#define CAP_HAS(caps, name)  (((caps)->word[CW_##name].may & CTL_##name) != 0)
#define CAP_MUST(caps, name) (((caps)->word[CW_##name].must & CTL_##name) != 0)

// The number of CR3-target values.
static inline unsigned vmx_cr3_targets(const struct vmx_caps *caps)
{
    return (unsigned)(caps->misc >> 16 & 0x1ff);
}

// The recommended maximum of entries in an MSR list.
static inline unsigned vmx_msr_list_max(const struct vmx_caps *caps)
{
    return 512 * ((unsigned)(caps->misc >> 25 & 7) + 1);
}

// Reads the host's capabilities with `read`, which is called only for MSRs that the processor
// enumerates. Pure but for `read`.
void vmx_caps_from_msrs(u64 (*read)(u32 msr, void *ctx), void *ctx, struct vmx_caps *caps);

// What an L1 sees on this host.
void vmx_caps_for_l1(const struct vmx_caps *host, const struct vmx_offer *offer,
                     struct vmx_caps *l1);

// The value of one IA32_VMX_* MSR. `*exists` is false, and the value 0, for an MSR that the
// processor described by `caps` does not have (RDMSR of it faults).
u64 vmx_caps_msr(const struct vmx_caps *caps, u32 msr, bool *exists);

// The columns of the table, and the name of a word.
const char *control_name(enum control_index c);
enum control_word control_word(enum control_index c);
u64 control_bit(enum control_index c);
enum control_offer control_offer(enum control_index c);
const char *control_word_name(enum control_word w);

// The bits of a word with a given rule for vmcs02: a constant where the arguments are.
static inline __attribute__((always_inline)) u64 control_merge_mask(enum control_word w,
                                                                    enum control_merge merge)
{
    u64 mask = 0;
#define CONTROL(name, word, bit, offer, rule)                                                      \
    if (w == WORD_##word && merge == CTL_##rule)                                                   \
        mask |= CTL_##name;
#include "vmx/control.def"
#undef CONTROL
    return mask;
}

// The part of vmcs02's word that needs no named function: L1's CTL_PASS bits, the CTL_ON bits that
// the host has, the bits that the host forces. The CTL_OWN bits are 0 unless the host forces them.
static inline __attribute__((always_inline)) u64 control_merge_word(enum control_word w,
                                                                    u64 l1_value,
                                                                    const struct vmx_caps *host)
{
    u64 value = (l1_value & control_merge_mask(w, CTL_PASS)) | control_merge_mask(w, CTL_ON);
    return (value & host->word[w].may) | host->word[w].must;
}
