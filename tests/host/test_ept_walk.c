#include "tests/host/test.h"

#include <pthread.h>

#include "ept/walk.h"

#define PAGES 8

// L1's RAM: pages 0 to 7, tables of level 4 to 1 in pages 0 to 3, one path to ngpa 0x1234.
static struct guest_mem mem = {.count = 1, .range = {{GPA(0), HPA(0), PAGES *PAGE_SIZE}}};
static struct ept12 l1;
static struct walk walk;

#define NGPA0    0x1234
#define EPTP     (EPTP_TYPE(MT_WB) | EPTP_LEVELS(4))
#define LEAF     (5 * PAGE_SIZE | EPT_RWX | EPT_TYPE(MT_WB))
#define VALID    (EPT_QUAL_LINEAR_VALID | EPT_QUAL_FINAL)
#define TABLE(n) ((n)*PAGE_SIZE | EPT_RWX)

static u64 *entry(unsigned level)
{
    return (u64 *)phys_window + (4 - level) * 512 + ept_index(NGPA0, level);
}

static void fresh(void)
{
    if (!phys_window)
        phys_window = aligned_alloc(PAGE_SIZE, PAGES * PAGE_SIZE);
    memset(phys_window, 0, PAGES * PAGE_SIZE);
    l1 = (struct ept12){
        &mem,
        {.large_2m = true, .large_1g = true, .exec_only = true, .ad = true, .maxphyaddr = 39}};
    for (unsigned level = 4; level > 1; level--)
        *entry(level) = TABLE(5 - level);
    *entry(1) = LEAF;
}

static enum walk_result go(u64 kind, u64 eptp)
{
    struct walk_access access = {.kind = kind};
    ept12_walk(&l1, eptp, walk_from_root(&l1, eptp), NGPA(NGPA0), access, &walk);
    return walk.result;
}

TEST(translation_and_permissions)
{
    static const u64 perms[] = {0, 1, 3, 4, 5, 7};
    fresh();
    CHECK_EQ(go(EPT_R, EPTP), WALK_OK);
    CHECK_EQ(walk.gpa.v, 5 * PAGE_SIZE + 0x234);
    CHECK_EQ(walk.level, 1);
    for (unsigned level = 1; level <= 4; level++)
        for (unsigned other = 1; other <= 4; other++)
            for (unsigned i = 0; i < ARRAY_SIZE(perms); i++)
                for (unsigned j = 0; j < ARRAY_SIZE(perms); j++)
                    for (u64 kind = 1; kind < 8; kind++) {
                        fresh();
                        *entry(level) = (*entry(level) & ~7ull) | perms[i];
                        *entry(other) = (*entry(other) & ~7ull) | perms[j];
                        u64 both = perms[j] & (level == other ? 7 : perms[i]);
                        CHECK_EQ(go(kind, EPTP), kind & ~both ? WALK_VIOLATION : WALK_OK);
                        CHECK_EQ(walk.perms, both);
                    }
}

TEST(large_pages)
{
    fresh();
    *entry(2) = 0x7fe00000 | EPT_RWX | EPT_LARGE | EPT_TYPE(MT_UC) | EPT_IPAT;
    CHECK_EQ(go(EPT_W, EPTP), WALK_OK);
    CHECK_EQ(walk.gpa.v, 0x7fe00000 + NGPA0);
    CHECK_EQ(walk.level, 2);
    *entry(3) = 0x40000000 | EPT_RWX | EPT_LARGE;
    CHECK_EQ(go(EPT_W, EPTP), WALK_OK);
    CHECK_EQ(walk.gpa.v, 0x40000000 + NGPA0);
    l1.caps.large_1g = false;
    CHECK_EQ(go(EPT_W, EPTP), WALK_MISCONFIG);
    CHECK_EQ(walk.level, 3);
    fresh();
    *entry(2) = EPT_RWX | EPT_LARGE;
    l1.caps.large_2m = false;
    CHECK_EQ(go(EPT_W, EPTP), WALK_MISCONFIG);
    fresh();
    *entry(4) |= EPT_LARGE;
    CHECK_EQ(go(EPT_W, EPTP), WALK_MISCONFIG);
}

