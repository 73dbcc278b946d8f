#include "ept/ept02.h"

#define WORDS (EPT_ENTRIES / 64)

// The descriptor of an EPT02 table. Its place in cache->table is that of the table in the pool.
struct ept02_table {
    struct list node; // in the tree's `tables`, or in `freed`
    struct ept02_tree *tree;
    struct ept02_table *parent; // NULL for the root
    u64 *entry;                 // what the processor walks
    u64 *source;                // the EPT12 table that it shadows; NULL: it splits a large page
    u64 *snapshot;              // EPT12 entries that `entry` was made from, if there is a source
    gpa_t gpa12;                // of the source
    u64 epoch;                  // write_epoch() before the last comparison; 0: none yet
    u64 present[WORDS];         // bitmap of entries
    u8 words;                   // bitmap of words of `present` that are not 0
    u8 level;                   // 0: the page is no table now
    u16 slot;                   // of the parent
    u16 children;               // entries that point to tables
};

// A fault needs at most three tables with their snapshots, a tree its root.
#define PAGES_A_TABLE 2
#define PAGES_A_FAULT (3 * PAGES_A_TABLE)

// Where one table has to go to make room, as many as hold this share of the memory go: a flush
// costs more than a table.
#define EVICT_SHARE 8

static struct ept02_table *descriptor(const struct ept02_cache *cache, hpa_t page)
{
    return &cache->table[(page.v - cache->pool.base.v) >> PAGE_SHIFT];
}

static struct ept02_table *child_of(const struct ept02_cache *cache, u64 entry)
{
    return descriptor(cache, HPA(entry & EPT_ADDR));
}

bool ept02_init(struct ept02_cache *cache, hpa_t base, u64 pages, const struct ept *ept01,
                const struct ept12 *l1)
{
    u64 own = align_up(pages * sizeof(struct ept02_table), PAGE_SIZE) / PAGE_SIZE;
    if (pages < EPT02_MIN_PAGES)
        return false;
    *cache =
        (struct ept02_cache){.table = phys_ptr(base), .ept01 = ept01, .ept12 = *l1, .around = 1};
    pool_init(&cache->pool, HPA(base.v + own * PAGE_SIZE), pages - own);
    for (u64 i = 0; i < cache->pool.pages; i++)
        cache->table[i].level = 0;
    return true;
}

// ---- Entries and tables

static void put_entry(struct ept02_table *t, unsigned slot, u64 entry)
{
    __atomic_store_n(&t->entry[slot], entry, __ATOMIC_RELEASE);
    t->present[slot / 64] |= BIT(slot % 64);
    t->words |= BIT(slot / 64);
}

static void free_table(struct ept02_cache *cache, struct ept02_table *t)
{
    for (unsigned i = 0; t->children && i < EPT_ENTRIES; i++) {
        if (ept_present(t->entry[i]) && !ept_is_leaf(t->entry[i], t->level)) {
            free_table(cache, child_of(cache, t->entry[i]));
            t->children--;
        }
    }
    t->level = 0;
    list_del(&t->node);
    list_add(&t->tree->freed, &t->node);
}

static void drop_entry(struct ept02_cache *cache, struct ept02_table *t, unsigned slot)
{
    u64 entry = t->entry[slot];
    __atomic_store_n(&t->entry[slot], 0, __ATOMIC_RELEASE);
    t->present[slot / 64] &= ~BIT(slot % 64);
    if (!t->present[slot / 64])
        t->words &= ~BIT(slot / 64);
    t->tree->flush_due = true;
    cache->stats.dropped++;
    if (!ept_is_leaf(entry, t->level)) {
        t->children--;
        free_table(cache, child_of(cache, entry));
    }
}

// The caller has made room. `source` is NULL for a table that splits a large page.
static struct ept02_table *new_table(struct ept02_cache *cache, struct ept02_tree *tree,
                                     struct ept02_table *parent, unsigned slot, u64 *source,
                                     gpa_t gpa12)
{
    u64 *entry = pool_page(&cache->pool);
    struct ept02_table *t = descriptor(cache, ptr_phys(entry));
    *t = (struct ept02_table){
        .tree = tree,
        .parent = parent,
        .entry = entry,
        .source = source,
        .snapshot = source ? pool_page_dirty(&cache->pool) : NULL,
        .gpa12 = gpa12,
        .level = (u8)(parent ? parent->level - 1u : EPT_ROOT_LEVEL),
        .slot = (u16)slot,
    };
    list_add(&tree->tables, &t->node);
    return t;
}

