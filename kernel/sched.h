#pragma once
// Which vCPU a CPU runs. vCPUs take turns on the CPU they were given to, a time slice each; one
// that halts gives its turn away.

#include "vmx/vm.h"

#define SCHED_VCPUS 64

// Gives a vCPU to the calling CPU.
void sched_add(struct vcpu *vcpu);

// Wakes the CPU that the vCPU belongs to, if it is another one or idles.
void sched_wake(struct vcpu *vcpu);

// Runs the vCPUs of the calling CPU until all of them have ended.
void sched_run(void);
