#pragma once
// A budget of 4 KiB pages. Each VM gets its pool at start and everything that the VM can make L0
// allocate comes from it, so that one VM cannot starve another. Pure: the pool only sees a run of
// host-physical memory through phys_ptr().

#include "libc/addr.h"
#include "libc/lock.h"

struct pool {
    hpa_t base;
    u64 pages;  // size of the run
    u64 fresh;  // pages of the run that were never handed out start here
    u64 used;   // pages now handed out
    u64 peak;   // the most that `used` ever was
    hpa_t free; // head of the list of returned pages, or HPA_NONE
    struct spinlock lock;
};

#define HPA_NONE HPA(~0ull)

// Makes a pool of `pages` pages of host-physical memory at `base` (page aligned, owned by the
// pool).
void pool_init(struct pool *pool, hpa_t base, u64 pages);

// A zeroed page, or NULL when the budget is used up: the caller evicts something and tries again,
// or refuses in the architecture's own way.
void *pool_page(struct pool *pool);

// The same with whatever its last user left there: for L0's own records, never for what a processor
// or a guest reads.
void *pool_page_dirty(struct pool *pool);

// `pages` pages in one run, not zeroed and for good, of what was never handed out. HPA_NONE: there
// are not so many.
hpa_t pool_run(struct pool *pool, u64 pages);

// Returns a page. It must be in no structure that the processor may still walk.
void pool_return(struct pool *pool, void *page);
