#include "kernel/acpi_build.h"

#include "drivers/acpi_tables.h"
#include "drivers/model/layout.h"
#include "kernel/acpi_aml.h"
#include "libc/string.h"

#define OEM_ID       "NESTOR"
#define OEM_TABLE_ID "NESTORVM"
#define CREATOR_ID   "NSTR"

#define CPUS_MAX                                                                                   \
    254 // the I/O APIC's id comes after the last local APIC's, and 255 is the broadcast

struct builder {
    const struct acpi_build *params;
    struct acpi_writer w;
    u64 table[2 + ACPI_BUILD_MORE]; // guest-physical addresses for the root tables
    u32 tables;
};

static void align(struct builder *b, u64 to)
{
    while (!b->w.full && b->w.len % to)
        acpi_put_byte(&b->w, 0);
}

static u64 here(struct builder *b)
{
    return b->params->base.v + b->w.len;
}

static struct acpi_header header(const char *signature, u8 revision)
{
    struct acpi_header h = {.revision = revision, .oem_revision = 1, .creator_revision = 1};
    memcpy(h.signature, signature, sizeof(h.signature));
    memcpy(h.oem_id, OEM_ID, sizeof(h.oem_id));
    memcpy(h.oem_table_id, OEM_TABLE_ID, sizeof(h.oem_table_id));
    memcpy(h.creator_id, CREATOR_ID, sizeof(h.creator_id));
    return h;
}

// Gives the table from offset `at` to here, which begins with its header, its length and checksum.
static void finish(struct builder *b, u64 at)
{
    struct acpi_header *h = (struct acpi_header *)(b->w.out + at);
    if (b->w.full)
        return;
    h->length = (u32)(b->w.len - at);
    h->checksum = acpi_checksum(h, h->length);
}

static u64 put_facs(struct builder *b)
{
    struct acpi_facs facs = {.signature = "FACS", .length = sizeof(facs), .version = 2};
    align(b, 64);
    u64 at = here(b);
    acpi_put(&b->w, &facs, sizeof(facs));
    return at;
}

static u64 put_dsdt(struct builder *b)
{
    struct acpi_header h = header("DSDT", 2);
    align(b, 16);
    u64 at = b->w.len, gpa = here(b);
    acpi_put(&b->w, &h, sizeof(h));
    acpi_put_dsdt(&b->w, (u32)b->params->pci_mmio_base, (u32)b->params->pci_mmio_size);
    finish(b, at);
    return gpa;
}

// Begins a table that the root tables list.
static u64 listed(struct builder *b)
{
    align(b, 16);
    b->table[b->tables++] = here(b);
    return b->w.len;
}

static struct acpi_gas io_register(u16 port, u8 bytes)
{
    return (struct acpi_gas){.space = ACPI_SPACE_IO,
                             .bit_width = (u8)(bytes * 8),
                             .access_size = bytes == 4 ? 3 : bytes,
                             .address = port};
}

static void put_fadt(struct builder *b, u64 facs, u64 dsdt)
{
    struct acpi_fadt f = {
        .header = header("FACP", 5),
        .firmware_ctrl = (u32)facs,
        .dsdt = (u32)dsdt,
        .x_dsdt = dsdt,
        .sci_int = LAYOUT_IRQ_SCI,
        .pm1a_evt_blk = LAYOUT_PM1A_EVT,
        .pm1a_cnt_blk = LAYOUT_PM1A_CNT,
        .pm_tmr_blk = LAYOUT_PM_TIMER,
        .pm1_evt_len = 4,
        .pm1_cnt_len = 2,
        .pm_tmr_len = 4,
        .x_pm1a_evt_blk = io_register(LAYOUT_PM1A_EVT, 4),
        .x_pm1a_cnt_blk = io_register(LAYOUT_PM1A_CNT, 2),
        .x_pm_tmr_blk = io_register(LAYOUT_PM_TIMER, 4),
        .p_lvl2_lat = 0xffff, // no C2, no C3
        .p_lvl3_lat = 0xffff,
        .iapc_boot_arch = FADT_LEGACY_DEVICES | FADT_NO_VGA,
        .flags = FADT_WBINVD | FADT_PROC_C1 | FADT_PWR_BUTTON | FADT_SLP_BUTTON | FADT_FIX_RTC |
                 FADT_RESET_REG_SUP | (LAYOUT_PM_TIMER_BITS == 32 ? FADT_TMR_VAL_EXT : 0),
        .reset_reg = io_register(LAYOUT_PORT_RESET, 1),
        .reset_value = LAYOUT_RESET_VALUE,
    };
    u64 at = listed(b);
    acpi_put(&b->w, &f, sizeof(f));
    finish(b, at);
}

