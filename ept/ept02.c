#include "ept/ept02_table.h"

// Where one table has to go to make room, as many as hold this share of the memory go: a flush
// costs more than a table.
#define EVICT_SHARE 8

bool ept02_init(struct ept02_cache *cache, hpa_t base, u64 pages, const struct ept *ept01,
                const struct ept12 *l1)
{
    u64 own = align_up(pages * sizeof(struct ept02_table), PAGE_SIZE) / PAGE_SIZE;
    if (pages < EPT02_MIN_PAGES)
        return false;
    *cache = (struct ept02_cache){
        .table = phys_ptr(base), .ept01 = ept01, .ept12 = *l1, .around = 1, .end = cache->tree};
    pool_init(&cache->pool, HPA(base.v + own * PAGE_SIZE), pages - own);
    for (u64 i = 0; i < cache->pool.pages; i++)
        cache->table[i].level = 0;
    return true;
}

// ---- Entries and tables

static void free_table(struct ept02_cache *cache, struct ept02_table *t)
{
    for (unsigned i = 0; t->children && i < EPT_ENTRIES; i++) {
        if (ept_present(t->entry[i]) && !ept_is_leaf(t->entry[i], t->level)) {
            free_table(cache, ept02_child(cache, t->entry[i]));
            t->children--;
        }
    }
    t->level = 0;
    if (t->tree->last == t)
        t->tree->last = NULL;
    list_del(&t->node);
    list_add(&t->tree->freed, &t->node);
}

void ept02_drop_entry(struct ept02_cache *cache, struct ept02_table *t, unsigned slot)
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
        free_table(cache, ept02_child(cache, entry));
    }
}

