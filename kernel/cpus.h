#pragma once
// The processors of the machine.

#include "drivers/cpu.h"
#include "kernel/frame.h"

// The boot CPU gets its descriptor tables, its guarded stacks and its interrupt table. It goes on
// running on the boot stack.
struct cpu *cpus_init_boot(struct frames *frames);
