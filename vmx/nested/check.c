#include "vmx/nested/check.h"

#include "libc/bits.h"
#include "libc/x86.h"

// Groups of fields, by their short names; MEMORY is what L1 may change without a VMWRITE.
enum {
    PIN = GROUP(PIN),
    PROC = GROUP(PROC),
    PROC2 = GROUP(PROC2),
    EXIT = GROUP(EXIT),
    ENTRY = GROUP(ENTRY),
    EVENT = GROUP(EVENT),
    BITMAPS = GROUP(BITMAPS),
    MSR_LISTS = GROUP(MSR_LISTS),
    APIC = GROUP(APIC),
    TPR = GROUP(TPR),
    EPT = GROUP(EPT),
    VPID = GROUP(VPID),
    TSC = GROUP(TSC),
    CR3_TARGETS = GROUP(CR3_TARGETS),
    HOST = GROUP(HOST),
    RIP = GROUP(RIP),
    RFLAGS = GROUP(RFLAGS),
    CRS = GROUP(CRS),
    CR3 = GROUP(CR3),
    PDPTES = GROUP(PDPTES),
    SEGMENTS = GROUP(SEGMENTS),
    TABLES = GROUP(TABLES),
    DEBUG = GROUP(DEBUG),
    MSRS = GROUP(MSRS),
    STATE = GROUP(STATE),
    LINK = GROUP(LINK),
};
#define MEMORY      (1u << 31)
#define WITH_OTHERS ((u32)(RIP | RFLAGS | TPR | GROUP(TIMER))) // no rule reads the timer

// The words that the rules are written in.
#define G(name)   v12_get(v, F(name))
#define HAS(name) V12_HAS(v, name)
#define IF(a, b)  (!(a) || (b))
#define ALL(set, rule)                                                                             \
    ({                                                                                             \
        bool all_ = true;                                                                          \
        for (unsigned n = ES; n <= GS; n++)                                                        \
            all_ = all_ && IF((set) >> n & 1, rule);                                               \
        all_;                                                                                      \
    })

// Segment registers, in the order of their fields.
enum { ES, CS, SS, DS, FS, GS, LDTR, TR };
#define SELECTOR(n) v->f[VF_GUEST_ES_SELECTOR + (n)]
#define BASE(n)     v->f[VF_GUEST_ES_BASE + (n)]
#define LIMIT(n)    v->f[VF_GUEST_ES_LIMIT + (n)]
#define RIGHTS(n)   v->f[VF_GUEST_ES_AR + (n)]
#define TYPE(n)     (RIGHTS(n) & 15)
#define DPL(n)      (RIGHTS(n) >> 5 & 3)
#define USABLE(n)   (!(RIGHTS(n) & AR_UNUSABLE))
#define IN_USE(n)   ((n) == CS || USABLE(n))
#define DATA        (1 << ES | 1 << DS | 1 << FS | 1 << GS)
#define CODE_DATA   (DATA | 1 << CS | 1 << SS)

_Static_assert(VF_GUEST_TR_SELECTOR == VF_GUEST_ES_SELECTOR + TR, "order of the selectors");
_Static_assert(VF_GUEST_TR_BASE == VF_GUEST_ES_BASE + TR, "order of the bases");
_Static_assert(VF_GUEST_TR_LIMIT == VF_GUEST_ES_LIMIT + TR, "order of the limits");
_Static_assert(VF_GUEST_TR_AR == VF_GUEST_ES_AR + TR, "order of the access rights");

#define SEL_RPL          3u
#define SEL_TI           4u
#define AR_S             BIT(4)
#define AR_P             BIT(7)
#define AR_RESERVED_LOW  0xf00u
#define AR_L             BIT(13)
#define AR_DB            BIT(14)
#define AR_G             BIT(15)
#define AR_UNUSABLE      BIT(16)
#define AR_RESERVED_HIGH 0xfffe0000u

