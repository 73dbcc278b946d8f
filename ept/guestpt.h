#pragma once
// Walk of ordinary guest page tables (32-bit, PAE, 4-level), for L0's own accesses to a guest's
// linear addresses: operands of VMX instructions, instructions to decode. "Paging" in volume 3.
//
// The guest may be an L1 or an L2. Physical addresses are the guest's own, here called gpa_t; for
// an L2 the `page` callback takes them for ngpa and goes through EPT12.

#include "ept/guestmem.h"

struct guest_paging {
    u64 cr0, cr3, cr4, efer, rflags;
    u64 pdpte[4];  // the PDPTE registers, for PAE paging
    u8 maxphyaddr; // of the guest
    bool large_1g; // the guest's CPUID has 1 GiB pages

    // L0's pointer to a whole page of the guest's RAM, or NULL. `use` is what for: GUESTPT_TABLE,
    // GUESTPT_WRITE, GUESTPT_FETCH.
    void *(*page)(void *ctx, gpa_t page, unsigned use);
    void *ctx;
};

enum {
    GUESTPT_WRITE = 1,
    GUESTPT_USER = 2,
    GUESTPT_FETCH = 4,
    GUESTPT_IMPLICIT = 8,
    GUESTPT_TABLE = 16, // of an entry of a paging structure, where the walk comes by
};

enum guestpt_result {
    GUESTPT_OK,
    GUESTPT_FAULT,   // #PF with error_code and CR2 = linear
    GUESTPT_NOT_RAM, // `page` has nothing at `gpa`: of a table's entry or of the access itself
    GUESTPT_RETRY,   // the guest keeps changing the tables: let it execute the instruction again
};

struct guestpt_fault {
    u32 error_code;
    u64 linear; // the address that could not be translated
    gpa_t gpa;
    unsigned use; // what for, as in struct guest_paging
};

// Translates one linear address for an access (GUESTPT_ bits; IMPLICIT: a supervisor access that
// EFLAGS.AC does not exempt from SMAP). Sets accessed and dirty flags. The caller has checked
// segment limits and canonicality. `*gpa` is set if GUESTPT_OK, `*fault` (`linear` always) if not.
enum guestpt_result guestpt_translate(const struct guest_paging *pg, u64 linear, unsigned access,
                                      gpa_t *gpa, struct guestpt_fault *fault);

// One translation that guestpt_quick() made, with all that it depends on.
struct guestpt_memo {
    u64 cr3, efer;       // efer 0: the memo is empty
    u64 page;            // the linear address
    const u8 *at;        // L0's pointer to it
    const u64 *entry[4]; // where the walk came by; the last one repeats
    u64 value[4];        // what stood there
};

// The same for the commonest case, in a tenth of the instructions: a supervisor's read, in 4-level
// paging, of `len` bytes within one page, all of whose entries are plain: present, accessed, for
// supervisors, in the first range of RAM. `linear` is canonical and EFER.LMA set. Returns L0's
// pointer, or NULL where the long way has to look. `memo` gets what it found.
const u8 *guestpt_quick(const struct guest_mem *mem, u64 cr3, u64 efer, u64 linear, u64 len,
                        struct guestpt_memo *memo);

// Makes the access again by the memo of an earlier one, if it is in the same page and the same
// entries stand where that one came by: the guest may have changed them without a word to L0. NULL:
// guestpt_quick() has to look.
static inline const u8 *guestpt_again(const struct guestpt_memo *memo, u64 cr3, u64 efer,
                                      u64 linear, u64 len)
{
    u64 offset = linear - memo->page;
    if (offset > PAGE_SIZE - len || memo->cr3 != cr3 || memo->efer != efer)
        return NULL;
#pragma GCC unroll 4
    for (unsigned i = 0; i < 4; i++)
        if (__atomic_load_n(memo->entry[i], __ATOMIC_RELAXED) != memo->value[i])
            return NULL;
    return memo->at + offset;
}

// Copies between L0 and the guest's linear memory, across page boundaries. A write changes nothing
// unless all of it can be written, and is at most PAGE_SIZE long. Addresses wrap at 4 GiB unless
// EFER.LMA is set.
enum guestpt_result guest_linear_read(const struct guest_paging *pg, u64 linear, void *buf, u64 len,
                                      unsigned access, struct guestpt_fault *fault);
enum guestpt_result guest_linear_write(const struct guest_paging *pg, u64 linear, const void *buf,
                                       u64 len, unsigned access, struct guestpt_fault *fault);