// "EPT Misconfigurations", as a table: bits put into an entry of which kind, and whether it is one.
static const struct {
    u64 set, clear;
    bool table, page4k, page2m, page1g;
} misconfig[] = {
    {0, EPT_R, 1, 1, 1, 1},         // W without R
    {0, EPT_R | EPT_W, 0, 0, 0, 0}, // execute-only, which L1 has
    {0, EPT_RWX, 0, 0, 0, 0},       // not present
    {BIT(39), 0, 1, 1, 1, 1},       // beyond MAXPHYADDR
    {BIT(51), 0, 1, 1, 1, 1},
    {BIT(39), EPT_RWX, 0, 0, 0, 0}, // not present: the rest is ignored
    {BIT(52) | BIT(62) | BIT(63), 0, 0, 0, 0, 0},
    {BIT(11) | BIT(10), 0, 0, 0, 0, 0},
    {EPT_A | EPT_D, 0, 0, 0, 0, 0},
    {BIT(3), 0, 1, 0, 0, 0}, // WC for a page
    {EPT_TYPE(2), 0, 1, 1, 1, 1},
    {EPT_TYPE(3), 0, 1, 1, 1, 1},
    {EPT_TYPE(4), 0, 1, 0, 0, 0},
    {EPT_TYPE(5), 0, 1, 0, 0, 0},
    {EPT_TYPE(6), 0, 1, 0, 0, 0},
    {EPT_TYPE(7), 0, 1, 1, 1, 1},
    {EPT_IPAT, 0, 1, 0, 0, 0},
    {BIT(12), 0, 0, 0, 1, 1}, // the address of a large page
    {BIT(20), 0, 0, 0, 1, 1},
    {BIT(21), 0, 0, 0, 0, 1},
    {BIT(29), 0, 0, 0, 0, 1},
    {BIT(30), 0, 0, 0, 0, 0},
};

TEST(misconfigurations)
{
    fresh();
    for (unsigned i = 0; i < ARRAY_SIZE(misconfig); i++) {
        u64 bits = misconfig[i].set, e = EPT_RWX & ~misconfig[i].clear;
        // A misconfiguration concerns present entries; the caller looks at that first.
        if (!(e & 7))
            continue;
        CHECK_EQ(ept12_misconfigured(&l1.caps, e | bits, 4), misconfig[i].table);
        CHECK_EQ(ept12_misconfigured(&l1.caps, e | bits, 3), misconfig[i].table);
        CHECK_EQ(ept12_misconfigured(&l1.caps, e | bits, 2), misconfig[i].table);
        CHECK_EQ(ept12_misconfigured(&l1.caps, e | bits, 1), misconfig[i].page4k);
        CHECK_EQ(ept12_misconfigured(&l1.caps, e | bits | EPT_LARGE, 2), misconfig[i].page2m);
        CHECK_EQ(ept12_misconfigured(&l1.caps, e | bits | EPT_LARGE, 3), misconfig[i].page1g);
    }
    l1.caps.exec_only = false;
    CHECK(ept12_misconfigured(&l1.caps, EPT_X, 1));
    CHECK(ept12_misconfigured(&l1.caps, EPT_X, 4));
}

TEST(misconfiguration_in_a_walk)
{
    for (unsigned i = 0; i < ARRAY_SIZE(misconfig); i++)
        for (unsigned level = 1; level <= 4; level++) {
            fresh();
            bool there = EPT_RWX & ~misconfig[i].clear, leaf = level == 1;
            *entry(level) =
                (*entry(level) & EPT_ADDR) | misconfig[i].set | (EPT_RWX & ~misconfig[i].clear);
            if (misconfig[i].set & EPT_ADDR & ~(BIT(39) - 1) || !there || leaf)
                CHECK_EQ(go(EPT_X, EPTP), !there ? WALK_VIOLATION
                                          : (leaf ? misconfig[i].page4k : misconfig[i].table)
                                              ? WALK_MISCONFIG
                                              : WALK_OK);
        }
}

TEST(tables_outside_ram_read_as_ones)
{
    for (unsigned level = 2; level <= 4; level++) {
        fresh();
        *entry(level) = TABLE(PAGES);
        CHECK_EQ(go(EPT_R, EPTP), WALK_MISCONFIG);
        CHECK_EQ(walk.level, level - 1);
        *entry(level) = TABLE(0xfee00);
        CHECK_EQ(go(EPT_R, EPTP), WALK_MISCONFIG);
    }
    CHECK_EQ(go(EPT_R, EPTP | BIT(38)), WALK_MISCONFIG);
    CHECK_EQ(walk.level, 4);
}

TEST(tables_that_point_at_themselves)
{
    fresh();
    for (unsigned i = 0; i < 512; i++)
        ((u64 *)phys_window)[i] = TABLE(0);
    CHECK_EQ(go(EPT_R, EPTP), WALK_OK);
    CHECK_EQ(walk.gpa.v, 0x234);
}

TEST(accessed_and_dirty)
{
    fresh();
    CHECK_EQ(go(EPT_W, EPTP), WALK_OK);
    for (unsigned level = 1; level <= 4; level++)
        CHECK_EQ(*entry(level) & (EPT_A | EPT_D), 0);
    CHECK_EQ(go(EPT_R, EPTP | EPTP_AD), WALK_OK);
    for (unsigned level = 1; level <= 4; level++)
        CHECK_EQ(*entry(level) & (EPT_A | EPT_D), EPT_A);
    CHECK(!walk.dirtied);
    CHECK_EQ(walk.entry[1], LEAF | EPT_A);
    CHECK_EQ(go(EPT_W, EPTP | EPTP_AD), WALK_OK);
    CHECK(walk.dirtied);
    CHECK_EQ(*entry(1), LEAF | EPT_A | EPT_D);
    CHECK_EQ(*entry(2) & EPT_D, 0);
    CHECK_EQ(go(EPT_W, EPTP | EPTP_AD), WALK_OK);
    CHECK(!walk.dirtied);
    // What fails sets nothing.
    fresh();
    *entry(1) &= ~EPT_W;
    CHECK_EQ(go(EPT_W, EPTP | EPTP_AD), WALK_VIOLATION);
    CHECK_EQ(*entry(4) & EPT_A, 0);
}

