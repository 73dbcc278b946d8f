#include "vmx/nested/policy.h"

#include "libc/bits.h"
#include "libc/x86.h"

#define HAS(name)         V12_HAS(v, name)
#define TO_L0             EXIT_TO_L0
#define TO_L1             EXIT_TO_L1
#define EMULATE           EXIT_EMULATE
#define L1_IF(rule)       ((rule) ? TO_L1 : EMULATE)

static bool mov_to_cr3_exits(const struct vmcs12 *v, u64 value)
{
    if (!HAS(CR3_LOAD_EXITING))
        return false;
    u64 count = MIN(v12_get(v, F(CR3_TARGET_COUNT)), 4);
    for (unsigned i = 0; i < count; i++)
        if (v->f[VF_CR3_TARGET_0 + i] == value)
            return false;
    return true;
}

static bool mov_to_cr_exits(const struct vmcs12 *v, unsigned cr, u64 value)
{
    switch (cr) {
    case 0:
        return v12_get(v, F(CR0_MASK)) & (value ^ v12_get(v, F(CR0_SHADOW)));
    case 3:
        return mov_to_cr3_exits(v, value);
    case 4:
        return v12_get(v, F(CR4_MASK)) & (value ^ v12_get(v, F(CR4_SHADOW)));
    case 8:
        return HAS(CR8_LOAD_EXITING);
    default:
        return false;
    }
}

// LMSW can set CR0.PE, not clear it; MP, EM and TS both.
static bool lmsw_exits(const struct vmcs12 *v, u64 source)
{
    u64 mask = v12_get(v, F(CR0_MASK)), shadow = v12_get(v, F(CR0_SHADOW));
    if (mask & CR0_PE && source & CR0_PE && !(shadow & CR0_PE))
        return true;
    return mask & 0xe & (source ^ shadow);
}

static bool cr_access_exits(const struct vmcs12 *v, const struct exit_event *x)
{
    enum { MOV_TO, MOV_FROM, CLTS, LMSW };
    unsigned cr = x->qualification & 15;
    switch (bits(x->qualification, 5, 4)) {
    case MOV_TO:
        return mov_to_cr_exits(v, cr, x->value);
    case MOV_FROM:
        return (cr == 3 && HAS(CR3_STORE_EXITING)) || (cr == 8 && HAS(CR8_STORE_EXITING));
    case CLTS:
        return v12_get(v, F(CR0_MASK)) & v12_get(v, F(CR0_SHADOW)) & CR0_TS;
    default:
        return lmsw_exits(v, bits(x->qualification, 31, 16));
    }
}

// An access to several ports exits if one of them does, or if it wraps around the port space.
static bool io_exits(const struct vmcs12 *v, const struct exit_event *x,
                     const struct exit_bitmaps *maps)
{
    if (!HAS(IO_BITMAPS))
        return HAS(IO_EXITING);
    u64 first = bits(x->qualification, 31, 16), size = (x->qualification & 7) + 1;
    if (first + size > 0x10000)
        return true;
    for (u64 port = first; port < first + size; port++) {
        const u8 *map = port < 0x8000 ? maps->io_a : maps->io_b;
        if (!map || bitmap_get(map, port & 0x7fff))
            return true;
    }
    return false;
}

// The page holds four bitmaps of 1 KiB: reads of low and of high MSRs, writes of low and of high.
static bool msr_exits(const struct vmcs12 *v, const struct exit_event *x, const u8 *map, bool write)
{
    if (!HAS(MSR_BITMAPS) || !map)
        return true;
    bool high = x->rcx >= 0xc0000000;
    u32 index = high ? x->rcx - 0xc0000000 : x->rcx;
    return index >= 0x2000 || bitmap_get(map + (write ? 2048 : 0) + (high ? 1024 : 0), index);
}

// "VMREAD", "VMWRITE": with VMCS shadowing only some fields exit.
static bool field_access_exits(const struct vmcs12 *v, const struct exit_event *x, const u8 *map)
{
    return !HAS(VMCS_SHADOWING) || x->value >> 15 || !map || bitmap_get(map, x->value);
}

enum exit_owner exit_owner(const struct vmcs12 *v, const struct exit_event *x,
                           const struct exit_bitmaps *maps)
{
    switch (x->reason & 0xffff) {
#define REASON(number, name, owner)                                                                \
    case number:                                                                                   \
        return owner;
#include "vmx/nested/policy.def"
#undef REASON
    }
    return TO_L0;
}
