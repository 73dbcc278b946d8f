// The boot information: the memory map's normal form, and the Multiboot2 parser on sound, damaged
// and random input.

#include "kernel/boot_info.c"
#include "boot/multiboot2.c"
#include "tests/host/test.h"

static struct boot_info out;

// A Multiboot2 information structure under construction.
static struct {
    u8 data[64 * KIB];
    u32 len;
} mbi;

static void begin(void)
{
    memset(&mbi, 0, sizeof(mbi));
    mbi.len = 8;
}

static void tag(u32 type, const void *body, u32 size)
{
    struct tag t = {type, size + 8};
    memcpy(mbi.data + mbi.len, &t, 8);
    if (size)
        memcpy(mbi.data + mbi.len + 8, body, size);
    mbi.len += (u32)align_up(size + 8, 8);
}

// Parses a copy of exactly the right size, so that reads beyond it are seen.
static int parse_len(u32 len, u32 total)
{
    u8 *copy = malloc(len ? len : 1);
    memcpy(copy, mbi.data, len);
    if (len >= 4)
        memcpy(copy, &total, 4);
    int r = multiboot2_parse(copy, len, &out);
    free(copy);
    return r;
}

static int parse(void)
{
    tag(TAG_END, NULL, 0);
    return parse_len(mbi.len, mbi.len);
}

static void add_mmap(const struct mmap_entry *e, unsigned n)
{
    static u8 body[32 * KIB];
    u32 head[2] = {sizeof(*e), 0};
    memcpy(body, head, 8);
    if (n)
        memcpy(body + 8, e, n * sizeof(*e));
    tag(TAG_MMAP, body, 8 + n * (u32)sizeof(*e));
}

static void add_module(u32 start, u32 end, const char *text)
{
    u8 body[1000];
    memcpy(body, &start, 4);
    memcpy(body + 4, &end, 4);
    strcpy((char *)body + 8, text);
    tag(TAG_MODULE, body, 9 + (u32)strlen(text));
}

static const struct mmap_entry pc_map[] = {
    {0, 0x9fc00, 1, 0}, {0x9fc00, 0x400, 2, 0}, {0x100000, 0x7f00000, 1, 0}};

static void check_range(unsigned i, u64 base, u64 end, enum mem_kind kind)
{
    CHECK_EQ(out.mem.range[i].base.v, base);
    CHECK_EQ(out.mem.range[i].base.v + out.mem.range[i].size, end);
    CHECK_EQ(out.mem.range[i].kind, kind);
}

TEST(all_tags)
{
    u8 rsdp[36], fb[32] = {0};
    memset(rsdp, 0xa5, 36);
    struct tag_framebuffer f = {
        .address = 0xe0000000, .pitch = 4096, .width = 1024, .height = 768, .bpp = 32, .type = 1};
    memcpy(fb, (u8 *)&f + 8, 24);
    memcpy(fb + 24, (u8[]){16, 8, 8, 8, 0, 8}, 6);
    begin();
    tag(TAG_CMDLINE, "log=debug a=b", 14);
    tag(TAG_LOADER, "GRUB 2.06", 10);
    add_module(0x200000, 0x200123, "nestor.cfg");
    add_module(0x300000, 0x500000, "  vmlinuz   root=/dev/sda  quiet");
    add_module(0x600000, 0x600000, "");
    add_mmap(pc_map, 3);
    tag(TAG_RSDP_V2, rsdp, 36);
    tag(TAG_RSDP_V0, "ignored because v2 is here", 20);
    tag(TAG_FRAMEBUFFER, fb, 30);
    tag(4711, "some unknown tag", 16);
    CHECK_EQ(parse(), 0);
    CHECK(!strcmp(out.cmdline, "log=debug a=b"));
    CHECK(!strcmp(out.loader, "GRUB 2.06"));
    CHECK_EQ(out.modules, 3);
    CHECK(!strcmp(out.module[0].name, "nestor.cfg") && !strcmp(out.module[0].args, ""));
    CHECK_EQ(out.module[0].size, 0x123);
    CHECK(!strcmp(out.module[1].name, "vmlinuz"));
    CHECK(!strcmp(out.module[1].args, "root=/dev/sda  quiet"));
    CHECK_EQ(out.module[1].start.v, 0x300000);
    CHECK(!strcmp(out.module[2].name, "") && !out.module[2].size);
    CHECK_EQ(out.mem.count, 3);
    check_range(0, 0, 0x9fc00, MEM_USABLE);
    check_range(1, 0x9fc00, 0xa0000, MEM_RESERVED);
    check_range(2, 0x100000, 0x8000000, MEM_USABLE);
    CHECK_EQ(out.rsdp_size, 36);
    CHECK(!memcmp(out.rsdp, rsdp, 36));
    CHECK_EQ(out.framebuffer.kind, FRAMEBUFFER_RGB);
    CHECK_EQ(out.framebuffer.address.v, 0xe0000000);
    CHECK_EQ(out.framebuffer.red.position, 16);
    CHECK_EQ(out.framebuffer.blue.bits, 8);
    CHECK_EQ(out.framebuffer.height, 768);
    CHECK(!out.string_cut && !out.modules_dropped);
}

