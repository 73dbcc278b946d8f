#include "kernel/acpi_aml.h"

#include "drivers/model/layout.h"
#include "libc/string.h"

enum aml_op {
    AML_ZERO = 0x00,
    AML_NAME = 0x08,
    AML_BYTE = 0x0a,
    AML_DWORD = 0x0c,
    AML_SCOPE = 0x10,
    AML_BUFFER = 0x11,
    AML_PACKAGE = 0x12,
    AML_EXTENDED = 0x5b,
    AML_ROOT = '\\',
};

enum { AML_EXTENDED_DEVICE = 0x82 };

enum address_type { ADDRESS_MEMORY = 0, ADDRESS_IO = 1, ADDRESS_BUS = 2 };

// Flags of address space descriptors: both ends are fixed; memory can be written.
enum { ADDRESS_FIXED = 0x0c, ADDRESS_IO_ENTIRE = 0x03, ADDRESS_MEMORY_WRITABLE = 0x01 };

struct resource_io {
    u8 tag;
    u8 decode_16;
    u16 min, max;
    u8 align, length;
} PACKED;

struct resource_irq {
    u8 tag;
    u16 mask;
} PACKED;

struct resource_word_address {
    u8 tag;
    u16 length; // of what follows
    u8 type, flags, type_flags;
    u16 granularity, min, max, translation, count;
} PACKED;

struct resource_dword_address {
    u8 tag;
    u16 length; // of what follows
    u8 type, flags, type_flags;
    u32 granularity, min, max, translation, count;
} PACKED;

void acpi_put(struct acpi_writer *w, const void *data, u64 n)
{
    if (w->full || n > w->size - w->len) {
        w->full = true;
        return;
    }
    memcpy(w->out + w->len, data, n);
    w->len += n;
}

void acpi_put_byte(struct acpi_writer *w, u8 byte)
{
    acpi_put(w, &byte, 1);
}

// A block's length comes before its content: three bytes are kept free and filled in at its end.
// The encoding with two bytes after the first holds any length below 1M.
static u64 block_begin(struct acpi_writer *w)
{
    u64 at = w->len;
    acpi_put(w, "\0\0\0", 3);
    return at;
}

static void block_end(struct acpi_writer *w, u64 at)
{
    if (w->full)
        return;
    u64 n = w->len - at;
    w->out[at] = (u8)(2 << 6 | (n & 15));
    w->out[at + 1] = (u8)(n >> 4);
    w->out[at + 2] = (u8)(n >> 12);
}

// The shortest form is not needed; the interpreter takes any.
static void put_integer(struct acpi_writer *w, u32 v)
{
    bool small = v < 0x100;
    acpi_put_byte(w, small ? AML_BYTE : AML_DWORD);
    acpi_put(w, &v, small ? 1 : 4);
}

static void put_name(struct acpi_writer *w, const char *name)
{
    acpi_put_byte(w, AML_NAME);
    acpi_put(w, name, 4);
}

static u64 package_begin(struct acpi_writer *w, u8 elements)
{
    acpi_put_byte(w, AML_PACKAGE);
    u64 at = block_begin(w);
    acpi_put_byte(w, elements);
    return at;
}

// A PNP identifier ("PNP0A03") in its compressed form: three letters of five bits and four
// hexadecimal digits, most significant byte first.
static u32 eisa_id(const char *id)
{
    u32 v = 0;
    for (unsigned i = 0; i < 3; i++)
        v = v << 5 | (u32)(id[i] - 'A' + 1);
    for (unsigned i = 3; i < 7; i++)
        v = v << 4 | (u32)(id[i] <= '9' ? id[i] - '0' : id[i] - 'A' + 10);
    return __builtin_bswap32(v);
}

static u64 device_begin(struct acpi_writer *w, const char *name, const char *hid, u32 uid)
{
    acpi_put_byte(w, AML_EXTENDED);
    acpi_put_byte(w, AML_EXTENDED_DEVICE);
    u64 at = block_begin(w);
    acpi_put(w, name, 4);
    put_name(w, "_HID");
    put_integer(w, eisa_id(hid));
    put_name(w, "_UID");
    put_integer(w, uid);
    return at;
}

