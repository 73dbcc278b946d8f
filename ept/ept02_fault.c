// Faults of EPT02: the walk of EPT12, the composition with EPT01, and what is filled of it.

#include "ept/ept02_table.h"

// The memory type of an access through both: EPT01's is write-back for RAM, where L1's wish holds.
static u64 compose_type(u64 leaf12, u64 leaf01)
{
    u64 wish = leaf12 & (EPT_TYPE_MASK | EPT_IPAT), host = leaf01 & (EPT_TYPE_MASK | EPT_IPAT);
    if (host == EPT_TYPE(MT_WB))
        return wish;
    return (wish & EPT_TYPE_MASK) == EPT_TYPE(MT_WB) ? host : EPT_TYPE(MT_UC) | EPT_IPAT;
}

FORCE_INLINE u64 compose(const struct ept02_tree *tree, u64 leaf12, const struct ept_leaf *leaf01,
                         unsigned level)
{
    u64 perms = ept02_leaf_perms(tree, leaf12) & leaf01->entry;
    return align_down(leaf01->hpa.v, ept_span(level)) | perms |
           compose_type(leaf12, leaf01->entry) | (level > 1 ? EPT_LARGE : 0) | EPT_A | EPT_D;
}

// `level` is that of the table `t`.
FORCE_INLINE void set_leaf(struct ept02_cache *cache, struct ept02_table *t, unsigned slot,
                           unsigned level, u64 entry)
{
    u64 old = t->entry[slot];
    if (ept_present(old) && !ept_is_leaf(old, level))
        ept02_drop_entry(cache, t, slot);
    else if (ept_present(old) &&
             ((old & EPT_RWX & ~entry) || ((old ^ entry) & ~(EPT_RWX | EPT_A | EPT_D))))
        t->tree->flush_due = true; // more than permissions that were added
    ept02_put(t, slot, entry);
}

// The table below `slot` on the way to where `walk` leads: the one that is there if L1 has not
// changed what it was made from, or else a new one.
static struct ept02_table *step_down(struct ept02_cache *cache, struct ept02_table *t,
                                     unsigned slot, const struct walk *walk)
{
    u64 entry = t->entry[slot], now = t->source ? walk->entry[t->level] : 0;
    if (ept_present(entry)) {
        bool same = !t->source ||
                    !((t->snapshot[slot] ^ now) & ept02_relevant_bits(t->tree, t->snapshot[slot]));
        if (same && !ept_is_leaf(entry, t->level)) {
            if (t->source)
                t->snapshot[slot] = now;
            return ept02_child(cache, entry);
        }
        ept02_drop_entry(cache, t, slot);
    }
    bool mirrors = t->level > walk->level; // below a leaf of EPT12 there is nothing to mirror
    u64 perms = mirrors ? now & EPT_RWX : EPT_RWX;
    struct ept02_table *child =
        ept02_new_table(cache, t->tree, t, slot, mirrors ? walk->table[t->level - 1] : NULL,
                        GPA(mirrors ? now & EPT_ADDR : 0), perms);
    t->children++;
    if (t->source)
        t->snapshot[slot] = now;
    ept02_put(t, slot, ptr_phys(child->entry).v | EPT_A | perms);
    return child;
}

// Fills what L1 maps beside `slot`, in the same table, as far as L2's access there would succeed
// without a flag being set.
static void fill_around(struct ept02_cache *cache, struct ept02_table *t, unsigned slot,
                        struct ept_leaf leaf01, gpa_t gpa)
{
    unsigned first = slot & ~(cache->around - 1);
    bool ad = t->tree->eptp12 & EPTP_AD;
    for (unsigned i = first; i < first + cache->around; i++) {
        u64 now = ept12_read(&t->source[i]);
        if (t->entry[i] || !ept_present(now) || (ad && !(now & EPT_A)) ||
            ept12_misconfigured(&cache->ept12.caps, now, 1))
            continue;
        u64 span = ept_span(leaf01.level), to = now & EPT_ADDR;
        if (align_down(gpa.v, span) != align_down(to, span)) {
            if (!ept_lookup(cache->ept01, GPA(to), &leaf01))
                return;
            gpa = GPA(to);
        }
        struct ept_leaf beside = leaf01;
        beside.hpa = HPA(leaf01.hpa.v + (to - gpa.v));
        u64 entry = compose(t->tree, now, &beside, 1);
        if (!ept_present(entry))
            continue;
        t->snapshot[i] = now;
        ept02_put(t, i, entry);
        cache->stats.around++;
    }
}