TEST(old_rsdp_alone_and_text_framebuffer)
{
    struct tag_framebuffer f = {
        .address = 0xb8000, .pitch = 160, .width = 80, .height = 25, .bpp = 16, .type = 2};
    begin();
    add_mmap(pc_map, 3);
    tag(TAG_RSDP_V0, "0123456789abcdefghij", 20);
    tag(TAG_FRAMEBUFFER, (u8 *)&f + 8, 24);
    CHECK_EQ(parse(), 0);
    CHECK_EQ(out.rsdp_size, 20);
    CHECK_EQ(out.framebuffer.kind, FRAMEBUFFER_TEXT);
    CHECK_EQ(out.framebuffer.width, 80);
}

TEST(overlaps_go_to_the_more_reserved)
{
    static const struct mmap_entry e[] = {
        {0x8000, 0x4000, 1, 0},
        {0, 0x9000, 1, 0},      // overlapping usable: merged
        {0x2000, 0x1000, 2, 0}, // a hole in the middle
        {0x2800, 0x1000, 3, 0}, // weaker than 2, stronger than 1
        {0xc000, 0, 2, 0},      // empty
        {0x20000, 0x1000, 5, 0},
        {0x1f000, 0x3000, 4, 0},       // bad inside NVS
        {~0ull - 0xfff, 0x5000, 1, 0}, // beyond the end of everything
        {0x22000, 0x1000, 77, 0},      // unknown type
    };
    begin();
    add_mmap(e, ARRAY_SIZE(e));
    CHECK_EQ(parse(), 0);
    CHECK_EQ(out.mem.count, 9);
    check_range(0, 0, 0x2000, MEM_USABLE);
    check_range(1, 0x2000, 0x3000, MEM_RESERVED);
    check_range(2, 0x3000, 0x3800, MEM_ACPI_RECLAIM);
    check_range(3, 0x3800, 0xc000, MEM_USABLE);
    check_range(4, 0x1f000, 0x20000, MEM_ACPI_NVS);
    check_range(5, 0x20000, 0x21000, MEM_BAD);
    check_range(6, 0x21000, 0x22000, MEM_ACPI_NVS);
    check_range(7, 0x22000, 0x23000, MEM_RESERVED);
    check_range(8, ~0ull - 0xfff, ~0ull, MEM_USABLE);
}

static enum mem_kind kind_at(const struct mem_map *map, u64 at)
{
    for (unsigned i = 0; i < map->count; i++)
        if (at - map->range[i].base.v < map->range[i].size)
            return map->range[i].kind;
    return 0;
}

TEST(random_maps_agree_with_the_rule_at_every_place)
{
    for (unsigned round = 0; round < 300; round++) {
        struct mmap_entry e[12];
        for (unsigned i = 0; i < ARRAY_SIZE(e); i++)
            e[i] = (struct mmap_entry){(u64)rand() % 64, (u64)rand() % 16, 1 + (u32)rand() % 5, 0};
        begin();
        add_mmap(e, ARRAY_SIZE(e));
        CHECK_EQ(parse(), 0);
        for (unsigned i = 1; i < out.mem.count; i++) {
            struct mem_range *a = &out.mem.range[i - 1], *b = &out.mem.range[i];
            CHECK(a->base.v + a->size <= b->base.v);
            CHECK(a->base.v + a->size < b->base.v || a->kind != b->kind);
        }
        for (u64 at = 0; at < 90; at++) {
            enum mem_kind want = 0;
            for (unsigned i = 0; i < ARRAY_SIZE(e); i++)
                if (at >= e[i].base && at < e[i].base + e[i].size)
                    want = MAX(want, kind_of(e[i].type));
            CHECK_EQ(kind_at(&out.mem, at), want);
        }
    }
}

