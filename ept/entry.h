#pragma once
// The bits of EPT entries and EPT pointers ("Format of EPT paging-structure entries",
// "Extended-Page-Table Pointer") and the arithmetic of levels: 4 is the root (PML4), 1 holds 4 KiB
// pages. What is said here of addresses holds for every address space that EPT translates.

#include "libc/addr.h"
#include "libc/bits.h"

#define EPT_R           BIT(0)
#define EPT_W           BIT(1)
#define EPT_X           BIT(2)
#define EPT_RWX         (EPT_R | EPT_W | EPT_X)
#define EPT_TYPE(mt)    ((u64)(mt) << 3) // leaf only, like IPAT and D
#define EPT_TYPE_MASK   EPT_TYPE(7)
#define EPT_IPAT        BIT(6)
#define EPT_LARGE       BIT(7)
#define EPT_A           BIT(8)
#define EPT_D           BIT(9)
#define EPT_XU          BIT(10) // execute for user-mode addresses, under mode-based execute control
#define EPT_SUPPRESS_VE BIT(63)
#define EPT_ADDR        0x000ffffffffff000ull

enum memory_type { MT_UC = 0, MT_WC = 1, MT_WT = 4, MT_WP = 5, MT_WB = 6 };

#define EPTP_TYPE(mt)  ((u64)(mt))
#define EPTP_LEVELS(n) ((u64)((n)-1) << 3)
#define EPTP_AD        BIT(6)

// Exit qualification of an EPT violation ("Exit Qualification for EPT Violations"). Bits 2:0 are
// the access in the order of EPT_R, EPT_W, EPT_X; bits 5:3 the permissions in the same order.
#define EPT_QUAL_ACCESS       EPT_RWX
#define EPT_QUAL_PERM_SHIFT   3
#define EPT_QUAL_PERM         (0xfull << EPT_QUAL_PERM_SHIFT)
#define EPT_QUAL_LINEAR_VALID BIT(7)
#define EPT_QUAL_FINAL        BIT(8) // clear: an access to a guest paging-structure entry

#define EPT_ROOT_LEVEL        4
#define EPT_ENTRIES           512
#define EPT_WIDTH             48 // bits of an address that a walk of four levels translates

// What one implementation of EPT can do: the processor's, or the one that an L1 sees.
struct ept_caps {
    bool large_2m, large_1g;
    bool exec_only;
    bool ad;       // accessed and dirty flags
    u8 maxphyaddr; // width of the addresses in the entries
};

// Bytes that one entry of a table at `level` covers.
static inline u64 ept_span(unsigned level)
{
    return PAGE_SIZE << (9 * (level - 1));
}

static inline unsigned ept_index(u64 addr, unsigned level)
{
    return (unsigned)(addr >> (PAGE_SHIFT + 9 * (level - 1))) % EPT_ENTRIES;
}

static inline bool ept_present(u64 entry)
{
    return entry & EPT_RWX;
}

// Whether a present entry of a table at `level` maps a page and points to no table.
static inline bool ept_is_leaf(u64 entry, unsigned level)
{
    return level == 1 || (entry & EPT_LARGE);
}

// Whether the processor can map pages of ept_span(level) bytes.
static inline bool ept_level_ok(const struct ept_caps *caps, unsigned level)
{
    return level == 1 || (level == 2 && caps->large_2m) || (level == 3 && caps->large_1g);
}
