// The parser of ACPI tables, on the tables that the builder makes, on hand-made ones and on damage;
// and the builder, by what the parser and a second look find in its tables.

#include "drivers/acpi.h"
#include "drivers/model/layout.h"
#include "kernel/acpi_build.h"
#include "libc/addr.h"
#include "tests/host/test.h"

#define MEMORY (2 * MIB)

static u8 memory[MEMORY];

static bool in_memory(void *ctx, hpa_t base, u64 len)
{
    (void)ctx;
    return base.v < MEMORY && len <= MEMORY - base.v;
}

static const struct acpi_memory access = {in_memory, NULL};

static void reset(void)
{
    memset(memory, 0, MEMORY);
    phys_window = memory;
}

static u64 build(struct acpi_build b)
{
    reset();
    b.base = GPA(ACPI_BUILD_BASE);
    return acpi_build(&b, memory + ACPI_BUILD_BASE, ACPI_BUILD_SIZE);
}

static struct acpi built(u32 cpus)
{
    struct acpi a;
    CHECK(build((struct acpi_build){
              .cpus = cpus, .pci_mmio_base = 0xc0000000, .pci_mmio_size = 0x3ec00000}) > 0);
    CHECK_EQ(acpi_open(&a, memory + ACPI_BUILD_BASE, 36, &access), 0);
    return a;
}

static void seal(struct acpi_header *h)
{
    h->checksum = 0;
    h->checksum = acpi_checksum(h, h->length);
}

TEST(built_tables_are_found_and_sound)
{
    struct acpi a = built(3);
    CHECK_EQ(a.entry_size, 8);
    CHECK_EQ(a.entries, 2);
    CHECK(acpi_find(&a, "FACP", 0) && acpi_find(&a, "APIC", 0));
    CHECK(!acpi_find(&a, "FACP", 1) && !acpi_find(&a, "DMAR", 0));
    const struct acpi_fadt *f = (const void *)acpi_find(&a, "FACP", 0);
    CHECK_EQ(f->header.length, 268);
    CHECK_EQ(f->dsdt, f->x_dsdt);
    CHECK_EQ(f->iapc_boot_arch & FADT_8042, 0);
    CHECK_EQ(f->smi_cmd, 0);
    const struct acpi_header *dsdt = phys_ptr(HPA(f->dsdt));
    CHECK(!memcmp(dsdt->signature, "DSDT", 4) && !acpi_checksum(dsdt, dsdt->length));
    const struct acpi_facs *facs = phys_ptr(HPA(f->firmware_ctrl));
    CHECK(!memcmp(facs->signature, "FACS", 4) && f->firmware_ctrl % 64 == 0);
}

TEST(rsdt_lists_the_same_as_xsdt)
{
    struct acpi a = built(1), old;
    CHECK_EQ(acpi_open(&old, memory + ACPI_BUILD_BASE, 20, &access), 0);
    CHECK_EQ(old.entry_size, 4);
    CHECK_EQ(old.entries, a.entries);
    CHECK(acpi_find(&old, "FACP", 0) == acpi_find(&a, "FACP", 0));
    CHECK(acpi_find(&old, "APIC", 0) == acpi_find(&a, "APIC", 0));
}

TEST(processors_and_interrupts_of_the_built_madt)
{
    struct acpi a = built(5);
    struct acpi_interrupts in;
    CHECK(acpi_interrupts(&a, &in));
    CHECK_EQ(in.cpus, 5);
    for (u32 i = 0; i < 5; i++)
        CHECK_EQ(in.apic_id[i], i);
    CHECK_EQ(in.local_apic.v, LAYOUT_LAPIC_BASE);
    CHECK(in.has_8259);
    CHECK_EQ(in.ioapics, 1);
    CHECK_EQ(in.ioapic[0].address.v, LAYOUT_IOAPIC_BASE);
    CHECK_EQ(in.ioapic[0].id, 5);
    CHECK_EQ(acpi_isa_irq(&in, 0).gsi, 2);
    CHECK_EQ(acpi_isa_irq(&in, 0).flags, INTI_ACTIVE_HIGH | INTI_EDGE);
    CHECK_EQ(acpi_isa_irq(&in, 9).gsi, 9);
    CHECK_EQ(acpi_isa_irq(&in, 9).flags, INTI_ACTIVE_HIGH | INTI_LEVEL);
    CHECK_EQ(acpi_isa_irq(&in, 4).gsi, 4);
    CHECK_EQ(acpi_isa_irq(&in, 4).flags, INTI_ACTIVE_HIGH | INTI_EDGE);
}

