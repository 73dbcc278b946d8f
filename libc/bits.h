#pragma once
// Bit operations on single words and on bitmaps of u64 or u8.

#include "libc/types.h"

// Index of the lowest or highest set bit; the argument must not be 0.
static inline unsigned bit_lowest(u64 v)
{
    return (unsigned)__builtin_ctzll(v);
}

static inline unsigned bit_highest(u64 v)
{
    return 63u ^ (unsigned)__builtin_clzll(v); // one instruction, which a difference is not
}

// Bits hi..lo (inclusive) of v, shifted down.
static inline u64 bits(u64 v, unsigned hi, unsigned lo)
{
    return (v >> lo) & (~0ull >> (63 - (hi - lo)));
}

static inline bool bitmap_get(const u8 *map, u64 bit)
{
    return map[bit / 8] >> (bit % 8) & 1;
}

static inline void bitmap_put(u8 *map, u64 bit, bool on)
{
    u8 m = (u8)(1u << (bit % 8));
    map[bit / 8] = (u8)(on ? map[bit / 8] | m : map[bit / 8] & ~m);
}

// Whether bits 63:47 are the same: a canonical address of 4-level paging.
static inline bool canonical_48(u64 v)
{
    return (v + BIT(47)) >> 48 == 0;
}
