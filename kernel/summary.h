#pragma once
// What a VM did, in numbers.

#include "vmx/vm.h"

void summary_print(const struct vm *vm);
