// The image loaders: what they put where in the VM's memory, and what they say about images that do
// not fit or are damaged.

#include "tests/host/loader_world.h"

// ---- The memory map

static void check_e820(const struct e820_map *m, u32 i, u64 base, u64 end, u32 type)
{
    CHECK(i < m->count);
    CHECK_EQ(m->entry[i].base, base);
    CHECK_EQ(m->entry[i].base + m->entry[i].size, end);
    CHECK_EQ(m->entry[i].type, type);
}

TEST(e820_with_acpi_in_the_hole)
{
    struct e820_map m;
    struct guest_mem big = {.range = {{GPA(4 * GIB), HPA(0), GIB}, {GPA(0), HPA(0), 3 * GIB}},
                            .count = 2};
    e820_build(&m, &big, (struct acpi_region){GPA(0xe0000), 0x10000});
    CHECK_EQ(m.count, 6);
    check_e820(&m, 0, 0, 0x9fc00, E820_RAM);
    check_e820(&m, 1, 0x9fc00, 0xe0000, E820_RESERVED);
    check_e820(&m, 2, 0xe0000, 0xf0000, E820_ACPI);
    check_e820(&m, 3, 0xf0000, 0x100000, E820_RESERVED);
    check_e820(&m, 4, 0x100000, 3 * GIB, E820_RAM);
    check_e820(&m, 5, 4 * GIB, 5 * GIB, E820_RAM);
}

TEST(e820_with_acpi_at_the_top_of_ram_or_nowhere)
{
    struct e820_map m;
    struct guest_mem one = {.range = {{GPA(0), HPA(0), 16 * MIB}}, .count = 1};
    e820_build(&m, &one, (struct acpi_region){GPA(15 * MIB), MIB});
    CHECK_EQ(m.count, 4);
    check_e820(&m, 2, MIB, 15 * MIB, E820_RAM);
    check_e820(&m, 3, 15 * MIB, 16 * MIB, E820_ACPI);
    e820_build(&m, &one, (struct acpi_region){GPA(0), 0});
    CHECK_EQ(m.count, 3);
    check_e820(&m, 1, 0x9fc00, MIB, E820_RESERVED);
}

// ---- Finding places

TEST(places)
{
    struct layout y;
    u64 a;
    new_vm(16 * MIB);
    layout_init(&y, &load);
    CHECK(layout_take(&y, 0x100000, 0x100000));
    CHECK(!layout_take(&y, 0x1fffff, 1));
    CHECK(!layout_take(&y, 0x100000, 0));
    CHECK(layout_take(&y, 0x200000, 1));
    CHECK(!layout_take(&y, 0x9f000, 0x1000)); // reaches into the hole
    CHECK(!layout_take(&y, 0xe0000, 1));      // ACPI
    CHECK(!layout_take(&y, 16 * MIB, 1));
    CHECK(!layout_take(&y, 0, ~0ull));
    CHECK(!layout_take(&y, ~0ull, ~0ull));
    struct extent all = {0, ~0ull}, high = {MIB, LOAD_LIMIT};
    CHECK(layout_take_lowest(&y, 0x1000, 0x1000, high, &a));
    CHECK_EQ(a, 0x201000);
    CHECK(layout_take_lowest(&y, 0x90000, 0x10000, all, &a));
    CHECK_EQ(a, 0);
    CHECK(layout_take_highest(&y, 0x1234, 0x1000, all, &a));
    CHECK_EQ(a, 16 * MIB - 0x2000);
    CHECK(layout_take_highest(&y, 0x1000, 0x1000, all, &a));
    CHECK_EQ(a, 16 * MIB - 0x3000);
    struct extent low = {0, 0x202001};
    CHECK(!layout_take_highest(&y, 0x1000, 0x1000, (struct extent){MIB, 0x202fff}, &a));
    CHECK(layout_take_highest(&y, 0x1000, 0x1000, low, &a));
    CHECK_EQ(a, 0x9e000);
    CHECK(!layout_take_lowest(&y, 16 * MIB, 1, all, &a));
    CHECK(!layout_take_highest(&y, 16 * MIB, 1, all, &a));
}

// ---- Linux

