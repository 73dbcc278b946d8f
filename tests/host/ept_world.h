#pragma once
// A small world for the tests of EPT12, EPT01 and EPT02, and an oracle that knows nothing of the
// code under test: the walk of EPT12 and the composition are written once more, from the manual's
// tables. play() drives a cache by a sequence of bytes, random or a fuzzer's, and checks after each
// step what a processor could see.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ept/ept02.h"

#define WORLD_HOST   (4 * GIB)
#define WORLD_POOL   (256 * MIB) // hpa of the pages of EPT01 and EPT02
#define WORLD_EPT01  64          // pages
#define WORLD_TABLES 12          // EPT12 tables of L1, at the start of its RAM
#define WORLD_TREES  3
#define WORLD_NGPAS  96
#define WORLD_PAST   64

struct truth { // the composition for one ngpa at one time
    enum ept02_result result;
    u64 gpa, hpa;
    u64 perms;     // of EPT12 alone
    u64 effective; // of a translation through both, W withheld while the dirty flag is clear
    u64 type;
    bool ad_set; // every entry used has its accessed flag, or there are none
    bool dirty;
};

struct world {
    struct guest_mem mem;
    struct pool pool01;
    struct ept ept01;
    struct ept02_cache cache;
    u64 eptp12[WORLD_TREES];
    u64 ngpa[WORLD_NGPAS];
    // Compositions since the last INVEPT that ended the ones before.
    struct truth past[WORLD_TREES][WORLD_NGPAS][WORLD_PAST];
    unsigned pasts[WORLD_TREES][WORLD_NGPAS];
    // The processor: translations, and pages that it knows as tables, since the last flush.
    struct ept_leaf tlb[WORLD_TREES][WORLD_NGPAS];
    u64 known[4096];
    unsigned invepts;
    const u8 *bytes; // the source of decisions, or NULL for `seed`
    size_t left;
    u64 seed;
};

#define WORLD_CHECK(cond)                                                                          \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static inline u64 world_random(struct world *w)
{
    if (w->bytes) {
        if (!w->left)
            return 0;
        w->left--;
        return *w->bytes++;
    }
    w->seed = w->seed * 6364136223846793005ull + 1442695040888963407ull;
    return w->seed >> 33;
}

static inline unsigned pick(struct world *w, unsigned n)
{
    return (unsigned)(world_random(w) % n);
}

// ---- The oracle

static inline bool oracle_ram(const struct world *w, u64 gpa, u64 *hpa)
{
    for (unsigned i = 0; i < w->mem.count; i++) {
        const struct ram_range *r = &w->mem.range[i];
        if (gpa >= r->gpa.v && gpa < r->gpa.v + r->size) {
            *hpa = gpa - r->gpa.v + r->hpa.v;
            return true;
        }
    }
    return false;
}

// "EPT Misconfigurations", for a processor with 2M pages, execute-only and MAXPHYADDR 36.
static inline bool oracle_misconfig(const struct world *w, u64 e, unsigned level)
{
    bool large_ok = (level == 2 && w->cache.ept12.caps.large_2m) ||
                    (level == 3 && w->cache.ept12.caps.large_1g);
    bool large = e >> 7 & 1, leaf = level == 1 || (large && large_ok);
    unsigned type = e >> 3 & 7;
    if ((e & 3) == 2 || ((e & 5) == 4 && !w->cache.ept12.caps.exec_only))
        return true;
    if ((e & 0xfffffffffffffull) >> w->cache.ept12.caps.maxphyaddr)
        return true;
    if (!leaf)
        return e >> 3 & 0x1f;
    if (level == 2 && (e & 0x1ff000))
        return true;
    if (level == 3 && (e & 0x3ffff000))
        return true;
    return type == 2 || type == 3 || type == 7;
}

static inline struct truth oracle(const struct world *w, u64 eptp12, u64 ngpa)
{
    struct truth t = {.result = EPT02_VIOLATION, .perms = 7, .ad_set = true};
    bool ad = eptp12 >> 6 & 1;
    u64 at = eptp12 & 0xffffffffff000ull;
    for (unsigned level = 4; level; level--) {
        unsigned shift = 12 + 9 * (level - 1);
        u64 host, e = ~0ull;
        if (oracle_ram(w, at, &host))
            memcpy(&e, phys_window + host + (ngpa >> shift & 511) * 8, 8);
        t.perms &= e;
        if (!(e & 7))
            return t;
        if (oracle_misconfig(w, e, level)) {
            t.result = EPT02_MISCONFIG;
            return t;
        }
        t.ad_set = t.ad_set && (!ad || (e >> 8 & 1));
        at = e & 0xffffffffff000ull;
        if (level > 1 && !(e >> 7 & 1))
            continue;
        t.gpa = at + (ngpa & ((1ull << shift) - 1));
        t.type = e & 0x78;
        t.dirty = e >> 9 & 1;
        t.effective = ad && !t.dirty ? t.perms & ~2ull : t.perms;
        t.result = oracle_ram(w, t.gpa, &t.hpa) ? EPT02_FILLED : EPT02_MMIO;
        return t;
    }
    return t;
}

