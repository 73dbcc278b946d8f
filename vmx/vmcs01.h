#pragma once
// vmcs01: the VMCS that runs L1.

#include "vmx/run.h"

// Controls, bitmaps and host state; the VMCS is current. Guest state is vcpu_start()'s.
void vmcs01_init(struct vcpu *vcpu);

// The controls of vmcs01, which vmcs02 starts from, too.
u32 vmcs01_pin(void);
u32 vmcs01_exit_controls(void);
u32 vmcs01_exceptions(void);