#define ENTRY(type_, struct_)                                                                      \
    {                                                                                              \
        .type = (type_), .length = sizeof(struct_)                                                 \
    }

static void put_override(struct builder *b, u8 irq, u32 gsi, u16 flags)
{
    struct madt_override o = {ENTRY(MADT_OVERRIDE, o), 0, irq, gsi, flags};
    acpi_put(&b->w, &o, sizeof(o));
}

static void put_madt(struct builder *b)
{
    u8 cpus = (u8)b->params->cpus;
    struct acpi_madt madt = {header("APIC", 3), (u32)LAYOUT_LAPIC_BASE, 1};
    struct madt_io_apic io = {ENTRY(MADT_IO_APIC, io), cpus, 0, (u32)LAYOUT_IOAPIC_BASE, 0};
    struct madt_local_apic_nmi nmi = {ENTRY(MADT_LOCAL_APIC_NMI, nmi), 0xff, 0, 1};
    u64 at = listed(b);
    acpi_put(&b->w, &madt, sizeof(madt));
    for (u8 i = 0; i < cpus; i++) {
        struct madt_local_apic cpu = {ENTRY(MADT_LOCAL_APIC, cpu), i, i, MADT_ENABLED};
        acpi_put(&b->w, &cpu, sizeof(cpu));
    }
    acpi_put(&b->w, &io, sizeof(io));
    put_override(b, LAYOUT_IRQ_PIT, LAYOUT_GSI_PIT, 0);
    put_override(b, LAYOUT_IRQ_SCI, LAYOUT_IRQ_SCI, INTI_ACTIVE_HIGH | INTI_LEVEL);
    acpi_put(&b->w, &nmi, sizeof(nmi));
    finish(b, at);
}

static void put_more(struct builder *b)
{
    for (u32 i = 0; i < b->params->mores; i++) {
        const struct acpi_header *h = b->params->more[i];
        listed(b);
        acpi_put(&b->w, h, h->length);
    }
}

static u64 put_root(struct builder *b, const char *signature, u32 pointer_size)
{
    struct acpi_header h = header(signature, 1);
    align(b, 16);
    u64 at = b->w.len, gpa = here(b);
    acpi_put(&b->w, &h, sizeof(h));
    for (u32 i = 0; i < b->tables; i++)
        acpi_put(&b->w, &b->table[i], pointer_size);
    finish(b, at);
    return gpa;
}

static void put_rsdp(void *at, u64 rsdt, u64 xsdt)
{
    struct acpi_rsdp r = {.revision = 2, .rsdt = (u32)rsdt, .length = sizeof(r), .xsdt = xsdt};
    memcpy(r.signature, "RSD PTR ", sizeof(r.signature));
    memcpy(r.oem_id, OEM_ID, sizeof(r.oem_id));
    r.checksum = acpi_checksum(&r, ACPI_RSDP_V0_SIZE);
    r.extended_checksum = acpi_checksum(&r, sizeof(r));
    memcpy(at, &r, sizeof(r));
}

static bool sound(const struct acpi_build *b, u64 size)
{
    return b->base.v % 64 == 0 && b->base.v < 4 * GIB && size <= 4 * GIB - b->base.v && b->cpus &&
           b->cpus <= CPUS_MAX && b->mores <= ACPI_BUILD_MORE && b->pci_mmio_base < 4 * GIB &&
           b->pci_mmio_size < 4 * GIB && b->pci_mmio_size <= 4 * GIB - b->pci_mmio_base;
}

u64 acpi_build(const struct acpi_build *params, void *out, u64 size)
{
    static const struct acpi_rsdp no_rsdp;
    struct builder b = {.params = params, .w = {.out = out, .size = size}};
    if (!sound(params, size))
        return 0;
    acpi_put(&b.w, &no_rsdp, sizeof(no_rsdp)); // its place: it is made when the rest has addresses
    u64 facs = put_facs(&b);
    put_fadt(&b, facs, put_dsdt(&b));
    put_madt(&b);
    put_more(&b);
    u64 rsdt = put_root(&b, "RSDT", 4);
    u64 xsdt = put_root(&b, "XSDT", 8);
    if (b.w.full)
        return 0;
    put_rsdp(out, rsdt, xsdt);
    return b.w.len;
}