TEST(full_log_and_speculation)
{
    struct walk_access access = {.kind = EPT_W, .pml_full = true};
    u64 eptp = EPTP | EPTP_AD;
    fresh();
    ept12_walk(&l1, eptp, walk_from_root(&l1, eptp), NGPA(NGPA0), access, &walk);
    CHECK_EQ(walk.result, WALK_PML_FULL);
    CHECK_EQ(*entry(1), LEAF);
    access.kind = EPT_R;
    ept12_walk(&l1, eptp, walk_from_root(&l1, eptp), NGPA(NGPA0), access, &walk);
    CHECK_EQ(walk.result, WALK_OK);
    fresh();
    access = (struct walk_access){.kind = EPT_R, .speculative = true};
    ept12_walk(&l1, eptp, walk_from_root(&l1, eptp), NGPA(NGPA0), access, &walk);
    CHECK_EQ(walk.result, WALK_RETRY);
    for (unsigned level = 1; level <= 4; level++)
        CHECK_EQ(*entry(level) & EPT_A, 0);
}

TEST(access_of_a_qualification)
{
    u64 ad = EPTP | EPTP_AD;
    CHECK_EQ(walk_access(EPT_R | VALID, ad).kind, EPT_R);
    CHECK_EQ(walk_access(EPT_R | EPT_W | VALID, EPTP).kind, EPT_R | EPT_W);
    CHECK_EQ(walk_access(EPT_X | VALID, ad).kind, EPT_X);
    CHECK_EQ(walk_access(EPT_R | EPT_QUAL_LINEAR_VALID, EPTP).kind, EPT_R);
    CHECK_EQ(walk_access(EPT_R | EPT_QUAL_LINEAR_VALID, ad).kind, EPT_R | EPT_W);
    CHECK_EQ(walk_access(EPT_R, ad).kind, EPT_R); // no linear address: PDPTEs at MOV to CR3
}

TEST(qualification_for_l1)
{
    struct walk_access access = {.kind = EPT_R | EPT_W};
    u64 hardware = EPT_R | 7 << 3 | BIT(6) | VALID | BIT(12) | BIT(16);
    walk.perms = EPT_R | EPT_X;
    CHECK_EQ(ept12_qualification(hardware, access, walk.perms),
             EPT_R | EPT_W | (EPT_R | EPT_X) << 3 | VALID | BIT(12) | BIT(16));
}

TEST(suppress_ve_is_that_of_the_last_entry)
{
    fresh();
    *entry(2) |= EPT_SUPPRESS_VE;
    *entry(1) &= ~EPT_W;
    CHECK_EQ(go(EPT_W, EPTP), WALK_VIOLATION);
    CHECK(!walk.suppress_ve);
    *entry(1) = EPT_SUPPRESS_VE;
    CHECK_EQ(go(EPT_W, EPTP), WALK_VIOLATION);
    CHECK(walk.suppress_ve);
}

// Another CPU of L1 changes the leaf all the time: whatever the walk says, it is one of the states.
static volatile bool stop;
static void *flip(void *unused)
{
    while (!stop) {
        __atomic_store_n(entry(1), LEAF, __ATOMIC_RELAXED);
        __atomic_store_n(entry(1), 6 * PAGE_SIZE | EPT_R | EPT_TYPE(MT_UC), __ATOMIC_RELAXED);
        __atomic_store_n(entry(1), 0, __ATOMIC_RELAXED);
    }
    return unused;
}

TEST(concurrent_changes)
{
    pthread_t thread;
    unsigned ok = 0, violations = 0;
    fresh();
    stop = false;
    CHECK(!pthread_create(&thread, NULL, flip, NULL));
    for (unsigned i = 0; i < 3000000 && (i < 1000 || !ok || !violations); i++) {
        switch (go(i % 2 ? EPT_R : EPT_W, EPTP | EPTP_AD)) {
        case WALK_OK:
            ok++;
            CHECK(walk.entry[1] & EPT_A);
            if (walk.gpa.v == 6 * PAGE_SIZE + 0x234)
                CHECK_EQ(walk.perms, EPT_R);
            else
                CHECK_EQ(walk.gpa.v, 5 * PAGE_SIZE + 0x234);
            break;
        case WALK_VIOLATION:
            violations++;
            CHECK(walk.perms == 0 || (walk.perms == EPT_R && i % 2 == 0));
            break;
        default:
            CHECK_EQ(walk.result, WALK_RETRY);
        }
    }
    stop = true;
    pthread_join(thread, NULL);
    CHECK(ok && violations);
}
