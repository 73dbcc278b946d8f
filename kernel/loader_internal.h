#pragma once
// What the loaders share: where there is free memory in the new VM, and the pieces of an
// executable.

#include "kernel/loader.h"

#define LOW_MEMORY_END 0x9fc00ull  // where a PC's extended BIOS data area begins
#define HIGH_MEMORY    0x100000ull // RAM goes on here
#define LOAD_LIMIT     (4 * GIB)   // both protocols use 32-bit addresses
#define LOAD_CHUNKS    32
#define LAYOUT_EXTENTS (LOAD_CHUNKS + LOAD_MODULES + 4)

struct extent {
    u64 base, end;
};

// The VM's memory map, and which parts of its RAM the loader has given away.
struct layout {
    struct e820_map e820;
    struct extent used[LAYOUT_EXTENTS];
    u32 count;
};

// All of the VM's RAM is free, but for its ACPI tables.
void layout_init(struct layout *y, const struct load *l);

// Takes the range away; false, and nothing done, unless all of it is RAM below LOAD_LIMIT and free.
// A size of 0 counts as 1, here and below.
bool layout_take(struct layout *y, u64 base, u64 size);

// Finds the lowest (highest) free place for `size` bytes that lies between `floor` and `ceiling`
// and is a multiple of `align`, a power of two, and takes it away. False if there is none.
bool layout_take_lowest(struct layout *y, u64 size, u64 align, struct extent within, u64 *at);
bool layout_take_highest(struct layout *y, u64 size, u64 align, struct extent within, u64 *at);

// Sets l->error, after the kernel's name, and returns `error`.
int load_fail(struct load *l, enum load_error error, const char *fmt, ...) PRINTF(3, 4);

// Are there `len` bytes at `offset` of the file?
static inline bool in_image(const struct image *image, u64 offset, u64 len)
{
    return offset <= image->size && len <= image->size - offset;
}

// A part of the file that goes to a place of its own; what the file does not fill is zero.
struct chunk {
    u64 offset, file_size;
    u64 base, size;
};

struct executable {
    struct chunk chunk[LOAD_CHUNKS];
    u32 chunks;
    u64 entry; // physical
};

// What a Multiboot header of either version says.
struct multiboot_header {
    u64 offset; // in the file
    bool has_addresses;
    u32 header_addr, load_addr, load_end_addr, bss_end_addr;
    bool has_entry;
    u32 entry;
    bool relocatable;
    u32 min_addr, max_addr, align;
};

// Reads the loadable segments of an ELF32 or ELF64 x86 file. Everything in `x` lies within the file
// and below LOAD_LIMIT. 0 or an enum load_error with l->error.
int elf_parse(struct load *l, struct executable *x);

// Offset of the header, or false. Both are pure look-ups, the header itself is not judged.
bool multiboot1_find(const u8 *data, u64 size, u64 *offset);
bool multiboot2_find(const u8 *data, u64 size, u64 *offset);

// Reads the header that is at h->offset. 0, or an enum load_error with l->error if it is damaged or
// demands what a VM does not have.
int multiboot1_header(struct load *l, struct multiboot_header *h);
int multiboot2_header(struct load *l, struct multiboot_header *h);

// What the information structure of a Multiboot image is made of.
struct multiboot_info {
    const struct load *load;
    const struct e820_map *e820;
    u64 module[LOAD_MODULES]; // where each lies
    bool has_load_base;       // Multiboot2 only
    u32 load_base;
};

// Writes the structure to the VM's memory and sets *at to its address. False if there is no place.
bool multiboot1_info(const struct multiboot_info *info, struct layout *y, u64 *at);
bool multiboot2_info(const struct multiboot_info *info, struct layout *y, u64 *at);
