#pragma once
// The checks of a VM entry that L1 makes: Intel SDM volume 3, chapter "VM Entries", "Checks on VMX
// Controls and Host-State Area" and "Checking and Loading Guest State". The rows are in check.def.
// Pure: no check reads hardware.

#include "ept/guestmem.h"
#include "vmx/nested/vmcs12.h"

// Section, title in the manual, what a failure in it is, and its number: the VM-instruction error
// of a VMfail, or the exit qualification of an entry failure.
#define ENTRY_SECTIONS(X)                                                                          \
    X(EXECUTION, "VM-Execution Control Fields", ENTRY_VMFAIL, 7)                                   \
    X(EXECUTION_VTPR, "VM-Execution Control Fields", ENTRY_VMFAIL, 7)                              \
    X(EXECUTION_MORE, "VM-Execution Control Fields", ENTRY_VMFAIL, 7)                              \
    X(EXIT_CONTROLS, "VM-Exit Control Fields", ENTRY_VMFAIL, 7)                                    \
    X(ENTRY_CONTROLS, "VM-Entry Control Fields", ENTRY_VMFAIL, 7)                                  \
    X(HOST_REGISTERS, "Host Control Registers, MSRs, and SSP", ENTRY_VMFAIL, 8)                    \
    X(HOST_SEGMENTS, "Host Segment and Descriptor-Table Registers", ENTRY_VMFAIL, 8)               \
    X(ADDRESS_SPACE, "Address-Space Size", ENTRY_VMFAIL, 8)                                        \
    X(GUEST_REGISTERS, "Guest Control Registers, Debug Registers, and MSRs", ENTRY_FAILURE, 0)     \
    X(GUEST_SEGMENTS, "Guest Segment Registers", ENTRY_FAILURE, 0)                                 \
    X(GUEST_TABLES, "Guest Descriptor-Table Registers", ENTRY_FAILURE, 0)                          \
    X(GUEST_RIP, "Guest RIP, RFLAGS, and SSP", ENTRY_FAILURE, 0)                                   \
    X(GUEST_STATE, "Guest Non-Register State", ENTRY_FAILURE, 0)                                   \
    X(GUEST_STATE_NMI, "Guest Non-Register State", ENTRY_FAILURE, 3)                               \
    X(GUEST_STATE_MORE, "Guest Non-Register State", ENTRY_FAILURE, 0)                              \
    X(LINK_POINTER, "VMCS Link Pointer", ENTRY_FAILURE, 4)                                         \
    X(PDPTES, "Guest Page-Directory-Pointer-Table Entries", ENTRY_FAILURE, 2)

enum entry_check {
#define BEGIN(section)
#define RULE(name, groups, rule, text) RULE_##name,
#define END(section)                                                                               \
    RULE_END_##section, RULE_LAST_##section = RULE_END_##section - 1,
#include "vmx/nested/check.def"
#undef BEGIN
#undef RULE
#undef END
    RULE_COUNT
};

enum entry_outcome {
    ENTRY_OK,
    ENTRY_VMFAIL,  // VMfailValid with error `number` (7 or 8)
    ENTRY_FAILURE, // VM exit with reason 33 (bit 31 set) and exit qualification `number`
};

struct entry_result {
    enum entry_outcome outcome;
    u32 number;
    enum entry_check row; // which check failed
};

// What the checks know of L1's processor besides vmcs12.
struct entry_env {
    const struct vmx_caps *caps; // as L1 sees them
    const struct guest_mem *mem; // L1's memory
    gpa_t current_vmcs;
    u64 cr4_valid;           // bits of CR4 that L1's CPUID allows
    u64 efer_valid;          // bits of IA32_EFER that are not reserved
    u64 debugctl_valid;      // the same of IA32_DEBUGCTL
    u64 perf_global_valid;   // the same of IA32_PERF_GLOBAL_CTRL
    u8 phys_bits;            // MAXPHYADDR, at most 52
    u8 linear_bits;          // 48 or 57
    bool lma;                // IA32_EFER.LMA at the time of the entry
    bool rtm;                // CPUID says RTM
    bool nmi_blocked_by_sti; // the processor refuses to inject an NMI while blocking by STI
};

// The first check that fails, among those that read a group of `groups` (v->unchecked, or
// GROUP_ALL) and those that look into L1's memory. With the groups left out unchanged since a run
// that passed with the same env, this is the result of the whole list.
struct entry_result check_entry(const struct vmcs12 *v, const struct entry_env *e, u32 groups);

// Whether check_entry() with these groups finds nothing: what hypervisors change at most entries,
// at most, in a short way. (No check looks at the preemption timer.)
#define CHECK_QUICK (GROUP(RIP) | GROUP(TIMER) | GROUP(TPR))
bool check_entry_quick(const struct vmcs12 *v, const struct entry_env *e);

// Whether a VM entry would accept this EPT pointer: what INVEPT and EPTP switching ask.
bool check_eptp(const struct entry_env *e, u64 eptp);

const char *check_name(enum entry_check row);
const char *check_text(enum entry_check row);    // what should have held
const char *check_section(enum entry_check row); // the title in the manual

// An entry of an MSR list, as in memory.
struct msr_entry {
    u32 index;
    u32 reserved;
    u64 value;
};

enum msr_list { MSR_ENTRY_LOAD, MSR_EXIT_LOAD, MSR_EXIT_STORE };

// Whether a list may name this MSR at all: "Loading MSRs" of the chapters "VM Entries" and "VM
// Exits", "Saving MSRs". Whether RDMSR or WRMSR of it would fault is asked where those are
// emulated.
bool msr_list_entry_ok(enum msr_list list, const struct msr_entry *m);