struct ept02_table *ept02_new_table(struct ept02_cache *cache, struct ept02_tree *tree,
                                    struct ept02_table *parent, unsigned slot, u64 *source,
                                    gpa_t gpa12, u64 perms)
{
    u64 *entry = pool_page(&cache->pool);
    struct ept02_table *t = ept02_descriptor(cache, ptr_phys(entry));
    *t = (struct ept02_table){
        .tree = tree,
        .parent = parent,
        .entry = entry,
        .source = source,
        .snapshot = source ? pool_page_dirty(&cache->pool) : NULL,
        .gpa12 = gpa12,
        .first = parent ? parent->first + slot * ept_span(parent->level) : 0,
        .level = (u8)(parent ? parent->level - 1u : EPT_ROOT_LEVEL),
        .perms = (u8)(parent ? parent->perms & perms : EPT_RWX),
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
    for (struct ept02_tree *tree = cache->tree; tree < cache->end; tree++) {
        bool kept = keep && tree == keep;
        if (!kept && tree->root && (!oldest || tree->used < oldest->used))
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
    u64 want = cache->pool.pages / EVICT_SHARE + EPT02_PAGES_A_FAULT;
    for (u64 n = 0, got = room(cache); got < want && n < 3 * cache->pool.pages; n++) {
        struct ept02_table *t = &cache->table[cache->hand];
        cache->hand = cache->hand + 1 < cache->pool.pages ? cache->hand + 1 : 0;
        if (!t->level || !t->parent || t->children)
            continue;
        got += t->snapshot ? 2 : 1;
        ept02_drop_entry(cache, t->parent, t->slot);
        cache->stats.evicted_tables++;
    }
    flush_now(cache, tree);
}

void ept02_make_room(struct ept02_cache *cache, u64 pages, struct ept02_tree *keep)
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
    for (struct ept02_tree *tree = cache->tree; tree < cache->end; tree++)
        if (!tree->root)
            return tree;
    if (cache->end < cache->tree + EPT02_TREES)
        return cache->end++;
    struct ept02_tree *oldest = oldest_tree(cache, NULL);
    evict_tree(cache, oldest);
    return oldest;
}

static struct ept02_tree *new_tree(struct ept02_cache *cache, u64 eptp12)
{
    ept02_make_room(cache, EPT02_PAGES_A_TABLE, NULL);
    struct ept02_tree *tree = free_slot(cache);
    *tree = (struct ept02_tree){.eptp12 = eptp12};
    list_init(&tree->tables);
    list_init(&tree->freed);
    gpa_t root12 = GPA(eptp12 & EPT_ADDR);
    tree->root =
        ept02_new_table(cache, tree, NULL, 0, ept12_table(&cache->ept12, eptp12), root12, EPT_RWX);
    // A/D flags as L1 has them: with them, accesses to L2's page tables are judged as writes.
    tree->eptp02 = ptr_phys(tree->root->entry).v | EPTP_TYPE(MT_WB) | EPTP_LEVELS(EPT_ROOT_LEVEL) |
                   (eptp12 & EPTP_AD);
    // The processor may know the page as a root from before this cache had it.
    tree->flush_due = true;
    return tree;
}

// ---- INVEPT by L1

// L1 changed an EPT12 entry. If the page stays and only permissions or the dirty flag went, the
// EPT02 entry is cut down in place, so that L2's reads do not fault; else it goes.
static void entry_changed(struct ept02_cache *cache, struct ept02_table *t, unsigned slot, u64 now)
{
    u64 entry = t->entry[slot];
    u64 change = (t->snapshot[slot] ^ now) & ept02_relevant_bits(t->tree, t->snapshot[slot]);
    u64 perms = entry & ept02_leaf_perms(t->tree, now);
    bool page_stays = ept_is_leaf(entry, t->level) && !(change & ~(EPT_RWX | EPT_D)) && perms &&
                      !ept12_misconfigured(&cache->ept12.caps, now, t->level);
    if (change && !page_stays) {
        ept02_drop_entry(cache, t, slot);
        return;
    }
    t->snapshot[slot] = now;
    if (change && (entry & EPT_RWX) != perms) {
        ept02_put(t, slot, (entry & ~EPT_RWX) | perms);
        t->tree->flush_due = true;
    }
}

static inline bool dense_unchanged(const u64 *source, const u64 *snapshot)
{
    u64 change = 0;
#pragma GCC unroll 64
    for (unsigned i = 0; i < 64; i++)
        change |= ept12_read(&source[i]) ^ snapshot[i];
    return !change;
}

static inline bool unchanged(const u64 *source, const u64 *snapshot, u64 present)
{
    if (present == ~0ull)
        return dense_unchanged(source, snapshot);
    for (; present; present &= present - 1) {
        unsigned i = bit_lowest(present);
        if (UNLIKELY(ept12_read(&source[i]) != snapshot[i]))
            return false;
    }
    return true;
}

static NOINLINE void revalidate_word(struct ept02_cache *cache, struct ept02_table *t, unsigned w)
{
    const u64 *source = t->source + w * 64, *snapshot = t->snapshot + w * 64;
    for (u64 left = t->present[w]; left; left &= left - 1) {
        unsigned i = bit_lowest(left);
        u64 now = ept12_read(&source[i]);
        if (UNLIKELY(now != snapshot[i]))
            entry_changed(cache, t, w * 64 + i, now);
    }
}

// Mostly nothing has changed, so that finding this out has to be short.
static inline void revalidate_table(struct ept02_cache *cache, struct ept02_table *t)
{
    for (unsigned words = t->words; words; words &= words - 1) {
        unsigned w = bit_lowest(words);
        if (UNLIKELY(!unchanged(t->source + w * 64, t->snapshot + w * 64, t->present[w])))
            revalidate_word(cache, t, w);
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
        if (t->source && !(cache->write_epoch && known_clean(cache, t)))
            revalidate_table(cache, t);
    }
}

void ept02_invept_all(struct ept02_cache *cache)
{
    for (struct ept02_tree *tree = cache->tree; tree < cache->end; tree++)
        tree->stale = true;
}

struct ept02_tree *ept02_find(struct ept02_cache *cache, u64 eptp12)
{
    struct ept02_tree *tree = cache->tree;
    while (tree < cache->end && (tree->eptp12 != eptp12 || !tree->root))
        tree++;
    if (tree == cache->end)
        tree = new_tree(cache, eptp12);
    if (tree->stale)
        revalidate(cache, tree);
    tree->used = ++cache->clock;
    cache->current = tree;
    return tree;
}

void ept02_drop_all(struct ept02_cache *cache)
{
    for (struct ept02_tree *tree = cache->tree; tree < cache->end; tree++) {
        struct ept02_table *root = tree->root;
        for (unsigned slot = 0; root && slot < EPT_ENTRIES; slot++)
            if (ept_present(root->entry[slot]))
                ept02_drop_entry(cache, root, slot);
    }
}

u64 ept02_release(struct ept02_cache *cache)
{
    struct ept02_tree *tree;
    while ((tree = oldest_tree(cache, NULL)))
        evict_tree(cache, tree);
    return cache->pool.used;
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
