#include "ept/walk.h"

// L1 can change an entry between the read and the setting of its flags as often as it likes; after
// so many times L2 executes its instruction again, with L0 open to interrupts in between.
#define WALK_TRIES 4

u64 *ept12_table(const struct ept12 *ept, u64 table)
{
    return guest_ptr(ept->mem, GPA(table & EPT_ADDR), PAGE_SIZE);
}

static bool bad_type(u64 entry)
{
    return 0x8c & BIT(bits(entry, 5, 3)); // memory types 2, 3 and 7 are reserved
}

bool ept12_misconfigured(const struct ept_caps *caps, u64 entry, unsigned level)
{
    u64 reserved = EPT_ADDR & ~(BIT(caps->maxphyaddr) - 1);
    if (!ept_is_leaf(entry, level))
        reserved |= EPT_TYPE_MASK | EPT_IPAT;
    else if (!ept_level_ok(caps, level))
        reserved |= EPT_LARGE;
    else if (level > 1)
        reserved |= (ept_span(level) - 1) & EPT_ADDR;
    return (entry & reserved) || (ept_is_leaf(entry, level) && bad_type(entry)) ||
           (entry & (EPT_R | EPT_W)) == EPT_W ||
           (!caps->exec_only && (entry & (EPT_R | EPT_X)) == EPT_X);
}

struct walk_start walk_from_root(const struct ept12 *ept, u64 eptp12)
{
    return (struct walk_start){EPT_ROOT_LEVEL, ept12_table(ept, eptp12), EPT_RWX};
}

// Reads the entries down to the leaf, or to the one that ends the walk.
static enum walk_result read_entries(const struct ept12 *ept, struct walk_start start, ngpa_t ngpa,
                                     struct walk *walk)
{
    u64 *table = start.table;
    walk->perms = start.perms;
    for (unsigned level = start.level;; level--) {
        u64 entry = table ? ept12_read(&table[ept_index(ngpa.v, level)]) : ~0ull;
        walk->level = level;
        walk->table[level] = table;
        walk->entry[level] = entry;
        walk->perms &= entry;
        walk->suppress_ve = entry & EPT_SUPPRESS_VE;
        if (!ept_present(entry)) {
            walk->perms = 0;
            return WALK_VIOLATION;
        }
        if (ept12_misconfigured(&ept->caps, entry, level))
            return WALK_MISCONFIG;
        if (ept_is_leaf(entry, level))
            break;
        table = ept12_table(ept, entry);
    }
    u64 offset = ngpa.v & (ept_span(walk->level) - 1);
    walk->gpa = GPA((walk->entry[walk->level] & EPT_ADDR) + offset);
    return WALK_OK;
}

// Sets `flags` in the entry at `level`, if it still is what was read.
static bool set_flags(struct walk *walk, ngpa_t ngpa, unsigned level, u64 flags)
{
    u64 *slot = &walk->table[level][ept_index(ngpa.v, level)];
    u64 expected = walk->entry[level];
    if (!__atomic_compare_exchange_n(slot, &expected, expected | flags, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_RELAXED))
        return false;
    walk->entry[level] |= flags;
    return true;
}

// "Accessed and Dirty Flags for EPT": accessed in every entry used, dirty in the leaf of a write.
static enum walk_result use_entries(struct walk *walk, unsigned first, ngpa_t ngpa,
                                    struct walk_access access)
{
    for (unsigned level = first; level >= walk->level; level--) {
        bool dirty = level == walk->level && (access.kind & EPT_W);
        u64 missing = (EPT_A | (dirty ? EPT_D : 0)) & ~walk->entry[level];
        if (!missing)
            continue;
        if (access.speculative)
            return WALK_RETRY;
        if ((missing & EPT_D) && access.pml_full)
            return WALK_PML_FULL;
        if (!set_flags(walk, ngpa, level, missing))
            return WALK_RETRY;
        walk->dirtied = missing & EPT_D;
    }
    return WALK_OK;
}

static enum walk_result walk_once(const struct ept12 *ept, u64 eptp12, struct walk_start start,
                                  ngpa_t ngpa, struct walk_access access, struct walk *walk)
{
    enum walk_result result = read_entries(ept, start, ngpa, walk);
    if (result != WALK_OK)
        return result;
    if (access.kind & ~walk->perms)
        return WALK_VIOLATION;
    return eptp12 & EPTP_AD ? use_entries(walk, start.level, ngpa, access) : WALK_OK;
}

void ept12_walk(const struct ept12 *ept, u64 eptp12, struct walk_start start, ngpa_t ngpa,
                struct walk_access access, struct walk *walk)
{
    walk->dirtied = false;
    if (ngpa.v >> EPT_WIDTH) { // "EPT Violations": a walk of four levels translates 48 bits
        walk->perms = 0;
        walk->suppress_ve = true;
        walk->result = WALK_VIOLATION;
        return;
    }
    for (unsigned i = 0; i < WALK_TRIES; i++) {
        walk->result = walk_once(ept, eptp12, start, ngpa, access, walk);
        if (walk->result != WALK_RETRY || access.speculative)
            return;
    }
}
