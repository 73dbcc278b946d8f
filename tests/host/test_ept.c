#include "tests/host/test.h"

#include "ept/ept.h"

#define PAGES 600
#define RAM   (EPT_RWX | EPT_TYPE(MT_WB))

static struct pool pool;
static struct ept ept;

static void fresh(bool large_2m, bool large_1g, u64 pages)
{
    struct ept_caps caps = {.large_2m = large_2m, .large_1g = large_1g, .maxphyaddr = 40};
    if (!phys_window)
        phys_window = aligned_alloc(PAGE_SIZE, PAGES * PAGE_SIZE);
    pool_init(&pool, HPA(0), pages);
    CHECK_EQ(ept_init(&ept, &pool, &caps), EPT_OK);
}

// Level of the page that maps `gpa` if it maps it to `hpa`; 0 if nothing does, 9 if something else.
static unsigned level_at(u64 gpa, u64 hpa)
{
    struct ept_leaf leaf;
    if (!ept_lookup(&ept, GPA(gpa), &leaf))
        return 0;
    return leaf.hpa.v == hpa ? leaf.level : 9;
}

TEST(largest_pages_that_fit)
{
    fresh(true, true, PAGES);
    CHECK_EQ(ept_map(&ept, GPA(0x1ff000), HPA(0x1ff000), 3 * GIB, RAM), EPT_OK);
    CHECK_EQ(level_at(0x1ff123, 0x1ff123), 1);
    CHECK_EQ(level_at(0x234567, 0x234567), 2);
    CHECK_EQ(level_at(GIB + 5, GIB + 5), 3);
    CHECK_EQ(level_at(3 * GIB + 0x1fe000, 3 * GIB + 0x1fe000), 1);
    CHECK_EQ(level_at(3 * GIB + 0x1ff000, 0), 0);
    CHECK_EQ(level_at(0x1fe000, 0), 0);
    CHECK_EQ(ept.version, 0); // nothing was there before
    fresh(true, false, PAGES);
    CHECK_EQ(ept_map(&ept, GPA(GIB), HPA(2 * GIB), GIB, RAM), EPT_OK);
    CHECK_EQ(level_at(GIB + 0x345678, 2 * GIB + 0x345678), 2);
    fresh(false, false, PAGES);
    CHECK_EQ(ept_map(&ept, GPA(GIB), HPA(2 * GIB), 4 * MIB, RAM), EPT_OK);
    CHECK_EQ(level_at(GIB + 0x345678, 2 * GIB + 0x345678), 1);
    // The addresses must agree below the size of the page.
    fresh(true, true, PAGES);
    CHECK_EQ(ept_map(&ept, GPA(GIB), HPA(2 * GIB + 0x1000), 4 * MIB, RAM), EPT_OK);
    CHECK_EQ(level_at(GIB + 0x345678, 2 * GIB + 0x346678), 1);
}

TEST(split_keeps_the_translation)
{
    struct ept_leaf leaf;
    fresh(true, true, PAGES);
    ept_map(&ept, GPA(GIB), HPA(2 * GIB), GIB, EPT_R | EPT_W | EPT_IPAT | EPT_TYPE(MT_WC));
    CHECK_EQ(ept_split(&ept, GPA(GIB + 0x345678), 1), EPT_OK);
    CHECK(ept.version > 0);
    CHECK_EQ(level_at(GIB + 0x345678, 2 * GIB + 0x345678), 1);
    CHECK_EQ(level_at(GIB + 0x200000, 2 * GIB + 0x200000), 1);
    CHECK_EQ(level_at(GIB + 0x1ff000, 2 * GIB + 0x1ff000), 2);
    CHECK_EQ(level_at(2 * GIB - 1, 3 * GIB - 1), 2);
    ept_lookup(&ept, GPA(GIB + 0x345678), &leaf);
    CHECK_EQ(leaf.entry & ~EPT_ADDR, EPT_R | EPT_W | EPT_IPAT | EPT_TYPE(MT_WC));
    u64 version = ept.version;
    CHECK_EQ(ept_split(&ept, GPA(GIB + 0x345678), 2), EPT_OK); // is split finer already
    CHECK_EQ(ept_split(&ept, GPA(5 * GIB), 1), EPT_OK);        // nothing there
    CHECK_EQ(ept.version, version);
}

