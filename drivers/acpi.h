#pragma once
// The machine's ACPI tables. Every table's length, place and checksum is verified before it is
// used; a table that fails is as good as absent. Found tables stay in place in physical memory.

#include "drivers/acpi_tables.h"
#include "libc/addr.h"

// May L0 read `len` bytes at `base` through phys_ptr()?
struct acpi_memory {
    bool (*readable)(void *ctx, hpa_t base, u64 len);
    void *ctx;
};

struct acpi {
    struct acpi_memory memory;
    hpa_t entry;    // first pointer in the RSDT or XSDT
    u32 entry_size; // 4: RSDT, 8: XSDT
    u32 entries;
};

enum acpi_error {
    ACPI_NO_RSDP = -1,  // none given, or its signature or checksum is wrong
    ACPI_BAD_ROOT = -2, // neither XSDT nor RSDT is sound
};

// Checks the `size` bytes of an RSDP (as a boot loader copied it) and the XSDT or, failing it, the
// RSDT. 0 or an enum acpi_error.
int acpi_open(struct acpi *a, const void *rsdp, u64 size, const struct acpi_memory *memory);

// Looks for an RSDP where a PC BIOS puts it (ACPI Specification, "Finding the RSDP on IA-PC
// Systems") and copies it. Returns its size (20 or 36), or 0 if there is none.
u32 acpi_scan(const struct acpi_memory *memory, u8 rsdp[static 36]);

// The `index`-th table (from 0) with this signature of four characters, or NULL. All of its length
// is readable and its checksum is right.
const struct acpi_header *acpi_find(const struct acpi *a, const char *signature, u32 index);

// MADT entries one after another: NULL gives the first; NULL comes back after the last. `length` of
// an entry is at least what its type needs and lies within the table.
const struct madt_entry *acpi_madt_next(const struct acpi_madt *madt, const struct madt_entry *at);

#define ACPI_CPUS      256
#define ACPI_IOAPICS   8
#define ACPI_OVERRIDES 16

struct acpi_ioapic {
    hpa_t address;
    u32 gsi_base;
    u8 id;
};

struct acpi_override {
    u32 gsi;
    u16 flags; // INTI_*
    u8 irq;    // of the ISA bus
};

struct acpi_interrupts {
    hpa_t local_apic;
    bool has_8259;
    u32 apic_id[ACPI_CPUS]; // of processors that are enabled, each once
    u32 cpus;
    u32 cpus_dropped; // over ACPI_CPUS
    struct acpi_ioapic ioapic[ACPI_IOAPICS];
    u32 ioapics;
    struct acpi_override override[ACPI_OVERRIDES];
    u32 overrides;
};

// What the MADT says about processors and interrupt controllers. False if there is no sound MADT.
bool acpi_interrupts(const struct acpi *a, struct acpi_interrupts *out);

// The global interrupt and the INTI_* flags of an ISA interrupt: as overridden, or the same number,
// active high and edge-triggered.
struct acpi_override acpi_isa_irq(const struct acpi_interrupts *in, u8 irq);

struct acpi_fixed {
    u16 sci;
    u16 pm_timer_port;                // 0: none
    bool pm_timer_32;                 // else 24 bits
    u16 pm1a_cnt_port, pm1b_cnt_port; // 0: none
    u16 smi_cmd_port;                 // 0: the machine is always in ACPI mode
    u8 acpi_enable;                   // what brings it there
    hpa_t dsdt;                       // HPA(0): none
    bool has_reset;
    struct acpi_gas reset;
    u8 reset_value;
};

// What the FADT says about the fixed hardware. False if there is no sound FADT.
bool acpi_fixed(const struct acpi *a, struct acpi_fixed *out);

// The values of SLP_TYPa and SLP_TYPb that switch the machine off: the package \_S5 of the DSDT or
// an SSDT (ACPI Specification, "\_Sx (System States)"). It is found by its name, as no program in
// AML makes it. False if there is none.
bool acpi_soft_off(const struct acpi *a, const struct acpi_fixed *fixed, u8 type[static 2]);
