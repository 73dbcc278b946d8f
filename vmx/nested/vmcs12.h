#pragma once
// vmcs12: the VMCS that L1 wrote for its L2, in L0's memory from VMPTRLD to VMCLEAR, and its form
// in the VMCS region of L1, which is Nestor's own (NESTED_VMCS_REVISION).

#include "libc/x86.h"
#include "vmx/control.h"
#include "vmx/field.h"

struct vmcs12 {
    u64 f[VF_COUNT]; // by field index; never more bits than the field has
    u32 unchecked;   // groups that changed since they last passed the entry checks
    bool launched;   // the launch state
    u32 unmerged;    // groups that changed since they were merged into vmcs02
};

// The start of a VMCS region as it lies in L1's memory. The rest of the 4 KiB is not used.
struct vmcs12_region {
    u32 revision; // bit 31: shadow-VMCS indicator
    u32 abort;    // VMX-abort indicator
    u32 launched;
    u32 reserved;
    u64 f[VF_COUNT];
};

_Static_assert(sizeof(struct vmcs12_region) <= PAGE_SIZE, "a VMCS region is one page");

// The value of a field.
static inline u64 v12_get(const struct vmcs12 *v, vmcs_field_t f)
{
    return v->f[f.i];
}

// Writes a field as L1 does: a change makes the field's group to be checked and merged again.
static inline void v12_set(struct vmcs12 *v, vmcs_field_t f, u64 value)
{
    const struct field_rule *rule = &field_rules[f.i];
    u64 changed = v->f[f.i] ^ (value & rule->mask);
    if (!changed)
        return;
    v->f[f.i] ^= changed;
    v->unchecked |= rule->groups;
    v->unmerged |= rule->groups;
    // Virtual-8086 mode has rules of its own for segments; no other flag concerns them.
    if (UNLIKELY(field_same(f, F(GUEST_RFLAGS)) && changed & RFLAGS_VM))
        v->unchecked |= GROUP(SEGMENTS);
}

// Writes a field with what the processor holds already (state of L2 saved at an exit, exit
// information): nothing has to be checked or merged.
static inline void v12_save(struct vmcs12 *v, vmcs_field_t f, u64 value)
{
    v->f[f.i] = value & field_mask(f);
}

// A word of controls as the processor uses it: the secondary and tertiary words count only when
// the word before activates them.
static inline u64 v12_controls(const struct vmcs12 *v, enum control_word w)
{
    u64 proc = v12_get(v, F(PROC_CTRL)), exit = v12_get(v, F(EXIT_CTRL));
    switch (w) {
    case WORD_PIN:
        return v12_get(v, F(PIN_CTRL));
    case WORD_PROC:
        return proc;
    case WORD_PROC2:
        return proc & CTL_SECONDARY ? v12_get(v, F(PROC2_CTRL)) : 0;
    case WORD_PROC3:
        return proc & CTL_TERTIARY ? v12_get(v, F(PROC3_CTRL)) : 0;
    case WORD_EXIT:
        return exit;
    case WORD_EXIT2:
        return exit & CTL_EXIT_SECONDARY ? v12_get(v, F(EXIT2_CTRL)) : 0;
    case WORD_ENTRY:
        return v12_get(v, F(ENTRY_CTRL));
    default:
        return 0;
    }
}

// Whether L1 has a control in effect: V12_HAS(v, EPT).
#define V12_HAS(v, name) ((v12_controls(v, CW_##name) & CTL_##name) != 0)

// Takes a vmcs12 from a copy of L1's region, which may hold anything: values are cut to the width
// of their field, every group is to be checked and merged. The revision is the caller's to check.
void v12_from_region(struct vmcs12 *v, const struct vmcs12_region *region);

// The same for a vmcs12 that was taken from this region before: only groups that changed since are
// to be checked and merged again. Whether anything changed.
bool v12_update(struct vmcs12 *v, const struct vmcs12_region *region);

// Puts a vmcs12 into a region; the revision and the abort indicator there stay.
void v12_to_region(const struct vmcs12 *v, struct vmcs12_region *region);
