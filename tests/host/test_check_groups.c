// A row of the entry checks is evaluated only when a group that it names changed: so it must not
// read a field of another group. The rows are taken from check.c itself.

#include "tests/host/test.h"

#include "tests/host/check_cases.h"
#include "vmx/nested/check.c"

#define BEGIN(section)
#define END(section)
#define RULE(name, groups, rule, text)                                                             \
    static bool holds_##name(const struct vmcs12 *v, const struct entry_env *e)                    \
    {                                                                                              \
        (void)v, (void)e;                                                                          \
        return rule;                                                                               \
    }
#include "vmx/nested/check.def"
#undef RULE

static const struct {
    bool (*holds)(const struct vmcs12 *v, const struct entry_env *e);
    u32 groups;
} rules[RULE_COUNT] = {
#define RULE(name, groups, rule, text) {holds_##name, groups},
#include "vmx/nested/check.def"
#undef RULE
};
#undef BEGIN
#undef END

// The groups that a VMWRITE marks, when the result of the row depends on the field: the field's
// own, unless the row names another one that is marked as well (RFLAGS.VM also marks the segments).
static u32 depends(const struct world *w, unsigned row, vmcs_field_t f)
{
    const u64 old = w->v.f[f.i];
    const u64 tries[] = {0, ~0ull, ~old, old ^ CTL_SECONDARY, old ^ 0x2a3, old ^ BIT(17), 1, 11};
    const u32 own = 1u << field_group(f);
    bool before = rules[row].holds(&w->v, &w->env);
    u32 found = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(tries); i++) {
        struct vmcs12 v = w->v;
        v.unchecked = 0;
        v12_set(&v, f, tries[i]);
        u32 others = v.unchecked & ~own & rules[row].groups;
        if (rules[row].holds(&v, &w->env) != before)
            found |= others ? others : own;
    }
    return found;
}

// The world of a case: good; bad; bad with controls besides that change what other rows look at.
enum variant { GOOD, BAD, WIDE, VARIANTS };

static void build(struct world *w, unsigned c, enum variant variant)
{
    world_init(w);
    cases[c].good(w);
    if (variant != GOOD)
        cases[c].bad(w);
    if (variant == WIDE)
        proc2(w, CTL_EPT | CTL_UNRESTRICTED | CTL_VMCS_SHADOWING);
}

// What the rows depend on, in all these worlds: groups by row.
static u32 seen[RULE_COUNT];

static void look(const struct world *w)
{
    for (unsigned i = 0; i < VF_COUNT; i++)
        for (unsigned row = 0; row < RULE_COUNT; row++) {
            u32 group = 1u << field_group(field_at(i));
            if (!(seen[row] & group))
                seen[row] |= depends(w, row, field_at(i));
        }
}

TEST(a_row_names_exactly_the_groups_that_it_reads)
{
    for (unsigned c = 0; c < RULE_COUNT; c++)
        for (unsigned variant = GOOD; variant < VARIANTS; variant++) {
            struct world w;
            build(&w, c, variant);
            look(&w);
            world_fini(&w);
        }
    for (unsigned row = 0; row < RULE_COUNT; row++) {
        if (seen[row] != (rules[row].groups & ~MEMORY))
            printf("%s\n", check_name(row));
        CHECK_EQ(seen[row], rules[row].groups & ~MEMORY);
    }
}
