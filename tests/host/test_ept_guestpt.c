#include "tests/host/test.h"

#include "ept/guestpt.h"

// The guest's memory: 64 pages of tables and data, and a larger address space beyond that is no
// RAM.
#define PAGES 64

static u8 *ram;
static struct guest_paging pg;
static struct guestpt_fault fault;
static u64 read_only = ~0ull; // a page that L0 must not write

static void *page_of(void *ctx, gpa_t page, unsigned use)
{
    (void)ctx;
    if (page.v % PAGE_SIZE || page.v / PAGE_SIZE >= PAGES ||
        (use & GUESTPT_WRITE && page.v == read_only))
        return NULL;
    return ram + page.v;
}

enum mode { BITS32, PAE, LONG };

#define CR0  (BIT(31) | BIT(0))
#define WP   BIT(16)
#define PSE  BIT(4)
#define SMEP BIT(20)
#define SMAP BIT(21)
#define NXE  BIT(11)
#define AC   BIT(18)

static void fresh(enum mode mode)
{
    if (!ram)
        ram = aligned_alloc(PAGE_SIZE, PAGES * PAGE_SIZE);
    memset(ram, 0, PAGES * PAGE_SIZE);
    read_only = ~0ull;
    pg = (struct guest_paging){
        .cr0 = CR0, .cr3 = 0, .maxphyaddr = 39, .large_1g = true, .page = page_of};
    if (mode != BITS32)
        pg.cr4 |= BIT(5);
    if (mode == LONG)
        pg.efer |= BIT(10) | BIT(8);
}

static u64 *e64(unsigned page, unsigned index)
{
    return (u64 *)(ram + page * PAGE_SIZE) + index;
}

static u32 *e32(unsigned page, unsigned index)
{
    return (u32 *)(ram + page * PAGE_SIZE) + index;
}

static enum guestpt_result go(u64 linear, unsigned access)
{
    gpa_t gpa = GPA(~0ull);
    enum guestpt_result result = guestpt_translate(&pg, linear, access, &gpa, &fault);
    if (result == GUESTPT_OK)
        fault.gpa = gpa;
    return result;
}

static void long_path(void)
{
    fresh(LONG);
    *e64(0, 1) = 0x1007;
    *e64(1, 2) = 0x2007;
    *e64(2, 3) = 0x3007;
    *e64(3, 4) = 0x5007;
}
#define LINEAR (1ull << 39 | 2ull << 30 | 3ull << 21 | 4ull << 12 | 0x678)

TEST(no_paging)
{
    fresh(BITS32);
    pg.cr0 = BIT(0);
    CHECK_EQ(go(0x112345678, GUESTPT_WRITE), GUESTPT_OK);
    CHECK_EQ(fault.gpa.v, 0x12345678);
}

TEST(four_levels)
{
    long_path();
    CHECK_EQ(go(LINEAR, 0), GUESTPT_OK);
    CHECK_EQ(fault.gpa.v, 0x5678);
    CHECK_EQ(*e64(3, 4), 0x5027);
    CHECK_EQ(*e64(0, 1), 0x1027);
    CHECK_EQ(go(LINEAR, GUESTPT_WRITE), GUESTPT_OK);
    CHECK_EQ(*e64(3, 4), 0x5067);
    CHECK_EQ(*e64(2, 3), 0x3027);
    *e64(2, 3) = 0x40000087 | BIT(12); // 2 MiB, PAT
    CHECK_EQ(go(LINEAR, 0), GUESTPT_OK);
    CHECK_EQ(fault.gpa.v, 0x40004678);
    *e64(1, 2) = 0x80000087;
    CHECK_EQ(go(LINEAR, 0), GUESTPT_OK);
    CHECK_EQ(fault.gpa.v, 0x80604678);
    pg.large_1g = false;
    CHECK_EQ(go(LINEAR, 0), GUESTPT_FAULT);
    CHECK_EQ(fault.error_code, 9);
    CHECK_EQ(fault.linear, LINEAR);
}

