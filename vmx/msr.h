#pragma once
// The MSRs that a VM sees.

#include "libc/bits.h"
#include "vmx/vm.h"

// RDMSR and WRMSR of the guest that the current VMCS runs. False: #GP(0).
bool vcpu_rdmsr(struct vcpu *vcpu, u32 msr, u64 *value);
bool vcpu_wrmsr(struct vcpu *vcpu, u32 msr, u64 value);

// Fills an MSR bitmap with exits for all but the MSRs that the guest may use directly.
void msr_bitmap_init(u8 *page);

// The words of 64 MSRs in which a bitmap lets anything through, by their index in its read half;
// the write half is MSR_BITMAP_WRITES words further. Returns how many, at most `max`.
#define MSR_BITMAP_WRITES (2048 / 8)
unsigned msr_bitmap_open_words(const u8 *page, u16 *words, unsigned max);

// Byte offset and bit of an MSR in the read part of a bitmap; the write part is 2 KiB further.
// (SDM, "MSR-Bitmap Address".) `msr` must be in one of the two ranges.
static inline u64 msr_bitmap_bit(u32 msr)
{
    return msr < 0x2000 ? msr : 0x400 * 8 + (msr - 0xc0000000u);
}

static inline void msr_bitmap_open_write(u8 *page, u32 msr)
{
    bitmap_put(page, 0x800 * 8 + msr_bitmap_bit(msr), false);
}

static inline void msr_bitmap_open(u8 *page, u32 msr, bool write)
{
    bitmap_put(page, msr_bitmap_bit(msr), false);
    if (write)
        msr_bitmap_open_write(page, msr);
}
