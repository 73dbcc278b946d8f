// Each row of the entry checks: a vmcs12 that passes all of them although the row's condition
// holds, and one change that makes exactly this row fail.

#include "tests/host/test.h"

#include "tests/host/check_cases.h"

TEST(every_row_has_a_case)
{
    for (unsigned row = 0; row < RULE_COUNT; row++)
        if (!cases[row].good) {
            printf("no case for %s\n", check_name(row));
            CHECK(cases[row].good);
        }
}

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
        if (!cases[row].good)
            continue;
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