// ---- The world

static inline void world_invept(void *ctx, u64 eptp02);

static inline void world_init(struct world *w, u64 pages)
{
    static const u64 part[] = {0, 1, 2, 511};
    if (!phys_window)
        phys_window = mmap(NULL, WORLD_HOST, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct ept_caps host = {
        .large_2m = true, .large_1g = true, .exec_only = true, .ad = true, .maxphyaddr = 40};
    *w = (struct world){.mem = {.count = 3,
                                .range = {{GPA(0), HPA(16 * MIB + 0x5000), MIB},
                                          {GPA(16 * MIB), HPA(64 * MIB), 16 * MIB},
                                          {GPA(GIB), HPA(2 * GIB), GIB}}}};
    memset(phys_ptr(w->mem.range[0].hpa), 0, WORLD_TABLES * PAGE_SIZE);
    pool_init(&w->pool01, HPA(WORLD_POOL), WORLD_EPT01);
    WORLD_CHECK(!ept_init(&w->ept01, &w->pool01, &host));
    WORLD_CHECK(!ept_map_ram(&w->ept01, &w->mem));
    struct ept12 l1 = {.mem = &w->mem, .caps = host};
    l1.caps.maxphyaddr = 36;
    WORLD_CHECK(
        ept02_init(&w->cache, HPA(WORLD_POOL + WORLD_EPT01 * PAGE_SIZE), pages, &w->ept01, &l1));
    w->cache.invept = world_invept;
    w->cache.ctx = w;
    w->eptp12[0] = 0 | EPTP_TYPE(MT_WB) | EPTP_LEVELS(4);
    w->eptp12[1] = 0 | EPTP_TYPE(MT_WB) | EPTP_LEVELS(4) | EPTP_AD;
    w->eptp12[2] = PAGE_SIZE | EPTP_TYPE(MT_WB) | EPTP_LEVELS(4) | EPTP_AD;
    for (unsigned i = 0; i < WORLD_NGPAS; i++)
        w->ngpa[i] = part[i % 2] << 39 | part[i / 2 % 2] << 30 | part[i / 4 % 3] << 21 |
                     part[i / 12 % 4] << 12 | (i >= 48 ? 0x123 : 0);
}

static inline u64 *world_entry(struct world *w, unsigned table, unsigned index)
{
    return (u64 *)phys_ptr(w->mem.range[0].hpa) + table * EPT_ENTRIES + index;
}

static inline bool truth_allows(const struct truth *t, const struct ept_leaf *leaf)
{
    return t->result == EPT02_FILLED && t->hpa == leaf->hpa.v && t->ad_set &&
           t->type == (leaf->entry & 0x78) && !(leaf->entry & 7 & ~t->effective);
}

static inline bool was_true(const struct world *w, unsigned tree, unsigned n,
                            const struct ept_leaf *leaf)
{
    if (w->pasts[tree][n] >= WORLD_PAST)
        return true; // too long a past to tell
    for (unsigned i = 0; i < w->pasts[tree][n]; i++)
        if (truth_allows(&w->past[tree][n][i], leaf))
            return true;
    return false;
}

// L1 did something to EPT12: note the compositions that are true from now on.
static inline void note_truth(struct world *w)
{
    for (unsigned tree = 0; tree < WORLD_TREES; tree++) {
        for (unsigned n = 0; n < WORLD_NGPAS; n++) {
            struct truth t = oracle(w, w->eptp12[tree], w->ngpa[n]);
            unsigned count = w->pasts[tree][n];
            struct truth *past = w->past[tree][n];
            if (count < WORLD_PAST && (!count || memcmp(&past[count - 1], &t, sizeof(t)))) {
                memcpy(&past[count], &t, sizeof(t));
                w->pasts[tree][n]++;
            }
        }
    }
}

static inline void end_past(struct world *w, unsigned tree)
{
    memset(w->pasts[tree], 0, sizeof(w->pasts[tree]));
    note_truth(w);
}

// ---- The processor

static inline unsigned tree_index(const struct world *w, const struct ept02_tree *tree)
{
    for (unsigned i = 0; i < WORLD_TREES; i++)
        if (tree->eptp12 == w->eptp12[i])
            return i;
    WORLD_CHECK(!"a tree of nobody");
    return 0;
}

static inline void world_invept(void *ctx, u64 eptp02)
{
    struct world *w = ctx;
    w->invepts++;
    for (struct ept02_tree *tree = w->cache.tree; tree < w->cache.end; tree++) {
        if (!tree->root || tree->eptp02 != eptp02)
            continue;
        unsigned t = tree_index(w, tree);
        memset(w->tlb[t], 0, sizeof(w->tlb[t]));
        for (unsigned p = 0; p < ARRAY_SIZE(w->known); p++)
            if ((w->known[p] & 3) == t + 1)
                w->known[p] = 0;
    }
}

// The processor walks EPT02 for one address and remembers which page is which table.
static inline void learn_tables(struct world *w, const struct ept02_tree *tree, unsigned t,
                                u64 ngpa)
{
    u64 page = tree->eptp02 & EPT_ADDR;
    for (unsigned level = 4; level; level--) {
        u64 who = (ngpa >> (12 + 9 * level)) << 8 | level << 4 | (t + 1);
        u64 *known = &w->known[(page - w->cache.pool.base.v) / PAGE_SIZE];
        WORLD_CHECK(!*known || *known == who); // else reused before a flush
        *known = who;
        u64 e = ((u64 *)phys_ptr(HPA(page)))[ngpa >> (12 + 9 * (level - 1)) & 511];
        if (!(e & 7) || level == 1 || (e & EPT_LARGE))
            return;
        page = e & EPT_ADDR;
    }
}

// L2 runs for a while with tree `t` and touches everything.
static inline void run_l2(struct world *w, unsigned t)
{
    struct ept02_tree *tree = ept02_get(&w->cache, w->eptp12[t]);
    if (tree->flush_due) {
        world_invept(w, tree->eptp02);
        ept02_flushed(&w->cache, tree);
    }
    for (unsigned n = 0; n < WORLD_NGPAS; n++) {
        struct ept_leaf leaf;
        if (w->tlb[t][n].level)
            WORLD_CHECK(was_true(w, t, n, &w->tlb[t][n]));
        learn_tables(w, tree, t, w->ngpa[n]);
        if (ept02_lookup(tree, NGPA(w->ngpa[n]), &leaf)) {
            WORLD_CHECK(was_true(w, t, n, &leaf));
            w->tlb[t][n] = leaf;
        }
    }
}

// ---- Steps

// Each table is mostly used at one level: 0 and 1 are roots, 2 to 4 at level 3, 5 to 7 at level 2.
static inline unsigned table_for(struct world *w, unsigned level)
{
    static const unsigned first[] = {0, 8, 5, 2}, count[] = {0, 4, 3, 3};
    if (pick(w, 32) == 0)
        return pick(w, WORLD_TABLES); // not meant for the level, perhaps the table itself
    return first[level] + pick(w, count[level]);
}

static inline void step_edit(struct world *w)
{
    static const unsigned index[] = {0, 1, 2, 511};
    static const u64 page[] = {0x3000,         0x7f000,  8 * MIB,  0xfee00000, 2 * GIB - 4096,
                               0x900000000ull, 16 * MIB, 18 * MIB, GIB,        GIB + 512 * MIB,
                               GIB + 4 * MIB,  0};
    unsigned table = pick(w, WORLD_TABLES), what = pick(w, 32);
    unsigned level = table < 2 ? 4 : table < 5 ? 3 : table < 8 ? 2 : 1;
    u64 *e = world_entry(w, table, index[pick(w, 4)]);
    u64 perms = (u64[]){7, 7, 7, 3, 1, 5, 7, 7, 7, 4, 0, 2, 7, 6, 7, 7}[pick(w, 16)];
    u64 type = EPT_TYPE(pick(w, 4) ? MT_WB : MT_UC) | (pick(w, 4) ? 0 : EPT_IPAT);
    if (what < 16 && level > 1)
        *e = table_for(w, level - 1) * PAGE_SIZE | perms;
    else if (what < 16)
        *e = page[pick(w, ARRAY_SIZE(page))] | perms | type;
    else if (what < 20)
        *e = page[6 + pick(w, 6)] | EPT_LARGE | perms | type;
    else if (what < 24)
        *e &= ~(u64)(pick(w, 2) ? EPT_D : EPT_A);
    else if (what < 25)
        *e = 0;
    else if (what < 26)
        *e ^= BIT(pick(w, 64));
    else
        *e = (*e & ~EPT_RWX) | perms;
    note_truth(w);
}

static inline void step_fault(struct world *w, unsigned t)
{
    unsigned n = pick(w, WORLD_NGPAS);
    u64 kind = (u64[]){1, 2, 4, 3}[pick(w, 4)];
    bool paging = pick(w, 4) == 0, ad = w->eptp12[t] & EPTP_AD;
    u64 hardware = kind | 5 << 3 | EPT_QUAL_LINEAR_VALID | (paging ? 0 : EPT_QUAL_FINAL) | BIT(12);
    struct ept02_fault fault = {
        .ngpa = NGPA(w->ngpa[n]), .qualification = hardware, .pml_full = pick(w, 8) == 0};
    struct truth before = oracle(w, w->eptp12[t], w->ngpa[n]);
    if (paging && ad)
        kind |= 2;
    enum ept02_result expected = before.result;
    if (expected != EPT02_VIOLATION && expected != EPT02_MISCONFIG) {
        if (kind & ~before.perms)
            expected = EPT02_VIOLATION;
        else if (ad && (kind & 2) && !before.dirty && fault.pml_full)
            expected = EPT02_PML_FULL;
    }
    struct ept02_tree *tree = ept02_get(&w->cache, w->eptp12[t]);
    WORLD_CHECK(ept02_fault(&w->cache, &fault) == expected);
    note_truth(w);
    if (expected == EPT02_VIOLATION)
        WORLD_CHECK(fault.qualification ==
                    ((hardware & ~(u64)0x7f) | kind | (before.perms & 7) << 3));
    if (expected == EPT02_MMIO || expected == EPT02_FILLED) {
        struct truth now = oracle(w, w->eptp12[t], w->ngpa[n]);
        WORLD_CHECK(expected == EPT02_FILLED || fault.gpa.v == now.gpa);
        WORLD_CHECK(!ad || (now.ad_set && (now.dirty || !(kind & 2))));
        WORLD_CHECK(fault.dirtied == (now.dirty != before.dirty));
        struct ept_leaf leaf;
        if (expected == EPT02_FILLED) {
            WORLD_CHECK(ept02_lookup(tree, NGPA(w->ngpa[n]), &leaf));
            WORLD_CHECK(truth_allows(&now, &leaf));
            WORLD_CHECK((leaf.entry & 7) == now.effective);
        }
        // "EPT violations" invalidate what is cached for the address.
        w->tlb[t][n] = (struct ept_leaf){};
    }
}

static inline void step_invept(struct world *w, unsigned t)
{
    bool all = pick(w, 4) == 0;
    if (all)
        ept02_invept_all(&w->cache);
    else
        ept02_invept(&w->cache, w->eptp12[t]);
    for (unsigned i = 0; i < WORLD_TREES; i++)
        if (all || !((w->eptp12[i] ^ w->eptp12[t]) & EPT_ADDR))
            end_past(w, i);
}

static inline void step_prefill(struct world *w, unsigned t)
{
    unsigned n = pick(w, WORLD_NGPAS);
    u64 kind = (u64[]){1, 2, 4, 3}[pick(w, 4)];
    struct truth before = oracle(w, w->eptp12[t], w->ngpa[n]);
    ept02_get(&w->cache, w->eptp12[t]);
    ept02_prefill(&w->cache, NGPA(w->ngpa[n]), kind | EPT_QUAL_LINEAR_VALID | EPT_QUAL_FINAL);
    struct truth now = oracle(w, w->eptp12[t], w->ngpa[n]);
    WORLD_CHECK(now.ad_set == before.ad_set && now.dirty == before.dirty);
}

// Everything goes: first only the roots may still hold memory, then nothing.
static inline void check_leaks(struct world *w)
{
    u64 roots = 0;
    ept02_drop_all(&w->cache);
    for (struct ept02_tree *tree = w->cache.tree; tree < w->cache.end; tree++) {
        if (!tree->root)
            continue;
        world_invept(w, tree->eptp02);
        ept02_flushed(&w->cache, tree);
        roots++;
    }
    WORLD_CHECK(w->cache.pool.used == 2 * roots);
    WORLD_CHECK(!ept02_release(&w->cache));
}

// Plays up to `steps` steps, or until the bytes are used up.
static inline void play(struct world *w, unsigned steps)
{
    note_truth(w);
    for (unsigned i = 0; i < steps && (!w->bytes || w->left); i++) {
        unsigned what = pick(w, 64), t = pick(w, WORLD_TREES);
        if (what < 14)
            step_edit(w);
        else if (what < 46)
            step_fault(w, t);
        else if (what < 50)
            step_invept(w, t);
        else if (what < 54)
            step_prefill(w, t);
        else if (what < 55 && pick(w, 4) == 0)
            ept02_drop_all(&w->cache);
        else
            run_l2(w, t);
        WORLD_CHECK(w->cache.pool.used <= w->cache.pool.pages);
    }
    check_leaks(w);
}
