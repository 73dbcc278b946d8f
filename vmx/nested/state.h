#pragma once
// What the parts of nested VMX share, and nobody else reads.

#include "ept/ept02.h"
#include "ept/guestpt.h"
#include "libc/list.h"
#include "libc/x86.h"
#include "vmx/cpu.h"
#include "vmx/msr.h"
#include "vmx/nested/check.h"
#include "vmx/nested/nested.h"
#include "vmx/nested/policy.h"
#include "vmx/nested/vmcs12.h"

#define VMX_ERR_VMCALL              1
#define VMX_ERR_VMCLEAR_ADDRESS     2
#define VMX_ERR_VMCLEAR_VMXON       3
#define VMX_ERR_LAUNCH_NOT_CLEAR    4
#define VMX_ERR_RESUME_NOT_LAUNCHED 5
#define VMX_ERR_VMPTRLD_ADDRESS     9
#define VMX_ERR_VMPTRLD_VMXON       10
#define VMX_ERR_VMPTRLD_REVISION    11
#define VMX_ERR_NO_FIELD            12
#define VMX_ERR_READ_ONLY           13
#define VMX_ERR_VMXON_IN_VMX        15
#define VMX_ERR_MOV_SS              26
#define VMX_ERR_INVALIDATION        28

#define VMCS_NONE                   GPA(~0ull)

#define FIELD_MAP                   0x7000 // above the last encoding
#define NO_FIELD                    0xff

// State of L1 that a VM entry without the "load" controls passes on to L2.
struct l1_state {
    u64 dr7, debugctl, pat, efer;
};

// What VMREAD and VMWRITE of a field have to look after: guest state that may be in vmcs02 only,
// in parts that L1 seldom wants together, and copies in the shadow VMCS.
#define LAZY_SEGMENTS  BIT(0)
#define LAZY_REST      BIT(1)
#define LAZY_ALL       (LAZY_SEGMENTS | LAZY_REST)
#define CARE_SHADOW    BIT(2)
#define CARE_READ_ONLY BIT(3) // VMWRITE fails

// Some fields, for loops over a part of the table.
struct field_list {
    unsigned count;
    vmcs_field_t f[64];
};

// The words of an MSR bitmap, besides msr_open_words, in which vmcs02's may let anything through:
// 800H to 8FFH for reads, the first of them for writes.
static const u16 x2apic_words[] = {MSR_READS(0x800), MSR_READS(0x840), MSR_READS(0x880),
                                   MSR_READS(0x8c0), MSR_WRITES(0x800)};

// One VMCS of L1, from VMPTRLD to VMCLEAR. Fills a page of the VM's pool.
struct nvmcs {
    struct vmcs12 v;
    gpa_t gpa;
    struct list lru; // in nested.active or nested.parked
    struct vmcs vmcs02;
    hpa_t msr_bitmap;            // of vmcs02
    struct exit_bitmaps l1_maps; // L1's pages as vmcs12 names them now
    bool is_shadow;              // L1's indicator of a shadow VMCS
    u8 lazy;                     // LAZY_ bits: guest state that is in vmcs02 only
    bool lma_touched;            // L2 wrote EFER since the last exit
    bool msrs_touched;           // L2 wrote EFER, PAT or DEBUGCTL since the last entry
    bool dr7_open;               // L2 can change DR7 without an exit, and the next entry loads it
    bool msrs_stale;             // msr_bitmap is of other controls than vmcs12's
    struct l1_state l1_state;    // of the last entry, where a "load" control is off
    u8 slot;                     // of nested.slots; its VPID is vpid02
    u16 vpid02;
    bool flush_vpid; // vpid02 before the next entry
    u64 vmcs02_eptp; // what EPTP of vmcs02 holds
    ngpa_t missing;  // of the EPT violation that L1 was told of since the last entry,
    u64 missing_for; // and its qualification; 0: there was none
    u32 proc_l1;     // interrupt and NMI window bits that L1 wants

    u64 msrs_seen[ARRAY_SIZE(msr_open_words) + ARRAY_SIZE(x2apic_words)]; // of L1's bitmap

    struct vmcs shadow; // hpa 0: the processor has no VMCS shadowing
    u32 shadow_due;     // fields of shadow.def that the shadow VMCS does not hold yet
};

_Static_assert(sizeof(struct nvmcs) <= PAGE_SIZE, "one page of the pool");

// An access of L0 in L2's place that EPT12 does not allow.
struct denied {
    u32 reason;
    u64 qualification, linear;
    ngpa_t ngpa;
};

