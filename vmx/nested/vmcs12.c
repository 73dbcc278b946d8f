#include "vmx/nested/vmcs12.h"

#include "libc/string.h"

void v12_from_region(struct vmcs12 *v, const struct vmcs12_region *region)
{
    for (unsigned i = 0; i < VF_COUNT; i++)
        v->f[i] = region->f[i] & field_mask(field_at(i));
    v->launched = region->launched != 0;
    v->unchecked = GROUP_ALL;
    v->unmerged = GROUP_ALL;
}

#define BLOCK 8 // of fields that are compared at once

static bool block_unchanged(const u64 *now, const u64 *f)
{
    u64 change = 0;
#pragma GCC unroll 8
    for (unsigned i = 0; i < BLOCK; i++)
        change |= __atomic_load_n(&now[i], __ATOMIC_RELAXED) ^ f[i];
    return !change;
}

bool v12_update(struct vmcs12 *v, const struct vmcs12_region *region)
{
    bool changed = false;
    for (unsigned from = 0; from < VF_COUNT; from += BLOCK) {
        if (from + BLOCK <= VF_COUNT && LIKELY(block_unchanged(&region->f[from], &v->f[from])))
            continue;
        for (unsigned i = from; i < MIN(from + BLOCK, VF_COUNT); i++) {
            u64 now = __atomic_load_n(&region->f[i], __ATOMIC_RELAXED) & field_rules[i].mask;
            changed |= now != v->f[i];
            v12_set(v, field_at(i), now);
        }
    }
    v->launched = region->launched != 0;
    return changed;
}

void v12_to_region(const struct vmcs12 *v, struct vmcs12_region *region)
{
    memcpy(region->f, v->f, sizeof(v->f));
    region->launched = v->launched;
    region->reserved = 0;
}
