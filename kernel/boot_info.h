#pragma once
// What every boot path tells the kernel, in one form. All of it is copied out of the loader's
// memory, but for the contents of the modules. Includes nothing but libc, so that every layer may
// read it.

#include "libc/addr.h"
#include "libc/ranges.h"

#define BOOT_MEM_RANGES 256
#define BOOT_MODULES    64
#define BOOT_RSDP_SIZE  36

enum boot_path { BOOT_MULTIBOOT2, BOOT_UEFI };

// In ascending order of how strictly the range is to be left alone: where the firmware's entries
// overlap, the higher one counts.
enum mem_kind {
    MEM_USABLE = 1,
    MEM_LOADER,       // in use by the boot loader; free once L0 needs nothing of it
    MEM_ACPI_RECLAIM, // ACPI tables
    MEM_ACPI_NVS,
    MEM_RESERVED,
    MEM_BAD,
};

struct mem_range {
    hpa_t base;
    u64 size;
    enum mem_kind kind;
};

struct mem_map {
    struct mem_range range[BOOT_MEM_RANGES];
    unsigned count;
};

struct boot_module {
    hpa_t start;
    u64 size;
    char name[128]; // the first word of the module's string
    char args[512]; // the rest of it
};

enum framebuffer_kind { FRAMEBUFFER_NONE, FRAMEBUFFER_TEXT, FRAMEBUFFER_RGB };

struct color_field {
    u8 position, bits;
};

struct framebuffer {
    enum framebuffer_kind kind;
    hpa_t address;
    u32 pitch;         // bytes from one line to the next
    u32 width, height; // pixels, or characters if kind is text
    u32 bpp;           // bits of a pixel or character cell
    struct color_field red, green, blue;
};

struct boot_info {
    enum boot_path path;
    char loader[64];
    char cmdline[1024];
    struct mem_map mem;
    struct boot_module module[BOOT_MODULES];
    unsigned modules;
    u8 rsdp[BOOT_RSDP_SIZE]; // a copy; the revision 2 one if there are both
    u32 rsdp_size;           // 20 (revision 0), 36 (revision 2), 0: the loader gave none
    struct framebuffer framebuffer;
    bool string_cut;          // some string above was too long and is shortened
    unsigned modules_dropped; // modules over BOOT_MODULES
};

// Fills the memory map from the firmware's list (kinds are enum mem_kind): sorted, without
// overlaps, neighbours of one kind merged. Ranges keep the firmware's byte limits; who allocates
// pages rounds inwards. A result of more than BOOT_MEM_RANGES entries is cut off at its top end, so
// that what is not listed is not used.
void mem_map_build(struct mem_map *map, const struct range_source *firmware);

// Copies a string of `len` bytes (a NUL ends it earlier) into a field of `size` bytes, with its
// NUL. Notes in `info` if it had to be cut.
void boot_string(struct boot_info *info, char *to, size_t size, const char *from, size_t len);

// Adds a module; `string` is its name and, after white space, its arguments (`len` bytes, or less
// if a NUL comes earlier). A module too many is counted and otherwise left out.
void boot_module_add(struct boot_info *info, hpa_t start, u64 size, const char *string, size_t len);