TEST(fixed_hardware_of_the_built_fadt)
{
    struct acpi a = built(1);
    struct acpi_fixed f;
    CHECK(acpi_fixed(&a, &f));
    CHECK_EQ(f.sci, LAYOUT_IRQ_SCI);
    CHECK_EQ(f.pm_timer_port, LAYOUT_PM_TIMER);
    CHECK_EQ(f.pm_timer_32, LAYOUT_PM_TIMER_BITS == 32);
    CHECK(f.has_reset);
    CHECK_EQ(f.reset.space, ACPI_SPACE_IO);
    CHECK_EQ(f.reset.address, LAYOUT_PORT_RESET);
    CHECK_EQ(f.reset_value, LAYOUT_RESET_VALUE);
}

static const u8 *find_bytes(const void *in, u32 len, const char *what, u32 n)
{
    for (u32 i = 0; i + n <= len; i++)
        if (!memcmp((const u8 *)in + i, what, n))
            return (const u8 *)in + i;
    return NULL;
}

// The end of a block whose three-byte package length is at `p`.
static const u8 *block_end(const u8 *p)
{
    CHECK_EQ(p[0] >> 6, 2);
    return p + ((p[0] & 15) | p[1] << 4 | p[2] << 12);
}

static u32 take_integer(const u8 **p)
{
    u32 v = 0, n = **p == 0x0a ? 1 : 4;
    CHECK(**p == 0x0a || **p == 0x0c);
    memcpy(&v, *p + 1, n);
    *p += 1 + n;
    return v;
}

TEST(soft_off_of_the_built_dsdt)
{
    struct acpi a = built(1);
    struct acpi_fixed fixed;
    u8 type[2] = {9, 9};
    CHECK(acpi_fixed(&a, &fixed));
    CHECK_EQ(fixed.pm1a_cnt_port, LAYOUT_PM1A_CNT);
    CHECK_EQ(fixed.pm1b_cnt_port, 0);
    CHECK(acpi_soft_off(&a, &fixed, type));
    CHECK_EQ(type[0], LAYOUT_S5_SLP_TYP);
    CHECK_EQ(type[1], 0);
    fixed.dsdt = HPA(0);
    CHECK(!acpi_soft_off(&a, &fixed, type));
}

static bool soft_off_of(const u8 *aml, u32 size, u8 type[2])
{
    struct acpi a = {.memory = access};
    struct acpi_fixed fixed = {.dsdt = HPA(0x1000)};
    struct acpi_header *h = (void *)(memory + 0x1000);
    reset();
    memcpy(h->signature, "DSDT", 4);
    h->length = (u32)sizeof(*h) + size;
    memcpy(h + 1, aml, size);
    seal(h);
    return acpi_soft_off(&a, &fixed, type);
}

#define SOFT_OFF(type, ...)                                                                        \
    soft_off_of((const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}), type)

TEST(soft_off_in_its_various_forms)
{
    u8 t[2];
    CHECK(SOFT_OFF(t, 8, '_', 'S', '5', '_', 0x12, 0x06, 4, 0, 0, 0, 0) && !t[0] && !t[1]);
    CHECK(SOFT_OFF(t, 8, '\\', '_', 'S', '5', '_', 0x12, 8, 4, 0x0a, 7, 1, 0, 0));
    CHECK(t[0] == 7 && t[1] == 1);
    CHECK(SOFT_OFF(t, 0, 8, '_', 'S', '5', '_', 0x12, 0x4c, 0, 4, 0x0b, 5, 0, 0x0c, 6, 0, 0, 0, 0));
    CHECK(t[0] == 5 && t[1] == 6);
    // cut short, no package, too few elements, no such name
    CHECK(!SOFT_OFF(t, 8, '_', 'S', '5', '_', 0x12, 0xc6));
    CHECK(!SOFT_OFF(t, 8, '_', 'S', '5', '_', 0x11, 6, 4, 0, 0, 0, 0));
    CHECK(!SOFT_OFF(t, 8, '_', 'S', '5', '_', 0x12, 3, 1, 0, 0, 0));
    CHECK(!SOFT_OFF(t, 8, '_', 'S', '4', '_', 0x12, 6, 4, 0, 0, 0, 0));
    CHECK(SOFT_OFF(t, 8, '_', 'S', '5', '_', 0x12, 6, 4, 0x0c) && !t[1]);
}

