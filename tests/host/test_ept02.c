#include "tests/host/test.h"

#include "tests/host/ept_world.h"

static struct world w;

#define READ  (EPT_R | EPT_QUAL_LINEAR_VALID | EPT_QUAL_FINAL)
#define WRITE (EPT_W | EPT_QUAL_LINEAR_VALID | EPT_QUAL_FINAL)

static enum ept02_result fault(u64 ngpa, u64 qualification)
{
    struct ept02_fault f = {.ngpa = NGPA(ngpa), .qualification = qualification};
    return ept02_fault(&w.cache, &f);
}

static u64 mapped(u64 ngpa)
{
    struct ept_leaf leaf;
    ept02_get(&w.cache, w.cache.current->eptp12);
    return ept02_lookup(w.cache.current, NGPA(ngpa), &leaf) ? leaf.hpa.v | (leaf.entry & 7) : 0;
}

static void flush(void)
{
    world_invept(&w, w.cache.current->eptp02);
    ept02_flushed(&w.cache, w.cache.current);
}

static void invept(void)
{
    ept02_invept(&w.cache, w.cache.current->eptp12);
    ept02_get(&w.cache, w.cache.current->eptp12);
}

// Tables 0 to 3 make a path to 512 pages of 4 KiB at ngpa 0.
static void leaf_world(u64 pages, unsigned entries, u64 eptp_bits)
{
    world_init(&w, pages);
    *world_entry(&w, 0, 0) = 1 * PAGE_SIZE | EPT_RWX;
    *world_entry(&w, 1, 0) = 2 * PAGE_SIZE | EPT_RWX;
    *world_entry(&w, 2, 0) = 3 * PAGE_SIZE | EPT_RWX;
    for (unsigned i = 0; i < entries; i++)
        *world_entry(&w, 3, i) = (16 * MIB + i * PAGE_SIZE) | EPT_RWX | EPT_TYPE(MT_WB);
    ept02_get(&w.cache, w.eptp12[0] | eptp_bits);
    flush();
}

TEST(histories)
{
    for (u64 seed = 1; seed <= 60; seed++) {
        world_init(&w, seed % 3 ? 200 : EPT02_MIN_PAGES + seed % 7);
        w.seed = seed * 7919;
        w.cache.around = 1u << seed % 5;
        play(&w, 4000);
    }
}

TEST(current_tree_is_kept)
{
    leaf_world(100, 1, 0);
    struct ept02_tree *tree = w.cache.current;
    CHECK(ept02_get(&w.cache, w.eptp12[0]) == tree);
    CHECK(!tree->flush_due);
    CHECK(ept02_get(&w.cache, w.eptp12[2]) != tree);
    CHECK(w.cache.current->flush_due); // its root may be a root known from before
    CHECK(ept02_get(&w.cache, w.eptp12[0]) == tree);
}

TEST(invept_refaults_what_changed_only)
{
    leaf_world(100, 512, 0);
    for (unsigned i = 0; i < 512; i++)
        CHECK_EQ(fault(i * PAGE_SIZE, READ), EPT02_FILLED);
    CHECK(!w.cache.current->flush_due);
    invept();
    CHECK(!w.cache.current->flush_due);
    *world_entry(&w, 3, 77) = 0;
    invept();
    CHECK(w.cache.current->flush_due);
    for (unsigned i = 0; i < 512; i++)
        CHECK_EQ(mapped(i * PAGE_SIZE), i == 77 ? 0 : (64 * MIB + i * PAGE_SIZE) | EPT_RWX);
    CHECK_EQ(w.cache.stats.dropped, 1);
}

TEST(invept_of_an_upper_entry)
{
    leaf_world(100, 16, 0);
    for (unsigned i = 0; i < 16; i++)
        fault(i * PAGE_SIZE, READ);
    u64 used = w.cache.pool.used;
    *world_entry(&w, 1, 0) = 0;
    invept();
    CHECK(w.cache.current->flush_due);
    CHECK_EQ(mapped(0), 0);
    CHECK_EQ(w.cache.pool.used, used); // the processor may still walk them
    flush();
    CHECK_EQ(w.cache.pool.used, used - 4);
}

