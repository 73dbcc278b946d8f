#pragma once
// Page-table engine for EPT structures that L0 owns, such as EPT01 (gpa to hpa).
//
// A change that the processor may have cached raises `version`. A CPU that uses the EPT and has not
// executed INVEPT for it since then does so before its next VM entry; once all of them have,
// ept_flushed() gives the pages that the changes freed back to the pool, and not before. Changes
// are made under a lock of the caller; the processor and ept_lookup() may read meanwhile.

#include "ept/entry.h"
#include "ept/guestmem.h"
#include "ept/pool.h"

struct ept {
    struct pool *pool;
    struct ept_caps caps;
    hpa_t root;
    u64 version;
    hpa_t freed; // chain of tables that the processor may still walk, or HPA_NONE
};

enum { EPT_OK = 0, EPT_NO_MEMORY = -1, EPT_BAD_RANGE = -2 };

// One translation: `entry` is the leaf that maps it, in a table at `level`.
struct ept_leaf {
    hpa_t hpa;
    u64 entry;
    unsigned level;
};

// Makes an empty EPT whose tables come from `pool`. `caps` is the processor's; the EPT uses A/D
// flags if caps->ad. EPT_NO_MEMORY if the pool is empty.
int ept_init(struct ept *ept, struct pool *pool, const struct ept_caps *caps);

// Returns every table to the pool. No CPU may use the EPT any more.
void ept_destroy(struct ept *ept);

// The value for the VMCS's EPT pointer and for INVEPT.
u64 ept_eptp(const struct ept *ept);

// Maps [gpa, gpa+size) to the run of host memory at `hpa` with the largest pages that fit, in place
// of what was there. `attr` is permissions (at least one), memory type and IPAT as bits of an
// entry. Addresses and size are multiples of 4 KiB, else EPT_BAD_RANGE. After EPT_NO_MEMORY a part
// at the start of the range may be mapped.
int ept_map(struct ept *ept, gpa_t gpa, hpa_t hpa, u64 size, u64 attr);

// Removes what maps [gpa, gpa+size), splitting large pages at its ends. Errors as of ept_map().
int ept_unmap(struct ept *ept, gpa_t gpa, u64 size);

// Gives all pages that are mapped in [gpa, gpa+size) the permissions `perms`, splitting large pages
// at its ends; holes stay holes. `perms` must be possible on this processor and not empty. Errors
// as of ept_map().
int ept_protect(struct ept *ept, gpa_t gpa, u64 size, u64 perms);

// Splits the page that maps `gpa`, if any, until it covers at most ept_span(level) bytes.
int ept_split(struct ept *ept, gpa_t gpa, unsigned level);

// Translates; false where nothing is mapped.
bool ept_lookup(const struct ept *ept, gpa_t gpa, struct ept_leaf *leaf);

// Every CPU that uses the EPT has executed INVEPT since the last change: freed pages go back.
void ept_flushed(struct ept *ept);

// EPT01 of a VM: its RAM, write-back and with all permissions. Every other address but the next
// ones makes an EPT violation and reaches the device models.
int ept_map_ram(struct ept *ept, const struct guest_mem *mem);

// Lets all pages of [gpa, gpa+size) read the one at `page`, and do nothing else: a place without
// memory or device, where reads find what is in the page (all ones).
int ept_map_nothing(struct ept *ept, gpa_t gpa, u64 size, hpa_t page);

// Maps one page of L0's memory that never is read or written through it: the APIC-access page at
// `gpa`, which the processor tells by its host address ("APIC-access page").
int ept_map_apic_access(struct ept *ept, gpa_t gpa, hpa_t page);