TEST(unmap_and_protect_split_at_the_ends)
{
    struct ept_leaf leaf;
    fresh(true, true, PAGES);
    ept_map(&ept, GPA(0), HPA(0), 4 * GIB, RAM);
    CHECK_EQ(ept_unmap(&ept, GPA(0x3ff000), GIB), EPT_OK);
    CHECK_EQ(level_at(0x3fe000, 0x3fe000), 1);
    CHECK_EQ(level_at(0x3ff000, 0), 0);
    CHECK_EQ(level_at(GIB + 0x3fe000, 0), 0);
    CHECK_EQ(level_at(GIB + 0x3ff000, GIB + 0x3ff000), 1);
    CHECK_EQ(level_at(GIB + 0x400000, GIB + 0x400000), 2);
    CHECK_EQ(level_at(2 * GIB, 2 * GIB), 3);
    CHECK_EQ(ept_protect(&ept, GPA(2 * GIB), GIB + 0x1000, EPT_R), EPT_OK);
    ept_lookup(&ept, GPA(2 * GIB), &leaf);
    CHECK_EQ(leaf.entry & EPT_RWX, EPT_R);
    CHECK_EQ(leaf.level, 3);
    ept_lookup(&ept, GPA(3 * GIB), &leaf);
    CHECK_EQ(leaf.entry & EPT_RWX, EPT_R);
    CHECK_EQ(leaf.level, 1);
    ept_lookup(&ept, GPA(3 * GIB + 0x1000), &leaf);
    CHECK_EQ(leaf.entry & EPT_RWX, EPT_RWX);
    CHECK_EQ(ept_protect(&ept, GPA(0), 2 * GIB, EPT_R | EPT_W), EPT_OK);
    CHECK_EQ(level_at(0x3ff000, 0), 0); // a hole stays a hole
}

TEST(freed_tables_wait_for_the_flush)
{
    fresh(true, true, PAGES);
    ept_map(&ept, GPA(GIB), HPA(0x1000), 8 * MIB, RAM);
    u64 used = pool.used, version = ept.version;
    CHECK_EQ(used, 1 + 1 + 1 + 4);
    ept_map(&ept, GPA(GIB), HPA(GIB), GIB, RAM); // one page in place of five tables
    CHECK_EQ(level_at(GIB + 0x1000, GIB + 0x1000), 3);
    CHECK(ept.version != version);
    CHECK_EQ(pool.used, used);
    ept_flushed(&ept);
    CHECK_EQ(pool.used, 2);
    ept_flushed(&ept);
    ept_destroy(&ept);
    CHECK_EQ(pool.used, 0);
}

TEST(no_memory_is_an_error)
{
    struct ept_caps caps = {.maxphyaddr = 40};
    fresh(true, true, 3);
    CHECK_EQ(ept_map(&ept, GPA(0), HPA(0), PAGE_SIZE, RAM), EPT_NO_MEMORY);
    CHECK_EQ(ept_map(&ept, GPA(0), HPA(0), 2 * MIB, RAM), EPT_OK);
    CHECK_EQ(ept_unmap(&ept, GPA(0), PAGE_SIZE), EPT_NO_MEMORY);
    CHECK_EQ(ept_protect(&ept, GPA(0), PAGE_SIZE, EPT_R), EPT_NO_MEMORY);
    CHECK_EQ(level_at(0x1234, 0x1234), 2);
    CHECK_EQ(ept_init(&ept, &pool, &caps), EPT_NO_MEMORY);
}

TEST(bad_ranges)
{
    struct ept_leaf leaf;
    fresh(true, true, PAGES);
    CHECK_EQ(ept_map(&ept, GPA(1), HPA(0), PAGE_SIZE, RAM), EPT_BAD_RANGE);
    CHECK_EQ(ept_map(&ept, GPA(0), HPA(1), PAGE_SIZE, RAM), EPT_BAD_RANGE);
    CHECK_EQ(ept_map(&ept, GPA(0), HPA(0), 1, RAM), EPT_BAD_RANGE);
    CHECK_EQ(ept_map(&ept, GPA(BIT(48) - PAGE_SIZE), HPA(0), 2 * PAGE_SIZE, RAM), EPT_BAD_RANGE);
    CHECK_EQ(ept_unmap(&ept, GPA(~0xfffull), PAGE_SIZE), EPT_BAD_RANGE);
    CHECK_EQ(ept_protect(&ept, GPA(0), ~0xfffull, EPT_R), EPT_BAD_RANGE);
    CHECK_EQ(ept_map(&ept, GPA(BIT(48) - PAGE_SIZE), HPA(0), PAGE_SIZE, RAM), EPT_OK);
    CHECK(ept_lookup(&ept, GPA(BIT(48) - 1), &leaf));
    CHECK(!ept_lookup(&ept, GPA(BIT(48) | (BIT(48) - 1)), &leaf));
    CHECK(!ept_lookup(&ept, GPA(~0ull), &leaf));
}

