// Each row of the entry checks: a vmcs12 that passes all of them although the row's condition
// holds, and one change that makes exactly this row fail.

#include "tests/host/test.h"

#include "tests/host/check_cases.h"

TEST(base_passes)
{
    struct world w;
    world_init(&w);
    struct entry_result r = check_entry(&w.v, &w.env, GROUP_ALL);
    CHECK_EQ(r.outcome, ENTRY_OK);
    world_fini(&w);
}

static void expect(const struct entry_result *r, unsigned row, const char *what)
{
    if (r->row == row)
        return;
    printf("%s, case %s: row %s\n", what, row == RULE_COUNT ? "none" : check_name(row),
           r->row == RULE_COUNT ? "none" : check_name(r->row));
    CHECK_EQ(r->row, row);
}

TEST(each_row_passes_and_fails)
{
    for (unsigned row = 0; row < RULE_COUNT; row++) {
        struct world w;
        world_init(&w);
        cases[row].good(&w);
        struct entry_result r = check_entry(&w.v, &w.env, GROUP_ALL);
        if (r.row != RULE_COUNT)
            printf("the good vmcs12 for %s fails at %s\n", check_name(row), check_name(r.row));
        CHECK_EQ(r.outcome, ENTRY_OK);
        w.v.unchecked = 0;
        cases[row].bad(&w);
        r = check_entry(&w.v, &w.env, GROUP_ALL);
        expect(&r, row, "all groups");
        // The change alone leads to the row, unless it is not one of vmcs12 or of memory.
        bool env =
            row == RULE_EPTP_AD || row == RULE_BLOCK_NMI_STI || row == RULE_DEBUG_RTM_SUPPORT;
        if (!env) {
            r = check_entry(&w.v, &w.env, w.v.unchecked);
            expect(&r, row, "changed groups");
        }
        world_fini(&w);
    }
}

TEST(outcome_of_a_section)
{
    static const struct {
        enum entry_check row;
        enum entry_outcome outcome;
        u32 number;
    } want[] = {
        {RULE_PIN_SETTINGS, ENTRY_VMFAIL, 7},      {RULE_EXIT_SETTINGS, ENTRY_VMFAIL, 7},
        {RULE_ENTRY_LOAD_LIST, ENTRY_VMFAIL, 7},   {RULE_HOST_CR0, ENTRY_VMFAIL, 8},
        {RULE_HOST_BASES, ENTRY_VMFAIL, 8},        {RULE_SIZE_64_RIP, ENTRY_VMFAIL, 8},
        {RULE_GUEST_CR0, ENTRY_FAILURE, 0},        {RULE_LDTR_TYPE, ENTRY_FAILURE, 0},
        {RULE_BLOCK_NMI_MOV_SS, ENTRY_FAILURE, 0}, {RULE_BLOCK_NMI_STI, ENTRY_FAILURE, 3},
        {RULE_BLOCK_ENCLAVE, ENTRY_FAILURE, 0},    {RULE_LINK_CURRENT, ENTRY_FAILURE, 4},
        {RULE_PDPTE_FIELDS, ENTRY_FAILURE, 2},     {RULE_PDPTE_MEMORY, ENTRY_FAILURE, 2},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
        struct world w;
        world_init(&w);
        cases[want[i].row].good(&w);
        cases[want[i].row].bad(&w);
        struct entry_result r = check_entry(&w.v, &w.env, GROUP_ALL);
        CHECK_EQ(r.outcome, want[i].outcome);
        CHECK_EQ(r.number, want[i].number);
        world_fini(&w);
    }
}

// One world, one change, the row that it leads to (RULE_COUNT: none).
#define EXPECT(want_row, setup)                                                                    \
    do {                                                                                           \
        struct world world_, *w = &world_;                                                         \
        world_init(w);                                                                             \
        setup;                                                                                     \
        struct entry_result r = check_entry(&w->v, &w->env, GROUP_ALL);                            \
        if (r.row != (want_row))                                                                   \
            printf("%s:%d: failed row is %s\n", __FILE__, __LINE__,                                \
                   r.row == RULE_COUNT ? "none" : check_name(r.row));                              \
        CHECK_EQ(r.row, want_row);                                                                 \
        world_fini(w);                                                                             \
    } while (0)

