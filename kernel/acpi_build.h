#pragma once
// Makes the ACPI tables of a VM: RSDP (revision 2), RSDT, XSDT, FADT, FACS, MADT, DSDT, and tables
// that the caller adds (DMAR). Ports and interrupts are those of drivers/model/layout.h.

#include "libc/addr.h"

// A place in 0xe0000-0xfffff, where software without a pointer to the RSDP looks for it.
#define ACPI_BUILD_BASE 0xe0000ull
#define ACPI_BUILD_SIZE 0x10000ull
#define ACPI_BUILD_MORE 4

struct acpi_build {
    gpa_t base;                        // where the tables will lie; a multiple of 64
    u32 cpus;                          // local APIC ids 0 to cpus - 1; at most 254
    u64 pci_mmio_base, pci_mmio_size;  // window of the PCI root below 4G; size 0: none
    const void *more[ACPI_BUILD_MORE]; // finished tables that the XSDT and RSDT are to list
    u32 mores;
};

// Writes the tables into `out` (`size` bytes, which will be visible to the VM at b->base); the RSDP
// is at its start. Returns the number of bytes used, or 0 if `size` is too small or a parameter is
// out of its range.
u64 acpi_build(const struct acpi_build *b, void *out, u64 size);