// ---- Memory: flushes and eviction

void ept02_flushed(struct ept02_cache *cache, struct ept02_tree *tree)
{
    tree->flush_due = false;
    while (!list_empty(&tree->freed)) {
        struct ept02_table *t = CONTAINER_OF(tree->freed.next, struct ept02_table, node);
        list_del(&t->node);
        if (t->snapshot)
            pool_return(&cache->pool, t->snapshot);
        pool_return(&cache->pool, t->entry);
    }
}

static void flush_now(struct ept02_cache *cache, struct ept02_tree *tree)
{
    cache->invept(cache->ctx, tree->eptp02);
    ept02_flushed(cache, tree);
}

static void evict_tree(struct ept02_cache *cache, struct ept02_tree *tree)
{
    free_table(cache, tree->root);
    flush_now(cache, tree);
    tree->root = NULL;
    cache->stats.evicted_trees++;
    if (cache->current == tree)
        cache->current = NULL;
}

static struct ept02_tree *oldest_tree(struct ept02_cache *cache, const struct ept02_tree *keep)
{
    struct ept02_tree *oldest = NULL;
    for (unsigned i = 0; i < cache->trees; i++) {
        struct ept02_tree *tree = &cache->tree[i];
        if (tree != keep && tree->root && (!oldest || tree->used < oldest->used))
            oldest = tree;
    }
    return oldest;
}

static u64 room(const struct ept02_cache *cache)
{
    return cache->pool.pages - cache->pool.used;
}

// Takes tables out of the only tree, in the order of their places in the pool, from the leaves up:
// a table without children goes, so three rounds can empty the tree down to its root.
static void evict_tables(struct ept02_cache *cache, struct ept02_tree *tree)
{
    u64 want = cache->pool.pages / EVICT_SHARE + PAGES_A_FAULT;
    for (u64 n = 0, got = room(cache); got < want && n < 3 * cache->pool.pages; n++) {
        struct ept02_table *t = &cache->table[cache->hand];
        cache->hand = cache->hand + 1 < cache->pool.pages ? cache->hand + 1 : 0;
        if (!t->level || !t->parent || t->children)
            continue;
        got += t->snapshot ? 2 : 1;
        drop_entry(cache, t->parent, t->slot);
        cache->stats.evicted_tables++;
    }
    flush_now(cache, tree);
}

// Makes sure of `pages` free pages without giving up the tree `keep`.
static void make_room(struct ept02_cache *cache, u64 pages, struct ept02_tree *keep)
{
    struct ept02_tree *oldest;
    if (LIKELY(room(cache) >= pages))
        return;
    if (keep && !list_empty(&keep->freed))
        flush_now(cache, keep);
    while (room(cache) < pages && (oldest = oldest_tree(cache, keep)))
        evict_tree(cache, oldest);
    if (room(cache) < pages)
        evict_tables(cache, keep);
}

// ---- Trees

static struct ept02_tree *free_slot(struct ept02_cache *cache)
{
    for (unsigned i = 0; i < cache->trees; i++)
        if (!cache->tree[i].root)
            return &cache->tree[i];
    if (cache->trees < EPT02_TREES)
        return &cache->tree[cache->trees++];
    struct ept02_tree *oldest = oldest_tree(cache, NULL);
    evict_tree(cache, oldest);
    return oldest;
}

static struct ept02_tree *new_tree(struct ept02_cache *cache, u64 eptp12)
{
    make_room(cache, PAGES_A_TABLE, NULL);
    struct ept02_tree *tree = free_slot(cache);
    *tree = (struct ept02_tree){.eptp12 = eptp12};
    list_init(&tree->tables);
    list_init(&tree->freed);
    gpa_t root12 = GPA(eptp12 & EPT_ADDR);
    tree->root = new_table(cache, tree, NULL, 0, ept12_table(&cache->ept12, eptp12), root12);
    // A/D flags as L1 has them: with them, accesses to L2's page tables are judged as writes.
    tree->eptp02 = ptr_phys(tree->root->entry).v | EPTP_TYPE(MT_WB) | EPTP_LEVELS(EPT_ROOT_LEVEL) |
                   (eptp12 & EPTP_AD);
    // The processor may know the page as a root from before this cache had it.
    tree->flush_due = true;
    return tree;
}