TEST(modes_of_a_guest)
{
    EXPECT(RULE_COUNT, guest32(w));
    EXPECT(RULE_COUNT, guest_v86(w));
    EXPECT(RULE_COUNT, real_mode(w));
    EXPECT(RULE_COUNT, (pae(w), ept(w)));
    EXPECT(RULE_COUNT, host32(w));
    EXPECT(RULE_COUNT, ring3(w));
    EXPECT(RULE_GUEST_CR0, (real_mode(w), NOT(PROC2_CTRL, CTL_UNRESTRICTED)));
}

TEST(injection)
{
    EXPECT(RULE_INJECT_TYPE,
           (inject(w, OTHER, 0), w->caps.word[WORD_PROC].may &= ~CTL_MONITOR_TRAP));
    EXPECT(RULE_INJECT_VECTOR, inject(w, OTHER, 1));
    EXPECT(RULE_INJECT_VECTOR, inject(w, NMI, 3));
    EXPECT(RULE_INJECT_LENGTH, (inject(w, SOFT_EXCEPTION, 3), SET(ENTRY_INSTR_LENGTH, 0)));
    EXPECT(RULE_COUNT, (inject(w, PRIVILEGED, 1), w->caps.misc |= MISC_INJECT_LENGTH_0));
    EXPECT(RULE_COUNT, (inject(w, NMI, 2), SET(ENTRY_INSTR_LENGTH, 99)));
    for (unsigned vector = 0; vector < 32; vector++) {
        bool pushes = 0x27d00u >> vector & 1; // #DF, #TS to #PF, #AC
        EXPECT(pushes ? RULE_INJECT_ERROR_NEEDED : RULE_COUNT, inject(w, EXCEPTION, vector));
        EXPECT(pushes ? RULE_COUNT : RULE_INJECT_ERROR_ALLOWED,
               (inject(w, EXCEPTION, vector), OR(ENTRY_INTR_INFO, BIT(11))));
        EXPECT(RULE_COUNT, (inject(w, EXCEPTION, vector), w->caps.basic |= BASIC_ANY_ERROR_CODE));
        EXPECT(RULE_COUNT, (inject(w, EXCEPTION, vector), OR(ENTRY_INTR_INFO, BIT(11)),
                            w->caps.basic |= BASIC_ANY_ERROR_CODE));
        EXPECT(RULE_COUNT, (real_mode(w), inject(w, EXCEPTION, vector)));
        EXPECT(RULE_INJECT_ERROR_ALLOWED,
               (real_mode(w), inject(w, EXCEPTION, vector), OR(ENTRY_INTR_INFO, BIT(11))));
    }
    // An invalid field is not looked at.
    EXPECT(RULE_COUNT,
           (inject(w, 1, 255), NOT(ENTRY_INTR_INFO, BIT(31)), SET(ENTRY_ERROR_CODE, ~0u)));
}

TEST(activity_states)
{
    for (unsigned type = 0; type < 8; type++)
        for (unsigned vector = 0; vector < 32; vector++)
            for (unsigned state = 0; state < 4; state++) {
                bool mc = type == EXCEPTION && vector == VEC_MC;
                bool hlt = type == EXTERNAL || type == NMI || type == OTHER || mc ||
                           (type == EXCEPTION && vector == VEC_DB);
                bool allowed =
                    state == 0 || (state == 1 && hlt) || (state == 2 && (type == NMI || mc));
                if (type == 1 || (type == NMI && vector != 2) || (type == OTHER && vector))
                    continue;
                EXPECT(allowed ? RULE_COUNT : RULE_ACTIVITY_EVENT,
                       (inject(w, type, vector), SET(GUEST_ACTIVITY, state),
                        OR(GUEST_RFLAGS, RFLAGS_IF), SET(ENTRY_INSTR_LENGTH, 1),
                        w->caps.basic |= BASIC_ANY_ERROR_CODE));
            }
    EXPECT(RULE_ACTIVITY_SUPPORTED,
           (SET(GUEST_ACTIVITY, 2), w->caps.misc &= ~MISC_ACTIVITY_SHUTDOWN));
    EXPECT(RULE_ACTIVITY_SUPPORTED, SET(GUEST_ACTIVITY, ~0u));
}