TEST(invept_cuts_permissions_in_place)
{
    leaf_world(100, 2, 0);
    fault(0, READ);
    *world_entry(&w, 3, 0) &= ~EPT_W;
    invept();
    CHECK(w.cache.current->flush_due);
    CHECK_EQ(mapped(0), 64 * MIB | EPT_R | EPT_X);
    CHECK_EQ(w.cache.stats.dropped, 0);
    CHECK_EQ(fault(0, WRITE), EPT02_VIOLATION);
}

TEST(invept_by_another_root_concerns_nothing)
{
    leaf_world(100, 2, 0);
    fault(0, READ);
    *world_entry(&w, 3, 0) = 0;
    ept02_invept(&w.cache, w.eptp12[2]);
    CHECK_EQ(mapped(0), 64 * MIB | EPT_RWX);
    ept02_invept_all(&w.cache);
    CHECK_EQ(mapped(0), 0);
}

TEST(dirty_flag_is_emulated)
{
    leaf_world(100, 2, EPTP_AD);
    CHECK_EQ(fault(0, READ), EPT02_FILLED);
    CHECK_EQ(mapped(0), 64 * MIB | EPT_R | EPT_X);
    CHECK_EQ(*world_entry(&w, 3, 0) & (EPT_A | EPT_D), EPT_A);
    CHECK_EQ(*world_entry(&w, 0, 0) & (EPT_A | EPT_D), EPT_A);
    struct ept02_fault f = {.qualification = WRITE, .pml_full = true};
    CHECK_EQ(ept02_fault(&w.cache, &f), EPT02_PML_FULL);
    CHECK_EQ(*world_entry(&w, 3, 0) & (EPT_A | EPT_D), EPT_A);
    f.pml_full = false;
    CHECK_EQ(ept02_fault(&w.cache, &f), EPT02_FILLED);
    CHECK(f.dirtied);
    CHECK_EQ(mapped(0), 64 * MIB | EPT_RWX);
    CHECK_EQ(*world_entry(&w, 3, 0) & (EPT_A | EPT_D), EPT_A | EPT_D);
    *world_entry(&w, 3, 0) &= ~EPT_D;
    invept();
    CHECK_EQ(mapped(0), 64 * MIB | EPT_R | EPT_X); // reads do not fault again
    *world_entry(&w, 3, 0) &= ~EPT_A;
    invept();
    CHECK_EQ(mapped(0), 0);
}

TEST(reading_a_page_table_is_a_write_under_ad)
{
    leaf_world(100, 1, EPTP_AD);
    *world_entry(&w, 3, 0) &= ~EPT_W;
    struct ept02_fault f = {.qualification = EPT_R | EPT_QUAL_LINEAR_VALID};
    CHECK_EQ(ept02_fault(&w.cache, &f), EPT02_VIOLATION);
    CHECK_EQ(f.qualification, EPT_R | EPT_W | EPT_QUAL_LINEAR_VALID | 5 << 3);
    ept02_get(&w.cache, w.eptp12[0]);
    f.qualification = EPT_R | EPT_QUAL_LINEAR_VALID;
    CHECK_EQ(ept02_fault(&w.cache, &f), EPT02_FILLED);
}

TEST(other_cpus_flags_end_nothing)
{
    leaf_world(100, 1, EPTP_AD);
    fault(0, READ);
    *world_entry(&w, 3, 0) |= EPT_D | BIT(57);
    invept();
    CHECK_EQ(mapped(0), 64 * MIB | EPT_R | EPT_X);
    CHECK(!w.cache.current->flush_due);
}

