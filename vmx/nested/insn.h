#pragma once
// How the handlers of L1's VMX instructions begin and end.

#include "vmx/nested/state.h"

#define CS_CONFORMING BIT(2)
#define CS_DPL        (3u << 5)

// What executes VMX instructions all the time is 64-bit code at CPL 0, which is the DPL of a code
// segment that is not conforming. L1 is in VMX operation; its mode is the one that VMXON noted.
static inline bool in_plain_code(const struct nested *n)
{
    return (vmread(F(GUEST_CS_AR)) & (CS_AR_L | CS_DPL | CS_CONFORMING)) == CS_AR_L && n->env.lma;
}

// The rest of may_execute().
bool may_execute_otherwise(struct vcpu *vcpu, vmx_result_t *r);

// The checks that all of them but VMXON begin with: VMX operation and CPL 0. `*plain` is
// in_plain_code(). False: `*r` is the result.
static inline bool may_execute(struct vcpu *vcpu, bool *plain, vmx_result_t *r)
{
    *plain = LIKELY(vcpu->nested->vmxon) && in_plain_code(vcpu->nested);
    return LIKELY(*plain) || may_execute_otherwise(vcpu, r);
}

// VMfail(number) of the section "Conventions".
vmx_result_t vmx_fail(struct vcpu *vcpu, u32 number);

// The end of an instruction with another result than success.
enum run_result finish_failed(struct vcpu *vcpu, vmx_result_t r);
