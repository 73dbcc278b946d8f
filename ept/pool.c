#include "ept/pool.h"

#include "libc/log.h"
#include "libc/string.h"

void pool_init(struct pool *pool, hpa_t base, u64 pages)
{
    *pool = (struct pool){.base = base, .pages = pages, .free = HPA_NONE};
}

static void *take(struct pool *pool)
{
    if (pool->free.v != HPA_NONE.v) {
        void *page = phys_ptr(pool->free);
        pool->free = *(hpa_t *)page;
        return page;
    }
    if (pool->fresh == pool->pages)
        return NULL;
    return phys_ptr(HPA(pool->base.v + pool->fresh++ * PAGE_SIZE));
}

void *pool_page_dirty(struct pool *pool)
{
    spin_lock(&pool->lock);
    void *page = take(pool);
    if (page && ++pool->used > pool->peak)
        pool->peak = pool->used;
    spin_unlock(&pool->lock);
    return page;
}

void *pool_page(struct pool *pool)
{
    void *page = pool_page_dirty(pool);
    if (page)
        memset(page, 0, PAGE_SIZE);
    return page;
}

void pool_return(struct pool *pool, void *page)
{
    hpa_t hpa = ptr_phys(page);
    ASSERT(hpa.v % PAGE_SIZE == 0 && hpa.v - pool->base.v < pool->pages * PAGE_SIZE);
    spin_lock(&pool->lock);
    *(hpa_t *)page = pool->free;
    pool->free = hpa;
    pool->used--;
    spin_unlock(&pool->lock);
}

hpa_t pool_run(struct pool *pool, u64 pages)
{
    hpa_t run = HPA_NONE;
    spin_lock(&pool->lock);
    if (pages <= pool->pages - pool->fresh) {
        run = HPA(pool->base.v + pool->fresh * PAGE_SIZE);
        pool->fresh += pages;
        pool->used += pages;
        pool->peak = MAX(pool->peak, pool->used);
    }
    spin_unlock(&pool->lock);
    return run;
}