TEST(dsdt_blocks_end_where_their_lengths_say)
{
    struct acpi a = built(1);
    const struct acpi_fadt *f = (const void *)acpi_find(&a, "FACP", 0);
    const struct acpi_header *dsdt = phys_ptr(HPA(f->dsdt));
    const u8 *end = (const u8 *)dsdt + dsdt->length;
    const u8 *p = (const u8 *)(dsdt + 1);
    CHECK(!memcmp(p, "\x08_S5_\x12", 6));
    p = block_end(p + 6);
    CHECK_EQ(*p, 0x10); // the scope \_SB is the rest
    CHECK(block_end(p + 1) == end);
    CHECK(!memcmp(p + 4, "\\_SB_", 5));
    for (p += 9; p < end; p = block_end(p + 2))
        CHECK(p[0] == 0x5b && p[1] == 0x82); // devices and nothing else
    CHECK(p == end);
}

TEST(routing_covers_every_pin)
{
    struct acpi a = built(1);
    const struct acpi_fadt *f = (const void *)acpi_find(&a, "FACP", 0);
    const struct acpi_header *dsdt = phys_ptr(HPA(f->dsdt));
    const u8 *p = find_bytes(dsdt, dsdt->length, "_PRT\x12", 5);
    CHECK(p);
    const u8 *end = block_end(p + 5);
    CHECK_EQ(p[8], 128);
    p += 9;
    for (u32 n = 0; n < 128; n++) {
        CHECK_EQ(*p, 0x12);
        const u8 *next = block_end(p + 1);
        CHECK_EQ(p[4], 4);
        p += 5;
        CHECK_EQ(take_integer(&p), n / 4 << 16 | 0xffff);
        CHECK_EQ(take_integer(&p), n % 4);
        CHECK_EQ(take_integer(&p), 0);
        CHECK_EQ(take_integer(&p), LAYOUT_GSI_PCI(n / 4, n % 4));
        CHECK(p == next);
    }
    CHECK(p == end);
}

TEST(more_tables_are_listed_and_bad_parameters_refused)
{
    struct acpi a;
    struct acpi_header dmar = {.signature = "DMAR", .length = sizeof(dmar)};
    seal(&dmar);
    struct acpi_build b = {.cpus = 1, .more = {&dmar}, .mores = 1};
    CHECK(build(b) > 0);
    CHECK_EQ(acpi_open(&a, memory + ACPI_BUILD_BASE, 36, &access), 0);
    CHECK(acpi_find(&a, "DMAR", 0));
    CHECK_EQ(build((struct acpi_build){.cpus = 0}), 0);
    CHECK_EQ(build((struct acpi_build){.cpus = 255}), 0);
    CHECK(build((struct acpi_build){.cpus = 254}) > 0);
    CHECK_EQ(build((struct acpi_build){.cpus = 1, .mores = ACPI_BUILD_MORE + 1}), 0);
    CHECK_EQ(
        build((struct acpi_build){.cpus = 1, .pci_mmio_base = 4 * GIB - 1, .pci_mmio_size = 2}), 0);
    b.base = GPA(0xe0010);
    CHECK_EQ(acpi_build(&b, memory + 0xe0010, 0x8000), 0);
}

TEST(builder_never_writes_beyond_its_space)
{
    struct acpi_build b = {.base = GPA(0x1000), .cpus = 2};
    u64 need = acpi_build(&b, memory, MEMORY);
    CHECK(need > 1000);
    for (u64 size = 0; size <= need; size++) {
        u8 *exact = malloc(size ? size : 1);
        CHECK_EQ(acpi_build(&b, exact, size), size < need ? 0 : need);
        free(exact);
    }
}

