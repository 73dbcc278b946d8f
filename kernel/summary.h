#pragma once
// What a VM did, in numbers.

#include "vmx/vm.h"

// To every console, at level LOG_INFO. The VM has ended; `lost` is what vm_release() returned.
void summary_print(const struct vm *vm, u64 lost);