struct nested {
    bool vmxon;
    gpa_t vmxon_region;
    struct nvmcs *current; // NULL: no current VMCS
    bool shadow_on;        // vmcs01 has VMCS shadowing in effect
    struct list active;    // nvmcs, most recently current first
    struct list parked;    // after VMCLEAR: L1's region holds the state, and the next VMPTRLD of it
                           // finds vmcs02 nearly done
    unsigned count;        // of both
    u64 slots;             // bits of the slots in use
    u64 timer_deadline;    // TSC at which L1's preemption timer ends; ~0: not armed
    bool event_written;    // vmcs02 holds an event that is not delivered yet
    bool trap_due;         // the exit of L1's monitor trap flag, for an instruction L0 executed
    bool immediate_exit;   // L2 is to be left right after that event
    u64 tsc_offset_01;     // what vmcs01 holds
    u64 eptp01;            // of EPT01, which vmcs02 has where L1 has no EPT
    struct l1_state l1;    // of its last virtual entry; but for EFER only if one of the "load"
                           // controls of the others was off. EFER is so still in vmcs01
    bool l1_blocked;       // GUEST_INTERRUPTIBILITY of vmcs01 is not 0, likewise
    struct nvmcs *host_loaded; // whose host state vmcs01 holds where L1 changes it only through L0
    struct entry_env env;
    struct ept02_cache ept02;
    hpa_t vmread_bitmap, vmwrite_bitmap;
    hpa_t no_page;           // stands in where L1 names memory that it does not have
    u8 field_map[FIELD_MAP]; // by encoding: a field that L1's processor has, or NO_FIELD
    u8 care[VF_COUNT];       // LAZY_ and CARE_ bits
    bool exists[VF_COUNT];   // fields that L1's processor has
    struct field_list copy_segments, copy_tables, copy_msrs; // MERGE_COPY fields of these groups
    struct field_list lazy_segments, lazy_rest; // see store_sync_lazy(); lazy_rest without
    struct field_list lazy_if;                  // these, which an exit saves on conditions
    struct denied denied;                       // while vcpu->event.denied
    u64 l1_pat;                                 // of L1 as vmcs01 holds it, if host_loaded
    struct guestpt_memo operand;                // of the last VMX instruction's memory operand
};

// --- store.c ---

// The nvmcs of a region: the one that is active, or a new one filled from L1's memory. NULL: the
// pool is empty even after eviction.
struct nvmcs *store_get(struct vcpu *vcpu, gpa_t region);
struct nvmcs *store_find(struct vcpu *vcpu, gpa_t region);

// VMCLEAR of an active one: its state goes to L1's memory and its pages to the pool.
void store_clear(struct vcpu *vcpu, struct nvmcs *nv, bool launch_state_clear);

// Makes the guest state in vmcs12 complete where `parts` (LAZY_ bits) of it are in vmcs02 only.
void store_sync_lazy(struct vcpu *vcpu, struct nvmcs *nv, unsigned parts);

// Whether checks or merge of what L1 changed look at guest state that is in vmcs02 only.
bool store_is_stale(const struct nvmcs *nv);

// --- insn.c ---

// The field that the register operand of VMREAD or VMWRITE names (`wide`: in 64-bit code), and
// whether it is the upper half. False: L1's processor has none such.
bool nested_find_field(const struct vcpu *vcpu, u64 operand, bool wide, vmcs_field_t *f,
                       bool *high);

// --- merge.c ---

// One-time contents of a new vmcs02, which is current.
void merge_init(struct vcpu *vcpu, struct nvmcs *nv);

// Brings the groups that L1 changed into vmcs02, which is current; but for RIP and RFLAGS.
void merge_rest(struct vcpu *vcpu, struct nvmcs *nv, u32 groups);

// TPR threshold and guest interrupt status.
void merge_virtual_interrupts(struct nvmcs *nv);

// Gives vmcs02 what L2 has to find in registers that the controls do not carry over.
void merge_l1_state(struct nvmcs *nv, const struct l1_state *l1);

// L2's PDPTEs, if it uses PAE paging. Where L1 has no EPT they are in memory, which L1 may change
// without a VMWRITE.
void merge_pdptes(struct vcpu *vcpu, struct nvmcs *nv);

// The sum of L0's, L1's and L2's TSC offsets.
void merge_tsc(struct vcpu *vcpu, struct nvmcs *nv);

// L1's MSR bitmap for this entry, unless merge_has_msrs(): L1 may change it at any time.
void merge_msr_bitmap(struct vcpu *vcpu, struct nvmcs *nv);

// Whether vmcs02's MSR bitmap is made of what vmcs12 and L1's bitmap say now.
static inline bool merge_has_msrs(const struct nvmcs *nv)
{
    const u64 *l1 = (const u64 *)nv->l1_maps.msr, *seen = nv->msrs_seen;
    u64 changed = nv->msrs_stale;
    if (!l1)
        return !changed;
#pragma GCC unroll 8
    for (unsigned i = 0; i < ARRAY_SIZE(msr_open_words); i++)
        changed |= l1[msr_open_words[i]] ^ *seen++;
#pragma GCC unroll 8
    for (unsigned i = 0; i < ARRAY_SIZE(x2apic_words); i++)
        changed |= l1[x2apic_words[i]] ^ *seen++;
    return !changed;
}

