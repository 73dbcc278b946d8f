#pragma once
// Checked access to the RAM of one VM. A VM's RAM is a few ranges of guest-physical addresses, each
// backed by one run of host-physical memory for the VM's whole life, so that an address found once
// stays right until the VM ends. Everything that is not in a range (MMIO, holes) is refused.

#include "libc/addr.h"

#define GUEST_MEM_RANGES 8

struct ram_range {
    gpa_t gpa;
    hpa_t hpa;
    u64 size;
};

struct guest_mem {
    struct ram_range range[GUEST_MEM_RANGES];
    unsigned count;
};

// L0's pointer to `len` bytes at `gpa`, or NULL unless all of them lie in one range. The guest's
// other CPUs may be writing there: copy first, then validate the copy. The range where most of the
// memory is had better be the first.
static inline void *guest_ptr(const struct guest_mem *mem, gpa_t gpa, u64 len)
{
    for (unsigned i = 0; i < mem->count; i++) {
        u64 offset = gpa.v - mem->range[i].gpa.v;
        if (offset < mem->range[i].size)
            return len <= mem->range[i].size - offset
                       ? phys_ptr(HPA(mem->range[i].hpa.v + offset))
                       : NULL;
    }
    return NULL;
}

// Copy between L0 and the guest. False, and nothing copied, unless all bytes are RAM; the bytes may
// span adjacent ranges.
bool guest_read(const struct guest_mem *mem, void *to, gpa_t from, u64 len);
bool guest_write(const struct guest_mem *mem, gpa_t to, const void *from, u64 len);
bool guest_fill(const struct guest_mem *mem, gpa_t to, u8 byte, u64 len);

// Translates a guest-physical address. `*left` (if not NULL) gets the number of bytes from there to
// the end of its range. False where the guest has no RAM.
bool guest_to_host(const struct guest_mem *mem, gpa_t gpa, hpa_t *hpa, u64 *left);
