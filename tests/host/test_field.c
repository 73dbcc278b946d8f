#include "tests/host/test.h"

#include "vmx/control.h"
#include "vmx/field.h"

static const struct vmx_caps no_caps;

static struct vmx_caps all_caps(void)
{
    struct vmx_caps c = {.misc = MISC_CR3_TARGETS(4), .vmfunc = VMFUNC_EPTP_SWITCHING};
    for (unsigned w = 0; w < WORD_COUNT; w++)
        c.word[w].may = ~0ull;
    return c;
}

// From the manual's appendix, typed again: the table must not have slipped.
TEST(encodings_of_the_manual)
{
    static const struct {
        vmcs_field_t f;
        u16 encoding;
    } known[] = {
        {F(VPID), 0x0000},
        {F(GUEST_ES_SELECTOR), 0x0800},
        {F(GUEST_TR_SELECTOR), 0x080e},
        {F(GUEST_INTR_STATUS), 0x0810},
        {F(PML_INDEX), 0x0812},
        {F(HOST_TR_SELECTOR), 0x0c0c},
        {F(IO_BITMAP_A), 0x2000},
        {F(MSR_BITMAP), 0x2004},
        {F(PML_ADDRESS), 0x200e},
        {F(TSC_OFFSET), 0x2010},
        {F(EPTP), 0x201a},
        {F(EPTP_LIST_ADDR), 0x2024},
        {F(VMREAD_BITMAP), 0x2026},
        {F(XSS_EXITING_BITMAP), 0x202c},
        {F(TSC_MULTIPLIER), 0x2032},
        {F(PROC3_CTRL), 0x2034},
        {F(HLATP), 0x2040},
        {F(EXIT2_CTRL), 0x2044},
        {F(GUEST_PHYSICAL_ADDR), 0x2400},
        {F(VMCS_LINK_POINTER), 0x2800},
        {F(GUEST_PDPTE3), 0x2810},
        {F(GUEST_PKRS), 0x2818},
        {F(HOST_PERF_GLOBAL_CTRL), 0x2c04},
        {F(PIN_CTRL), 0x4000},
        {F(EXIT_CTRL), 0x400c},
        {F(ENTRY_CTRL), 0x4012},
        {F(ENTRY_INTR_INFO), 0x4016},
        {F(PROC2_CTRL), 0x401e},
        {F(EXIT_REASON), 0x4402},
        {F(EXIT_INSTR_INFO), 0x440e},
        {F(GUEST_GDTR_LIMIT), 0x4810},
        {F(GUEST_ES_AR), 0x4814},
        {F(GUEST_INTERRUPTIBILITY), 0x4824},
        {F(PREEMPTION_TIMER), 0x482e},
        {F(HOST_SYSENTER_CS), 0x4c00},
        {F(CR0_MASK), 0x6000},
        {F(CR3_TARGET_3), 0x600e},
        {F(EXIT_QUALIFICATION), 0x6400},
        {F(GUEST_LINEAR_ADDR), 0x640a},
        {F(GUEST_CR0), 0x6800},
        {F(GUEST_DR7), 0x681a},
        {F(GUEST_RSP), 0x681c},
        {F(GUEST_RIP), 0x681e},
        {F(GUEST_RFLAGS), 0x6820},
        {F(GUEST_SYSENTER_EIP), 0x6826},
        {F(HOST_CR0), 0x6c00},
        {F(HOST_RIP), 0x6c16},
        {F(HOST_SSP_TABLE), 0x6c1c},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
        CHECK_EQ(field_encoding(known[i].f), known[i].encoding);
}

// What a linear search of the table says of an encoding.
static int search(u64 encoding, bool *high)
{
    for (unsigned i = 0; i < VF_COUNT; i++) {
        *high = encoding & 1;
        if ((encoding & ~1ull) == vmcs_encoding[i])
            return *high && (encoding >> 13 & 3) != 1 ? -1 : (int)i;
    }
    return -1;
}

TEST(every_encoding)
{
    unsigned found = 0;
    for (u64 enc = 0; enc < 1 << 15; enc++) {
        vmcs_field_t f;
        bool high, want_high;
        int want = search(enc, &want_high);
        int got = field_from_encoding(enc, &f, &high);
        CHECK_EQ(got == 0, want >= 0);
        if (got || want < 0)
            continue;
        found++;
        CHECK_EQ(f.i, want);
        CHECK_EQ(high, want_high);
        CHECK_EQ(field_width(f), enc >> 13 & 3);
        CHECK_EQ(field_type(f), enc >> 10 & 3);
        CHECK_EQ(field_read_only(f), (enc >> 10 & 3) == 1);
    }
    unsigned wide = 0;
    for (unsigned i = 0; i < VF_COUNT; i++)
        wide += field_width(field_at(i)) == WIDTH_64;
    CHECK_EQ(found, VF_COUNT + wide);
}

TEST(reserved_bits_of_an_encoding)
{
    for (u64 enc = 0; enc < 1 << 15; enc++)
        for (unsigned bit = 15; bit < 64; bit++) {
            vmcs_field_t f;
            bool high;
            if (field_from_encoding(enc | BIT(bit), &f, &high) == 0)
                CHECK_EQ(enc | BIT(bit), 0);
        }
}

TEST(table_is_in_order_and_names_are_unique)
{
    for (unsigned i = 0; i < VF_COUNT; i++) {
        CHECK(!(vmcs_encoding[i] & 1));
        CHECK(field_group(field_at(i)) < GROUP_COUNT);
        for (unsigned j = 0; j < i; j++) {
            CHECK(vmcs_encoding[i] != vmcs_encoding[j]);
            CHECK(strcmp(field_name(field_at(i)), field_name(field_at(j))));
        }
        if (i && (vmcs_encoding[i] & 0x6c00) == (vmcs_encoding[i - 1] & 0x6c00))
            CHECK(vmcs_encoding[i] > vmcs_encoding[i - 1]);
    }
    CHECK(!strcmp(field_name(F(GUEST_RIP)), "GUEST_RIP"));
}

TEST(rules_fit_the_type_of_a_field)
{
    for (unsigned i = 0; i < VF_COUNT; i++) {
        vmcs_field_t f = field_at(i);
        CHECK_EQ(field_merge(f) == MERGE_EXIT_INFO, field_type(f) == FIELD_EXIT_INFO);
        CHECK_EQ(field_group(f) == GROUP_NONE,
                 field_type(f) == FIELD_EXIT_INFO || field_same(f, F(HOST_RSP)));
        CHECK_EQ(field_merge(f) == MERGE_HOST, field_type(f) == FIELD_HOST);
        CHECK_EQ(field_group(f) == GROUP_HOST,
                 field_type(f) == FIELD_HOST && !field_same(f, F(HOST_RSP)));
    }
}

static unsigned fields_of(const struct vmx_caps *c)
{
    unsigned n = 0;
    for (unsigned i = 0; i < VF_COUNT; i++)
        n += field_exists(field_at(i), c);
    return n;
}

TEST(existence_follows_the_controls)
{
    struct vmx_caps all = all_caps();
    CHECK_EQ(fields_of(&all), VF_COUNT);
    CHECK(field_exists(F(GUEST_RIP), &no_caps));
    CHECK(field_exists(F(IO_BITMAP_A), &no_caps));
    CHECK(!field_exists(F(EPTP), &no_caps));

    static const struct {
        vmcs_field_t f;
        enum control_word w;
        u64 bits;
    } need[] = {
        {F(VPID), WORD_PROC2, CTL_VPID},
        {F(EPTP), WORD_PROC2, CTL_EPT},
        {F(GUEST_PDPTE0), WORD_PROC2, CTL_EPT},
        {F(GUEST_PHYSICAL_ADDR), WORD_PROC2, CTL_EPT},
        {F(MSR_BITMAP), WORD_PROC, CTL_MSR_BITMAPS},
        {F(TPR_THRESHOLD), WORD_PROC, CTL_TPR_SHADOW},
        {F(VIRTUAL_APIC_ADDR), WORD_PROC, CTL_TPR_SHADOW},
        {F(APIC_ACCESS_ADDR), WORD_PROC2, CTL_VIRTUALIZE_APIC},
        {F(PROC2_CTRL), WORD_PROC, CTL_SECONDARY},
        {F(PREEMPTION_TIMER), WORD_PIN, CTL_PREEMPTION_TIMER},
        {F(POSTED_INTR_VECTOR), WORD_PIN, CTL_POSTED_INTERRUPTS},
        {F(GUEST_INTR_STATUS), WORD_PROC2, CTL_VIRTUAL_INTR_DELIVERY},
        {F(PML_INDEX), WORD_PROC2, CTL_PML},
        {F(VMREAD_BITMAP), WORD_PROC2, CTL_VMCS_SHADOWING},
        {F(TSC_MULTIPLIER), WORD_PROC2, CTL_TSC_SCALING},
        {F(HOST_EFER), WORD_EXIT, CTL_EXIT_LOAD_EFER},
        {F(GUEST_PKRS), WORD_ENTRY, CTL_ENTRY_LOAD_PKRS},
        {F(GUEST_SSP), WORD_ENTRY, CTL_ENTRY_LOAD_CET},
        {F(HLATP), WORD_PROC3, CTL_HLAT},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(need); i++) {
        struct vmx_caps c = all;
        c.word[need[i].w].may &= ~need[i].bits;
        CHECK(!field_exists(need[i].f, &c));
        c = no_caps;
        c.word[need[i].w].may = need[i].bits;
        CHECK(field_exists(need[i].f, &c));
    }
}

TEST(either_control_gives_a_guest_msr_field)
{
    struct vmx_caps save = {0}, load = {0};
    save.word[WORD_EXIT].may = CTL_EXIT_SAVE_PAT | CTL_EXIT_SAVE_EFER;
    load.word[WORD_ENTRY].may = CTL_ENTRY_LOAD_PAT | CTL_ENTRY_LOAD_EFER;
    CHECK(field_exists(F(GUEST_PAT), &save) && field_exists(F(GUEST_EFER), &save));
    CHECK(field_exists(F(GUEST_PAT), &load) && field_exists(F(GUEST_EFER), &load));
    CHECK(!field_exists(F(GUEST_PAT), &no_caps) && !field_exists(F(GUEST_EFER), &no_caps));
}

TEST(cr3_targets_exist_as_counted)
{
    for (unsigned n = 0; n <= 4; n++) {
        struct vmx_caps c = {.misc = MISC_CR3_TARGETS(n)};
        for (unsigned i = 0; i < 4; i++)
            CHECK_EQ(field_exists(field_at(VF_CR3_TARGET_0 + i), &c), i < n);
    }
}

TEST(highest_index)
{
    struct vmx_caps c = all_caps();
    CHECK_EQ(field_vmcs_enum(&c), 0x52); // injected-event data
    c.word[WORD_ENTRY].may = 0;
    CHECK_EQ(field_vmcs_enum(&c), 0x4c);       // IA32_SPEC_CTRL shadow
    CHECK_EQ(field_vmcs_enum(&no_caps), 0x2a); // guest IA32_SYSENTER_CS
    c = no_caps;
    c.word[WORD_PIN].may = CTL_PREEMPTION_TIMER;
    CHECK_EQ(field_vmcs_enum(&c), 0x2e);
}

TEST(parts_of_a_field)
{
    const u64 v = 0x1122334455667788;
    CHECK_EQ(field_part(F(GUEST_RIP), false, true, v), v);
    CHECK_EQ(field_part(F(GUEST_RIP), false, false, v), 0x55667788);
    CHECK_EQ(field_part(F(EPTP), false, true, v), v);
    CHECK_EQ(field_part(F(EPTP), false, false, v), 0x55667788);
    CHECK_EQ(field_part(F(EPTP), true, true, v), 0x11223344);
    CHECK_EQ(field_part(F(EPTP), true, false, v), 0x11223344);
    CHECK_EQ(field_part(F(PIN_CTRL), false, true, v), 0x55667788);
    CHECK_EQ(field_part(F(GUEST_CS_SELECTOR), false, true, v), 0x7788);
}

TEST(updates_of_a_field)
{
    const u64 old = 0xaaaaaaaabbbbbbbb, v = 0x1122334455667788;
    CHECK_EQ(field_update(F(GUEST_RIP), false, true, old, v), v);
    CHECK_EQ(field_update(F(GUEST_RIP), false, false, old, v), 0x55667788); // upper half cleared
    CHECK_EQ(field_update(F(EPTP), false, true, old, v), v);
    CHECK_EQ(field_update(F(EPTP), false, false, old, v), 0x55667788);
    CHECK_EQ(field_update(F(EPTP), true, true, old, v), 0x55667788bbbbbbbb);
    CHECK_EQ(field_update(F(EPTP), true, false, old, v), 0x55667788bbbbbbbb);
    CHECK_EQ(field_update(F(PIN_CTRL), false, true, old, v), 0x55667788);
    CHECK_EQ(field_update(F(GUEST_CS_SELECTOR), false, true, old, v), 0x7788);
}