// --- entry.c ---

// What a VMX instruction did: one of these, or the VM-instruction error number (above 0) of a
// VMfail. One place (insn.c) turns it into RFLAGS, RIP and the error field.
enum {
    VMX_SUCCEED = 0,
    VMX_FAIL_INVALID = -1,
    VMX_DONE =
        -2, // nothing is left to do: a fault is on its way, L2 is entered, or its entry failed
};
typedef int vmx_result_t;

// Makes EPT02 and the VPID those of vmcs12 now: vmcs02 is current.
void entry_address_space(struct vcpu *vcpu, struct nvmcs *nv);

// --- leave.c ---

// The exit that L1 gets.
struct leave {
    u32 reason;
    bool own_event; // EXIT_INTR_INFO is what L0 says, not the processor
    bool synthetic; // the processor did not make it: no instruction length and information
    u64 qualification;
};

// What EXIT_INTR_INFO and EXIT_INTR_ERROR say, if the exit has own_event.
struct leave_event {
    u32 info; // bit 31 clear: none
    u32 error;
};

#define NO_EVENT ((struct leave_event){0})

// The virtual VM exit from L2 to L1: vmcs02 is current before it, vmcs01 after it.
enum run_result leave_l2(struct vcpu *vcpu, struct leave exit, struct leave_event event);

// The failed entry: L2 never ran, vmcs01 is current or vmcs02 if `in_l2`.
void leave_failed_entry(struct vcpu *vcpu, struct nvmcs *nv, u32 reason, u64 qualification);

// Loads an MSR list of L1; returns the number of the entry that failed (from 1), or 0.
u32 load_msr_list(struct vcpu *vcpu, gpa_t list, u32 count, enum msr_list kind);

// --- events.c ---

// A virtual exit that the processor did not make.
void leave_synthetic(struct vcpu *vcpu, u32 reason, u64 qualification, u32 intr_info);

// --- l2mem.c ---

// The exit that nested_l2_denied() promised.
void leave_denied(struct vcpu *vcpu);

// --- pml.c ---

// Puts a page into L1's log, if L1 logs.
void pml_log(struct vcpu *vcpu, struct nvmcs *nv, ngpa_t ngpa);

// --- ve.c ---

// Makes an EPT violation of L1's a #VE in L2, if L1 wants that. False: it is an exit.
bool ve_convert(struct vcpu *vcpu, struct nvmcs *nv, const struct ept02_fault *fault, u64 linear);

// --- vmfunc.c ---

// L2 executed VMFUNC. False: it is an exit of L1.
bool vmfunc_emulate(struct vcpu *vcpu, struct nvmcs *nv);

// --- vapic.c ---

// The fields of APIC virtualization; the x2APIC MSRs in vmcs02's bitmap.
void vapic_merge(struct nvmcs *nv);
void vapic_open_msrs(struct nvmcs *nv);

// Whether virtual-interrupt delivery wakes L2 from HLT.
bool vapic_pending(struct vcpu *vcpu, const struct nvmcs *nv);

// Whether VTPR is below the TPR threshold, where that is an exit right after VM entry ("VM Exits
// Induced by the TPR Threshold"): the processor looks when it enters, L0 when L2 halts in software.
bool vapic_below_threshold(struct vcpu *vcpu, const struct nvmcs *nv);

// The pending interrupt of L1 is the notification of posted interrupts: L2 gets them.
void vapic_take_posted(struct vcpu *vcpu, const struct nvmcs *nv);

// --- common ---

static inline void use_vmcs(struct vcpu *vcpu, struct vmcs *v)
{
    vmcs_load(v);
    vcpu->vmcs = v;
}

static inline u64 v12(const struct nvmcs *nv, vmcs_field_t f)
{
    return v12_get(&nv->v, f);
}

// Whether the interrupt that L1's local APIC has is the notification of L2's posted interrupts.
static inline bool vapic_is_notification(struct vcpu *vcpu, const struct nvmcs *nv)
{
    return V12_HAS(&nv->v, POSTED_INTERRUPTS) && !vlapic_accepts_extint(vcpu->lapic) &&
           vcpu->lapic->pending == v12(nv, F(POSTED_INTR_VECTOR));
}

#define PML_ENTRIES 512

// Whether L1 logs modified pages and its log has no room for one more.
static inline bool pml_full(const struct nvmcs *nv)
{
    return V12_HAS(&nv->v, PML) && v12(nv, F(PML_INDEX)) >= PML_ENTRIES;
}