TEST(pae)
{
    fresh(PAE);
    pg.pdpte[2] = 0x2001;
    *e64(2, 3) = 0x3007;
    *e64(3, 4) = 0x5007;
    CHECK_EQ(go((2ull << 30) + (3 << 21) + 0x4678 + BIT(32), 0), GUESTPT_OK);
    CHECK_EQ(fault.gpa.v, 0x5678);
    CHECK_EQ(pg.pdpte[2], 0x2001);
    CHECK_EQ(go(3ull << 30, GUESTPT_USER), GUESTPT_FAULT);
    CHECK_EQ(fault.error_code, 4);
    *e64(3, 4) |= BIT(52); // reserved here, ignored with four levels
    CHECK_EQ(go((2ull << 30) + (3 << 21) + 0x4678, 0), GUESTPT_FAULT);
    CHECK_EQ(fault.error_code, 9);
}

TEST(bits32)
{
    fresh(BITS32);
    pg.cr3 = 0xffffffff00001018;
    *e32(1, 0x201) = 0x2007;
    *e32(2, 0x3) = 0x5007;
    CHECK_EQ(go(0x80403678, GUESTPT_WRITE), GUESTPT_OK);
    CHECK_EQ(fault.gpa.v, 0x5678);
    CHECK_EQ(*e32(1, 0x201), 0x2027);
    CHECK_EQ(*e32(2, 3), 0x5067);
    CHECK_EQ(*e32(2, 4), 0);
    *e32(1, 0x201) = 0x2087; // the page-size bit is ignored without CR4.PSE
    CHECK_EQ(go(0x80403678, 0), GUESTPT_OK);
    pg.cr4 |= PSE;
    *e32(1, 0x201) = 0x00c00087 | 0x55 << 13 | BIT(12);
    CHECK_EQ(go(0x80503678, 0), GUESTPT_OK);
    CHECK_EQ(fault.gpa.v, 0x5500d03678);
    *e32(1, 0x201) = 0x00c00087 | 1 << 21;
    CHECK_EQ(go(0x80503678, 0), GUESTPT_FAULT);
    CHECK_EQ(fault.error_code, 9);
    *e32(1, 0x201) = 0x00c00087 | 1 << 20; // address bit 39, which the guest has not
    CHECK_EQ(go(0x80503678, 0), GUESTPT_FAULT);
    pg.maxphyaddr = 40;
    CHECK_EQ(go(0x80503678, 0), GUESTPT_OK);
}

// "Determination of Access Rights" once more, by the manual's list.
static bool may(unsigned access, bool user_page, bool writable, bool xd, u64 cr0, u64 cr4, bool nxe,
                bool ac)
{
    bool user = access & GUESTPT_USER, implicit = access & GUESTPT_IMPLICIT;
    if (access & GUESTPT_FETCH) {
        if (nxe && xd)
            return false;
        return user ? user_page : !user_page || !(cr4 & SMEP);
    }
    if (user)
        return user_page && (writable || !(access & GUESTPT_WRITE));
    if (user_page && (cr4 & SMAP) && (implicit || !ac))
        return false;
    return !(access & GUESTPT_WRITE) || writable || !(cr0 & WP);
}