// _CRS is a buffer of resource descriptors with an end tag.
static void put_resources(struct acpi_writer *w, const void *resources, u32 size)
{
    static const u8 end_tag[2] = {0x79, 0}; // checksum 0: not checked
    put_name(w, "_CRS");
    acpi_put_byte(w, AML_BUFFER);
    u64 at = block_begin(w);
    put_integer(w, size + sizeof(end_tag));
    acpi_put(w, resources, size);
    acpi_put(w, end_tag, sizeof(end_tag));
    block_end(w, at);
}

static struct resource_io io_ports(u16 base, u8 count)
{
    return (struct resource_io){0x47, 1, base, base, 1, count};
}

static struct resource_word_address word_window(enum address_type type, u16 min, u16 max)
{
    return (struct resource_word_address){.tag = 0x88,
                                          .length = sizeof(struct resource_word_address) - 3,
                                          .type = (u8)type,
                                          .flags = ADDRESS_FIXED,
                                          .type_flags = type == ADDRESS_IO ? ADDRESS_IO_ENTIRE : 0,
                                          .min = min,
                                          .max = max,
                                          .count = (u16)(max - min + 1)};
}

static void put_isa_device(struct acpi_writer *w, const char *name, const char *hid, u16 port,
                           u8 ports, unsigned irq)
{
    struct {
        struct resource_io io;
        struct resource_irq irq;
    } PACKED r = {io_ports(port, ports), {0x22, (u16)(1u << irq)}};
    u64 at = device_begin(w, name, hid, 0);
    put_resources(w, &r, sizeof(r));
    block_end(w, at);
}

// Each device's four pins, wired to the I/O APIC without link devices in between.
static void put_routing(struct acpi_writer *w)
{
    put_name(w, "_PRT");
    u64 all = package_begin(w, 32 * 4);
    for (u32 dev = 0; dev < 32; dev++)
        for (u32 pin = 0; pin < 4; pin++) {
            u64 one = package_begin(w, 4);
            put_integer(w, dev << 16 | 0xffff); // any function
            put_integer(w, pin);
            put_integer(w, 0);
            put_integer(w, LAYOUT_GSI_PCI(dev, pin));
            block_end(w, one);
        }
    block_end(w, all);
}

static void put_pci_root(struct acpi_writer *w, u32 mmio_base, u32 mmio_size)
{
    struct {
        struct resource_io configuration;
        struct resource_word_address bus, io_low, io_high;
        struct resource_dword_address memory;
    } PACKED r = {
        io_ports(LAYOUT_PORT_PCI_ADDRESS, 8),
        word_window(ADDRESS_BUS, 0, 0),
        word_window(ADDRESS_IO, 0, LAYOUT_PORT_PCI_ADDRESS - 1),
        word_window(ADDRESS_IO, LAYOUT_PORT_PCI_ADDRESS + 8, 0xffff),
        {.tag = 0x87,
         .length = sizeof(struct resource_dword_address) - 3,
         .type = ADDRESS_MEMORY,
         .flags = ADDRESS_FIXED,
         .type_flags = ADDRESS_MEMORY_WRITABLE,
         .min = mmio_base,
         .max = mmio_base + (mmio_size - 1),
         .count = mmio_size},
    };
    u64 at = device_begin(w, "PCI0", "PNP0A03", 0);
    put_resources(w, &r, mmio_size ? sizeof(r) : offsetof(__typeof__(r), memory));
    put_routing(w);
    block_end(w, at);
}

static void put_s5(struct acpi_writer *w)
{
    put_name(w, "_S5_");
    u64 at = package_begin(w, 4);
    put_integer(w, LAYOUT_S5_SLP_TYP);
    for (unsigned i = 1; i < 4; i++)
        acpi_put_byte(w, AML_ZERO);
    block_end(w, at);
}

void acpi_put_dsdt(struct acpi_writer *w, u32 mmio_base, u32 mmio_size)
{
    put_s5(w);
    acpi_put_byte(w, AML_SCOPE);
    u64 at = block_begin(w);
    acpi_put_byte(w, AML_ROOT);
    acpi_put(w, "_SB_", 4);
    put_pci_root(w, mmio_base, mmio_size);
    put_isa_device(w, "COM1", "PNP0501", LAYOUT_PORT_COM1, 8, LAYOUT_IRQ_COM1);
    put_isa_device(w, "RTC_", "PNP0B00", LAYOUT_PORT_RTC, 2, LAYOUT_IRQ_RTC);
    block_end(w, at);
}
