#include "drivers/acpi.h"

#include "libc/bits.h"
#include "libc/string.h"

// A root table of more entries counts as damaged; real ones have some tens.
#define ROOT_ENTRIES_MAX 1024
// So does a larger table (the largest, a server's DSDT, has some hundred KB).
#define TABLE_SIZE_MAX (4 * MIB)

static bool readable(const struct acpi_memory *m, hpa_t at, u64 len)
{
    return at.v && at.v + len > at.v && m->readable(m->ctx, at, len);
}

static bool sound_rsdp(const struct acpi_rsdp *r, u64 size)
{
    return size >= ACPI_RSDP_V0_SIZE && !memcmp(r->signature, "RSD PTR ", 8) &&
           !acpi_checksum(r, ACPI_RSDP_V0_SIZE);
}

static bool has_xsdt(const struct acpi_rsdp *r, u64 size)
{
    return size >= sizeof(*r) && r->revision >= 2 && !acpi_checksum(r, sizeof(*r)) && r->xsdt;
}

// The table at `at` if it has the signature, and all of it is readable and adds up to 0.
static const struct acpi_header *table_at(const struct acpi_memory *m, hpa_t at,
                                          const char *signature)
{
    if (!readable(m, at, sizeof(struct acpi_header)))
        return NULL;
    const struct acpi_header *h = phys_ptr(at);
    u32 length = h->length;
    if (memcmp(h->signature, signature, 4) || length < sizeof(*h) || length > TABLE_SIZE_MAX ||
        !readable(m, at, length))
        return NULL;
    return acpi_checksum(h, length) ? NULL : h;
}

static bool open_root(struct acpi *a, u64 at, const char *signature, u32 entry_size)
{
    const struct acpi_header *root = table_at(&a->memory, HPA(at), signature);
    if (!root)
        return false;
    a->entry = HPA(at + sizeof(*root));
    a->entry_size = entry_size;
    a->entries = MIN((root->length - (u32)sizeof(*root)) / entry_size, ROOT_ENTRIES_MAX);
    return true;
}

int acpi_open(struct acpi *a, const void *rsdp, u64 size, const struct acpi_memory *memory)
{
    struct acpi_rsdp r = {0};
    memcpy(&r, rsdp, MIN(size, sizeof(r)));
    *a = (struct acpi){.memory = *memory};
    if (!sound_rsdp(&r, size))
        return ACPI_NO_RSDP;
    if (has_xsdt(&r, size) && open_root(a, r.xsdt, "XSDT", 8))
        return 0;
    return open_root(a, r.rsdt, "RSDT", 4) ? 0 : ACPI_BAD_ROOT;
}

static u32 scan(const struct acpi_memory *m, u64 base, u64 len, u8 rsdp[static 36])
{
    for (u64 at = base; at + sizeof(struct acpi_rsdp) <= base + len; at += 16) {
        if (!readable(m, HPA(at), sizeof(struct acpi_rsdp)))
            continue;
        struct acpi_rsdp r;
        memcpy(&r, phys_ptr(HPA(at)), sizeof(r));
        if (!sound_rsdp(&r, sizeof(r)))
            continue;
        memcpy(rsdp, &r, sizeof(r));
        return has_xsdt(&r, sizeof(r)) ? sizeof(r) : ACPI_RSDP_V0_SIZE;
    }
    return 0;
}

u32 acpi_scan(const struct acpi_memory *memory, u8 rsdp[static 36])
{
    const hpa_t ebda_segment = HPA(0x40e); // in the BIOS data area
    u16 segment = 0;
    u32 size = 0;
    if (readable(memory, ebda_segment, sizeof(segment)))
        memcpy(&segment, phys_ptr(ebda_segment), sizeof(segment));
    if (segment)
        size = scan(memory, (u64)segment << 4, KIB, rsdp);
    return size ? size : scan(memory, 0xe0000, 0x20000, rsdp);
}