TEST(map_with_too_many_ranges_loses_its_top)
{
    static struct mmap_entry e[BOOT_MEM_RANGES + 44];
    for (unsigned i = 0; i < ARRAY_SIZE(e); i++)
        e[i] = (struct mmap_entry){(ARRAY_SIZE(e) - i) * 0x2000ull, 0x1000, 1, 0};
    begin();
    add_mmap(e, ARRAY_SIZE(e));
    CHECK_EQ(parse(), 0);
    CHECK_EQ(out.mem.count, BOOT_MEM_RANGES);
    check_range(0, 0x2000, 0x3000, MEM_USABLE);
    check_range(255, 0x2000 * 256, 0x2000 * 256 + 0x1000, MEM_USABLE);
}

TEST(long_strings_and_many_modules)
{
    char text[900];
    memset(text, 'x', sizeof(text));
    text[899] = 0;
    begin();
    tag(TAG_LOADER, text, 900);
    add_mmap(pc_map, 3);
    text[200] = ' ';
    for (unsigned i = 0; i < BOOT_MODULES + 3; i++)
        add_module(i * 0x1000, i * 0x1000 + 1, i ? "m" : text);
    CHECK_EQ(parse(), 0);
    CHECK(out.string_cut);
    CHECK_EQ(strlen(out.loader), sizeof(out.loader) - 1);
    CHECK_EQ(strlen(out.module[0].name), sizeof(out.module[0].name) - 1);
    CHECK_EQ(strlen(out.module[0].args), sizeof(out.module[0].args) - 1);
    CHECK_EQ(out.modules, BOOT_MODULES);
    CHECK_EQ(out.modules_dropped, 3);
}

TEST(damaged)
{
    static struct mmap_entry many[1];
    begin();
    CHECK_EQ(parse_len(4, 4), MULTIBOOT2_BAD_SIZE);
    CHECK_EQ(parse_len(8, 4), MULTIBOOT2_BAD_SIZE);
    CHECK_EQ(parse_len(16, 24), MULTIBOOT2_BAD_SIZE);
    CHECK_EQ(parse_len(8, 8), MULTIBOOT2_BAD_TAG); // no end tag
    CHECK_EQ(parse(), MULTIBOOT2_NO_MAP);
    begin();
    add_mmap(pc_map, 0);
    CHECK_EQ(parse(), MULTIBOOT2_NO_MAP);
    begin();
    tag(TAG_MMAP, "\1\0\0\0\0\0\0\0", 8); // entries of one byte
    CHECK_EQ(parse(), MULTIBOOT2_BAD_TAG);
    begin();
    add_mmap(many, 1);
    mbi.data[12] = 0xff; // leaves the structure
    mbi.data[13] = 0xff;
    CHECK_EQ(parse(), MULTIBOOT2_BAD_TAG);
    begin();
    tag(TAG_MODULE, "\0\0\0\0", 4);
    CHECK_EQ(parse(), MULTIBOOT2_BAD_TAG);
    begin();
    add_module(0x2000, 0x1000, "backwards");
    CHECK_EQ(parse(), MULTIBOOT2_BAD_TAG);
    begin();
    tag(TAG_RSDP_V2, "short", 5);
    CHECK_EQ(parse(), MULTIBOOT2_BAD_TAG);
    begin();
    tag(TAG_FRAMEBUFFER, "short", 5);
    CHECK_EQ(parse(), MULTIBOOT2_BAD_TAG);
    for (int e = -4; e <= 0; e++)
        CHECK(strlen(multiboot2_error_text(e)) > 5);
}

TEST(string_without_end)
{
    begin();
    add_mmap(pc_map, 3);
    tag(TAG_CMDLINE, "abcdefgh", 8);
    add_module(0, 0, "");
    CHECK_EQ(parse(), 0);
    CHECK(!strcmp(out.cmdline, "abcdefgh"));
}

TEST(every_cut_and_random_damage_is_survived)
{
    begin();
    tag(TAG_CMDLINE, "log=debug a=b", 14);
    add_module(0x200000, 0x200123, "nestor.cfg with args");
    add_mmap(pc_map, 3);
    tag(TAG_END, NULL, 0);
    u32 full = mbi.len;
    for (u32 len = 0; len < full; len++)
        CHECK(parse_len(len, len) != 0);
    static u8 sound[256];
    memcpy(sound, mbi.data, full);
    for (unsigned round = 0; round < 20000; round++) {
        memcpy(mbi.data, sound, full);
        for (unsigned i = 0; i < 3; i++)
            mbi.data[8 + (u32)rand() % (full - 8)] = (u8)rand();
        parse_len(full, full); // the sanitizers judge
    }
}