TEST(largest_page_of_both)
{
    struct ept_leaf leaf;
    world_init(&w, 100);
    ept02_get(&w.cache, w.eptp12[0]);
    *world_entry(&w, 0, 0) = 1 * PAGE_SIZE | EPT_RWX;
    *world_entry(&w, 1, 0) = GIB | EPT_RWX | EPT_LARGE | EPT_TYPE(MT_WB);
    *world_entry(&w, 1, 1) = 2 * PAGE_SIZE | EPT_RWX;
    *world_entry(&w, 2, 0) = (16 * MIB) | EPT_RWX | EPT_LARGE | EPT_TYPE(MT_WB);
    *world_entry(&w, 2, 1) = 0 | EPT_RWX | EPT_LARGE | EPT_TYPE(MT_UC) | EPT_IPAT;
    CHECK_EQ(fault(0x12345678, READ), EPT02_FILLED);
    CHECK(ept02_lookup(w.cache.current, NGPA(0x12345678), &leaf));
    CHECK_EQ(leaf.level, 3);
    CHECK_EQ(leaf.hpa.v, 2 * GIB + 0x12345678);
    CHECK_EQ(fault(GIB + 0x123456, READ), EPT02_FILLED);
    CHECK(ept02_lookup(w.cache.current, NGPA(GIB + 0x123456), &leaf));
    CHECK_EQ(leaf.level, 2);
    // EPT01 has 4 KiB pages there, for the first MiB only.
    CHECK_EQ(fault(GIB + 2 * MIB + 0x3456, READ), EPT02_FILLED);
    CHECK(ept02_lookup(w.cache.current, NGPA(GIB + 2 * MIB + 0x3456), &leaf));
    CHECK_EQ(leaf.level, 1);
    CHECK_EQ(leaf.hpa.v, 16 * MIB + 0x5000 + 0x3456);
    CHECK_EQ(leaf.entry & (EPT_TYPE_MASK | EPT_IPAT), EPT_IPAT);
    CHECK_EQ(fault(GIB + 3 * MIB, READ), EPT02_MMIO);
    // The large page goes, and what it was split into with it.
    *world_entry(&w, 2, 1) = 0;
    invept();
    CHECK(!ept02_lookup(w.cache.current, NGPA(GIB + 2 * MIB + 0x3456), &leaf));
}

TEST(dirty_flag_of_a_split_page)
{
    world_init(&w, 100);
    ept02_get(&w.cache, w.eptp12[1]);
    *world_entry(&w, 0, 0) = 1 * PAGE_SIZE | EPT_RWX;
    *world_entry(&w, 1, 0) = 2 * PAGE_SIZE | EPT_RWX;
    *world_entry(&w, 2, 0) = 0 | EPT_RWX | EPT_LARGE | EPT_TYPE(MT_WB);
    CHECK_EQ(fault(0x20000, READ), EPT02_FILLED);
    CHECK_EQ(fault(0x21000, WRITE), EPT02_FILLED);
    CHECK_EQ(mapped(0x20000), (16 * MIB + 0x25000) | EPT_R | EPT_X);
    CHECK_EQ(mapped(0x21000), (16 * MIB + 0x26000) | EPT_RWX);
    *world_entry(&w, 2, 0) &= ~EPT_D;
    invept();
    CHECK_EQ(mapped(0x21000) & EPT_W, 0);
}

TEST(l0_protects_a_page)
{
    leaf_world(100, 2, 0);
    CHECK_EQ(fault(0, WRITE), EPT02_FILLED);
    CHECK_EQ(ept_protect(&w.ept01, GPA(16 * MIB), PAGE_SIZE, EPT_R | EPT_X), EPT_OK);
    ept02_drop_all(&w.cache);
    CHECK(w.cache.current->flush_due);
    CHECK_EQ(mapped(0), 0);
    CHECK_EQ(fault(0, WRITE), EPT02_MMIO);
    CHECK_EQ(fault(0, READ), EPT02_FILLED);
    CHECK_EQ(mapped(0), 64 * MIB | EPT_R | EPT_X);
    CHECK_EQ(fault(PAGE_SIZE, WRITE), EPT02_FILLED);
}

TEST(one_tree_beyond_the_budget)
{
    // One leaf table for each 2 MiB, all of them the same table of L1.
    leaf_world(EPT02_MIN_PAGES, 512, 0);
    for (unsigned i = 0; i < 512; i++)
        *world_entry(&w, 2, i) = 3 * PAGE_SIZE | EPT_RWX;
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < 512; i++) {
            CHECK_EQ(fault(i * 2 * MIB + 5 * PAGE_SIZE, READ), EPT02_FILLED);
            CHECK_EQ(mapped(i * 2 * MIB + 5 * PAGE_SIZE), (64 * MIB + 5 * PAGE_SIZE) | EPT_RWX);
            learn_tables(&w, w.cache.current, 0, i * 2 * MIB);
        }
    CHECK(w.cache.stats.evicted_tables > 0);
    CHECK(w.cache.pool.peak <= w.cache.pool.pages);
}

