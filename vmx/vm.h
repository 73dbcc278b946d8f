#pragma once
// A virtual machine and its virtual CPUs. All state of a VM hangs off these two structures.

#include "drivers/model/machine.h"
#include "ept/ept.h"
#include "ept/guestmem.h"
#include "ept/pool.h"
#include "libc/lock.h"
#include "libc/x86.h"
#include "vmx/control.h"
#include "vmx/cpuid.h"
#include "vmx/operand.h"
#include "vmx/stats.h"
#include "vmx/vmcs.h"

#define VM_MAX_CPUS MACHINE_MAX_CPUS

struct nested;
struct switched;
struct vcpu;
struct vm;

enum vm_state { VM_CREATED, VM_RUNNING, VM_ENDED };

// How a VM ended.
enum vm_end { VM_END_POWER_OFF, VM_END_RESET, VM_END_DEBUG_EXIT, VM_END_FAILED };

// What a VM asks of the layer above.
struct vm_ops {
    void (*console)(struct vm *vm, u8 byte); // output of its COM1
    void (*console_room)(struct vm *vm);     // its COM1 takes input again; device_lock is held
    void (*ended)(struct vm *vm);            // state is VM_ENDED, once
    void (*wake)(struct vcpu *vcpu);         // work for a vCPU that may run or halt elsewhere
};

struct vm {
    char name[32];
    unsigned id;
    enum vm_state state;
    enum vm_end end;
    u32 end_code; // of VM_END_DEBUG_EXIT
    const struct vm_ops *ops;

    struct guest_mem mem;
    struct pool pool;  // everything that L0 allocates for this VM
    u64 pool_at_start; // pages of it that were in use before the VM ran
    struct ept ept01;
    hpa_t ones;            // page that ept01 shows where software looks for ROMs
    struct ept ept01_apic; // vmcs01 has it in xAPIC mode: ept01 and the APIC-access page
    hpa_t apic_access;     // this page, which nobody reads or writes
    hpa_t msr_bitmap;      // of vmcs01
    hpa_t msr_bitmap_x2apic; // in place of msr_bitmap in x2APIC mode
    struct cpuid_table cpuid;
    struct vmx_caps caps; // what L1 sees
    unsigned phys_bits;
    bool hide_vmx, lock_vmx; // its processor has no VMX; its firmware locked VMX off

    struct machine machine;
    struct spinlock device_lock; // machine, but for a vCPU's own local APIC
    u64 tsc_start;               // host TSC at the VM's time 0

    unsigned cpus, cpus_wanted;
    struct vcpu *vcpu[VM_MAX_CPUS];
};

// Bits of vcpu.work: reasons to look closer before the next VM entry. Set by anyone, atomically.
#define WORK_EVENTS BIT(0) // an exception waits, the interrupt state changed, or the vCPU halted
#define WORK_STOP   BIT(1) // leave the run loop: the VM ended or somebody else's turn
#define WORK_FLUSH  BIT(2) // EPT01 changed: INVEPT

// What a vCPU does when it does not execute instructions.
enum vcpu_activity { VCPU_ACTIVE, VCPU_HALTED, VCPU_SHUTDOWN, VCPU_WAIT_SIPI };

// An event on its way into the guest, in the layout of the VM-entry fields.
struct pending_event {
    u32 info; // bit 31: valid
    u32 error;
    u32 length;
    bool triple_fault; // instead of an event
    bool denied;       // likewise: an exit of L2 for an access of L0 that EPT12 does not allow
    bool raised;       // by L0 on behalf of an instruction, so that L1 may want to see L2's
    u64 address;       // of a page fault that L0 raised
};

// Why vmx_run() came back.
enum run_result {
    RUN_RESUME,    // internal: go on
    RUN_HALTED,    // nothing to do before the next deadline or a wake-up
    RUN_PREEMPTED, // the time slice is over
    RUN_STOPPED,   // the VM ended
};

struct vcpu {
    u64 gpr[GPR_COUNT]; // RSP is in the VMCS. First: known to vmx/enter.asm
    struct vmcs *vmcs;  // the current one: &vmcs01 or a vmcs02
    struct vm *vm;
    unsigned id;
    u32 work;

    u64 slice_end; // TSC
    u64 timer_ns;  // VM time of the next timer of the VM or the vCPU, as last computed,
    u64 deadline;  // and its TSC
    u64 until_l0;  // TSC at which L0 wants the CPU back: for a timer or the slice's end
    u64 until;     // the same or earlier, when L1 wants it back from L2

    enum vcpu_activity activity;
    struct pending_event event; // exception or re-injected event for the next entry
    u64 tsc_offset;             // of L1
    u64 tsc_adjust;             // IA32_TSC_ADJUST
    u64 feature_control;        // IA32_FEATURE_CONTROL
    u64 misc_enable;            // IA32_MISC_ENABLE
    u64 cr4_mask;               // bits of CR4 that the VM may set
    u64 mtrr[28];               // vmx/msr.c
    struct vmcs vmcs01;
    struct nested *nested;
    bool in_l2;
    bool host_dirty; // L0 changed a register of L1 that nested VMX took for unchanged
    struct vlapic *lapic;
    hpa_t apic_page;
    u8 apicv; // enum apicv_mode that vmcs01 is in
    u16 vpid;
    struct switched *saved; // registers that stay in the processor until another vCPU runs
    struct stats stats;
};

// Bits of CR0 and CR4 that L0 keeps to itself while a guest runs.
#define CR0_L0 (CR0_NE | CR0_CD | CR0_NW)

static inline u64 cr4_l0(const struct vcpu *vcpu)
{
    return CR4_VMXE | ~vcpu->cr4_mask;
}

// Notes work for `vcpu` and wakes it.
void vcpu_kick(struct vcpu *vcpu, u32 work);

static inline void vcpu_note(struct vcpu *vcpu, u32 work)
{
    __atomic_or_fetch(&vcpu->work, work, __ATOMIC_RELEASE);
}

// The VM ends, all its vCPUs leave the run loop; a second call does nothing. `code` is that of
// VM_END_DEBUG_EXIT.
void vm_end(struct vm *vm, enum vm_end end, u32 code);

// The VM did what no real machine survives: dump of `vcpu`, and VM_END_FAILED. L0 goes on.
void vcpu_fail(struct vcpu *vcpu, const char *fmt, ...) PRINTF(2, 3);

// State and last exit of the guest that the current VMCS, which is the vCPU's, runs.
void vcpu_dump(struct vcpu *vcpu);

// Makes `ept` an EPT01 of the VM. False: no memory.
bool vm_map_memory(struct vm *vm, struct ept *ept);

// VM time: ns since the VM was made.
u64 vm_now_ns(const struct vm *vm);