#define EPTP_AD          BIT(6)
#define EPTP_RESERVED    0xf80u // bit 7: supervisor shadow-stack control, which L1 does not see

#define RFLAGS_RESERVED  (~0x3fffffull | BIT(15) | BIT(5) | BIT(3))

// Interruption information, interruptibility, activity, pending debug exceptions.
#define INTR_INFO_VALID    BIT(31)
#define INTR_INFO_ERROR    BIT(11)
#define INTR_INFO_RESERVED 0x7ffff000u
enum {
    INTR_EXTERNAL,
    INTR_NMI = 2,
    INTR_EXCEPTION,
    INTR_SOFTWARE,
    INTR_PRIVILEGED_SW,
    INTR_SW_EXCEPTION,
    INTR_OTHER
};
enum { ACTIVITY_ACTIVE, ACTIVITY_HLT, ACTIVITY_SHUTDOWN, ACTIVITY_WAIT_SIPI };
#define BLOCK_STI        BIT(0)
#define BLOCK_MOV_SS     BIT(1)
#define BLOCK_SMI        BIT(2)
#define BLOCK_NMI        BIT(3)
#define BLOCK_ENCLAVE    BIT(4)
#define PENDING_ENABLED  BIT(12)
#define PENDING_BS       BIT(14)
#define PENDING_RTM      BIT(16)
#define PENDING_RESERVED (~0x1ffffull | BIT(15) | BIT(13) | 0xff0u)
#define DEBUGCTL_BTF     BIT(1)

static bool in_width(const struct entry_env *e, u64 address)
{
    return !(address >> e->phys_bits);
}

static bool page_ok(const struct entry_env *e, u64 address)
{
    return !(address & (PAGE_SIZE - 1)) && in_width(e, address);
}

static bool canonical(const struct entry_env *e, u64 address)
{
    s64 top = (s64)address >> (e->linear_bits - 1);
    return top == 0 || top == -1;
}

// Weaker than canonical: the highest bit that is part of the address does not count.
static bool upper_bits_same(const struct entry_env *e, u64 address)
{
    s64 top = (s64)address >> e->linear_bits;
    return top == 0 || top == -1;
}

static bool settings_ok(const struct entry_env *e, enum control_word w, u64 value)
{
    const struct control_limits *l = &e->caps->word[w];
    return !(value & ~l->may) && !(l->must & ~value);
}

static bool list_start_ok(const struct entry_env *e, u64 address, u64 count)
{
    return !count || (!(address & 15) && in_width(e, address));
}

static bool list_end_ok(const struct entry_env *e, u64 address, u64 count)
{
    return !count || in_width(e, address + count * 16 - 1);
}

static bool fixed_ok(u64 value, u64 fixed0, u64 fixed1, u64 unchecked)
{
    return !((value & ~fixed1) & ~unchecked) && !((fixed0 & ~value) & ~unchecked);
}

static bool cr0_ok(const struct entry_env *e, u64 value, u64 unchecked)
{
    return fixed_ok(value, e->caps->cr0_fixed0, e->caps->cr0_fixed1, unchecked);
}

static bool cr4_ok(const struct entry_env *e, u64 value)
{
    return fixed_ok(value, e->caps->cr4_fixed0, e->caps->cr4_fixed1 & e->cr4_valid, 0);
}

static bool pat_ok(u64 pat)
{
    for (; pat; pat >>= 8)
        if ((pat & 0xff) > 7 || (pat & 0xff) == 2 || (pat & 0xff) == 3)
            return false;
    return true;
}

static bool eptp_memory_type_ok(const struct entry_env *e, u64 eptp)
{
    u64 type = eptp & 7;
    return (type == 0 && e->caps->ept_vpid & EPT_CAP_UC) ||
           (type == 6 && e->caps->ept_vpid & EPT_CAP_WB);
}

