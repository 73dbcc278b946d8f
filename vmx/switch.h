#pragma once
// The registers that L0 does not use and therefore leaves in the processor while one vCPU runs:
// FPU state, debug registers, CR2, XCR0 and the MSRs that a VM uses directly.

#include "vmx/vm.h"

// Power-on values in memory of the VM's pool. False: no memory.
bool switch_init(struct vcpu *vcpu);

// The calling CPU's registers to the vCPU's memory, and back.
void switch_save(struct vcpu *vcpu);
void switch_load(struct vcpu *vcpu);