// Rules over several fields: each of them counts.
TEST(every_field_of_a_rule)
{
    static const u8 selectors[] = {VF_HOST_ES_SELECTOR, VF_HOST_CS_SELECTOR, VF_HOST_SS_SELECTOR,
                                   VF_HOST_DS_SELECTOR, VF_HOST_FS_SELECTOR, VF_HOST_GS_SELECTOR,
                                   VF_HOST_TR_SELECTOR};
    static const u8 bases[] = {VF_HOST_FS_BASE, VF_HOST_GS_BASE, VF_HOST_GDTR_BASE,
                               VF_HOST_IDTR_BASE, VF_HOST_TR_BASE};
    for (unsigned i = 0; i < ARRAY_SIZE(selectors); i++)
        for (unsigned bit = 0; bit < 3; bit++)
            EXPECT(RULE_HOST_SELECTORS, w->v.f[selectors[i]] |= BIT(bit));
    for (unsigned i = 0; i < ARRAY_SIZE(bases); i++)
        EXPECT(RULE_HOST_BASES, w->v.f[bases[i]] = BIT(47));
    EXPECT(RULE_HOST_CS_TR, SET(HOST_CS_SELECTOR, 0));
    EXPECT(RULE_HOST_SYSENTER, SET(HOST_SYSENTER_ESP, BIT(47)));
    EXPECT(RULE_GUEST_SYSENTER, SET(GUEST_SYSENTER_EIP, BIT(47)));
    EXPECT(RULE_IO_BITMAPS, (OR(PROC_CTRL, CTL_IO_BITMAPS), SET(IO_BITMAP_A, 1)));
    EXPECT(RULE_SHADOW_BITMAPS, (proc2(w, CTL_VMCS_SHADOWING), SET(VMREAD_BITMAP, 1)));
    EXPECT(RULE_TABLE_BASE, SET(GUEST_GDTR_BASE, BIT(47)));
    EXPECT(RULE_TABLE_LIMIT, SET(GUEST_IDTR_LIMIT, 0x10000));
    EXPECT(RULE_BASE_CANONICAL, SET(GUEST_TR_BASE, BIT(47)));
    EXPECT(RULE_BASE_CANONICAL, SET(GUEST_FS_BASE, BIT(47)));
    for (unsigned i = 0; i < 4; i++)
        EXPECT(RULE_PDPTE_FIELDS, (pae(w), ept(w), w->v.f[VF_GUEST_PDPTE0 + i] = 3));
}