TEST(access_rights)
{
    static const unsigned access[] = {0, 1, 2, 3, 4, 6, 8, 9};
    for (unsigned n = 0; n < 1 << 12; n++) {
        long_path();
        bool us_high = n & 1, us_low = n & 2, rw_high = n & 4, rw_low = n & 8, xd_high = n & 16;
        bool xd_low = n & 32, nxe = n & 64, ac = n & 128;
        pg.cr0 |= n & 256 ? WP : 0;
        pg.cr4 |= (n & 512 ? SMEP : 0) | (n & 1024 ? SMAP : 0);
        pg.efer |= nxe ? NXE : 0;
        pg.rflags = ac ? AC : 0;
        if (!nxe && (xd_high || xd_low))
            continue; // reserved
        unsigned high = n & 2048 ? 1 : 2;
        u64 h = *e64(high, high + 1), l = *e64(3, 4);
        *e64(high, high + 1) =
            (h & ~6ull) | (us_high ? 4 : 0) | (rw_high ? 2 : 0) | (xd_high ? BIT(63) : 0);
        *e64(3, 4) = (l & ~6ull) | (us_low ? 4 : 0) | (rw_low ? 2 : 0) | (xd_low ? BIT(63) : 0);
        for (unsigned i = 0; i < ARRAY_SIZE(access); i++) {
            bool ok = may(access[i], us_high && us_low, rw_high && rw_low, xd_high || xd_low,
                          pg.cr0, pg.cr4, nxe, ac);
            *e64(3, 4) &= ~0x60ull;
            CHECK_EQ(go(LINEAR, access[i]), ok ? GUESTPT_OK : GUESTPT_FAULT);
            CHECK_EQ(*e64(3, 4) & 0x60, !ok ? 0 : access[i] & 1 ? 0x60 : 0x20);
            u32 code = 1 | (access[i] & 1) << 1 | (access[i] & 2) << 1 |
                       ((access[i] & 4) && (nxe || (pg.cr4 & SMEP)) ? 16 : 0);
            if (!ok)
                CHECK_EQ(fault.error_code, code);
        }
    }
}

TEST(reserved_bits)
{
    static const struct {
        unsigned table, index;
        u64 bits;
        bool reserved;
    } c[] = {
        {0, 1, BIT(7), true},           {1, 2, BIT(39), true},
        {2, 3, BIT(51), true},          {3, 4, BIT(40), true},
        {3, 4, BIT(52), false},         {3, 4, BIT(62), false},
        {3, 4, BIT(63), true},          {0, 1, BIT(63), true},
        {2, 3, BIT(7) | BIT(13), true}, {2, 3, BIT(7) | BIT(20), true},
        {1, 2, BIT(7) | BIT(29), true}, {3, 4, BIT(7) | BIT(8), false},
        {3, 4, BIT(9), false},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
        long_path();
        if (c[i].bits & BIT(7) && c[i].table && c[i].table < 3)
            *e64(c[i].table, c[i].index) = 7;
        *e64(c[i].table, c[i].index) |= c[i].bits;
        CHECK_EQ(go(LINEAR, GUESTPT_USER), c[i].reserved ? GUESTPT_FAULT : GUESTPT_OK);
        if (c[i].reserved)
            CHECK_EQ(fault.error_code, 0xd);
        *e64(c[i].table, c[i].index) &= ~1ull; // not present: the rest is ignored
        CHECK_EQ(go(LINEAR, GUESTPT_USER), GUESTPT_FAULT);
        CHECK_EQ(fault.error_code, 4);
    }
}

TEST(tables_that_are_no_ram)
{
    long_path();
    *e64(1, 2) = 0xfee00007;
    CHECK_EQ(go(LINEAR, 0), GUESTPT_NOT_RAM);
    CHECK_EQ(fault.gpa.v, 0xfee00018); // of the entry
    CHECK_EQ(fault.use, GUESTPT_TABLE);
    CHECK_EQ(fault.linear, LINEAR);
    long_path();
    read_only = 0x2000; // L0 can read this table and not set flags in it
    CHECK_EQ(go(LINEAR, 0), GUESTPT_NOT_RAM);
    CHECK_EQ(fault.gpa.v, 0x2018);
    CHECK_EQ(fault.use, GUESTPT_TABLE | GUESTPT_WRITE);
    *e64(2, 3) |= 0x20;
    CHECK_EQ(go(LINEAR, 0), GUESTPT_OK);
    long_path();
    *e64(0, 1) = 0x7; // its own child
    CHECK_EQ(go(1ull << 39 | 1 << 30 | 1 << 21 | 1 << 12, 0), GUESTPT_OK);
}