TEST(oldest_tree_goes_first)
{
    leaf_world(EPT02_MIN_PAGES, 512, 0);
    for (unsigned i = 0; i < 3; i++) {
        ept02_get(&w.cache, w.eptp12[0] | (i == 1 ? EPTP_AD : 0) | (i == 2 ? 1 << 12 : 0));
        fault(0, READ);
    }
    ept02_get(&w.cache, w.eptp12[0]);
    for (unsigned i = 0; i < 512; i++)
        *world_entry(&w, 2, i) = 3 * PAGE_SIZE | EPT_RWX;
    while (!w.cache.stats.evicted_trees)
        fault((u64)pick(&w, 512) * 2 * MIB, READ);
    CHECK_EQ(w.cache.stats.evicted_trees, 1);
    for (struct ept02_tree *tree = w.cache.tree; tree < w.cache.end; tree++)
        CHECK_EQ(!tree->root, tree->eptp12 == (w.eptp12[0] | EPTP_AD));
}

static void no_invept(void *ctx, u64 eptp02)
{
    (void)ctx, (void)eptp02;
}

TEST(more_roots_than_trees)
{
    leaf_world(400, 1, 0);
    w.cache.invept = no_invept;
    for (u64 i = 0; i < 100; i++) {
        u64 eptp = (i % 50 << 20) | EPTP_TYPE(MT_WB) | EPTP_LEVELS(4); // most of them outside RAM
        CHECK_EQ(ept02_get(&w.cache, eptp)->eptp12, eptp);
        CHECK_EQ(fault(0, READ), i % 50 == 0   ? EPT02_FILLED
                                 : i % 50 < 16 ? EPT02_MISCONFIG
                                 : i % 50 < 32 ? EPT02_VIOLATION
                                               : EPT02_MISCONFIG);
    }
    CHECK(w.cache.stats.evicted_trees >= 100 - EPT02_TREES - 1);
}

TEST(table_that_is_its_own_child)
{
    world_init(&w, 100);
    *world_entry(&w, 0, 0) = 0 | EPT_RWX;
    ept02_get(&w.cache, w.eptp12[0]);
    // At level 1 the entry maps the table itself, with memory type UC.
    CHECK_EQ(fault(0x888, WRITE), EPT02_FILLED);
    CHECK_EQ(mapped(0x888) & ~7ull, (16 * MIB + 0x5888) & ~7ull);
}

TEST(bits_beyond_48_are_a_violation)
{
    leaf_world(100, 1, 0);
    CHECK_EQ(fault(BIT(48), READ), EPT02_VIOLATION);
    CHECK_EQ(fault(~0ull, READ), EPT02_VIOLATION);
}

static u64 epoch;
static u64 epoch_of(void *ctx, gpa_t table)
{
    (void)ctx, (void)table;
    return epoch;
}

TEST(tables_known_clean_are_skipped)
{
    leaf_world(100, 1, 0);
    w.cache.write_epoch = epoch_of;
    epoch = 1;
    fault(0, READ);
    invept();
    *world_entry(&w, 3, 0) = 0;
    invept();
    CHECK_EQ(mapped(0), 64 * MIB | EPT_RWX); // the hook says that nobody wrote
    epoch = 2;
    invept();
    CHECK_EQ(mapped(0), 0);
}

TEST(fault_around)
{
    leaf_world(100, 512, EPTP_AD);
    w.cache.around = 8;
    *world_entry(&w, 3, 17) |= EPT_A;
    *world_entry(&w, 3, 18) |= EPT_A | EPT_D;
    *world_entry(&w, 3, 19) = 0;
    *world_entry(&w, 3, 20) |= EPT_A | EPT_TYPE(7);
    *world_entry(&w, 3, 21) = 0xfee00000 | EPT_RWX | EPT_A;
    *world_entry(&w, 3, 22) = GIB | EPT_RWX | EPT_A;
    CHECK_EQ(fault(16 * PAGE_SIZE, READ), EPT02_FILLED);
    u64 base = 64 * MIB;
    CHECK_EQ(mapped(17 * PAGE_SIZE), (base + 17 * PAGE_SIZE) | EPT_R | EPT_X);
    CHECK_EQ(mapped(18 * PAGE_SIZE), (base + 18 * PAGE_SIZE) | EPT_RWX);
    for (unsigned i = 19; i < 22; i++)
        CHECK_EQ(mapped(i * PAGE_SIZE), 0);
    CHECK_EQ(mapped(23 * PAGE_SIZE), 0); // not accessed yet
    CHECK_EQ(mapped(24 * PAGE_SIZE), 0);
    CHECK_EQ(mapped(15 * PAGE_SIZE), 0);
    // Memory of L1 that EPT01 has elsewhere is looked up again.
    *world_entry(&w, 3, 21) = 0x3000 | EPT_RWX | EPT_A | EPT_D;
    CHECK_EQ(fault(16 * PAGE_SIZE, WRITE), EPT02_FILLED);
    CHECK_EQ(mapped(21 * PAGE_SIZE), (16 * MIB + 0x5000 + 0x3000) | EPT_RWX);
    CHECK_EQ(mapped(22 * PAGE_SIZE), (2 * GIB) | EPT_R | EPT_X);
}

