#pragma once
// What the parts of EPT02 share: its tables. Trees, memory and INVEPT are in ept02.c, faults in
// ept02_fault.c.

#include "ept/ept02.h"

#define EPT02_WORDS (EPT_ENTRIES / 64)

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
    u64 first;                  // the lowest address that it translates
    u64 present[EPT02_WORDS];   // bitmap of entries
    u8 words;                   // bitmap of words of `present` that are not 0
    u8 level;                   // 0: the page is no table now
    u8 perms;                   // intersection over the levels above
    u16 slot;                   // of the parent
    u16 children;               // entries that point to tables
};

// A fault needs at most three tables with their snapshots, a tree its root.
#define EPT02_PAGES_A_TABLE 2
#define EPT02_PAGES_A_FAULT (3 * EPT02_PAGES_A_TABLE)

static inline struct ept02_table *ept02_descriptor(const struct ept02_cache *cache, hpa_t page)
{
    return &cache->table[(page.v - cache->pool.base.v) >> PAGE_SHIFT];
}

static inline struct ept02_table *ept02_child(const struct ept02_cache *cache, u64 entry)
{
    return ept02_descriptor(cache, HPA(entry & EPT_ADDR));
}

static inline void ept02_put(struct ept02_table *t, unsigned slot, u64 entry)
{
    __atomic_store_n(&t->entry[slot], entry, __ATOMIC_RELEASE);
    t->present[slot / 64] |= BIT(slot % 64);
    t->words |= BIT(slot / 64);
}

// The bits of an EPT12 entry whose change ends what was made of its value `old`. That L1 or another
// vCPU set a flag ends nothing; that L1 cleared one does.
static inline u64 ept02_relevant_bits(const struct ept02_tree *tree, u64 old)
{
    return EPT_ADDR | EPT_RWX | EPT_TYPE_MASK | EPT_IPAT | EPT_LARGE |
           (tree->eptp12 & EPTP_AD ? old & (EPT_A | EPT_D) : 0);
}

// Permissions of a leaf: as long as L1's dirty flag is clear, a write has to fault.
static inline u64 ept02_leaf_perms(const struct ept02_tree *tree, u64 leaf12)
{
    bool clean = (tree->eptp12 & EPTP_AD) && !(leaf12 & EPT_D);
    return leaf12 & (clean ? EPT_RWX & ~EPT_W : EPT_RWX);
}

// Takes an entry away, and the tables below it.
void ept02_drop_entry(struct ept02_cache *cache, struct ept02_table *t, unsigned slot);

// Makes sure of `pages` free pages without giving up the tree `keep`.
void ept02_make_room(struct ept02_cache *cache, u64 pages, struct ept02_tree *keep);

// A table without entries; the caller has made room. `source` is NULL for one that splits a large
// page, `perms` what the parent's entry for it will allow.
struct ept02_table *ept02_new_table(struct ept02_cache *cache, struct ept02_tree *tree,
                                    struct ept02_table *parent, unsigned slot, u64 *source,
                                    gpa_t gpa12, u64 perms);
