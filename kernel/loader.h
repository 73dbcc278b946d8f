#pragma once
// Puts an L1's image, with all that its boot protocol wants around it, into a new VM's memory.
// Images are files that a user named: nothing in them is believed.

#include "ept/guestmem.h"

#define LOAD_MODULES 16
#define E820_ENTRIES 32

struct image {
    const u8 *data;
    u64 size;
    const char *name; // for messages and as the first word of a command line
    const char *args; // NULL or "": none
};

enum image_kind { IMAGE_UNKNOWN, IMAGE_LINUX, IMAGE_MULTIBOOT1, IMAGE_MULTIBOOT2 };

// What an image is, by its magic numbers: the Linux setup header, a Multiboot2 header, a Multiboot
// header, in this order.
enum image_kind image_probe(const u8 *data, u64 size);

enum start_mode {
    START_PROTECTED32, // paging off; flat segments, their descriptors in no table
    START_LONG64,      // 64-bit code, paging with `cr3`, segments from `gdt`
};

// The boot processor's registers at the image's entry. Interrupts are off; every register that is
// not here is 0.
struct start_state {
    enum start_mode mode;
    u64 rip, rsp, rax, rbx, rsi;
    gpa_t cr3;         // long64 only
    gpa_t gdt;         // long64 only
    u16 gdt_limit;     // long64 only
    u16 code_selector; // long64 only: CS
    u16 data_selector; // long64 only: DS, ES, SS
};

enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3 };

struct e820_entry {
    u64 base;
    u64 size;
    u32 type;
} PACKED;

struct e820_map {
    struct e820_entry entry[E820_ENTRIES];
    u32 count;
};

// Guest-physical range of the VM's ACPI tables. Size 0: none.
struct acpi_region {
    gpa_t base;
    u64 size;
};

// The VM's memory map as its firmware would tell it: RAM where the VM has it, but for the hole from
// 639K to 1M and the ACPI tables (which may lie in that hole).
void e820_build(struct e820_map *map, const struct guest_mem *mem, struct acpi_region acpi);

enum load_error {
    LOAD_BAD_IMAGE = -1,   // the file is damaged or of no kind that is known
    LOAD_UNSUPPORTED = -2, // a sound image that wants what there is not
    LOAD_NO_ROOM = -3,     // the VM's memory is too small, or not where the image wants it
};

struct load {
    // What to load; set by the caller. The VM's memory holds zeros but for the ACPI tables.
    const struct guest_mem *mem;
    struct acpi_region acpi;
    gpa_t rsdp; // 0: none
    struct image kernel;
    struct image initrd; // Linux only; size 0: none
    const char *cmdline;
    struct image module[LOAD_MODULES]; // Multiboot only
    u32 modules;
    const char *loader_name;

    // What came of it.
    struct start_state start;
    char error[200]; // after a negative result: what is wrong, and what would help
};

// Loads by the protocol that image_probe finds, by Linux's 64-bit boot protocol, or by Multiboot 1
// or
// 2. 0 and l->start is set, or an enum load_error and l->error is set; in that case the VM's
// memory may hold a part of the image.
int load_image(struct load *l);
int load_linux(struct load *l);
int load_multiboot(struct load *l);