static bool eptp_walk_ok(const struct entry_env *e, u64 eptp)
{
    u64 levels = bits(eptp, 5, 3) + 1;
    return (levels == 4 && e->caps->ept_vpid & EPT_CAP_WALK_4) ||
           (levels == 5 && e->caps->ept_vpid & EPT_CAP_WALK_5);
}

static bool eptp_ad_ok(const struct entry_env *e, u64 eptp)
{
    return !(eptp & EPTP_AD) || e->caps->ept_vpid & EPT_CAP_AD;
}

static bool eptp_reserved_ok(const struct entry_env *e, u64 eptp)
{
    return in_width(e, eptp) && !(eptp & EPTP_RESERVED);
}

bool check_eptp(const struct entry_env *e, u64 eptp)
{
    return eptp_memory_type_ok(e, eptp) && eptp_walk_ok(e, eptp) && eptp_ad_ok(e, eptp) &&
           eptp_reserved_ok(e, eptp);
}

static bool eptp_switching(const struct vmcs12 *v)
{
    return HAS(VMFUNC) && G(VMFUNC_CTRL) & VMFUNC_EPTP_SWITCHING;
}

// VTPR[7:4]. Where L1 has no memory a read returns ones.
static u64 vtpr_class(const struct vmcs12 *v, const struct entry_env *e)
{
    u8 vtpr = 0xff;
    guest_read(e->mem, &vtpr, GPA(G(VIRTUAL_APIC_ADDR) + 0x80), sizeof(vtpr));
    return vtpr >> 4;
}

static bool host_selectors_ok(const struct vmcs12 *v)
{
    u64 all = G(HOST_ES_SELECTOR) | G(HOST_CS_SELECTOR) | G(HOST_SS_SELECTOR) |
              G(HOST_DS_SELECTOR) | G(HOST_FS_SELECTOR) | G(HOST_GS_SELECTOR) | G(HOST_TR_SELECTOR);
    return !(all & (SEL_TI | SEL_RPL));
}

static bool injecting(const struct vmcs12 *v)
{
    return G(ENTRY_INTR_INFO) & INTR_INFO_VALID;
}

static unsigned inject_type(const struct vmcs12 *v)
{
    return G(ENTRY_INTR_INFO) >> 8 & 7;
}

static unsigned inject_vector(const struct vmcs12 *v)
{
    return G(ENTRY_INTR_INFO) & 0xff;
}

static bool injecting_type(const struct vmcs12 *v, unsigned type)
{
    return injecting(v) && inject_type(v) == type;
}

static bool inject_has_error(const struct vmcs12 *v)
{
    return G(ENTRY_INTR_INFO) & INTR_INFO_ERROR;
}

static bool inject_type_ok(const struct vmcs12 *v, const struct entry_env *e)
{
    unsigned type = inject_type(v);
    return type != 1 && (type != INTR_OTHER || CAP_HAS(e->caps, MONITOR_TRAP));
}

static bool inject_vector_ok(const struct vmcs12 *v)
{
    switch (inject_type(v)) {
    case INTR_NMI:
        return inject_vector(v) == VEC_NMI;
    case INTR_EXCEPTION:
        return inject_vector(v) < 32;
    case INTR_OTHER:
        return inject_vector(v) == 0; // pending MTF VM exit
    default:
        return true;
    }
}

// Whether the event has to have an error code. A processor with IA32_VMX_BASIC[56] leaves that open
// for the exceptions of protected mode.
static enum {
    MUST,
    MUST_NOT,
    EITHER
} exception_pushes_error(const struct vmcs12 *v, const struct entry_env *e)
{
    const u32 with_error = 1u << VEC_DF | 1u << VEC_TS | 1u << VEC_NP | 1u << VEC_SS |
                           1u << VEC_GP | 1u << VEC_PF | 1u << VEC_AC;
    if (inject_type(v) != INTR_EXCEPTION || !(G(GUEST_CR0) & CR0_PE))
        return MUST_NOT;
    if (e->caps->basic & BASIC_ANY_ERROR_CODE)
        return EITHER;
    return with_error >> (inject_vector(v) & 31) & 1 ? MUST : MUST_NOT;
}

