#pragma once
// Turns any list of address ranges (unsorted, overlapping, empty ones among them) into a sorted
// list without overlaps: where ranges overlap the one with the highest kind counts, and neighbours
// of one kind become one range. No memory of its own, so that hostile lists cost time only: O(n) a
// step.

#include "libc/types.h"

struct range {
    u64 base, end; // end is exclusive: the last byte of the address space belongs to no range
    unsigned kind; // greater than 0
};

// The list as a function: the i-th range in any form that the caller keeps it in.
struct range_source {
    struct range (*get)(const void *ctx, unsigned i);
    const void *ctx;
    unsigned count;
};

// The end of base + size, cut off at the end of the address space.
static inline u64 range_end(u64 base, u64 size)
{
    return size > ~0ull - base ? ~0ull : base + size;
}

// The kind that holds at `pos` (0: none) and the next place where that may change (0: none
// follows).
static inline unsigned ranges_at(const struct range_source *src, u64 pos, u64 *next)
{
    unsigned kind = 0;
    *next = 0;
    for (unsigned i = 0; i < src->count; i++) {
        struct range r = src->get(src->ctx, i);
        if (r.base >= r.end || r.end <= pos)
            continue;
        u64 edge = r.base > pos ? r.base : r.end;
        if (!*next || edge < *next)
            *next = edge;
        if (r.base <= pos)
            kind = MAX(kind, r.kind);
    }
    return kind;
}

// Finds the first range of the resulting list at or after `pos`; false when none is left. Use as
//     for (u64 pos = 0; ranges_next(&src, pos, &r); pos = r.end)
static inline bool ranges_next(const struct range_source *src, u64 pos, struct range *out)
{
    u64 next;
    out->kind = 0;
    for (;; pos = next) {
        unsigned kind = ranges_at(src, pos, &next);
        if (out->kind && kind != out->kind)
            return true;
        if (kind && !out->kind)
            *out = (struct range){.base = pos, .kind = kind};
        out->end = next;
        if (!next)
            return false;
    }
}
