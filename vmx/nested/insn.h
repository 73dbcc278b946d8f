#pragma once
// How the handlers of L1's VMX instructions begin and end.

#include "vmx/nested/state.h"

#define CS_CONFORMING BIT(2)
#define CS_DPL        (3u << 5)

// What executes VMX instructions all the time is 64-bit code at CPL 0, which is the DPL of a code
// segment that is not conforming: IA32_EFER if L1 runs such code, else 0.
static inline u64 in_plain_code(void)
{
    u64 efer = vmread(F(GUEST_EFER));
    bool plain = (vmread(F(GUEST_CS_AR)) & (CS_AR_L | CS_DPL | CS_CONFORMING)) == CS_AR_L;
    return LIKELY(plain && efer & EFER_LMA) ? efer : 0;
}

// The rest of may_execute().
bool may_execute_otherwise(struct vcpu *vcpu, vmx_result_t *r);

// The checks that all of them but VMXON begin with: VMX operation and CPL 0. `*plain` is
// in_plain_code(). False: `*r` is the result.
static inline bool may_execute(struct vcpu *vcpu, u64 *plain, vmx_result_t *r)
{
    *plain = in_plain_code();
    return LIKELY(*plain && vcpu->nested->vmxon) || may_execute_otherwise(vcpu, r);
}

// VMfail(number) of the section "Conventions".
vmx_result_t vmx_fail(struct vcpu *vcpu, u32 number);

// The end of an instruction with another result than success.
enum run_result finish_failed(struct vcpu *vcpu, vmx_result_t r);
