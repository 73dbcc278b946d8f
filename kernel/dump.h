#pragma once
// Registers and a backtrace with function names, on every console.

#include "kernel/trap.h"

// All that is known of an exception in L0.
void dump_trap(const struct trap_frame *frame);

// Backtrace of the caller.
void dump_backtrace(void);
