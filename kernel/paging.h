#pragma once
// L0's own page tables: the image W^X at -2 GiB, the RAM of the machine at PHYS_WINDOW (writable,
// never executable, without the image), devices in the same window uncached, stacks with unmapped
// guard pages. Pages use no PCID and no global bit: L0 never switches tables.

#include "kernel/boot_info.h"
#include "kernel/frame.h"

// Builds the tables from the memory map and loads them.
void paging_init(const struct boot_info *info, struct frames *frames);

// Maps device registers uncached, or firmware memory (tables) read-only; returns L0's pointer, the
// same as phys_ptr(). What is mapped already stays as it is. NULL if the address is not
// representable.
void *paging_map_device(hpa_t hpa, u64 size);
const void *paging_map_firmware(hpa_t hpa, u64 size);

// Whether L0 can reach [hpa, hpa + size) through phys_ptr().
bool paging_is_mapped(hpa_t hpa, u64 size);

// A new stack of `pages` pages with a guard page on both sides; returns its top.
u64 paging_new_stack(unsigned pages);

// Makes SMEP, SMAP, NX and write protection effective on the calling CPU.
void paging_protect_cpu(void);

// The value of CR3 (host-physical), which no CPU of L0 ever changes.
u64 paging_root(void);