static bool inject_is_software(const struct vmcs12 *v)
{
    unsigned type = inject_type(v);
    return type == INTR_SOFTWARE || type == INTR_PRIVILEGED_SW || type == INTR_SW_EXCEPTION;
}

static bool inject_length_ok(const struct vmcs12 *v, const struct entry_env *e)
{
    u64 length = G(ENTRY_INSTR_LENGTH);
    return length <= 15 && (length || e->caps->misc & MISC_INJECT_LENGTH_0);
}

static bool v86(const struct vmcs12 *v)
{
    return G(GUEST_RFLAGS) & RFLAGS_VM;
}

static bool guest_64bit(const struct vmcs12 *v)
{
    return HAS(ENTRY_IA32E_GUEST) && RIGHTS(CS) & AR_L;
}

static bool activity_supported(const struct entry_env *e, u64 activity)
{
    return activity == ACTIVITY_ACTIVE ||
           (activity <= ACTIVITY_WAIT_SIPI &&
            e->caps->misc & (MISC_ACTIVITY_HLT << (activity - ACTIVITY_HLT)));
}

static bool activity_allows_event(const struct vmcs12 *v)
{
    unsigned type = inject_type(v), vector = inject_vector(v);
    bool machine_check = type == INTR_EXCEPTION && vector == VEC_MC;
    switch (G(GUEST_ACTIVITY)) {
    case ACTIVITY_ACTIVE:
        return true;
    case ACTIVITY_HLT:
        return type == INTR_EXTERNAL || type == INTR_NMI || type == INTR_OTHER || machine_check ||
               (type == INTR_EXCEPTION && vector == VEC_DB);
    case ACTIVITY_SHUTDOWN:
        return type == INTR_NMI || machine_check;
    default:
        return false;
    }
}

static bool single_stepping(const struct vmcs12 *v)
{
    return G(GUEST_RFLAGS) & RFLAGS_TF && !(G(GUEST_DEBUGCTL) & DEBUGCTL_BTF);
}

static bool debug_trap_pending(const struct vmcs12 *v)
{
    return G(GUEST_INTERRUPTIBILITY) & (BLOCK_STI | BLOCK_MOV_SS) ||
           G(GUEST_ACTIVITY) == ACTIVITY_HLT;
}

static bool has_link(const struct vmcs12 *v)
{
    return G(VMCS_LINK_POINTER) != ~0ull;
}

// The first word of the VMCS region at the link pointer.
static u32 link_word(const struct vmcs12 *v, const struct entry_env *e)
{
    u32 word = ~0u;
    guest_read(e->mem, &word, GPA(G(VMCS_LINK_POINTER)), sizeof(word));
    return word;
}

static bool pae_paging(const struct vmcs12 *v)
{
    return G(GUEST_CR0) & CR0_PG && G(GUEST_CR4) & CR4_PAE && !HAS(ENTRY_IA32E_GUEST);
}

static bool pdptes_ok(const struct entry_env *e, const u64 *pdpte)
{
    const u64 reserved = 0x1e6; // bits 8:5 and 2:1
    for (unsigned i = 0; i < 4; i++)
        if (pdpte[i] & 1 && (pdpte[i] & reserved || !in_width(e, pdpte[i])))
            return false;
    return true;
}

static bool pdptes_in_memory_ok(const struct vmcs12 *v, const struct entry_env *e)
{
    u64 pdpte[4];
    return guest_read(e->mem, pdpte, GPA(G(GUEST_CR3) & 0xffffffe0), sizeof(pdpte)) &&
           pdptes_ok(e, pdpte);
}