TEST(rsdp_is_found_where_a_bios_puts_it)
{
    u8 rsdp[36];
    built(1);
    CHECK_EQ(acpi_scan(&access, rsdp), 36);
    CHECK(!memcmp(rsdp, memory + ACPI_BUILD_BASE, 36));
    memory[ACPI_BUILD_BASE + 33] ^= 1; // only the extended checksum is wrong
    CHECK_EQ(acpi_scan(&access, rsdp), 20);
    memory[ACPI_BUILD_BASE + 5] ^= 1;
    CHECK_EQ(acpi_scan(&access, rsdp), 0);
    memory[ACPI_BUILD_BASE + 5] ^= 1;
    memcpy(memory + 0x9fc10, memory + ACPI_BUILD_BASE, 36);
    memset(memory + ACPI_BUILD_BASE, 0, 36);
    CHECK_EQ(acpi_scan(&access, rsdp), 0);
    memcpy(memory + 0x40e, "\xc0\x9f", 2);
    CHECK_EQ(acpi_scan(&access, rsdp), 20);
}

TEST(rsdp_errors)
{
    struct acpi a;
    built(1);
    u8 *rsdp = memory + ACPI_BUILD_BASE;
    CHECK_EQ(acpi_open(&a, rsdp, 0, &access), ACPI_NO_RSDP);
    CHECK_EQ(acpi_open(&a, rsdp, 19, &access), ACPI_NO_RSDP);
    CHECK_EQ(acpi_open(&a, rsdp, 36, &access), 0);
    CHECK_EQ(a.entry_size, 8);
    rsdp[34] ^= 1;
    CHECK_EQ(acpi_open(&a, rsdp, 36, &access), 0); // the RSDT serves
    CHECK_EQ(a.entry_size, 4);
    rsdp[0] ^= 1;
    CHECK_EQ(acpi_open(&a, rsdp, 36, &access), ACPI_NO_RSDP);
}

TEST(bad_root_tables)
{
    struct acpi a;
    struct acpi_rsdp r;
    built(1);
    memcpy(&r, memory + ACPI_BUILD_BASE, sizeof(r));
    memory[r.xsdt + 10] ^= 1;
    CHECK_EQ(acpi_open(&a, &r, 36, &access), 0);
    CHECK_EQ(a.entry_size, 4);
    memory[r.rsdt + 10] ^= 1;
    CHECK_EQ(acpi_open(&a, &r, 36, &access), ACPI_BAD_ROOT);
    static const u64 places[] = {0, MEMORY - 20, MEMORY, 0xfffffff0};
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        r.rsdt = (u32)places[i];
        r.checksum = 0;
        r.checksum = acpi_checksum(&r, 20);
        CHECK_EQ(acpi_open(&a, &r, 20, &access), ACPI_BAD_ROOT);
    }
}

TEST(tables_with_bad_lengths_are_absent)
{
    struct acpi a = built(1);
    struct acpi_header *h = (void *)acpi_find(&a, "APIC", 0);
    static const u32 lengths[] = {0, 35, MEMORY, 0xffffffff};
    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        h->length = lengths[i];
        CHECK(!acpi_find(&a, "APIC", 0));
        CHECK(acpi_find(&a, "FACP", 0));
    }
    h->length = 36; // shorter than a MADT, but sound
    seal(h);
    CHECK(acpi_find(&a, "APIC", 0));
    struct acpi_interrupts in;
    CHECK(!acpi_interrupts(&a, &in));
}

TEST(root_that_lists_itself)
{
    struct acpi a = built(1);
    struct acpi_header *root = phys_ptr(HPA(a.entry.v - sizeof(struct acpi_header)));
    u64 self = a.entry.v - sizeof(*root);
    memcpy(memory + a.entry.v, &self, 8);
    seal(root);
    CHECK_EQ(acpi_open(&a, memory + ACPI_BUILD_BASE, 36, &access), 0);
    CHECK(acpi_find(&a, "XSDT", 0) == root);
    CHECK(!acpi_find(&a, "FACP", 0)); // whose pointer was overwritten
}

// Makes the built MADT one with these entries.
static void replace_madt(struct acpi *a, const void *entries, u32 len)
{
    struct acpi_madt *m = (void *)acpi_find(a, "APIC", 0);
    memcpy(m + 1, entries, len);
    m->header.length = sizeof(*m) + len;
    seal(&m->header);
}