const struct acpi_header *acpi_find(const struct acpi *a, const char *signature, u32 index)
{
    for (u32 i = 0; i < a->entries; i++) {
        u64 at = 0;
        memcpy(&at, phys_ptr(HPA(a->entry.v + (u64)i * a->entry_size)), a->entry_size);
        const struct acpi_header *h = table_at(&a->memory, HPA(at), signature);
        if (h && !index--)
            return h;
    }
    return NULL;
}

static u32 madt_entry_size(u8 type)
{
    switch (type) {
    case MADT_LOCAL_APIC:
        return sizeof(struct madt_local_apic);
    case MADT_IO_APIC:
        return sizeof(struct madt_io_apic);
    case MADT_OVERRIDE:
        return sizeof(struct madt_override);
    case MADT_LOCAL_APIC_NMI:
        return sizeof(struct madt_local_apic_nmi);
    case MADT_LOCAL_X2APIC:
        return sizeof(struct madt_local_x2apic);
    default:
        return sizeof(struct madt_entry);
    }
}

const struct madt_entry *acpi_madt_next(const struct acpi_madt *madt, const struct madt_entry *at)
{
    const u8 *end = (const u8 *)madt + madt->header.length;
    const u8 *p = at ? (const u8 *)at + at->length : (const u8 *)(madt + 1);
    if (madt->header.length < sizeof(*madt) || end - p < (long)sizeof(*at))
        return NULL;
    const struct madt_entry *e = (const struct madt_entry *)p;
    return e->length >= madt_entry_size(e->type) && e->length <= end - p ? e : NULL;
}

static void add_cpu(struct acpi_interrupts *out, u32 apic_id, u32 flags)
{
    if (!(flags & MADT_ENABLED))
        return;
    for (u32 i = 0; i < out->cpus; i++)
        if (out->apic_id[i] == apic_id)
            return;
    if (out->cpus == ACPI_CPUS)
        out->cpus_dropped++;
    else
        out->apic_id[out->cpus++] = apic_id;
}

static void add_entry(struct acpi_interrupts *out, const struct madt_entry *e)
{
    const struct madt_local_apic *lapic = (const void *)e;
    const struct madt_local_x2apic *x2apic = (const void *)e;
    const struct madt_io_apic *io = (const void *)e;
    const struct madt_override *o = (const void *)e;
    switch (e->type) {
    case MADT_LOCAL_APIC:
        if (lapic->apic_id != 0xff) // the broadcast address stands for "no processor"
            add_cpu(out, lapic->apic_id, lapic->flags);
        break;
    case MADT_LOCAL_X2APIC:
        add_cpu(out, x2apic->apic_id, x2apic->flags);
        break;
    case MADT_IO_APIC:
        if (out->ioapics < ACPI_IOAPICS)
            out->ioapic[out->ioapics++] =
                (struct acpi_ioapic){HPA(io->address), io->gsi_base, io->id};
        break;
    case MADT_OVERRIDE:
        if (out->overrides < ACPI_OVERRIDES)
            out->override[out->overrides++] = (struct acpi_override){o->gsi, o->flags, o->irq};
        break;
    default:
        break;
    }
}

bool acpi_interrupts(const struct acpi *a, struct acpi_interrupts *out)
{
    const struct acpi_madt *madt = (const void *)acpi_find(a, "APIC", 0);
    memset(out, 0, sizeof(*out));
    if (!madt || madt->header.length < sizeof(*madt))
        return false;
    out->local_apic = HPA(madt->local_apic);
    out->has_8259 = madt->flags & 1;
    for (const struct madt_entry *e = NULL; (e = acpi_madt_next(madt, e));)
        add_entry(out, e);
    return true;
}

struct acpi_override acpi_isa_irq(const struct acpi_interrupts *in, u8 irq)
{
    struct acpi_override found = {irq, 0, irq};
    for (u32 i = 0; i < in->overrides; i++)
        if (in->override[i].irq == irq)
            found = in->override[i];
    // 0 in either field means "as the bus has it".
    if (!(found.flags & 3))
        found.flags |= INTI_ACTIVE_HIGH;
    if (!(found.flags >> 2 & 3))
        found.flags |= INTI_EDGE;
    return found;
}