TEST(prefill_has_no_side_effects)
{
    leaf_world(100, 2, EPTP_AD);
    ept02_prefill(&w.cache, NGPA(0), READ);
    CHECK_EQ(mapped(0), 0);
    CHECK_EQ(*world_entry(&w, 0, 0) & EPT_A, 0);
    fault(0, READ);
    *world_entry(&w, 3, 1) |= EPT_A;
    ept02_prefill(&w.cache, NGPA(PAGE_SIZE), WRITE);
    CHECK_EQ(mapped(PAGE_SIZE), 0);
    ept02_prefill(&w.cache, NGPA(PAGE_SIZE), READ);
    CHECK_EQ(mapped(PAGE_SIZE), (64 * MIB + PAGE_SIZE) | EPT_R | EPT_X);
}

// The second fault in a table goes a shorter way, with the same rules.
TEST(faults_in_the_last_table)
{
    struct ept02_fault f = {.ngpa = NGPA(5 * PAGE_SIZE), .qualification = READ};
    leaf_world(100, 5, 0);
    CHECK_EQ(fault(0, READ), EPT02_FILLED);
    CHECK_EQ(fault(PAGE_SIZE, READ), EPT02_FILLED);
    CHECK_EQ(ept02_fault(&w.cache, &f), EPT02_VIOLATION);
    CHECK(!f.suppress_ve);
    *world_entry(&w, 3, 5) = EPT_SUPPRESS_VE;
    CHECK_EQ(ept02_fault(&w.cache, &f), EPT02_VIOLATION);
    CHECK(f.suppress_ve);
    CHECK_EQ(f.qualification, READ);
    *world_entry(&w, 3, 2) |= EPT_TYPE(7);
    CHECK_EQ(fault(2 * PAGE_SIZE, READ), EPT02_MISCONFIG);
    *world_entry(&w, 3, 3) |= BIT(36);
    CHECK_EQ(fault(3 * PAGE_SIZE, READ), EPT02_MISCONFIG);
    CHECK_EQ(ept_protect(&w.ept01, GPA(16 * MIB + 4 * PAGE_SIZE), PAGE_SIZE, EPT_R), EPT_OK);
    CHECK_EQ(fault(4 * PAGE_SIZE, WRITE), EPT02_MMIO);
    CHECK_EQ(fault(4 * PAGE_SIZE, READ), EPT02_FILLED);
    // Another table above it, without INVEPT: the one known before is no longer on the way.
    *world_entry(&w, 2, 0) = 4 * PAGE_SIZE | EPT_RWX;
    CHECK_EQ(fault(6 * PAGE_SIZE, READ), EPT02_VIOLATION);
    CHECK_EQ(fault(PAGE_SIZE, WRITE), EPT02_VIOLATION);
    // The table is gone from EPT02, too.
    leaf_world(100, 2, 0);
    CHECK_EQ(fault(0, READ), EPT02_FILLED);
    ept02_drop_all(&w.cache);
    CHECK_EQ(fault(PAGE_SIZE, READ), EPT02_FILLED);
    CHECK_EQ(mapped(PAGE_SIZE), (64 * MIB + PAGE_SIZE) | EPT_RWX);
}

TEST(memory_too_small)
{
    CHECK(!ept02_init(&w.cache, HPA(WORLD_POOL), EPT02_MIN_PAGES - 1, &w.ept01, &w.cache.ept12));
}
