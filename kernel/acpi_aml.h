#pragma once
// A writer for ACPI tables and the few pieces of AML (ACPI Specification, "ACPI Machine Language
// Specification") that a VM's DSDT is made of.

#include "libc/types.h"

// Appends bytes up to `size`; after the first that does not fit nothing is written any more.
struct acpi_writer {
    u8 *out;
    u64 size, len;
    bool full;
};

// Appends `n` bytes, or one, as far as there is room (see above).
void acpi_put(struct acpi_writer *w, const void *data, u64 n);
void acpi_put_byte(struct acpi_writer *w, u8 byte);

// The body of the DSDT: \_S5, the PCI root with its windows and interrupt routing, COM1 and the
// real-time clock. The memory window is left out if its size is 0.
void acpi_put_dsdt(struct acpi_writer *w, u32 mmio_base, u32 mmio_size);
