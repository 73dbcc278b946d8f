// What the boot loader says (multiboot 1 and 2), the command line, and ACPI tables.

#include "tests/l1/rt/rt.h"

struct boot boot;

void boot_read(u32 magic, u32 info);

static void copy_text(char *to, size_t size, const char *from)
{
    size_t n = strnlen(from, size - 1);
    memcpy(to, from, n);
    to[n] = 0;
}

static void add_module(u64 start, u64 end, const char *args)
{
    if (boot.modules == ARRAY_SIZE(boot.module))
        return;
    struct boot_module *m = &boot.module[boot.modules++];
    m->start = start;
    m->end = end;
    copy_text(m->args, sizeof(m->args), args);
}

static void add_region(u64 base, u64 length, u32 type)
{
    if (boot.regions < ARRAY_SIZE(boot.region))
        boot.region[boot.regions++] = (struct boot_region){base, length, type};
}

static void read_multiboot1(u32 info)
{
    const u32 *mbi = (const u32 *)(u64)info;
    u32 flags = mbi[0];
    if (flags & 1) {
        boot.has_memory = true;
        boot.mem_lower = mbi[1];
        boot.mem_upper = mbi[2];
    }
    if (flags & 4)
        copy_text(boot.cmdline, sizeof(boot.cmdline), (const char *)(u64)mbi[4]);
    if (flags & 8)
        for (u32 i = 0; i < mbi[5]; i++) {
            const u32 *m = (const u32 *)(u64)mbi[6] + 4 * i;
            add_module(m[0], m[1], m[2] ? (const char *)(u64)m[2] : "");
        }
    if (flags & 0x40) {
        boot.has_map = true;
        for (u64 p = mbi[12]; p < (u64)mbi[12] + mbi[11]; p += read32(p) + 4)
            add_region(read64(p + 4), read64(p + 12), read32(p + 20));
    }
    if (flags & 0x200)
        copy_text(boot.loader, sizeof(boot.loader), (const char *)(u64)mbi[16]);
}

static void read_tag(u64 tag)
{
    u32 size = read32(tag + 4);
    const char *text = (const char *)(tag + 8);
    switch (read32(tag)) {
    case 1:
        copy_text(boot.cmdline, sizeof(boot.cmdline), text);
        break;
    case 2:
        copy_text(boot.loader, sizeof(boot.loader), text);
        break;
    case 3:
        add_module(read32(tag + 8), read32(tag + 12), (const char *)(tag + 16));
        break;
    case 4:
        boot.has_memory = true;
        boot.mem_lower = read32(tag + 8);
        boot.mem_upper = read32(tag + 12);
        break;
    case 6:
        boot.has_map = true;
        for (u64 p = tag + 16; p < tag + size; p += read32(tag + 8))
            add_region(read64(p), read64(p + 8), read32(p + 16));
        break;
    case 14:
    case 15:
        boot.rsdp = tag + 8;
        break;
    }
}

static void read_multiboot2(u32 info)
{
    for (u64 tag = info + 8; read32(tag); tag += (read32(tag + 4) + 7) & ~7u)
        read_tag(tag);
}

void boot_read(u32 magic, u32 info)
{
    if (magic == 0x2badb002) {
        boot.version = 1;
        read_multiboot1(info);
    } else if (magic == 0x36d76289) {
        boot.version = 2;
        read_multiboot2(info);
    }
}

u64 ram_top(u64 below)
{
    u64 top = 0;
    for (u32 i = 0; i < boot.regions; i++) {
        const struct boot_region *r = &boot.region[i];
        if (r->type == 1 && r->base < below)
            top = MAX(top, MIN(r->base + r->length, below));
    }
    return top;
}

// ------------------------------------------------------------------------------------ command line

// The word at or after p; 0 at the end of the line.
static const char *next_word(const char *p)
{
    while (*p == ' ')
        p++;
    return *p ? p : NULL;
}

static size_t word_length(const char *p)
{
    size_t n = 0;
    while (p[n] && p[n] != ' ')
        n++;
    return n;
}

bool arg_has(const char *word)
{
    for (const char *p = boot.cmdline; (p = next_word(p)); p += word_length(p))
        if (word_length(p) == strlen(word) && !strncmp(p, word, strlen(word)))
            return true;
    return false;
}

const char *arg_text(const char *name)
{
    size_t n = strlen(name);
    for (const char *p = boot.cmdline; (p = next_word(p)); p += word_length(p))
        if (word_length(p) > n && !strncmp(p, name, n) && p[n] == '=')
            return p + n + 1;
    return NULL;
}

u64 arg_u64(const char *name, u64 otherwise)
{
    const char *p = arg_text(name);
    u64 v = 0, base = 10;
    if (!p)
        return otherwise;
    if (p[0] == '0' && p[1] == 'x') {
        base = 16;
        p += 2;
    }
    for (; *p && *p != ' '; p++) {
        u64 digit = (u64)(*p >= 'a' ? *p - 'a' + 10 : *p - '0');
        v = v * base + digit;
    }
    return v;
}

// -------------------------------------------------------------------------------------------- ACPI

bool acpi_checksum_good(const u8 *p, size_t n)
{
    u8 sum = 0;
    while (n--)
        sum = (u8)(sum + *p++);
    return sum == 0;
}

const u8 *acpi_rsdp(void)
{
    for (u64 a = 0xe0000; a < 0x100000; a += 16)
        if (!memcmp((const void *)a, "RSD PTR ", 8) && acpi_checksum_good((const u8 *)a, 20))
            return (const u8 *)a;
    return (const u8 *)boot.rsdp;
}

const u8 *acpi_table(const char *signature)
{
    const u8 *rsdp = acpi_rsdp();
    if (!rsdp)
        return NULL;
    bool extended = rsdp[15] >= 2 && read64((u64)rsdp + 24);
    u64 root = extended ? read64((u64)rsdp + 24) : read32((u64)rsdp + 16);
    u32 size = extended ? 8 : 4;
    for (u64 p = root + 36; p < root + read32(root + 4); p += size) {
        u64 table = size == 8 ? read64(p) : read32(p);
        if (!memcmp((const void *)table, signature, 4))
            return (const u8 *)table;
    }
    return NULL;
}
