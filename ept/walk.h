#pragma once
// Walk of an L1's EPT12 in guest memory. L1's other CPUs write there meanwhile: each entry is read
// once, whole, and everything is decided on that value. A table that lies outside L1's RAM reads as
// all ones, as unclaimed physical memory does; such an entry is misconfigured at every level.

#include "ept/entry.h"
#include "ept/guestmem.h"

// What decides a walk besides EPTP12: L1's memory, and the EPT that L1 believes to run on.
struct ept12 {
    const struct guest_mem *mem;
    struct ept_caps caps;
};

enum walk_result {
    WALK_OK,
    WALK_VIOLATION,
    WALK_MISCONFIG,
    WALK_PML_FULL, // a dirty flag has to be set and the caller said that the log has no room
    WALK_RETRY,    // L1 changed an entry while its flags were being set: let L2 try again
};

// How an access of L2 wants to be seen.
struct walk_access {
    u64 kind;         // EPT_R, EPT_W, EPT_X
    bool pml_full;    // do not set a dirty flag, report WALK_PML_FULL
    bool speculative; // L2 did not make the access: WALK_RETRY rather than set a flag
};

// Where a walk starts: at the root, or below entries that the caller has read and judged before, as
// a processor does whose paging-structure caches know them.
struct walk_start {
    unsigned level; // of `table`
    u64 *table;     // as L0 sees it, NULL outside L1's RAM
    u64 perms;      // intersection over the levels above
};

struct walk {
    enum walk_result result;
    unsigned level;                 // of the last entry that was read; of the leaf if WALK_OK
    u64 entry[EPT_ROOT_LEVEL + 1];  // entries by level, with the flags that this walk set
    u64 *table[EPT_ROOT_LEVEL + 1]; // EPT12 tables by level as L0 sees them, NULL outside RAM
    u64 perms;                      // intersection over all levels
    gpa_t gpa;                      // translation of ngpa, if the last entry is a leaf
    bool suppress_ve;               // a violation is not convertible to #VE
    bool dirtied;                   // the walk set a dirty flag: page-modification logging
};

// Reads a hardware qualification as the access that L1's EPT has to judge. Under A/D flags accesses
// to guest paging structures count as writes ("Accessed and Dirty Flags for EPT").
static inline struct walk_access walk_access(u64 qualification, u64 eptp12)
{
    struct walk_access access = {.kind = qualification & EPT_QUAL_ACCESS};
    bool paging_structure =
        (qualification & (EPT_QUAL_LINEAR_VALID | EPT_QUAL_FINAL)) == EPT_QUAL_LINEAR_VALID;
    if (paging_structure && (eptp12 & EPTP_AD))
        access.kind |= EPT_W;
    return access;
}

struct walk_start walk_from_root(const struct ept12 *ept, u64 eptp12);

// Translates `ngpa` by EPTP12 (valid by the VM-entry checks). If the access is allowed and bit 6 of
// EPTP12 is set, sets accessed and dirty flags in guest memory.
void ept12_walk(const struct ept12 *ept, u64 eptp12, struct walk_start start, ngpa_t ngpa,
                struct walk_access access, struct walk *walk);

// The table at `table` (bits 51:12 count) as L0 sees it, or NULL outside L1's RAM.
u64 *ept12_table(const struct ept12 *ept, u64 table);

// Whether a present entry of a table at `level` is misconfigured ("EPT Misconfigurations").
bool ept12_misconfigured(const struct ept_caps *caps, u64 entry, unsigned level);

// The exit qualification that L1 gets for an EPT violation: permissions `perms` are those of its
// own walk, the rest is what the processor said ("Exit Qualification for EPT Violations").
static inline u64 ept12_qualification(u64 hardware, struct walk_access access, u64 perms)
{
    return (hardware & ~(EPT_QUAL_PERM | EPT_QUAL_ACCESS)) | access.kind |
           perms << EPT_QUAL_PERM_SHIFT;
}

// A consistent copy of one entry of a table that L1 may be writing.
static inline u64 ept12_read(const u64 *entry)
{
    return __atomic_load_n(entry, __ATOMIC_RELAXED);
}
