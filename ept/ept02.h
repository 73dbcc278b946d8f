#pragma once
// EPT02: the composition of L1's EPT12 and L0's EPT01 (ngpa to hpa), which the processor walks
// while L2 runs. It is a cache of EPT12: filled by faults, revalidated by L1's INVEPT, bounded by
// its memory. A tree mirrors one EPT12: each EPT02 table shadows one EPT12 table, or splits one
// large page. Beside a table stands a snapshot of the EPT12 entries that its own were made from;
// INVEPT compares and touches nothing but what L1 changed.
//
// A cache belongs to one virtual CPU, as the caches that it imitates belong to one processor:
// INVEPT concerns the CPU that executes it, so that nothing here needs a lock, an interrupt to
// another CPU or a flush of one. The price is one tree for each vCPU that runs the same L2, and a
// processor that a vCPU moves to executes INVEPT all-context before it enters L2.

#include "ept/ept.h"
#include "ept/walk.h"
#include "libc/list.h"

#define EPT02_TREES 32

struct ept02_table; // an EPT02 table's descriptor

struct ept02_tree {
    u64 eptp12;               // key
    u64 eptp02;               // for the VMCS and for INVEPT
    bool stale;               // L1 executed INVEPT: to be compared with EPT12 before L2 runs on
    bool flush_due;           // INVEPT of eptp02 must come before the next VM entry with it
    u64 used;                 // when it became current last
    struct ept02_table *root; // NULL: the slot is free
    struct ept02_table *last; // table of 4 KiB pages where the last fault was, or NULL
    struct list tables;       // all tables
    struct list freed;        // tables that the processor may still walk
};

struct ept02_stats {
    u64 filled, around, dropped, evicted_tables, evicted_trees;
};

struct ept02_cache {
    struct ept02_tree *current; // what ept02_get() returned last, or NULL
    struct pool pool;
    struct ept02_table *table; // descriptor of each page of the pool
    const struct ept *ept01;
    struct ept12 ept12;

    // Executes INVEPT single-context for `eptp02` on this CPU. Called where memory has to come back
    // at once.
    void (*invept)(void *ctx, u64 eptp02);
    // Optional: a number, never 0, that differs from an earlier result if L1 may have written the
    // page of guest memory at `table` since then. NULL: INVEPT looks into every table.
    u64 (*write_epoch)(void *ctx, gpa_t table);
    void *ctx;

    unsigned around; // a fault fills up to so many entries (a power of two; 1: only its own)
    u64 clock;
    u64 hand;               // where the search for a table to evict goes on
    struct ept02_tree *end; // of the slots of tree[] that were ever used
    struct ept02_tree tree[EPT02_TREES];
    struct ept02_stats stats;
};

// Makes an empty cache of `pages` pages of host memory at `base`, its own until the VM ends.
// `ept01` and `l1` (copied) stay valid as long. The caller sets `invept`, `write_epoch` and `ctx`
// after it. False if the memory is too little to be of use (EPT02_MIN_PAGES).
#define EPT02_MIN_PAGES 32
bool ept02_init(struct ept02_cache *cache, hpa_t base, u64 pages, const struct ept *ept01,
                const struct ept12 *l1);

struct ept02_tree *ept02_find(struct ept02_cache *cache, u64 eptp12);

// The tree for EPTP12 (valid by the VM-entry checks), which becomes the current one, revalidated if
// L1 executed INVEPT. To be called before each entry into L2; what it leaves in `flush_due` and
// `eptp02` is for that entry. The pointer is good until the next call with another EPTP12.
static inline struct ept02_tree *ept02_get(struct ept02_cache *cache, u64 eptp12)
{
    struct ept02_tree *tree = cache->current;
    if (LIKELY(tree && tree->eptp12 == eptp12 && !tree->stale))
        return tree;
    return ept02_find(cache, eptp12);
}

enum ept02_result {
    EPT02_FILLED,    // L2 can try again
    EPT02_VIOLATION, // for L1: EPT violation with `qualification`, or #VE unless suppress_ve
    EPT02_MISCONFIG, // for L1: EPT misconfiguration
    EPT02_MMIO,      // L1 allows it, EPT01 does not: L0's device models have `gpa`
    EPT02_PML_FULL,  // for L1: page-modification log full
};

// One EPT violation of L2.
struct ept02_fault {
    ngpa_t ngpa;
    u64 qualification; // in: the processor's; out: what L1 is told
    bool pml_full;     // L1 logs and its log has no room
    gpa_t gpa;         // out, for EPT02_MMIO: the address that L2 reaches in L1's space
    bool suppress_ve;  // out, for EPT02_VIOLATION
    bool dirtied;      // out, for EPT02_FILLED and EPT02_MMIO: a dirty flag was set, to be logged
};

// Handles an EPT violation in the current tree. Needs no memory beyond the cache's own.
enum ept02_result ept02_fault(struct ept02_cache *cache, struct ept02_fault *fault);

// Fills the translation of `ngpa` before L2 asks for it: right after L1 handled a violation there.
// Sets no flag in EPT12 and does nothing if the access would not simply succeed.
void ept02_prefill(struct ept02_cache *cache, ngpa_t ngpa, u64 qualification);

// L1 executed INVEPT: single-context for `eptp12` (all trees with that root), or all-context. The
// work is done when such a tree is wanted next. INVVPID concerns nothing here. True if there is a
// tree for precisely that EPTP12.
static inline bool ept02_invept(struct ept02_cache *cache, u64 eptp12)
{
    const struct ept02_table *known = NULL;
    for (struct ept02_tree *tree = cache->tree; tree < cache->end; tree++) {
        u64 other = tree->eptp12 ^ eptp12;
        if (other >= PAGE_SIZE)
            continue;
        tree->stale = true;
        if (!other)
            known = tree->root; // none in a slot that is free
    }
    return known;
}
void ept02_invept_all(struct ept02_cache *cache);

// EPT01 changed: forgets everything.
void ept02_drop_all(struct ept02_cache *cache);

// The VM has ended: all trees go. The pages of the cache that are still in use then, of which there
// should be none.
u64 ept02_release(struct ept02_cache *cache);

// INVEPT for tree->eptp02 was executed on the CPU that runs the vCPU.
void ept02_flushed(struct ept02_cache *cache, struct ept02_tree *tree);

// What the tree maps now, as the processor would find it: the intersection of permissions in the
// leaf's entry. For tests, dumps and L0's own access to L2's memory.
bool ept02_lookup(const struct ept02_tree *tree, ngpa_t ngpa, struct ept_leaf *leaf);
