#pragma once
// Registers and a backtrace with function names, on every console.

#include "kernel/trap.h"

void dump_trap(const struct trap_frame *frame);

// Backtrace of the caller.
void dump_backtrace(void);