TEST(copies_across_pages)
{
    u8 buf[PAGE_SIZE + 16], back[PAGE_SIZE + 16];
    long_path();
    *e64(3, 5) = 0x9007;
    *e64(3, 6) = 0x7007;
    for (unsigned i = 0; i < sizeof(buf); i++)
        buf[i] = (u8)(i * 3 + 1);
    u64 linear = (LINEAR & ~0xfffull) + 0xffd;
    CHECK_EQ(guest_linear_write(&pg, linear, buf, 10, 0, &fault), GUESTPT_OK);
    CHECK(!memcmp(ram + 0x5ffd, buf, 3));
    CHECK(!memcmp(ram + 0x9000, buf + 3, 7));
    CHECK_EQ(ram[0x9007], 0);
    CHECK_EQ(ram[0x5ffc], 0);
    CHECK_EQ(ram[0x6000], 0);
    CHECK_EQ(guest_linear_read(&pg, linear, back, 10, 0, &fault), GUESTPT_OK);
    CHECK(!memcmp(back, buf, 10));
    CHECK_EQ(guest_linear_write(&pg, linear, buf, PAGE_SIZE, 0, &fault), GUESTPT_OK);
    CHECK(!memcmp(ram + 0x9000, buf + 3, PAGE_SIZE - 3));
    CHECK_EQ(guest_linear_read(&pg, linear, back, PAGE_SIZE + 16, 0, &fault), GUESTPT_OK);
    CHECK(!memcmp(back, buf, PAGE_SIZE));

    // The second page faults: nothing is written, and CR2 is the first byte there.
    *e64(3, 5) = 0;
    ram[0x5ffd] = 0xaa;
    CHECK_EQ(guest_linear_write(&pg, linear, buf, 10, GUESTPT_USER, &fault), GUESTPT_FAULT);
    CHECK_EQ(fault.linear, linear + 3);
    CHECK_EQ(fault.error_code, 6);
    CHECK_EQ(ram[0x5ffd], 0xaa);
    CHECK_EQ(guest_linear_write(&pg, linear, buf, 3, 0, &fault), GUESTPT_OK);
    *e64(3, 5) = 0xfee00007;
    CHECK_EQ(guest_linear_read(&pg, linear, back, 10, 0, &fault), GUESTPT_NOT_RAM);
    CHECK_EQ(fault.gpa.v, 0xfee00000);
    CHECK_EQ(fault.use, 0);
    CHECK_EQ(guest_linear_write(&pg, linear, buf, 10, 0, &fault), GUESTPT_NOT_RAM);
    CHECK_EQ(fault.use, GUESTPT_WRITE);
}

TEST(linear_addresses_wrap_at_4g)
{
    u64 v = 0x1122334455667788, back = 0;
    fresh(BITS32);
    *e32(0, 0x3ff) = 0x1007;
    *e32(0, 0) = 0x2007;
    *e32(1, 0x3ff) = 0x5007;
    *e32(2, 0) = 0x7007;
    CHECK_EQ(guest_linear_write(&pg, 0xfffffffc, &v, 8, 0, &fault), GUESTPT_OK);
    CHECK_EQ(*(u32 *)(ram + 0x5ffc), 0x55667788);
    CHECK_EQ(*(u32 *)(ram + 0x7000), 0x11223344);
    CHECK_EQ(guest_linear_read(&pg, 0xfffffffc, &back, 8, 0, &fault), GUESTPT_OK);
    CHECK_EQ(back, v);
}

// The short way finds the page that the long way finds, or nothing.
static struct guestpt_memo memo;

static const u8 *quick(u64 linear, u64 len)
{
    static const u64 first = 0x10000;
    phys_window = ram - first; // memory begins at the host's 0x10000
    const struct guest_mem mem = {.range = {{GPA(0), HPA(first), PAGES * PAGE_SIZE}}, .count = 1};
    return guestpt_quick(&mem, pg.cr3, pg.efer, linear, len, &memo);
}