// ES, CS, SS, DS, FS, GS: each rule about all of them holds for each.
TEST(every_segment_of_a_rule)
{
    enum { ES_, CS_, SS_, DS_, FS_, GS_ };
    for (unsigned n = ES_; n <= GS_; n++) {
        vmcs_field_t ar = field_at(VF_GUEST_ES_AR + n), limit = field_at(VF_GUEST_ES_LIMIT + n);
        vmcs_field_t base = field_at(VF_GUEST_ES_BASE + n);
        EXPECT(RULE_SEGMENT_S, w->v.f[ar.i] &= ~BIT(4));
        EXPECT(RULE_SEGMENT_PRESENT, w->v.f[ar.i] &= ~BIT(7));
        for (unsigned bit = 8; bit < 12; bit++)
            EXPECT(RULE_SEGMENT_RESERVED_LOW, w->v.f[ar.i] |= BIT(bit));
        for (unsigned bit = 17; bit < 32; bit++)
            EXPECT(RULE_SEGMENT_RESERVED_HIGH, w->v.f[ar.i] |= BIT(bit));
        EXPECT(RULE_SEGMENT_G_CLEAR, w->v.f[limit.i] = 0xfffff7ff);
        EXPECT(RULE_SEGMENT_G_SET, w->v.f[ar.i] &= ~BIT(15));
        EXPECT(RULE_V86_BASE, (guest_v86(w), w->v.f[base.i] += 16));
        EXPECT(RULE_V86_LIMIT, (guest_v86(w), w->v.f[limit.i] = 0xfffe));
        EXPECT(RULE_V86_RIGHTS, (guest_v86(w), w->v.f[ar.i] = 0xf1));
        if (n == CS_)
            EXPECT(RULE_CS_TYPE, w->v.f[ar.i] = 0x1a09a); // CS is in use even if "unusable"
        else                                              // unusable: anything goes
            EXPECT(RULE_COUNT, w->v.f[ar.i] = 0xfff1ff0f & ~(3u << 5));
        if (n == ES_ || n == DS_ || n == FS_ || n == GS_) {
            EXPECT(RULE_DATA_ACCESSED, w->v.f[ar.i] &= ~1ull);
            EXPECT(RULE_DATA_READABLE, w->v.f[ar.i] = 0xc099);
            EXPECT(RULE_DATA_DPL, w->v.f[VF_GUEST_ES_SELECTOR + n] = 1);
        }
        if (n == ES_ || n == SS_ || n == DS_)
            EXPECT(RULE_DATA_BASE, w->v.f[base.i] = BIT(32));
    }
    for (unsigned type = 0; type < 16; type++) {
        EXPECT(type == 9 || type == 11 || type == 13 || type == 15 ? RULE_COUNT : RULE_CS_TYPE,
               SET(GUEST_CS_AR, 0xa090 | type));
        EXPECT(type == 3 || type == 7 ? RULE_COUNT : RULE_SS_TYPE, SET(GUEST_SS_AR, 0xc090 | type));
        EXPECT(type == 11 ? RULE_COUNT : RULE_TR_TYPE, SET(GUEST_TR_AR, 0x80 | type));
        EXPECT(type == 3 || type == 11 ? RULE_COUNT : RULE_TR_TYPE,
               (guest32(w), SET(GUEST_TR_AR, 0x80 | type)));
    }
}

TEST(ept_pointers)
{
    struct world w;
    world_init(&w);
    for (unsigned walk = 0; walk < 8; walk++)
        for (unsigned type = 0; type < 8; type++)
            CHECK_EQ(check_eptp(&w.env, 0x5000 | walk << 3 | type), walk == 3 && type == 6);
    const u64 good = 0x5000 | 3 << 3 | 6;
    for (unsigned bit = 6; bit < 64; bit++)
        CHECK_EQ(check_eptp(&w.env, good | BIT(bit)), bit == 6 || (bit >= 12 && bit < 40));
    w.caps.ept_vpid = EPT_CAP_UC | EPT_CAP_WALK_5;
    CHECK(check_eptp(&w.env, 0x5000 | 4 << 3 | 0));
    CHECK(!check_eptp(&w.env, 0x5000 | 3 << 3 | 0));
    CHECK(!check_eptp(&w.env, 0x5000 | 4 << 3 | 6));
    CHECK(!check_eptp(&w.env, 0x5000 | 4 << 3 | BIT(6)));
    world_fini(&w);
}

