#pragma once
// The MSRs that a VM sees.

#include "libc/bits.h"
#include "vmx/vm.h"

// RDMSR and WRMSR of the guest that the current VMCS runs. False: #GP(0).
bool vcpu_rdmsr(struct vcpu *vcpu, u32 msr, u64 *value);
bool vcpu_wrmsr(struct vcpu *vcpu, u32 msr, u64 value);

// Fills an MSR bitmap with exits for all but the MSRs that the guest may use directly.
void msr_bitmap_init(u8 *page);

// Byte offset and bit of an MSR in the read part of a bitmap; the write part is 2 KiB further.
// (SDM, "MSR-Bitmap Address".) `msr` must be in one of the two ranges.
static inline u64 msr_bitmap_bit(u32 msr)
{
    return msr < 0x2000 ? msr : 0x400 * 8 + (msr - 0xc0000000u);
}

// The word of 64 bits in which that bit is, for reads and for writes.
#define MSR_READS(msr)  (((msr) < 0x2000 ? (msr) : 0x2000 + ((msr)&0x1fff)) / 64)
#define MSR_WRITES(msr) (0x4000 / 64 + MSR_READS(msr))

// The words in which the bitmap of msr_bitmap_init() lets anything through.
static const u16 msr_open_words[] = {
    MSR_READS(0x10),        MSR_READS(0x174),      MSR_READS(0x1d9),      MSR_READS(0xc0000081),
    MSR_WRITES(0xc0000081), MSR_READS(0xc0000100), MSR_WRITES(0xc0000100)};

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