TEST(the_short_way_agrees_with_the_long_way)
{
    const u64 flags[] = {BIT(0), BIT(1), BIT(2), BIT(5), BIT(6), BIT(7), BIT(12), BIT(63), BIT(40)};
    unsigned found = 0, tries = 200000;
    srand(1);
    long_path();
    for (unsigned i = 0; i < tries; i++) {
        u64 linear = LINEAR + (unsigned)(rand() % 64) * 64;
        for (unsigned level = 0; level < 4; level++) {
            u64 entry = (level + 1) * PAGE_SIZE | 0x21 | (rand() % 4 ? 0 : 4);
            if (level == 2 && rand() % 2)
                entry = 0x80 | 0x21;
            if (rand() % 8 == 0)
                entry ^= flags[(unsigned)rand() % ARRAY_SIZE(flags)];
            *e64(level, level + 1) = entry;
        }
        pg.efer = BIT(10) | BIT(8) | (rand() % 2 ? NXE : 0);
        const u8 *p = quick(linear, 8);
        bool accessed = true; // the long way sets the flag
        for (unsigned level = 0; level < 4 && accessed; level++) {
            accessed = *e64(level, level + 1) & 0x20;
            if (level == 2 && *e64(level, level + 1) & 0x80)
                break;
        }
        enum guestpt_result r = go(linear, 0);
        if (!p)
            continue;
        found++;
        CHECK(accessed);
        CHECK_EQ(r, GUESTPT_OK);
        CHECK_EQ(p - ram, fault.gpa.v);
    }
    CHECK(found > tries / 8);
    CHECK(!quick((LINEAR & ~0xfffull) + PAGE_SIZE - 4, 8));
}

// A memo holds as long as what the walk came by is the same, and for one page.
TEST(the_memo_of_the_short_way)
{
    const u64 page = LINEAR & ~0xfffull;
    for (unsigned large = 0; large < 2; large++) {
        long_path();
        pg.efer = BIT(10) | BIT(8);
        for (unsigned level = 0; level < 4; level++)
            *e64(level, level + 1) = (level + 1) * PAGE_SIZE | 0x21;
        if (large)
            *e64(2, 3) = 0x80 | 0x21;
        memo = (struct guestpt_memo){0};
        CHECK(!guestpt_again(&memo, 0, pg.efer, page, 8));
        const u8 *p = quick(page + 8, 16);
        CHECK(p);
        CHECK_EQ(guestpt_again(&memo, pg.cr3, pg.efer, page + 8, 16) - p, 0);
        CHECK_EQ(guestpt_again(&memo, pg.cr3, pg.efer, page + 0xff0, 16) - p, 0xfe8);
        CHECK(!guestpt_again(&memo, pg.cr3, pg.efer, page + 0xff1, 16));
        CHECK(!guestpt_again(&memo, pg.cr3, pg.efer, page - 8, 8));
        CHECK(!guestpt_again(&memo, pg.cr3, pg.efer, page + PAGE_SIZE, 8));
        CHECK(!guestpt_again(&memo, pg.cr3 + PAGE_SIZE, pg.efer, page, 8));
        CHECK(!guestpt_again(&memo, pg.cr3, pg.efer | NXE, page, 8));
        for (unsigned level = 0; level < (large ? 3 : 4); level++) {
            for (unsigned bit = 0; bit < 64; bit++) {
                *e64(level, level + 1) ^= BIT(bit);
                CHECK(!guestpt_again(&memo, pg.cr3, pg.efer, page, 8));
                *e64(level, level + 1) ^= BIT(bit);
            }
        }
        CHECK(guestpt_again(&memo, pg.cr3, pg.efer, page, 8));
        *e64(1, 2) &= ~1ull;
        CHECK(!quick(page, 8));
        *e64(1, 2) |= 1;
        CHECK(!guestpt_again(&memo, pg.cr3, pg.efer, page, 8)); // a walk that failed leaves none
    }
}
