#pragma once
// Where every boot path ends: the start of L0.

#include "kernel/boot_info.h"

// Starts L0. `info` stays in place; the calling CPU is in 64-bit mode with the first 4 GiB of
// physical memory at PHYS_WINDOW, and console_init() was called.
void kernel_start(const struct boot_info *info) NORETURN;
