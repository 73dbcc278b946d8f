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

static bool depends(const struct world *w, unsigned row, vmcs_field_t f)
{
    const u64 old = w->v.f[f.i];
    const u64 tries[] = {0, ~0ull, ~old, old ^ CTL_SECONDARY, old ^ 0x2a3, old ^ BIT(17), 1, 11};
    bool before = rules[row].holds(&w->v, &w->env), found = false;
    struct vmcs12 v = w->v;
    for (unsigned i = 0; i < ARRAY_SIZE(tries); i++) {
        v12_save(&v, f, tries[i]);
        found = found || rules[row].holds(&v, &w->env) != before;
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
            if (!(seen[row] & group) && depends(w, row, field_at(i)))
                seen[row] |= group;
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
