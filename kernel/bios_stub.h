#pragma once
// What a VM has in place of a BIOS: interrupt vectors, data areas and a few answers, for boot code
// that goes back to real mode and asks (Xen's does).

#include "kernel/loader.h"

// Writes it into the VM's memory below 1M: the vectors and data at 0, the code at F0000H.
void bios_stub_install(const struct guest_mem *mem, const struct e820_map *map);
