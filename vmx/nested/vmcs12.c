#include "vmx/nested/vmcs12.h"

#include "libc/string.h"

void v12_from_region(struct vmcs12 *v, const struct vmcs12_region *region)
{
#pragma GCC unroll 8
    for (unsigned i = 0; i < VF_COUNT; i++)
        v->f[i] = __atomic_load_n(&region->f[i], __ATOMIC_RELAXED) & field_rules[i].mask;
    v->launched = region->launched != 0;
    v->unchecked = GROUP_ALL;
    v->unmerged = GROUP_ALL;
}

// Takes the fields over as L1's VMWRITEs would. False: only bits differ that they do not have.
static NOINLINE bool write_fields(struct vmcs12 *v, const struct vmcs12_region *region)
{
    u64 change = 0;
    for (unsigned i = 0; i < VF_COUNT; i++) {
        u64 now = __atomic_load_n(&region->f[i], __ATOMIC_RELAXED) & field_rules[i].mask;
        change |= now ^ v->f[i];
        v12_set(v, field_at(i), now);
    }
    return change;
}

bool v12_update(struct vmcs12 *v, const struct vmcs12_region *region)
{
    u64 change = 0;
#pragma GCC unroll 8
    for (unsigned i = 0; i < VF_COUNT; i++)
        change |= __atomic_load_n(&region->f[i], __ATOMIC_RELAXED) ^ v->f[i];
    v->launched = region->launched != 0;
    return UNLIKELY(change) && write_fields(v, region);
}

void v12_to_region(const struct vmcs12 *v, struct vmcs12_region *region)
{
    memcpy(region->f, v->f, sizeof(v->f));
    region->launched = v->launched;
    region->reserved = 0;
}
