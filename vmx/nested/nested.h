#pragma once
// Nested VMX: what L1 makes of its virtual VMX, and the running of L2. The parts:
//   insn.c    VMX instructions of L1
//   store.c   the vmcs12s of L1, from VMPTRLD to VMCLEAR
//   entry.c   virtual VM entry: checks, merge into vmcs02, MSR list
//   merge.c   how each group of fields gets into vmcs02
//   leave.c   virtual VM exit: vmcs02 to vmcs12, L1's host state
//   l2.c      exits of L2: who owns them, and L0's own
//   events.c  events while L2 runs
//   l2mem.c   L2's memory, where L0 executes an instruction for L2
//   shadow.c  VMCS shadowing
//   link.c    VMCS shadowing that L1 uses for L2
//   pml.c     page-modification logging for L1
//   vmfunc.c  VM functions of L2
//   ve.c      EPT violations of L2 as #VE
//   vapic.c   APIC virtualization, posted interrupts
// and, pure: vmcs12.c, check.c, policy.c.

#include "vmx/exit.h"

// VPIDs that a vCPU wants besides its own, the ones that follow it.
#define NESTED_VPIDS 64

static inline bool nested_in_l2(const struct vcpu *vcpu)
{
    return vcpu->in_l2;
}

// Makes the nested state of a vCPU in its VM's pool. False: no memory.
bool nested_init(struct vcpu *vcpu);

// The VM has ended: gives back what its VMCSs and EPTs took of the pool. Returns the pages that
// were lost on the way.
u64 nested_release(struct vcpu *vcpu);

// Completes vmcs01, which is current and has everything else.
void nested_init_vmcs01(struct vcpu *vcpu);

// Exits of VMX instructions that L1 executes.
enum run_result nested_vmcall(struct vcpu *vcpu);
enum run_result nested_vmclear(struct vcpu *vcpu);
enum run_result nested_vmlaunch(struct vcpu *vcpu);
enum run_result nested_vmptrld(struct vcpu *vcpu);
enum run_result nested_vmptrst(struct vcpu *vcpu);
enum run_result nested_vmread(struct vcpu *vcpu);
enum run_result nested_vmresume(struct vcpu *vcpu);
enum run_result nested_vmwrite(struct vcpu *vcpu);
enum run_result nested_vmxoff(struct vcpu *vcpu);
enum run_result nested_vmxon(struct vcpu *vcpu);
enum run_result nested_invept(struct vcpu *vcpu);
enum run_result nested_invvpid(struct vcpu *vcpu);

// VMREAD and VMWRITE of L2 that L1's VMCS shadowing lets through.
enum run_result nested_linked_vmread(struct vcpu *vcpu);
enum run_result nested_linked_vmwrite(struct vcpu *vcpu);

// An exit while L2 runs.
enum run_result nested_exit(struct vcpu *vcpu, u32 reason);

// As vcpu_deliver_events(), for a vCPU that is in L2: events for L1 end L2's turn.
bool nested_deliver_events(struct vcpu *vcpu);

// Whether an exception that L0 raises (`info` as in the VM-entry field) is in L2 and L1 wants it as
// an exit.
bool nested_intercepts(struct vcpu *vcpu, u32 info, u32 error);

// Whether L1 is in VMX root operation, where INIT stays pending.
bool nested_blocks_init(const struct vcpu *vcpu);

// Whether L1 traces L2's instructions one by one.
bool nested_monitor_trap(struct vcpu *vcpu);

// The TSC at which L1's preemption timer ends L2's turn, ~0: not in L2, or no such timer.
u64 nested_timer_deadline(const struct vcpu *vcpu);

// Whether this entry is into L2 and only to deliver an event: L1 wants the CPU right after it.
bool nested_leaves_at_once(struct vcpu *vcpu);

// The bits of CR0 or CR4 (`cr` 0 or 4) of L2 that L1 owns: L2 reads `shadow`, in force is `actual`.
// Outside L2 L1 owns all of its registers and the mask is 0.
struct cr_part {
    u64 mask, shadow, actual;
};
struct cr_part nested_cr_part(struct vcpu *vcpu, unsigned cr);

// L0 gave CR0 or CR4 of the running guest a new value.
void nested_cr_written(struct vcpu *vcpu, unsigned cr, u64 value);

// L0 changed EFER, PAT, DEBUGCTL or SYSENTER MSRs of the running guest.
void nested_msr_written(struct vcpu *vcpu);

// Whether values of CR0 and CR4 are possible in VMX operation, if L1 is in it ("Restrictions on VMX
// Operation").
bool nested_cr0_ok(struct vcpu *vcpu, u64 value);
bool nested_cr4_ok(struct vcpu *vcpu, u64 value);

// vcpu->tsc_offset has a new value: L1's TSC moved, and L2's with it.
void nested_tsc_offset_changed(struct vcpu *vcpu);

// L0's pointer to the page of RAM that L2 sees at `page`, and L1's address for one of L2, where
// EPT12 lets L0 make the access in L2's place; `use` as in struct guest_paging (ept/guestpt.h).
// L1's accessed and dirty flags and log are then as if L2 made it.
void *nested_l2_page(struct vcpu *vcpu, ngpa_t page, unsigned use);
bool nested_l2_translate(struct vcpu *vcpu, ngpa_t ngpa, unsigned use, gpa_t *gpa);

// After one of them failed: if EPT12 does not allow the access, the exit that a processor would
// make waits for the end of the instruction's emulation (or the #VE does), and the result is true.
// `qualification` is that of an EPT violation but for the permissions, `linear` the address that it
// is about, if any.
bool nested_l2_denied(struct vcpu *vcpu, ngpa_t ngpa, u64 qualification, u64 linear);

// That qualification for an access by a linear address.
u64 nested_l2_qualification(unsigned use);