TEST(linux_image)
{
    static u8 initrd[5000];
    memset(initrd, 0x5a, sizeof(initrd));
    new_vm(RAM);
    new_bzimage();
    load.initrd = (struct image){initrd, sizeof(initrd), "initrd", NULL};
    CHECK_EQ(image_probe(bz, BZIMAGE_SIZE), IMAGE_LINUX);
    CHECK_EQ(load_bz(), 0);
    struct start_state *s = &load.start;
    CHECK_EQ(s->mode, START_LONG64);
    CHECK_EQ(s->rip, 0x1000200);
    CHECK(!memcmp(at(0x1000000, CODE_SIZE), bz + CODE_OFFSET, CODE_SIZE));
    u64 bp = s->rsi;
    CHECK_EQ(u64_at(bp + 0x70), ACPI_BUILD_BASE);
    CHECK_EQ(*(u8 *)at(bp + 0x1e8, 1), 5);
    CHECK_EQ(*(u8 *)at(bp + 0x1ef, 1), 0); // the sentinel
    CHECK_EQ(u32_at(bp + 0x2d0 + 4 * 20), 0x100000);
    CHECK_EQ(u32_at(bp + 0x2d0 + 4 * 20 + 8), RAM - MIB);
    CHECK_EQ(u32_at(bp + 0x202), 0x53726448);
    CHECK_EQ(*(u8 *)at(bp + 0x210, 1), 0xff);
    CHECK_EQ(u32_at(bp + 0x218), RAM - 0x2000);
    CHECK_EQ(u32_at(bp + 0x21c), sizeof(initrd));
    CHECK(!memcmp(at(RAM - 0x2000, sizeof(initrd)), initrd, sizeof(initrd)));
    CHECK(!strcmp(at(u32_at(bp + 0x228), 8), "a=b c"));
    CHECK_EQ(u64_at(bp + 0x250), 0);
    CHECK_EQ(u32_at(bp + 0x268), 0x12345678); // a field that is newer than this loader
    CHECK_EQ(u32_at(bp + 0x26c), 0);          // beyond the header
}

// Walks the page tables that the loader made.
static u64 translate(u64 cr3, u64 va)
{
    for (unsigned shift = 39;; shift -= 9) {
        u64 e = u64_at((cr3 & ~0xfffull) + (va >> shift & 511) * 8);
        if (!(e & 1))
            return ~0ull;
        if (shift == 21) {
            CHECK((e & 0x82) == 0x82);
            return (e & ~0x1fffffull) + (va & 0x1fffff);
        }
        cr3 = e;
    }
}

TEST(linux_starts_in_long_mode)
{
    new_vm(RAM);
    new_bzimage();
    CHECK_EQ(load_bz(), 0);
    struct start_state *s = &load.start;
    static const u64 places[] = {0,          0x9f000,    0x1000200, 0x3fffffff,
                                 0x40000000, 0xfee00000, 0xffffffff};
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++)
        CHECK_EQ(translate(s->cr3.v, places[i]), places[i]);
    CHECK_EQ(translate(s->cr3.v, 4 * GIB), ~0ull);
    CHECK_EQ(s->code_selector, 0x10);
    CHECK_EQ(s->data_selector, 0x18);
    CHECK_EQ(s->gdt_limit, 31);
    CHECK_EQ(u64_at(s->gdt.v + 0x10), 0x00af9b000000ffff);
    CHECK_EQ(u64_at(s->gdt.v + 0x18), 0x00cf93000000ffff);
    // Everything lies in RAM that the map calls RAM, and nothing on anything else.
    u64 parts[][2] = {{s->cr3.v, 0x6000},
                      {s->gdt.v, 32},
                      {s->rsi, 0x1000},
                      {u32_at(s->rsi + 0x228), 0x4000},
                      {s->rsp - 0x1000, 0x1000}};
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        CHECK(parts[i][0] + parts[i][1] <= 0x9fc00);
        for (unsigned j = 0; j < i; j++)
            CHECK(parts[i][0] >= parts[j][0] + parts[j][1] ||
                  parts[j][0] >= parts[i][0] + parts[i][1]);
    }
}