TEST(ram_and_apic_access_page)
{
    struct guest_mem mem = {
        .count = 2, .range = {{GPA(0), HPA(GIB), 640 * KIB}, {GPA(MIB), HPA(GIB + MIB), 63 * MIB}}};
    struct ept_leaf leaf;
    fresh(true, true, PAGES);
    CHECK_EQ(ept_map_ram(&ept, &mem), EPT_OK);
    CHECK_EQ(level_at(0x9ffff, GIB + 0x9ffff), 1);
    CHECK_EQ(level_at(0xa0000, 0), 0);
    CHECK_EQ(level_at(0x3ffffff, GIB + 0x3ffffff), 2);
    CHECK_EQ(level_at(0x4000000, 0), 0);
    CHECK_EQ(level_at(0xfee00000, 0), 0);
    CHECK_EQ(ept_map_apic_access(&ept, GPA(0xfee00000), HPA(0x5000)), EPT_OK);
    CHECK_EQ(level_at(0xfee00080, 0x5080), 1);
    CHECK_EQ(level_at(0xfee01000, 0), 0);
    CHECK_EQ(ept_map_nothing(&ept, GPA(0xd0000), 0x10000, HPA(0x7000)), EPT_OK);
    CHECK_EQ(level_at(0xcffff, 0), 0);
    CHECK_EQ(level_at(0xd0010, 0x7010), 1);
    CHECK_EQ(level_at(0xdffff, 0x7fff), 1);
    CHECK_EQ(level_at(0xe0000, 0), 0);
    ept_lookup(&ept, GPA(0xd8000), &leaf);
    CHECK_EQ(leaf.entry & EPT_RWX, EPT_R);
    ept_lookup(&ept, GPA(0), &leaf);
    CHECK_EQ(leaf.entry & ~EPT_ADDR, RAM);
    CHECK_EQ(ept_eptp(&ept), ept.root.v | 6 | 3 << 3);
    ept.caps.ad = true;
    CHECK_EQ(ept_eptp(&ept), ept.root.v | 6 | 3 << 3 | 1 << 6);
}

// Random changes against a flat array, one cell for each page of a small space.
#define CELLS 2048 // 8 MiB: two-level structure with 2 MiB pages
static u64 model[CELLS];

TEST(random_changes_against_a_flat_model)
{
    unsigned seed = 1;
    fresh(true, true, PAGES);
    memset(model, 0, sizeof(model));
    for (unsigned round = 0; round < 1500; round++) {
        u64 cell = (u64)rand_r(&seed) % CELLS, size = 1 + (u64)rand_r(&seed) % (CELLS - cell);
        if (rand_r(&seed) % 2)
            cell &= ~511ull, size = MIN((u64)CELLS - cell, align_up(size, 512));
        u64 hpa = ((u64)rand_r(&seed) % 64 * 512 + (rand_r(&seed) % 4 ? 0 : 3)) * PAGE_SIZE;
        u64 perms = (u64[]){EPT_R, EPT_RWX, EPT_R | EPT_X}[rand_r(&seed) % 3];
        unsigned what = (unsigned)rand_r(&seed) % 4;
        int error = what < 2   ? ept_map(&ept, GPA(cell << 12), HPA(hpa), size << 12, perms)
                    : what < 3 ? ept_unmap(&ept, GPA(cell << 12), size << 12)
                               : ept_protect(&ept, GPA(cell << 12), size << 12, perms);
        CHECK_EQ(error, EPT_OK);
        for (u64 i = cell; i < cell + size; i++)
            model[i] = what < 2   ? (hpa + (i - cell) * PAGE_SIZE) | perms
                       : what < 3 ? 0
                       : model[i] ? (model[i] & ~7ull) | perms
                                  : 0;
        for (u64 i = 0; i < CELLS; i++) {
            struct ept_leaf leaf;
            bool there = ept_lookup(&ept, GPA(i << 12), &leaf);
            CHECK_EQ(there ? leaf.hpa.v | (leaf.entry & 7) : 0, model[i]);
        }
        if (round % 3 == 0)
            ept_flushed(&ept);
        CHECK(pool.used < 64);
    }
    ept_destroy(&ept);
    CHECK_EQ(pool.used, 0);
}
