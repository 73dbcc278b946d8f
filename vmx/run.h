#pragma once
// Running a vCPU.

#include "vmx/vm.h"

// Makes a VM of RAM `mem` and the budget `pool` runnable: EPT01, CPUID, machine, vCPUs (halted
// until vcpu_start). The structure lies in zeroed memory of the caller; name, id, ops, mem, pool
// and what it hides of VMX are set. `params` needs cpus, start_time, debug_exit and RAM sizes. 0,
// or a message that says what is missing.
const char *vm_init(struct vm *vm, const struct machine_params *params);

// Gives back what the VM, which has ended, made L0 allocate since vm_init(). Returns the number of
// pages that do not come back: 0, or L0 loses memory.
u64 vm_release(struct vm *vm);

// Power-on state with the registers that a boot protocol wants.
struct vcpu_start {
    bool long_mode; // 64-bit code with paging, else 32-bit protected mode without
    u64 rip, rsp, rax, rbx, rsi;
    u64 cr3, gdt_base;
    u16 gdt_limit, code_selector, data_selector;
};

// Gives a vCPU that waits since vm_init() that state, and lets it run. Its vmcs01 is current then.
void vcpu_start(struct vcpu *vcpu, const struct vcpu_start *start);

// Runs the vCPU on the calling CPU until it halts, its slice (ending at TSC `slice_end`) is over or
// the VM ends.
enum run_result vcpu_run(struct vcpu *vcpu, u64 slice_end);

// While it is halted: the TSC at which a timer of it comes due, and whether it has work now.
u64 vcpu_wake_time(struct vcpu *vcpu);
bool vcpu_has_work(struct vcpu *vcpu);
