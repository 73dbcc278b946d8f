// VMREAD and VMWRITE semantics on arbitrary encodings and values, existence on arbitrary
// capabilities, and hostile VMCS regions. Oracle: a linear search of the table.

#include <stdlib.h>
#include <string.h>

#include "vmx/nested/vmcs12.h"

static void require(bool ok)
{
    if (!ok)
        abort();
}

static int search(u64 encoding)
{
    for (unsigned i = 0; i < VF_COUNT; i++)
        if (vmcs_encoding[i] == encoding ||
            (field_width(field_at(i)) == WIDTH_64 && vmcs_encoding[i] + 1u == encoding))
            return (int)i;
    return -1;
}

static void one_access(u64 encoding, u64 old, u64 operand, bool wide)
{
    vmcs_field_t f;
    bool high;
    int want = search(encoding);
    require((field_from_encoding(encoding, &f, &high) == 0) == (want >= 0));
    if (want < 0)
        return;
    require(f.i == want && high == (encoding & 1));
    old &= field_mask(f);
    u64 updated = field_update(f, high, wide, old, operand);
    require(!(updated & ~field_mask(f)));
    u64 seen = field_part(f, high, wide, updated);
    u64 kept = wide && !high ? field_mask(f) : field_mask(f) & 0xffffffff;
    require(seen == (operand & kept));
    if (high)
        require((u32)updated == (u32)old);
}

static void one_processor(const u8 *data, size_t size)
{
    struct vmx_caps caps = {0};
    memcpy(&caps, data, size < sizeof(caps) ? size : sizeof(caps));
    u64 highest = field_vmcs_enum(&caps);
    for (unsigned i = 0; i < VF_COUNT; i++)
        if (field_exists(field_at(i), &caps))
            require((vmcs_encoding[i] & 0x3feu) <= highest);
    struct vmx_caps l1;
    struct vmx_offer offer = {0};
    vmx_caps_for_l1(&caps, &offer, &l1);
    for (unsigned w = 0; w < WORD_COUNT; w++)
        require(!(l1.word[w].must & ~l1.word[w].may));
}

static void one_region(const u8 *data, size_t size)
{
    struct vmcs12_region region = {0}, again = {0};
    struct vmcs12 v, same;
    memcpy(&region, data, size < sizeof(region) ? size : sizeof(region));
    v12_from_region(&v, &region);
    for (unsigned i = 0; i < VF_COUNT; i++)
        require(!(v.f[i] & ~field_mask(field_at(i))));
    v12_to_region(&v, &again);
    v12_from_region(&same, &again);
    require(!memcmp(v.f, same.f, sizeof(v.f)) && v.launched == same.launched);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    u64 in[3];
    for (size_t at = 0; at + sizeof(in) + 1 <= size; at += sizeof(in) + 1) {
        memcpy(in, data + at, sizeof(in));
        u8 how = data[at + sizeof(in)];
        one_access(how & 2 ? in[0] : in[0] & 0x7fff, in[1], in[2], how & 1);
    }
    one_processor(data, size);
    one_region(data, size);
    return 0;
}
