#include "ept/ept.h"

static u64 *table_of(u64 entry)
{
    return phys_ptr(HPA(entry & EPT_ADDR));
}

static void put(u64 *slot, u64 entry)
{
    __atomic_store_n(slot, entry, __ATOMIC_RELEASE);
}

int ept_init(struct ept *ept, struct pool *pool, const struct ept_caps *caps)
{
    u64 *root = pool_page(pool);
    if (!root)
        return EPT_NO_MEMORY;
    *ept = (struct ept){.pool = pool, .caps = *caps, .root = ptr_phys(root), .freed = HPA_NONE};
    return EPT_OK;
}

u64 ept_eptp(const struct ept *ept)
{
    return ept->root.v | EPTP_TYPE(MT_WB) | EPTP_LEVELS(EPT_ROOT_LEVEL) |
           (ept->caps.ad ? EPTP_AD : 0);
}

// The chain goes through the tables' first entries: a page-aligned address is an entry that is not
// present, so that a processor that still walks the table finds nothing there.
static void defer_free(struct ept *ept, u64 *table)
{
    put(table, ept->freed.v & EPT_ADDR);
    ept->freed = ptr_phys(table);
}

static void free_tables(struct ept *ept, u64 entry, unsigned level)
{
    if (!ept_present(entry) || ept_is_leaf(entry, level))
        return;
    u64 *table = table_of(entry);
    for (unsigned i = 0; i < EPT_ENTRIES; i++)
        free_tables(ept, table[i], level - 1);
    defer_free(ept, table);
}

void ept_flushed(struct ept *ept)
{
    while (ept->freed.v != HPA_NONE.v) {
        u64 *table = phys_ptr(ept->freed);
        ept->freed = *table == (HPA_NONE.v & EPT_ADDR) ? HPA_NONE : HPA(*table);
        pool_return(ept->pool, table);
    }
}

void ept_destroy(struct ept *ept)
{
    free_tables(ept, ept->root.v | EPT_RWX, EPT_ROOT_LEVEL + 1);
    ept_flushed(ept);
}