TEST(linux_goes_elsewhere_if_its_place_is_no_ram)
{
    new_vm(16 * MIB);
    new_bzimage();
    CHECK_EQ(load_bz(), 0);
    CHECK_EQ(load.start.rip, 0x200200);
    poke(bz, 0x234, 0, 1); // not relocatable
    CHECK_FAILS(load_bz(), LOAD_NO_ROOM,
                "needs 8M of memory from 0x1000000: raise the VM's memory");
    new_bzimage();
    poke(bz, 0x260, 15 * MIB, 4);
    CHECK_FAILS(load_bz(), LOAD_NO_ROOM, "needs 15M");
    static const u32 bad_alignments[] = {0, 1, 0x300000, 0x80000000};
    for (unsigned i = 0; i < ARRAY_SIZE(bad_alignments); i++) {
        new_bzimage();
        poke(bz, 0x230, bad_alignments[i], 4);
        CHECK_FAILS(load_bz(), LOAD_NO_ROOM, "needs 8M");
    }
}

TEST(linux_initrd_limits)
{
    static u8 initrd[0x1800];
    new_vm(RAM);
    new_bzimage();
    load.initrd = (struct image){initrd, sizeof(initrd), "initrd", NULL};
    poke(bz, 0x22c, 0xffffff, 4); // below the kernel
    CHECK_EQ(load_bz(), 0);
    CHECK_EQ(u32_at(load.start.rsi + 0x218), 0xffe000);
    poke(bz, 0x22c, 0x100fff, 4); // too little room
    CHECK_FAILS(load_bz(), LOAD_NO_ROOM, "no room for initrd (1M): raise the VM's memory");
    poke(bz, 0x22c, 0xffffffff, 4);
    CHECK_EQ(load_bz(), 0);
    load.initrd.size = ~0ull; // its data is not looked at
    CHECK_FAILS(load_bz(), LOAD_NO_ROOM, "no room for initrd");
}

TEST(linux_refused)
{
    char long_line[2049];
    new_vm(RAM);
    new_bzimage();
    poke(bz, 0x206, 0x20b, 2);
    CHECK_FAILS(load_bz(), LOAD_UNSUPPORTED, "take a 64-bit kernel");
    new_bzimage();
    poke(bz, 0x236, 0, 2);
    CHECK_FAILS(load_bz(), LOAD_UNSUPPORTED, "take a 64-bit kernel");
    new_bzimage();
    poke(bz, 0x211, 0, 1);
    CHECK_FAILS(load_bz(), LOAD_UNSUPPORTED, "take a bzImage");
    new_bzimage();
    CHECK_FAILS(load_bytes(bz, BZIMAGE_SIZE - 16), LOAD_BAD_IMAGE, "is cut short");
    CHECK_FAILS(load_bytes(bz, CODE_OFFSET), LOAD_BAD_IMAGE, "is cut short");
    CHECK_FAILS(load_bytes(bz, 0x240), LOAD_BAD_IMAGE, "too short");
    poke(bz, 0x1f4, 0xffffffff, 4);
    CHECK_FAILS(load_bz(), LOAD_BAD_IMAGE, "is cut short");
    poke(bz, 0x1f4, 0x20, 4);
    CHECK_FAILS(load_bz(), LOAD_BAD_IMAGE, "is cut short");
    new_bzimage();
    poke(bz, 0x201, 0x10, 1);
    CHECK_FAILS(load_bz(), LOAD_BAD_IMAGE, "impossible length");
    poke(bz, 0x201, 0xff, 1);
    CHECK_FAILS(load_bz(), LOAD_BAD_IMAGE, "impossible length");
    new_bzimage();
    memset(long_line, 'x', 2048);
    long_line[2048] = 0;
    load.cmdline = long_line;
    CHECK_FAILS(load_bz(), LOAD_UNSUPPORTED, "at most 2047 characters, not 2048");
    long_line[2047] = 0;
    CHECK_EQ(load_bz(), 0);
    load.modules = 1;
    CHECK_FAILS(load_bz(), LOAD_UNSUPPORTED, "no module");
    load.kernel.name = "image";
    load.kernel.size = 100;
    load.modules = 0;
    CHECK_EQ(load_linux(&load), LOAD_BAD_IMAGE);
}