// The groups that any row of a section reads.
enum {
#define BEGIN(section)                 reads_##section = 0
#define RULE(name, groups, rule, text) | (groups)
#define END(section)                   ,
#include "vmx/nested/check.def"
#undef BEGIN
#undef RULE
#undef END
};

FORCE_INLINE enum entry_check first_failure(const struct vmcs12 *v, const struct entry_env *e,
                                            u32 groups)
{
#define BEGIN(section) if (groups & (u32)reads_##section) {
#define RULE(name, reads, rule, text)                                                              \
    if (groups & (reads) && UNLIKELY(!(rule)))                                                     \
        return RULE_##name;
#define END(section) }
#include "vmx/nested/check.def"
#undef BEGIN
#undef RULE
#undef END
    return RULE_COUNT;
}

enum section {
#define X(name, title, outcome, number) SECTION_##name,
    ENTRY_SECTIONS(X)
#undef X
};

// `end` is one past the section's last row.
static const struct {
    const char *title;
    enum entry_outcome outcome;
    u32 number;
    enum entry_check end;
} sections[] = {
#define X(name, title, outcome, number) {title, outcome, number, RULE_END_##name},
    ENTRY_SECTIONS(X)
#undef X
};

static const struct {
    const char *name, *text;
} rows[RULE_COUNT] = {
#define BEGIN(section)
#define RULE(name, groups, rule, text) {#name, text},
#define END(section)
#include "vmx/nested/check.def"
#undef BEGIN
#undef RULE
#undef END
};

static unsigned section_of(enum entry_check row)
{
    unsigned s = 0;
    while (row >= sections[s].end)
        s++;
    return s;
}

// What an injected event changes, and what a new CR3 does where L1 keeps shadow page tables, have
// copies of the list in which the compiler leaves the other rows out.
static enum entry_check find_failure(const struct vmcs12 *v, const struct entry_env *e, u32 groups)
{
    u32 others = groups & WITH_OTHERS;
    switch (groups & ~WITH_OTHERS) {
    case EVENT:
        return first_failure(v, e, others | EVENT | MEMORY);
    case CR3:
        return first_failure(v, e, others | CR3 | MEMORY);
    default:
        return first_failure(v, e, groups | MEMORY);
    }
}

struct entry_result check_entry(const struct vmcs12 *v, const struct entry_env *e, u32 groups)
{
    enum entry_check row = find_failure(v, e, groups);
    if (LIKELY(row == RULE_COUNT))
        return (struct entry_result){ENTRY_OK, 0, row};
    unsigned s = section_of(row);
    return (struct entry_result){sections[s].outcome, sections[s].number, row};
}

// One more such copy.
bool check_entry_quick(const struct vmcs12 *v, const struct entry_env *e)
{
    return first_failure(v, e, CHECK_QUICK | MEMORY) == RULE_COUNT;
}

const char *check_name(enum entry_check row)
{
    return rows[row].name;
}

const char *check_text(enum entry_check row)
{
    return rows[row].text;
}

const char *check_section(enum entry_check row)
{
    return sections[section_of(row)].title;
}

#define MSR_BIOS_UPDT_TRIG  0x79
#define MSR_BIOS_SIGN_ID    0x8b
#define MSR_SMM_MONITOR_CTL 0x9b
#define MSR_SMBASE          0x9e
#define MSR_FS_BASE         0xc0000100
#define MSR_GS_BASE         0xc0000101

bool msr_list_entry_ok(enum msr_list list, const struct msr_entry *m)
{
    if (m->reserved || m->index >> 8 == 8) // MSRs of the x2APIC
        return false;
    if (list == MSR_EXIT_STORE)
        return m->index != MSR_SMBASE;
    return m->index != MSR_FS_BASE && m->index != MSR_GS_BASE && m->index != MSR_SMM_MONITOR_CTL &&
           m->index != MSR_BIOS_UPDT_TRIG && m->index != MSR_BIOS_SIGN_ID;
}
