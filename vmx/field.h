#pragma once
// The one table of VMCS fields. A field is named by a handle, F(GUEST_RIP), never by a bare number.
// Intel SDM volume 3, "VMREAD, VMWRITE, and Encodings of VMCS Fields" and appendix "Field Encoding
// in VMCS".

#include "libc/types.h"

struct vmx_caps;

enum vmcs_field_index {
#define FIELD(name, encoding, exists, merge, group) VF_##name,
#include "vmx/field.def"
#undef FIELD
    VF_COUNT
};

// A field. F(NAME) is a constant; others come from field_from_encoding() or field_at().
typedef struct {
    u8 i;
} vmcs_field_t;

_Static_assert(VF_COUNT <= 255, "vmcs_field_t holds an index, and 255 for none, in 8 bits");

#define F(name) ((vmcs_field_t){VF_##name})

// How vmcs02 gets the value of a field.
enum field_merge {
    MERGE_COPY,      // what L1 wrote
    MERGE_HOST,      // L0's own constant; L1's value is loaded by L0 at a virtual exit
    MERGE_MERGED,    // a named function combines L1's value and L0's
    MERGE_L0,        // owned by L0
    MERGE_POINTER,   // guest-physical address in vmcs12: translated and pinned
    MERGE_SOFTWARE,  // never in vmcs02: L0 does the work
    MERGE_EVENT,     // the event to inject
    MERGE_EXIT_INFO, // exit information: written to vmcs12 at a virtual exit
};

// Fields that are checked and merged together.
enum field_group {
    GROUP_PIN,
    GROUP_PROC,
    GROUP_PROC2,
    GROUP_EXIT,
    GROUP_ENTRY,
    GROUP_EVENT,
    GROUP_EXCEPTIONS,
    GROUP_BITMAPS,
    GROUP_MSR_LISTS,
    GROUP_APIC,
    GROUP_TPR, // and what else changes with interrupts of L2
    GROUP_EPT,
    GROUP_VPID,
    GROUP_TSC,
    GROUP_PLE,
    GROUP_TIMER,
    GROUP_CR_MASKS,
    GROUP_CR3_TARGETS,
    GROUP_HOST,
    GROUP_RIP,
    GROUP_RFLAGS,
    GROUP_CRS,
    GROUP_CR3,
    GROUP_PDPTES,
    GROUP_SEGMENTS,
    GROUP_TABLES,
    GROUP_DEBUG,
    GROUP_MSRS,
    GROUP_STATE,
    GROUP_LINK,
    GROUP_NONE, // neither checked nor merged: exit information, and HOST_RSP
    GROUP_COUNT
};

_Static_assert(GROUP_COUNT <= 31, "a set of groups is a u32 and bit 31 is the entry checks' own");

#define GROUP(name) (1u << GROUP_##name)
#define GROUP_ALL   ((u32)(BIT(GROUP_COUNT) - 1))

enum field_width { WIDTH_16, WIDTH_64, WIDTH_32, WIDTH_NATURAL };
enum field_type { FIELD_CONTROL, FIELD_EXIT_INFO, FIELD_GUEST, FIELD_HOST };

// In the header so that the compiler folds vmcs_encoding[F(X).i] into a constant.
static const u16 vmcs_encoding[VF_COUNT] = {
#define FIELD(name, encoding, exists, merge, group) encoding,
#include "vmx/field.def"
#undef FIELD
};

// What the encoding says of the field.
static inline u16 field_encoding(vmcs_field_t f)
{
    return vmcs_encoding[f.i];
}

static inline enum field_width field_width(vmcs_field_t f)
{
    return vmcs_encoding[f.i] >> 13 & 3;
}

static inline enum field_type field_type(vmcs_field_t f)
{
    return vmcs_encoding[f.i] >> 10 & 3;
}

// VM-exit information: VMWRITE is refused unless IA32_VMX_MISC[29] says otherwise.
static inline bool field_read_only(vmcs_field_t f)
{
    return field_type(f) == FIELD_EXIT_INFO;
}

#define FIELD_MASK(encoding)                                                                       \
    ((encoding) >> 13 == WIDTH_16   ? 0xffffull                                                    \
     : (encoding) >> 13 == WIDTH_32 ? 0xffffffffull                                                \
                                    : ~0ull)

// What else is to be known of a field whose name is not written in the source.
struct field_rule {
    u64 mask;   // the bits that a value may have on a processor with 64-bit mode
    u32 groups; // the set of its group; empty for GROUP_NONE
    u8 group, merge;
};
extern const struct field_rule field_rules[VF_COUNT];

static inline u64 field_mask(vmcs_field_t f)
{
    return FIELD_MASK(vmcs_encoding[f.i]);
}

static inline enum field_group field_group(vmcs_field_t f)
{
    return field_rules[f.i].group;
}

static inline enum field_merge field_merge(vmcs_field_t f)
{
    return field_rules[f.i].merge;
}

// The field at index i < VF_COUNT: for loops over the table.
static inline vmcs_field_t field_at(unsigned i)
{
    return (vmcs_field_t){(u8)i};
}

// Whether both are the same field.
static inline bool field_same(vmcs_field_t a, vmcs_field_t b)
{
    return a.i == b.i;
}

// Its name in the table.
const char *field_name(vmcs_field_t f);

// Which field an operand of VMREAD or VMWRITE names, and whether it names the high half (`*high`).
// 0, or -1 when no processor has such a field: reserved bits set, or high access to a field that is
// not 64 bits wide. Whether the processor at hand has it is field_exists().
int field_from_encoding(u64 encoding, vmcs_field_t *field, bool *high);

// Whether the processor described by `caps` has the field.
bool field_exists(vmcs_field_t f, const struct vmx_caps *caps);

// Which part of a field VMREAD returns and VMWRITE replaces. `high`: the upper half of a 64-bit
// field. `wide`: the instruction runs in 64-bit mode (operand of 64 bits, else 32).
u64 field_part(vmcs_field_t f, bool high, bool wide, u64 value);
u64 field_update(vmcs_field_t f, bool high, bool wide, u64 old, u64 operand);

// IA32_VMX_VMCS_ENUM for a processor with these fields: bits 9:1 hold the highest index.
u64 field_vmcs_enum(const struct vmx_caps *caps);