// ---- INVEPT by L1

// The bits of an EPT12 entry whose change ends what was made of its value `old`. That L1 or another
// vCPU set a flag ends nothing; that L1 cleared one does.
static u64 relevant_bits(const struct ept02_tree *tree, u64 old)
{
    return EPT_ADDR | EPT_RWX | EPT_TYPE_MASK | EPT_IPAT | EPT_LARGE |
           (tree->eptp12 & EPTP_AD ? old & (EPT_A | EPT_D) : 0);
}

// Permissions of a leaf: as long as L1's dirty flag is clear, a write has to fault.
static u64 leaf_perms(const struct ept02_tree *tree, u64 leaf12)
{
    bool clean = (tree->eptp12 & EPTP_AD) && !(leaf12 & EPT_D);
    return leaf12 & (clean ? EPT_RWX & ~EPT_W : EPT_RWX);
}

// L1 changed an EPT12 entry. If the page stays and only permissions or the dirty flag went, the
// EPT02 entry is cut down in place, so that L2's reads do not fault; else it goes.
static void entry_changed(struct ept02_cache *cache, struct ept02_table *t, unsigned slot, u64 now)
{
    u64 entry = t->entry[slot];
    u64 change = (t->snapshot[slot] ^ now) & relevant_bits(t->tree, t->snapshot[slot]);
    u64 perms = entry & leaf_perms(t->tree, now);
    bool page_stays = ept_is_leaf(entry, t->level) && !(change & ~(EPT_RWX | EPT_D)) && perms &&
                      !ept12_misconfigured(&cache->ept12.caps, now, t->level);
    if (change && !page_stays) {
        drop_entry(cache, t, slot);
        return;
    }
    t->snapshot[slot] = now;
    if (change && (entry & EPT_RWX) != perms) {
        put_entry(t, slot, (entry & ~EPT_RWX) | perms);
        t->tree->flush_due = true;
    }
}

static bool dense_unchanged(const u64 *source, const u64 *snapshot)
{
    u64 change = 0;
#pragma GCC unroll 8
    for (unsigned i = 0; i < 64; i++)
        change |= ept12_read(&source[i]) ^ snapshot[i];
    return !change;
}

// The common case of an INVEPT, so it has to be short.
static inline bool unchanged(const struct ept02_table *t)
{
    for (unsigned words = t->words; words; words &= words - 1) {
        unsigned w = bit_lowest(words);
        u64 left = t->present[w];
        const u64 *source = t->source + w * 64, *snapshot = t->snapshot + w * 64;
        if (left == ~0ull && dense_unchanged(source, snapshot))
            continue;
        for (; left; left &= left - 1) {
            unsigned i = bit_lowest(left);
            if (UNLIKELY(ept12_read(&source[i]) != snapshot[i]))
                return false;
        }
    }
    return true;
}

static void revalidate_table(struct ept02_cache *cache, struct ept02_table *t)
{
    const u64 *source = t->source, *snapshot = t->snapshot;
    for (unsigned w = 0; w < WORDS; w++) {
        u64 left = t->present[w];
        if (left == ~0ull && dense_unchanged(source + w * 64, snapshot + w * 64))
            continue;
        for (; left; left &= left - 1) {
            unsigned slot = w * 64 + bit_lowest(left);
            u64 now = ept12_read(&source[slot]);
            if (now != snapshot[slot])
                entry_changed(cache, t, slot, now);
        }
    }
}

static bool known_clean(struct ept02_cache *cache, struct ept02_table *t)
{
    u64 epoch = cache->write_epoch(cache->ctx, t->gpa12);
    bool clean = epoch == t->epoch;
    t->epoch = epoch;
    return clean;
}

static void revalidate(struct ept02_cache *cache, struct ept02_tree *tree)
{
    tree->stale = false;
    // Dropping an entry takes tables out of the list, never the one that it belongs to.
    LIST_FOR(node, &tree->tables)
    {
        struct ept02_table *t = CONTAINER_OF(node, struct ept02_table, node);
        if (!t->source || (cache->write_epoch && known_clean(cache, t)))
            continue;
        if (UNLIKELY(!unchanged(t)))
            revalidate_table(cache, t);
    }
}