// False, and nothing done, if the processor just set a flag in the entry: it must not get lost.
static bool replace(struct ept *ept, u64 *slot, unsigned level, u64 old, u64 entry)
{
    if (!__atomic_compare_exchange_n(slot, &old, entry, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        return false;
    if (ept_present(old)) {
        ept->version++;
        free_tables(ept, old, level);
    }
    return true;
}

// Makes `slot`, an entry of a table at `level`, point to a table that maps the same as before.
static int make_table(struct ept *ept, u64 *slot, unsigned level)
{
    u64 old = *slot;
    if (ept_present(old) && !ept_is_leaf(old, level))
        return EPT_OK;
    u64 *table = pool_page(ept->pool);
    if (!table)
        return EPT_NO_MEMORY;
    do {
        old = *slot;
        u64 part = level == 2 ? old & ~EPT_LARGE : old;
        for (unsigned i = 0; ept_present(old) && i < EPT_ENTRIES; i++)
            table[i] = part + i * ept_span(level - 1);
    } while (!replace(ept, slot, 1, old, ptr_phys(table).v | EPT_RWX));
    return EPT_OK;
}

// Descends from the root towards `gpa`, at most to a table at `level`, and stops at an entry that
// points to no table.
static u64 *descend(const struct ept *ept, gpa_t gpa, unsigned *level)
{
    u64 *table = phys_ptr(ept->root);
    for (unsigned at = EPT_ROOT_LEVEL;; at--) {
        u64 *slot = &table[ept_index(gpa.v, at)];
        u64 entry = __atomic_load_n(slot, __ATOMIC_RELAXED);
        if (at == *level || !ept_present(entry) || ept_is_leaf(entry, at)) {
            *level = at;
            return slot;
        }
        table = table_of(entry);
    }
}

// Descends to a table at `level`, making what is missing.
static int descend_make(struct ept *ept, gpa_t gpa, unsigned level, u64 **slot)
{
    for (;;) {
        unsigned at = level;
        *slot = descend(ept, gpa, &at);
        if (at == level)
            return EPT_OK;
        int error = make_table(ept, *slot, at);
        if (error)
            return error;
    }
}

static bool bad_range(gpa_t gpa, u64 size)
{
    return gpa.v % PAGE_SIZE || size % PAGE_SIZE || gpa.v > BIT(EPT_WIDTH) ||
           size > BIT(EPT_WIDTH) - gpa.v;
}

// Whether one entry of a table at `level` can stand for the start of the range.
static bool fits(unsigned level, u64 addr, u64 size)
{
    return addr % ept_span(level) == 0 && size >= ept_span(level);
}

int ept_map(struct ept *ept, gpa_t gpa, hpa_t hpa, u64 size, u64 attr)
{
    if (bad_range(gpa, size) || hpa.v % PAGE_SIZE)
        return EPT_BAD_RANGE;
    while (size) {
        unsigned level = 3;
        while (!ept_level_ok(&ept->caps, level) || !fits(level, gpa.v | hpa.v, size))
            level--;
        u64 *slot;
        int error = descend_make(ept, gpa, level, &slot);
        if (error)
            return error;
        while (!replace(ept, slot, level, *slot, hpa.v | attr | (level > 1 ? EPT_LARGE : 0)))
            ;
        gpa.v += ept_span(level);
        hpa.v += ept_span(level);
        size -= ept_span(level);
    }
    return EPT_OK;
}

// Gives each leaf in the range the permissions `perms`, or removes it if there are none, after
// splitting what crosses the ends.
static int change(struct ept *ept, gpa_t gpa, u64 size, u64 perms)
{
    if (bad_range(gpa, size))
        return EPT_BAD_RANGE;
    while (size) {
        unsigned level = 1;
        u64 *slot = descend(ept, gpa, &level);
        u64 entry = *slot;
        if (ept_present(entry)) {
            if (!fits(level, gpa.v, size)) {
                int error = make_table(ept, slot, level);
                if (error)
                    return error;
                continue;
            }
            if (!replace(ept, slot, level, entry, perms ? (entry & ~EPT_RWX) | perms : 0))
                continue;
        }
        u64 step = MIN(size, ept_span(level) - gpa.v % ept_span(level));
        gpa.v += step;
        size -= step;
    }
    return EPT_OK;
}

int ept_unmap(struct ept *ept, gpa_t gpa, u64 size)
{
    return change(ept, gpa, size, 0);
}

int ept_protect(struct ept *ept, gpa_t gpa, u64 size, u64 perms)
{
    return change(ept, gpa, size, perms);
}

int ept_split(struct ept *ept, gpa_t gpa, unsigned level)
{
    struct ept_leaf leaf;
    u64 *slot;
    if (!ept_lookup(ept, gpa, &leaf) || leaf.level <= level)
        return EPT_OK;
    return descend_make(ept, gpa, level, &slot);
}

bool ept_lookup(const struct ept *ept, gpa_t gpa, struct ept_leaf *leaf)
{
    const u64 *table = phys_ptr(ept->root);
    if (gpa.v >> EPT_WIDTH)
        return false;
#pragma GCC unroll 4
    for (unsigned level = EPT_ROOT_LEVEL; level; level--) {
        u64 entry = __atomic_load_n(&table[ept_index(gpa.v, level)], __ATOMIC_RELAXED);
        u64 in_page = ept_span(level) - 1;
        if (!ept_present(entry))
            return false;
        if (ept_is_leaf(entry, level)) {
            leaf->level = level;
            leaf->entry = entry;
            leaf->hpa = HPA((entry & EPT_ADDR & ~in_page) | (gpa.v & in_page));
            return true;
        }
        table = table_of(entry);
    }
    return false;
}

int ept_map_ram(struct ept *ept, const struct guest_mem *mem)
{
    int error = EPT_OK;
    for (unsigned i = 0; i < mem->count && !error; i++)
        error = ept_map(ept, mem->range[i].gpa, mem->range[i].hpa, mem->range[i].size,
                        EPT_RWX | EPT_TYPE(MT_WB));
    return error;
}

int ept_map_nothing(struct ept *ept, gpa_t gpa, u64 size, hpa_t page)
{
    int error = EPT_OK;
    for (u64 at = 0; at < size && !error; at += PAGE_SIZE)
        error = ept_map(ept, GPA(gpa.v + at), page, PAGE_SIZE, EPT_R | EPT_TYPE(MT_WB));
    return error;
}

int ept_map_apic_access(struct ept *ept, gpa_t gpa, hpa_t page)
{
    return ept_map(ept, gpa, page, PAGE_SIZE, EPT_R | EPT_W | EPT_TYPE(MT_WB));
}