bool acpi_fixed(const struct acpi *a, struct acpi_fixed *out)
{
    const struct acpi_header *h = acpi_find(a, "FACP", 0);
    struct acpi_fadt f = {0};
    memset(out, 0, sizeof(*out));
    // Revision 1 ends before the reset register. What an older table does not have stays 0.
    if (!h || h->length < offsetof(struct acpi_fadt, reset_reg))
        return false;
    memcpy(&f, h, MIN(h->length, sizeof(f)));
    out->sci = f.sci_int;
    out->pm_timer_32 = f.flags & FADT_TMR_VAL_EXT;
    if (f.x_pm_tmr_blk.space == ACPI_SPACE_IO && f.x_pm_tmr_blk.address)
        out->pm_timer_port = (u16)f.x_pm_tmr_blk.address;
    else if (f.pm_tmr_len == 4)
        out->pm_timer_port = (u16)f.pm_tmr_blk;
    out->pm1a_cnt_port = (u16)f.pm1a_cnt_blk;
    out->pm1b_cnt_port = (u16)f.pm1b_cnt_blk;
    out->smi_cmd_port = (u16)f.smi_cmd;
    out->acpi_enable = f.acpi_enable;
    out->dsdt = HPA(f.x_dsdt ? f.x_dsdt : f.dsdt);
    out->has_reset = (f.flags & FADT_RESET_REG_SUP) && f.reset_reg.address;
    out->reset = f.reset_reg;
    out->reset_value = f.reset_value;
    return true;
}

#define AML_NAME    0x08
#define AML_BYTE    0x0a
#define AML_WORD    0x0b
#define AML_DWORD   0x0c
#define AML_PACKAGE 0x12

// Reads an integer constant; bytes that are not there read as 0, which is one, too.
static const u8 *aml_integer(const u8 *p, const u8 *end, u8 *value)
{
    u8 op = p < end ? *p++ : 0;
    u32 size = op == AML_BYTE ? 1 : op == AML_WORD ? 2 : op == AML_DWORD ? 4 : 0;
    *value = size && p < end ? *p : op;
    return p + MIN(size, (u32)(end - p));
}

// The package that follows the name _S5_: its length in 1 to 4 bytes, the number of elements.
static bool read_s5(const u8 *p, const u8 *end, u8 type[static 2])
{
    if (end - p < 4 || *p++ != AML_PACKAGE)
        return false;
    p += 1 + (*p >> 6);
    if (p >= end || *p++ < 2)
        return false;
    aml_integer(aml_integer(p, end, &type[0]), end, &type[1]);
    return true;
}

static bool find_s5(const struct acpi_header *h, u8 type[static 2])
{
    static const u8 name[] = {AML_NAME, '_', 'S', '5', '_'},
                    rooted[] = {AML_NAME, '\\', '_', 'S', '5', '_'};
    const u8 *end = (const u8 *)h + h->length;
    for (const u8 *p = (const u8 *)(h + 1); p + sizeof(rooted) < end; p++) {
        if (!memcmp(p, name, sizeof(name)) && read_s5(p + sizeof(name), end, type))
            return true;
        if (!memcmp(p, rooted, sizeof(rooted)) && read_s5(p + sizeof(rooted), end, type))
            return true;
    }
    return false;
}

bool acpi_soft_off(const struct acpi *a, const struct acpi_fixed *fixed, u8 type[static 2])
{
    const struct acpi_header *h = table_at(&a->memory, fixed->dsdt, "DSDT");
    if (h && find_s5(h, type))
        return true;
    for (u32 i = 0; (h = acpi_find(a, "SSDT", i)); i++)
        if (find_s5(h, type))
            return true;
    return false;
}