void ept02_invept_all(struct ept02_cache *cache)
{
    for (unsigned i = 0; i < cache->trees; i++)
        cache->tree[i].stale = true;
}

struct ept02_tree *ept02_find(struct ept02_cache *cache, u64 eptp12)
{
    struct ept02_tree *tree = NULL;
    for (unsigned i = 0; i < cache->trees && !tree; i++)
        if (cache->tree[i].root && cache->tree[i].eptp12 == eptp12)
            tree = &cache->tree[i];
    if (!tree)
        tree = new_tree(cache, eptp12);
    if (tree->stale)
        revalidate(cache, tree);
    tree->used = ++cache->clock;
    cache->current = tree;
    return tree;
}

void ept02_drop_all(struct ept02_cache *cache)
{
    for (unsigned i = 0; i < cache->trees; i++) {
        struct ept02_table *root = cache->tree[i].root;
        for (unsigned slot = 0; root && slot < EPT_ENTRIES; slot++)
            if (ept_present(root->entry[slot]))
                drop_entry(cache, root, slot);
    }
}

u64 ept02_release(struct ept02_cache *cache)
{
    struct ept02_tree *tree;
    while ((tree = oldest_tree(cache, NULL)))
        evict_tree(cache, tree);
    return cache->pool.used;
}

// ---- Faults

// The memory type of an access through both: EPT01's is write-back for RAM, where L1's wish holds.
static u64 compose_type(u64 leaf12, u64 leaf01)
{
    u64 wish = leaf12 & (EPT_TYPE_MASK | EPT_IPAT), host = leaf01 & (EPT_TYPE_MASK | EPT_IPAT);
    if (host == EPT_TYPE(MT_WB))
        return wish;
    return (wish & EPT_TYPE_MASK) == EPT_TYPE(MT_WB) ? host : EPT_TYPE(MT_UC) | EPT_IPAT;
}

static u64 compose(const struct ept02_tree *tree, u64 leaf12, const struct ept_leaf *leaf01,
                   unsigned level)
{
    u64 perms = leaf_perms(tree, leaf12) & leaf01->entry;
    return align_down(leaf01->hpa.v, ept_span(level)) | perms |
           compose_type(leaf12, leaf01->entry) | (level > 1 ? EPT_LARGE : 0) | EPT_A | EPT_D;
}

static void set_leaf(struct ept02_cache *cache, struct ept02_table *t, unsigned slot, u64 entry)
{
    u64 old = t->entry[slot];
    if (ept_present(old) && !ept_is_leaf(old, t->level))
        drop_entry(cache, t, slot);
    else if (ept_present(old) &&
             ((old & EPT_RWX & ~entry) || ((old ^ entry) & ~(EPT_RWX | EPT_A | EPT_D))))
        t->tree->flush_due = true; // more than permissions that were added
    put_entry(t, slot, entry);
}

// The table below `slot` on the way to where `walk` leads: the one that is there if L1 has not
// changed what it was made from, or else a new one.
static struct ept02_table *step_down(struct ept02_cache *cache, struct ept02_table *t,
                                     unsigned slot, const struct walk *walk)
{
    u64 entry = t->entry[slot], now = t->source ? walk->entry[t->level] : 0;
    if (ept_present(entry)) {
        bool same =
            !t->source || !((t->snapshot[slot] ^ now) & relevant_bits(t->tree, t->snapshot[slot]));
        if (same && !ept_is_leaf(entry, t->level)) {
            if (t->source)
                t->snapshot[slot] = now;
            return child_of(cache, entry);
        }
        drop_entry(cache, t, slot);
    }
    bool mirrors = t->level > walk->level; // below a leaf of EPT12 there is nothing to mirror
    struct ept02_table *child =
        new_table(cache, t->tree, t, slot, mirrors ? walk->table[t->level - 1] : NULL,
                  GPA(mirrors ? now & EPT_ADDR : 0));
    t->children++;
    if (t->source)
        t->snapshot[slot] = now;
    put_entry(t, slot, ptr_phys(child->entry).v | EPT_A | (mirrors ? now & EPT_RWX : EPT_RWX));
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
        put_entry(t, i, entry);
        cache->stats.around++;
    }
}

