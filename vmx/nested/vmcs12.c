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

void v12_update(struct vmcs12 *v, const struct vmcs12_region *region)
{
    for (unsigned i = 0; i < VF_COUNT; i++) {
        u64 value = __atomic_load_n(&region->f[i], __ATOMIC_RELAXED);
        if (UNLIKELY(value != v->f[i]))
            v12_set(v, field_at(i), value);
    }
    v->launched = region->launched != 0;
}

void v12_to_region(const struct vmcs12 *v, struct vmcs12_region *region)
{
    memcpy(region->f, v->f, sizeof(v->f));
    region->launched = v->launched;
    region->reserved = 0;
}