TEST(conditions_of_a_rule)
{
    for (unsigned type = 0; type < 256; type++) {
        bool ok = type == 0 || type == 1 || (type >= 4 && type <= 7);
        EXPECT(ok ? RULE_COUNT : RULE_HOST_PAT,
               (OR(EXIT_CTRL, CTL_EXIT_LOAD_PAT), SET(HOST_PAT, (u64)type << 16)));
    }
    EXPECT(RULE_GUEST_CR4, (OR(GUEST_CR4, CR4_SMEP), w->env.cr4_valid &= ~CR4_SMEP)); // CPUID
    EXPECT(RULE_COUNT, SET(VMFUNC_CTRL, ~0ull));                        // VM functions are off
    EXPECT(RULE_COUNT, (proc2(w, CTL_VMFUNC), SET(EPTP_LIST_ADDR, 1))); // EPTP switching is off
    EXPECT(RULE_RIP_32, (SET(GUEST_CS_AR, 0xc09b)));                    // compatibility mode
    EXPECT(RULE_COUNT, (SET(GUEST_CS_AR, 0xc09b), SET(GUEST_RIP, 0xffffffff)));
    EXPECT(RULE_RIP_32, (guest32(w), SET(GUEST_CS_AR, 0xa09b), SET(GUEST_RIP, ~0ull)));
    EXPECT(RULE_COUNT, (guest32(w), SET(GUEST_PDPTE0, 3), ept(w))); // no PAE paging
    EXPECT(RULE_COUNT, (pae(w), unrestricted(w), NOT(GUEST_CR0, CR0_PG), SET(GUEST_PDPTE0, 3)));
    EXPECT(RULE_COUNT, SET(GUEST_PENDING_DEBUG, BIT(14))); // not blocked, not halted
    EXPECT(RULE_COUNT, OR(GUEST_RFLAGS, RFLAGS_TF));
    EXPECT(RULE_DEBUG_BS_CLEAR, (SET(GUEST_ACTIVITY, 1), SET(GUEST_PENDING_DEBUG, BIT(14))));
}

TEST(memory_that_is_not_there)
{
    EXPECT(RULE_COUNT, (tpr_shadow(w), SET(VIRTUAL_APIC_ADDR, BASE_RAM), SET(TPR_THRESHOLD, 15)));
    EXPECT(RULE_LINK_REVISION, SET(VMCS_LINK_POINTER, BASE_RAM));
    EXPECT(RULE_PDPTE_MEMORY, (pae(w), SET(GUEST_CR3, BASE_RAM)));
}

TEST(msr_lists)
{
    static const u32 load_refused[] = {0xc0000100, 0xc0000101, 0x800, 0x83f,
                                       0x8ff,      0x9b,       0x79,  0x8b};
    for (unsigned i = 0; i < ARRAY_SIZE(load_refused); i++) {
        struct msr_entry m = {.index = load_refused[i]};
        CHECK(!msr_list_entry_ok(MSR_ENTRY_LOAD, &m));
        CHECK(!msr_list_entry_ok(MSR_EXIT_LOAD, &m));
    }
    struct msr_entry smbase = {.index = 0x9e}, efer = {.index = 0xc0000080},
                     x2apic = {.index = 0x802};
    struct msr_entry fs = {.index = 0xc0000100}, dirty = {.index = 0x10, .reserved = 1};
    CHECK(!msr_list_entry_ok(MSR_EXIT_STORE, &smbase));
    CHECK(!msr_list_entry_ok(MSR_EXIT_STORE, &x2apic));
    CHECK(msr_list_entry_ok(MSR_EXIT_STORE, &fs));
    for (unsigned list = MSR_ENTRY_LOAD; list <= MSR_EXIT_STORE; list++) {
        CHECK(msr_list_entry_ok(list, &efer));
        CHECK(!msr_list_entry_ok(list, &dirty));
    }
}

