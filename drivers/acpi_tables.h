#pragma once
// ACPI tables as they lie in memory (ACPI Specification, "ACPI Software Programming Model"). Shared
// by the parser of the machine's tables and the builder of a VM's.

#include "libc/types.h"

struct acpi_rsdp {
    char signature[8]; // "RSD PTR "
    u8 checksum;       // over the first 20 bytes
    char oem_id[6];
    u8 revision;
    u32 rsdt;
    u32 length; // from here on: revision 2
    u64 xsdt;
    u8 extended_checksum; // over all 36 bytes
    u8 reserved[3];
} PACKED;

#define ACPI_RSDP_V0_SIZE 20u

struct acpi_header {
    char signature[4];
    u32 length; // with this header
    u8 revision;
    u8 checksum; // all bytes of the table add up to 0
    char oem_id[6];
    char oem_table_id[8];
    u32 oem_revision;
    char creator_id[4];
    u32 creator_revision;
} PACKED;

enum acpi_space { ACPI_SPACE_MEMORY = 0, ACPI_SPACE_IO = 1 };

// Generic Address Structure.
struct acpi_gas {
    u8 space;
    u8 bit_width;
    u8 bit_offset;
    u8 access_size; // 1: byte, 2: word, 3: dword, 4: qword
    u64 address;
} PACKED;

enum {
    FADT_WBINVD = 1 << 0,
    FADT_PROC_C1 = 1 << 2,
    FADT_PWR_BUTTON = 1 << 4,  // there is no power button in the fixed registers
    FADT_SLP_BUTTON = 1 << 5,  // nor a sleep button
    FADT_FIX_RTC = 1 << 6,     // nor the clock's wake-up status
    FADT_TMR_VAL_EXT = 1 << 8, // the PM timer has 32 bits
    FADT_RESET_REG_SUP = 1 << 10,
};

// IA-PC boot architecture flags.
enum { FADT_LEGACY_DEVICES = 1 << 0, FADT_8042 = 1 << 1, FADT_NO_VGA = 1 << 2 };

struct acpi_fadt {
    struct acpi_header header;
    u32 firmware_ctrl; // FACS
    u32 dsdt;
    u8 reserved1;
    u8 preferred_pm_profile;
    u16 sci_int;
    u32 smi_cmd;
    u8 acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
    u32 pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk, pm2_cnt_blk, pm_tmr_blk;
    u32 gpe0_blk, gpe1_blk;
    u8 pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len;
    u8 gpe0_blk_len, gpe1_blk_len, gpe1_base, cst_cnt;
    u16 p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
    u8 duty_offset, duty_width, day_alrm, mon_alrm, century;
    u16 iapc_boot_arch;
    u8 reserved2;
    u32 flags;
    struct acpi_gas reset_reg;
    u8 reset_value;
    u16 arm_boot_arch;
    u8 minor_version;
    u64 x_firmware_ctrl, x_dsdt;
    struct acpi_gas x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk, x_pm2_cnt_blk;
    struct acpi_gas x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk;
    struct acpi_gas sleep_control, sleep_status;
} PACKED;

_Static_assert(sizeof(struct acpi_fadt) == 268, "FADT of ACPI 5.0");

struct acpi_facs {
    char signature[4];
    u32 length;
    u32 hardware_signature;
    u32 waking_vector;
    u32 global_lock;
    u32 flags;
    u64 x_waking_vector;
    u8 version;
    u8 reserved[31];
} PACKED;

_Static_assert(sizeof(struct acpi_facs) == 64, "FACS");

struct acpi_madt {
    struct acpi_header header;
    u32 local_apic;
    u32 flags; // bit 0: there are two 8259s
} PACKED;

enum madt_type {
    MADT_LOCAL_APIC = 0,
    MADT_IO_APIC = 1,
    MADT_OVERRIDE = 2,
    MADT_LOCAL_APIC_NMI = 4,
    MADT_LOCAL_X2APIC = 9,
};

// Local APIC flags.
enum { MADT_ENABLED = 1 << 0 };

struct madt_entry {
    u8 type;
    u8 length; // with these two bytes
} PACKED;

struct madt_local_apic {
    struct madt_entry entry;
    u8 processor_uid;
    u8 apic_id;
    u32 flags;
} PACKED;

struct madt_local_x2apic {
    struct madt_entry entry;
    u16 reserved;
    u32 apic_id;
    u32 flags;
    u32 processor_uid;
} PACKED;

struct madt_io_apic {
    struct madt_entry entry;
    u8 id;
    u8 reserved;
    u32 address;
    u32 gsi_base;
} PACKED;

// Flags of an interrupt as MADT_OVERRIDE and MADT_LOCAL_APIC_NMI give them (MPS INTI flags).
enum {
    INTI_ACTIVE_HIGH = 1,
    INTI_ACTIVE_LOW = 3,
    INTI_EDGE = 1 << 2,
    INTI_LEVEL = 3 << 2,
};

struct madt_override {
    struct madt_entry entry;
    u8 bus; // 0: ISA
    u8 irq;
    u32 gsi;
    u16 flags;
} PACKED;

struct madt_local_apic_nmi {
    struct madt_entry entry;
    u8 processor_uid; // 0xff: all
    u16 flags;
    u8 lint;
} PACKED;

// The byte that makes the sum of `len` bytes 0 when it is added to the byte that is now 0; over a
// finished table the result is 0.
static inline u8 acpi_checksum(const void *data, u64 len)
{
    u8 sum = 0;
    for (u64 i = 0; i < len; i++)
        sum = (u8)(sum + ((const u8 *)data)[i]);
    return (u8)-sum;
}