// Makes the entry for `ngpa` in `t`, a table at `level`, map what `leaf12`, which leads to `gpa`,
// and `leaf01` say together.
FORCE_INLINE void map_page(struct ept02_cache *cache, struct ept02_table *t, unsigned level,
                           ngpa_t ngpa, u64 leaf12, gpa_t gpa, const struct ept_leaf *leaf01)
{
    unsigned slot = ept_index(ngpa.v, level);
    set_leaf(cache, t, slot, level, compose(t->tree, leaf12, leaf01, level));
    cache->stats.filled++;
    if (!t->source)
        return;
    t->snapshot[slot] = leaf12;
    if (level == 1) {
        t->tree->last = t;
        if (UNLIKELY(cache->around > 1))
            fill_around(cache, t, slot, *leaf01, gpa);
    }
}

// Fills from the table `t` downwards.
static void fill(struct ept02_cache *cache, struct ept02_table *t, ngpa_t ngpa,
                 const struct walk *walk, const struct ept_leaf *leaf01)
{
    unsigned level = MIN(walk->level, leaf01->level);
    while (t->level > level)
        t = step_down(cache, t, ept_index(ngpa.v, t->level), walk);
    map_page(cache, t, level, ngpa, walk->entry[walk->level], walk->gpa, leaf01);
}

// The lowest table on the way to `ngpa` that L1 has not changed anything above of: a walk of EPT12
// can start there, and what stands above it is known to be in order.
static struct ept02_table *lowest_known(const struct ept02_cache *cache, ngpa_t ngpa)
{
    struct ept02_table *t = cache->current->root;
    for (;;) {
        unsigned slot = ept_index(ngpa.v, t->level);
        u64 entry = t->entry[slot];
        if (!ept_present(entry) || ept_is_leaf(entry, t->level) ||
            ept12_read(&t->source[slot]) != t->snapshot[slot])
            return t;
        struct ept02_table *child = ept02_child(cache, entry);
        if (!child->source)
            return t;
        t = child;
    }
}

// The same where it is the table of 4 KiB pages that the last fault was in, else NULL.
static inline struct ept02_table *last_known(const struct ept02_tree *tree, ngpa_t ngpa)
{
    struct ept02_table *last = tree->last;
    if (!last || ngpa.v - last->first >= ept_span(2))
        return NULL;
    const struct ept02_table *t = last;
#pragma GCC unroll 3
    for (unsigned level = 1; level < EPT_ROOT_LEVEL; level++) {
        const struct ept02_table *up = t->parent;
        if (ept12_read(&up->source[t->slot]) != up->snapshot[t->slot])
            return NULL;
        t = up;
    }
    return last;
}

// Walks EPT12 and EPT01 and fills the translation if both allow the access. EPT02_FILLED too if the
// walk says that L2 has to try again.
static enum ept02_result try_fill(struct ept02_cache *cache, ngpa_t ngpa, struct walk_access access,
                                  struct walk *walk)
{
    struct ept_leaf leaf01;
    ept02_make_room(cache, EPT02_PAGES_A_FAULT, cache->current);
    struct ept02_table *t = lowest_known(cache, ngpa);
    if (t->level == 1)
        t->tree->last = t;
    ept12_walk(&cache->ept12, cache->current->eptp12,
               (struct walk_start){t->level, t->source, t->perms}, ngpa, access, walk);
    switch (walk->result) {
    case WALK_OK:
        break;
    case WALK_RETRY:
        return EPT02_FILLED;
    case WALK_PML_FULL:
        return EPT02_PML_FULL;
    case WALK_VIOLATION:
        return EPT02_VIOLATION;
    case WALK_MISCONFIG:
        return EPT02_MISCONFIG;
    }
    if (!ept_lookup(cache->ept01, walk->gpa, &leaf01) || (access.kind & ~leaf01.entry))
        return EPT02_MMIO;
    fill(cache, t, ngpa, walk, &leaf01);
    return EPT02_FILLED;
}