TEST(clean_groups_are_not_checked)
{
    struct world w;
    world_init(&w);
    v12_save(&w.v, F(GUEST_RIP), BIT(62));
    v12_save(&w.v, F(HOST_CR3), BIT(62));
    CHECK_EQ(check_entry(&w.v, &w.env, 0).outcome, ENTRY_OK);
    CHECK_EQ(check_entry(&w.v, &w.env, GROUP(RIP)).row, RULE_RIP_64);
    CHECK(!check_entry_quick(&w.v, &w.env));
    CHECK_EQ(check_entry(&w.v, &w.env, GROUP(RIP) | GROUP(HOST)).row, RULE_HOST_CR3);
    v12_save(&w.v, F(GUEST_RIP), 0);
    CHECK(check_entry_quick(&w.v, &w.env));
    v12_save(&w.v, F(PROC_CTRL), v12_get(&w.v, F(PROC_CTRL)) | CTL_TPR_SHADOW);
    v12_save(&w.v, F(TPR_THRESHOLD), 16);
    CHECK_EQ(check_entry(&w.v, &w.env, GROUP(TPR)).row, RULE_TPR_THRESHOLD);
    CHECK(!check_entry_quick(&w.v, &w.env));
    world_fini(&w);
}

TEST(texts)
{
    CHECK(!strcmp(check_section(RULE_PIN_SETTINGS), "VM-Execution Control Fields"));
    CHECK(!strcmp(check_section(RULE_LINK_CURRENT), "VMCS Link Pointer"));
    CHECK(!strcmp(check_name(RULE_PDPTE_MEMORY), "PDPTE_MEMORY"));
    for (unsigned i = 0; i < RULE_COUNT; i++)
        CHECK(strlen(check_text(i)) > 3);
}

TEST(region)
{
    struct vmcs12 a, b;
    struct vmcs12_region r = {.revision = NESTED_VMCS_REVISION, .abort = 5};
    base_vmcs12(&a);
    a.launched = true;
    v12_to_region(&a, &r);
    CHECK_EQ(r.revision, NESTED_VMCS_REVISION);
    CHECK_EQ(r.abort, 5);
    v12_from_region(&b, &r);
    CHECK(!memcmp(a.f, b.f, sizeof(a.f)) && b.launched);
    CHECK_EQ(b.unchecked, GROUP_ALL);
    memset(&r, 0xff, sizeof(r)); // a hostile page
    v12_from_region(&b, &r);
    for (unsigned i = 0; i < VF_COUNT; i++)
        CHECK_EQ(b.f[i], field_mask(field_at(i)));
}

TEST(update_sees_each_field)
{
    struct vmcs12 v;
    struct vmcs12_region r = {.revision = NESTED_VMCS_REVISION};
    base_vmcs12(&v);
    for (unsigned i = 0; i < VF_COUNT; i++) {
        v12_to_region(&v, &r);
        v.unchecked = v.unmerged = 0;
        CHECK(!v12_update(&v, &r));
        r.f[i] ^= field_mask(field_at(i)) + 1; // beyond the field's width, or nothing
        CHECK(!v12_update(&v, &r));
        CHECK_EQ(v.unchecked | v.unmerged, 0);
        r.f[i] ^= 1;
        CHECK(v12_update(&v, &r));
        CHECK_EQ(v.unmerged, field_rules[i].groups);
        CHECK_EQ(v.f[i], r.f[i] & field_mask(field_at(i)));
    }
}

TEST(only_a_change_is_dirty)
{
    struct vmcs12 v;
    base_vmcs12(&v);
    v.unchecked = v.unmerged = 0;
    v12_set(&v, F(GUEST_RIP), v12_get(&v, F(GUEST_RIP)));
    CHECK_EQ(v.unchecked | v.unmerged, 0);
    v12_set(&v, F(GUEST_RIP), 5);
    CHECK_EQ(v.unchecked, GROUP(RIP));
    CHECK_EQ(v.unmerged, GROUP(RIP));
    v12_save(&v, F(GUEST_CS_SELECTOR), 0x12345678);
    CHECK_EQ(v12_get(&v, F(GUEST_CS_SELECTOR)), 0x5678);
    CHECK_EQ(v.unchecked, GROUP(RIP));
}
