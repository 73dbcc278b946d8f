#include "vmx/field.h"

#include "libc/bits.h"
#include "vmx/control.h"

#define ENC_HIGH     1u
#define ENC_RESERVED (~0x6ffeull & ~1ull) // bit 12 and everything above bit 14
#define ENC_INDEX(e) ((e) >> 1 & 0x1ff)

// Fields are dense in their index: width and type choose a row, the index a column.
#define INDEX_LIMIT 64
#define ENC_ROW(e)  (((e) >> 13 & 3) << 2 | ((e) >> 10 & 3))

#define FIELD(name, encoding, exists, merge, group)                                                \
    _Static_assert(ENC_INDEX(encoding) < INDEX_LIMIT && !((encoding)&ENC_HIGH), #name);
#include "vmx/field.def"
#undef FIELD

static const u8 by_encoding[16][INDEX_LIMIT] = {
#define FIELD(name, encoding, exists, merge, group)                                                \
    [ENC_ROW(encoding)][ENC_INDEX(encoding)] = VF_##name + 1,
#include "vmx/field.def"
#undef FIELD
};

static const char *const names[VF_COUNT] = {
#define FIELD(name, encoding, exists, merge, group) #name,
#include "vmx/field.def"
#undef FIELD
};

const struct field_rule field_rules[VF_COUNT] = {
#define FIELD(name, encoding, exists, merge, group)                                                \
    {FIELD_MASK(encoding), GROUP_##group == GROUP_NONE ? 0 : 1u << GROUP_##group, GROUP_##group,   \
     MERGE_##merge},
#include "vmx/field.def"
#undef FIELD
};

const char *field_name(vmcs_field_t f)
{
    return names[f.i];
}

int field_from_encoding(u64 encoding, vmcs_field_t *field, bool *high)
{
    u64 index = ENC_INDEX(encoding);
    if ((encoding & ENC_RESERVED) || index >= INDEX_LIMIT)
        return -1;
    u8 found = by_encoding[ENC_ROW(encoding)][index];
    if (!found)
        return -1;
    *field = field_at(found - 1u);
    *high = encoding & ENC_HIGH;
    return *high && field_width(*field) != WIDTH_64 ? -1 : 0;
}

bool field_exists(vmcs_field_t f, const struct vmx_caps *c)
{
#define HAS(name) CAP_HAS(c, name)
    switch (f.i) {
#define FIELD(name, encoding, exists, merge, group)                                                \
    case VF_##name:                                                                                \
        return exists;
#include "vmx/field.def"
#undef FIELD
    }
#undef HAS
    return false;
}

u64 field_part(vmcs_field_t f, bool high, bool wide, u64 value)
{
    value &= field_mask(f);
    if (high)
        return value >> 32;
    return wide ? value : (u32)value;
}

u64 field_update(vmcs_field_t f, bool high, bool wide, u64 old, u64 operand)
{
    if (high)
        return (u32)old | operand << 32;
    return (wide ? operand : (u32)operand) & field_mask(f);
}

u64 field_vmcs_enum(const struct vmx_caps *caps)
{
    u64 highest = 0;
    for (unsigned i = 0; i < VF_COUNT; i++)
        if (field_exists(field_at(i), caps))
            highest = MAX(highest, ENC_INDEX((u64)vmcs_encoding[i]));
    return highest << 1;
}