// try_fill() for the plainest of entries, `leaf12` of the table of 4 KiB pages `t`: it allows the
// access, no flag has to be set, and it maps RAM write-back. False: look closer.
static inline bool quick_fill(struct ept02_cache *cache, struct ept02_table *t, ngpa_t ngpa,
                              u64 leaf12, u64 kind)
{
    u64 flags = EPT_A | (kind & EPT_W ? EPT_D : 0);
    u64 need = EPT_R | kind | (t->tree->eptp12 & EPTP_AD ? flags : 0);
    struct ept_leaf leaf01;
    gpa_t gpa = GPA(leaf12 & EPT_ADDR);
    if (need & ~leaf12 || kind & ~(u64)t->perms || (leaf12 & EPT_TYPE_MASK) != EPT_TYPE(MT_WB) ||
        !ept_lookup(cache->ept01, gpa, &leaf01) || kind & ~leaf01.entry)
        return false;
    map_page(cache, t, 1, ngpa, leaf12, gpa, &leaf01);
    return true;
}

static NOINLINE enum ept02_result fault_otherwise(struct ept02_cache *cache,
                                                  struct ept02_fault *fault,
                                                  struct walk_access access)
{
    struct walk walk;
    access.pml_full = fault->pml_full;
    enum ept02_result result = try_fill(cache, fault->ngpa, access, &walk);
    if (result == EPT02_VIOLATION) {
        fault->qualification = ept12_qualification(fault->qualification, access, walk.perms);
        fault->suppress_ve = walk.suppress_ve;
    } else if (result == EPT02_FILLED || result == EPT02_MMIO) {
        fault->gpa = walk.gpa;
        fault->dirtied = walk.dirtied;
    }
    return result;
}

static NOINLINE enum ept02_result fault_present(struct ept02_cache *cache,
                                                struct ept02_fault *fault,
                                                struct walk_access access, u64 leaf12)
{
    if (quick_fill(cache, cache->current->last, fault->ngpa, leaf12, access.kind))
        return EPT02_FILLED;
    return fault_otherwise(cache, fault, access);
}

enum ept02_result ept02_fault(struct ept02_cache *cache, struct ept02_fault *fault)
{
    ngpa_t ngpa = fault->ngpa;
    struct walk_access access = walk_access(fault->qualification, cache->current->eptp12);
    const struct ept02_table *t = last_known(cache->current, ngpa);
    fault->dirtied = false;
    if (UNLIKELY(!t))
        return fault_otherwise(cache, fault, access);
    u64 leaf12 = ept12_read(&t->source[ept_index(ngpa.v, 1)]);
    if (ept_present(leaf12))
        return fault_present(cache, fault, access, leaf12);
    fault->qualification = ept12_qualification(fault->qualification, access, 0);
    fault->suppress_ve = leaf12 & EPT_SUPPRESS_VE;
    return EPT02_VIOLATION;
}

static NOINLINE void prefill_otherwise(struct ept02_cache *cache, ngpa_t ngpa,
                                       struct walk_access access)
{
    struct walk walk;
    access.speculative = true;
    try_fill(cache, ngpa, access, &walk);
}

void ept02_prefill(struct ept02_cache *cache, ngpa_t ngpa, u64 qualification)
{
    struct walk_access access = walk_access(qualification, cache->current->eptp12);
    struct ept02_table *t = last_known(cache->current, ngpa);
    if (UNLIKELY(!t || !quick_fill(cache, t, ngpa, ept12_read(&t->source[ept_index(ngpa.v, 1)]),
                                   access.kind)))
        prefill_otherwise(cache, ngpa, access);
}
