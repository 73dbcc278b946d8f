#pragma once
// L0's own access to the memory of the guest that the current VMCS runs, L1 or L2.

#include "ept/guestpt.h"
#include "vmx/operand.h"
#include "vmx/vm.h"

#define CS_AR_L BIT(13) // of GUEST_CS_AR

// Physical memory of that guest (for L2: ngpa through EPT12), as the processor reads it for itself.
// False if it is no RAM; if EPT12 is the reason, the exit for L1 waits then (vcpu->event).
bool vcpu_read_physical(struct vcpu *vcpu, u64 address, void *to, u64 len);

// Fills `paging` from the current VMCS, for walks of the guest's page tables (ept/guestpt.h).
void vcpu_paging(struct vcpu *vcpu, struct guest_paging *paging);

// Fills `ctx` and `seg` (SEG_COUNT) for linear_address().
void vcpu_linear_ctx(struct vcpu *vcpu, struct linear_ctx *ctx, struct seg_state *seg);

// Copies at a linear address with the guest's own privilege. False: `fault` is what it gets.
bool vcpu_linear_read(struct vcpu *vcpu, u64 linear, void *to, u64 len, struct guest_fault *fault);
bool vcpu_linear_write(struct vcpu *vcpu, u64 linear, const void *from, u64 len,
                       struct guest_fault *fault);

// Copies from or to the memory operand that `info` describes, for the instruction of the exit at
// hand. False: the guest's fault is on its way.
bool vcpu_operand_read(struct vcpu *vcpu, const struct insn_info *info, void *to, unsigned size);
bool vcpu_operand_write(struct vcpu *vcpu, const struct insn_info *info, const void *from,
                        unsigned size);

// vcpu_linear_read() for an access by way of ept/guestpt.h itself: true if it succeeded, else
// `fault`.
bool vcpu_access_done(struct vcpu *vcpu, enum guestpt_result result, const struct guestpt_fault *f,
                      struct guest_fault *fault);

// The guest's current privilege level, 0..3: that of SS, as the manual says.
unsigned vcpu_cpl(void);

// Whether it executes 64-bit code.
bool vcpu_in_64bit_code(void);
