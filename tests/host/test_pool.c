#include "tests/host/test.h"

#include "ept/pool.h"

#define PAGES 16

static struct pool pool;

static void fresh(void)
{
    if (!phys_window)
        phys_window = aligned_alloc(PAGE_SIZE, (PAGES + 4) * PAGE_SIZE);
    memset(phys_window, 0xee, (PAGES + 4) * PAGE_SIZE);
    pool_init(&pool, HPA(2 * PAGE_SIZE), PAGES);
}

TEST(pages_are_distinct_zeroed_and_bounded)
{
    void *page[PAGES];
    fresh();
    for (unsigned i = 0; i < PAGES; i++) {
        page[i] = pool_page(&pool);
        CHECK(page[i] != NULL);
        u64 hpa = ptr_phys(page[i]).v;
        CHECK(hpa % PAGE_SIZE == 0 && hpa >= 2 * PAGE_SIZE && hpa < (PAGES + 2) * PAGE_SIZE);
        for (unsigned j = 0; j < i; j++)
            CHECK(page[i] != page[j]);
        for (unsigned j = 0; j < PAGE_SIZE; j++)
            CHECK_EQ(((u8 *)page[i])[j], 0);
        memset(page[i], 0x55, PAGE_SIZE);
    }
    CHECK(!pool_page(&pool));
    CHECK_EQ(pool.used, PAGES);
    CHECK_EQ(phys_window[2 * PAGE_SIZE - 1], 0xee);
    CHECK_EQ(phys_window[(PAGES + 2) * PAGE_SIZE], 0xee);
}

TEST(returned_pages_come_again)
{
    void *page[PAGES];
    fresh();
    for (unsigned i = 0; i < PAGES; i++) {
        page[i] = pool_page(&pool);
        memset(page[i], 0x55, PAGE_SIZE);
    }
    for (unsigned i = 0; i < PAGES; i += 2)
        pool_return(&pool, page[i]);
    CHECK_EQ(pool.used, PAGES / 2);
    for (unsigned i = 0; i < PAGES / 2; i++) {
        u8 *again = pool_page(&pool);
        CHECK(again != NULL);
        for (unsigned j = 0; j < PAGES; j++)
            CHECK(again != page[j] || j % 2 == 0);
        for (unsigned j = 0; again && j < PAGE_SIZE; j++)
            CHECK_EQ(again[j], 0);
    }
    CHECK(!pool_page(&pool));
    CHECK_EQ(pool.peak, PAGES);
}