TEST(madt_entries)
{
    struct acpi a = built(16);
    struct acpi_interrupts in;
    static const u8 entries[] = {
        0,    8,  1, 7,   1,  0, 0, 0,                           // CPU 7
        0,    8,  1, 8,   0,  0, 0, 0,                           // disabled
        0,    8,  1, 255, 1,  0, 0, 0,                           // nobody
        0x80, 3,  0,                                             // unknown, odd length
        9,    16, 0, 0,   0,  1, 0, 0, 1,   0, 0, 0, 0, 0, 0, 0, // x2APIC id 256
        9,    16, 0, 0,   7,  0, 0, 0, 1,   0, 0, 0, 0, 0, 0, 0, // CPU 7 again
        2,    10, 0, 9,   20, 0, 0, 0, 0xf, 0,                   // IRQ 9 to 20, low, level
    };
    replace_madt(&a, entries, sizeof(entries));
    CHECK(acpi_interrupts(&a, &in));
    CHECK_EQ(in.cpus, 2);
    CHECK_EQ(in.apic_id[0], 7);
    CHECK_EQ(in.apic_id[1], 256);
    CHECK_EQ(acpi_isa_irq(&in, 9).gsi, 20);
    CHECK_EQ(acpi_isa_irq(&in, 9).flags, INTI_ACTIVE_LOW | INTI_LEVEL);
}

TEST(madt_walk_ends_at_damage)
{
    static const u8 cases[][10] = {
        {0, 8, 0, 1, 1, 0, 0, 0, 0, 0},    // then length 0
        {0, 8, 0, 1, 1, 0, 0, 0, 1, 1},    // then length 1
        {0, 8, 0, 1, 1, 0, 0, 0, 0, 2},    // then shorter than its type
        {0, 8, 0, 1, 1, 0, 0, 0, 99, 200}, // then beyond the end
        {0, 8, 0, 1, 1, 0, 0, 0, 99, 2},   // sound to the end
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct acpi a = built(16);
        struct acpi_interrupts in;
        replace_madt(&a, cases[i], 10);
        CHECK(acpi_interrupts(&a, &in));
        CHECK_EQ(in.cpus, 1);
    }
}

TEST(more_processors_than_there_is_room_for)
{
    struct acpi a = built(254);
    struct acpi_interrupts in;
    static u8 entries[300 * 16];
    for (u32 i = 0; i < 300; i++) {
        struct madt_local_x2apic e = {{9, 16}, 0, i, 1, i};
        memcpy(entries + i * 16, &e, 16);
    }
    // The longer table needs a place of its own: the first pointer of the root gets it.
    memcpy(memory + 0x100000, acpi_find(&a, "APIC", 0), sizeof(struct acpi_madt));
    struct acpi_madt *m = (void *)(memory + 0x100000);
    memcpy(m + 1, entries, sizeof(entries));
    m->header.length = sizeof(*m) + sizeof(entries);
    seal(&m->header);
    u64 at = 0x100000;
    memcpy(memory + a.entry.v, &at, 8);
    CHECK(acpi_interrupts(&a, &in));
    CHECK_EQ(in.cpus, ACPI_CPUS);
    CHECK_EQ(in.cpus_dropped, 300 - ACPI_CPUS);
}

TEST(old_fadt)
{
    struct acpi a = built(1);
    struct acpi_fixed f;
    struct acpi_header *h = (void *)acpi_find(&a, "FACP", 0);
    h->length = 116;
    seal(h);
    CHECK(acpi_fixed(&a, &f));
    CHECK_EQ(f.pm_timer_port, LAYOUT_PM_TIMER);
    CHECK(!f.has_reset);
    h->length = 100;
    seal(h);
    CHECK(!acpi_fixed(&a, &f));
}

TEST(random_damage_is_survived)
{
    built(4);
    static u8 sound[0x4000];
    memcpy(sound, memory + ACPI_BUILD_BASE, sizeof(sound));
    for (unsigned round = 0; round < 3000; round++) {
        struct acpi a;
        struct acpi_interrupts in;
        struct acpi_fixed f;
        memcpy(memory + ACPI_BUILD_BASE, sound, sizeof(sound));
        for (unsigned i = 0; i < 8; i++)
            memory[ACPI_BUILD_BASE + 36 + (u32)rand() % 3000] = (u8)rand();
        if (acpi_open(&a, memory + ACPI_BUILD_BASE, 36, &access))
            continue;
        acpi_interrupts(&a, &in); // the sanitizers judge
        acpi_fixed(&a, &f);
    }
}
