#pragma once
// The information that a Multiboot2 boot loader passes (Multiboot2 Specification, "Boot information
// format").

#include "kernel/boot_info.h"

#define MULTIBOOT2_LOADER_MAGIC 0x36d76289u // in EAX at the entry

enum multiboot2_error {
    MULTIBOOT2_BAD_SIZE = -1, // the total size is too small or above `max`
    MULTIBOOT2_BAD_TAG = -2,  // a tag is cut short or leaves the structure
    MULTIBOOT2_NO_MAP = -3,   // no memory map
    MULTIBOOT2_LONG_MAP = -4, // the memory map has an absurd number of entries
};

// Reads the structure at `info`, of which `max` bytes are readable, into `out` (all of it is
// written). 0 or an enum multiboot2_error. Nothing in `out` points into `info`.
int multiboot2_parse(const void *info, u64 max, struct boot_info *out);

// What an enum multiboot2_error means, for a message.
const char *multiboot2_error_text(int error);