// Fills from the table `t` downwards.
static void fill(struct ept02_cache *cache, struct ept02_table *t, ngpa_t ngpa,
                 const struct walk *walk, const struct ept_leaf *leaf01)
{
    unsigned level = MIN(walk->level, leaf01->level);
    while (t->level > level)
        t = step_down(cache, t, ept_index(ngpa.v, t->level), walk);

    unsigned slot = ept_index(ngpa.v, level);
    set_leaf(cache, t, slot, compose(t->tree, walk->entry[walk->level], leaf01, level));
    cache->stats.filled++;
    if (!t->source)
        return;
    t->snapshot[slot] = walk->entry[level];
    if (level == 1 && cache->around > 1)
        fill_around(cache, t, slot, *leaf01, walk->gpa);
}

// The lowest table on the way to `ngpa` that L1 has not changed anything above of: a walk of EPT12
// can start there, and what stands above it is known to be in order.
static struct ept02_table *lowest_known(const struct ept02_cache *cache, ngpa_t ngpa, u64 *perms)
{
    struct ept02_table *t = cache->current->root;
    *perms = EPT_RWX;
    for (;;) {
        unsigned slot = ept_index(ngpa.v, t->level);
        u64 entry = t->entry[slot];
        if (!ept_present(entry) || ept_is_leaf(entry, t->level) ||
            ept12_read(&t->source[slot]) != t->snapshot[slot])
            return t;
        struct ept02_table *child = child_of(cache, entry);
        if (!child->source)
            return t;
        *perms &= entry;
        t = child;
    }
}

// Walks EPT12 and EPT01 and fills the translation if both allow the access. EPT02_FILLED too if the
// walk says that L2 has to try again.
static enum ept02_result try_fill(struct ept02_cache *cache, ngpa_t ngpa, struct walk_access access,
                                  struct walk *walk)
{
    u64 eptp12 = cache->current->eptp12, perms;
    struct ept_leaf leaf01;
    make_room(cache, PAGES_A_FAULT, cache->current);
    struct ept02_table *t = lowest_known(cache, ngpa, &perms);
    ept12_walk(&cache->ept12, eptp12, (struct walk_start){t->level, t->source, perms}, ngpa, access,
               walk);
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

enum ept02_result ept02_fault(struct ept02_cache *cache, struct ept02_fault *fault)
{
    struct walk walk;
    struct walk_access access = walk_access(fault->qualification, cache->current->eptp12);
    access.pml_full = fault->pml_full;
    enum ept02_result result = try_fill(cache, fault->ngpa, access, &walk);
    if (result == EPT02_VIOLATION) {
        fault->qualification = ept12_qualification(fault->qualification, access, &walk);
        fault->suppress_ve = walk.suppress_ve;
    } else if (result == EPT02_FILLED || result == EPT02_MMIO) {
        fault->gpa = walk.gpa;
        fault->dirtied = walk.dirtied;
    }
    return result;
}

void ept02_prefill(struct ept02_cache *cache, ngpa_t ngpa, u64 qualification)
{
    struct walk walk;
    struct walk_access access = walk_access(qualification, cache->current->eptp12);
    access.speculative = true;
    try_fill(cache, ngpa, access, &walk);
}

bool ept02_lookup(const struct ept02_tree *tree, ngpa_t ngpa, struct ept_leaf *leaf)
{
    const u64 *table = tree->root->entry;
    u64 perms = EPT_RWX;
    if (ngpa.v >> EPT_WIDTH)
        return false;
    for (unsigned level = EPT_ROOT_LEVEL;; level--) {
        u64 entry = table[ept_index(ngpa.v, level)];
        perms &= entry;
        if (!ept_present(entry))
            return false;
        if (ept_is_leaf(entry, level)) {
            u64 offset = ngpa.v & (ept_span(level) - 1);
            *leaf = (struct ept_leaf){.level = level,
                                      .entry = (entry & ~EPT_RWX) | perms,
                                      .hpa = HPA((entry & EPT_ADDR) + offset)};
            return true;
        }
        table = phys_ptr(HPA(entry & EPT_ADDR));
    }
}
