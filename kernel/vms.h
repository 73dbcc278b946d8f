#pragma once
// From nestor.cfg to running VMs, and what is said of them at the end.

#include "kernel/boot_info.h"
#include "kernel/config.h"
#include "kernel/frame.h"

// Makes and schedules every VM of the configuration that can be made; says why for the others.
// Returns how many were started.
unsigned vms_start(const struct config *config, const struct boot_info *info,
                   struct frames *frames);

// Ticks of the TSC that went into loading the VMs' images.
u64 vms_load_ticks(void);

// The summary of all VMs, and the end of L0.
void vms_end(void) NORETURN;

// A byte typed on the serial line, for the VM that has the console: it waits until the VM's COM1
// takes it.
void vms_console_input(u8 byte);
