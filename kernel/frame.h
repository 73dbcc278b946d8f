#pragma once
// The physical memory that L0 has to give: to itself, and at VM start to the VMs. Frees are merged;
// the number of free ranges is bounded by what the memory map and the VMs can make.

#include "libc/addr.h"

#define FRAME_BELOW_4G (4 * GIB)
#define FRAME_ANY      (~0ull)

struct frame_range {
    u64 start, end; // hpa, end exclusive
};

#define FRAME_RANGES 256

struct frames {
    struct frame_range range[FRAME_RANGES]; // sorted, disjoint
    unsigned count;
    u64 total; // bytes ever added
};

// Adds memory; takes a part out again (the image, a module) that may lie in no range, or in
// several.
void frames_add(struct frames *f, hpa_t start, u64 size);
void frames_remove(struct frames *f, hpa_t start, u64 size);

// A run of `size` bytes aligned to `align` (a power of two of at least a page) that ends at or
// below `limit`; the highest one that fits, so that low memory is kept for those who need it.
// HPA_NONE (ept/pool.h) if there is none.
hpa_t frames_take(struct frames *f, u64 size, u64 align, u64 limit);

// All that is free, in however many pieces.
u64 frames_free_bytes(const struct frames *f);

// The size of the largest run that frames_take(…, align, FRAME_ANY) would find.
u64 frames_largest(const struct frames *f, u64 align);
