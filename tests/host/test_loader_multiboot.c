// The Multiboot loaders: what they put where in the VM's memory, and what they say about images
// that do not fit or are damaged.

#include "tests/host/loader_world.h"

// ---- Multiboot

#define HEADER 0x100 // of the file

static u8 img[0x4000];

// An ELF file with one segment: the bytes from 0x1000 on, at `paddr`, linked for `vaddr`.
static void new_elf(bool wide, u64 vaddr, u64 paddr)
{
    for (unsigned i = 0; i < sizeof(img); i++)
        img[i] = i < 0x1000 ? 0 : (u8)(i * 5 + 1);
    memcpy(img,
           wide ? "\x7f"
                  "ELF\2\1\1"
                : "\x7f"
                  "ELF\1\1\1",
           7);
    poke(img, 16, 2, 2);
    poke(img, 18, wide ? 62 : 3, 2);
    if (wide) {
        poke(img, 24, vaddr + 0x10, 8);
        poke(img, 32, 64, 8);
        poke(img, 54, 56, 2);
        poke(img, 56, 1, 2);
        u64 ph[] = {1 | 5ull << 32, 0x1000, vaddr, paddr, 0x2000, 0x2800, 0x1000};
        memcpy(img + 64, ph, sizeof(ph));
    } else {
        poke(img, 24, vaddr + 0x10, 4);
        poke(img, 28, 52, 4);
        poke(img, 42, 32, 2);
        poke(img, 44, 1, 2);
        u32 ph[] = {1, 0x1000, (u32)vaddr, (u32)paddr, 0x2000, 0x2800, 5, 0x1000};
        memcpy(img + 52, ph, sizeof(ph));
    }
}

static void mb1_header(u32 flags)
{
    u32 h[] = {0x1badb002, flags, -(0x1badb002 + flags)};
    memcpy(img + HEADER, h, sizeof(h));
}

// A Multiboot2 header with these words as its tags.
static void mb2_header(const u32 *tags, u32 words)
{
    u32 length = 16 + words * 4 + 8, end[] = {0, 8};
    u32 h[] = {0xe85250d6, 0, length, -(0xe85250d6 + length)};
    memcpy(img + HEADER, h, sizeof(h));
    if (words)
        memcpy(img + HEADER + 16, tags, words * 4);
    memcpy(img + HEADER + 16 + words * 4, end, 8);
}

#define MB2(...) mb2_header((u32[]){__VA_ARGS__}, sizeof((u32[]){__VA_ARGS__}) / 4)

static int load_img(void)
{
    return load_bytes(img, sizeof(img));
}

static u8 module_a[0x1800], module_b[16];

static void add_modules(void)
{
    memset(module_a, 0xaa, sizeof(module_a));
    memset(module_b, 0xbb, sizeof(module_b));
    load.module[0] = (struct image){module_a, sizeof(module_a), "a.img", "x y"};
    load.module[1] = (struct image){module_b, sizeof(module_b), "b.img", NULL};
    load.modules = 2;
}

static void check_segment(u64 base)
{
    CHECK(!memcmp(at(base, 0x2000), img + 0x1000, 0x2000));
    for (unsigned i = 0; i < 0x800; i++)
        CHECK(!*(u8 *)at(base + 0x2000 + i, 1));
}

TEST(multiboot1_elf32)
{
    new_vm(RAM);
    new_elf(false, 0x200000, 0x200000);
    mb1_header(3);
    add_modules();
    memset(at(0x200000, 0x3000), 0xff, 0x3000); // .bss must be cleared
    CHECK_EQ(image_probe(img, sizeof(img)), IMAGE_MULTIBOOT1);
    CHECK_EQ(load_img(), 0);
    struct start_state *s = &load.start;
    CHECK_EQ(s->mode, START_PROTECTED32);
    CHECK_EQ(s->rip, 0x200010);
    CHECK_EQ(s->rax, 0x2badb002);
    check_segment(0x200000);
    u64 i = s->rbx;
    CHECK_EQ(u32_at(i), 0x24d);
    CHECK_EQ(u32_at(i + 4), 639);
    CHECK_EQ(u32_at(i + 8), RAM / KIB - 1024);
    CHECK(!strcmp(at(u32_at(i + 16), 20), "image a=b c"));
    CHECK_EQ(u32_at(i + 20), 2);
    u64 m = u32_at(i + 24);
    CHECK_EQ(u32_at(m), 0x203000);
    CHECK_EQ(u32_at(m + 4), 0x204800);
    CHECK(!strcmp(at(u32_at(m + 8), 20), "a.img x y"));
    CHECK_EQ(u32_at(m + 16), 0x205000);
    CHECK_EQ(u32_at(m + 20), 0x205010);
    CHECK(!strcmp(at(u32_at(m + 24), 20), "b.img"));
    CHECK(!memcmp(at(0x203000, 0x1800), module_a, 0x1800));
    CHECK(!memcmp(at(0x205000, 16), module_b, 16));
    CHECK_EQ(u32_at(i + 44), 5 * 24);
    u64 map = u32_at(i + 48);
    CHECK_EQ(u32_at(map), 20);
    CHECK_EQ(u64_at(map + 4 + 4 * 24), MIB);
    CHECK_EQ(u64_at(map + 12 + 4 * 24), RAM - MIB);
    CHECK_EQ(u32_at(map + 20 + 4 * 24), 1);
    CHECK(!strcmp(at(u32_at(i + 64), 20), "Nestor"));
}

TEST(multiboot1_elf64_linked_high)
{
    new_vm(RAM);
    new_elf(true, 0xffffffff80000000, 0x100000);
    mb1_header(0);
    CHECK_EQ(load_img(), 0);
    CHECK_EQ(load.start.rip, 0x100010); // physical
    check_segment(0x100000);
}

TEST(multiboot1_addresses)
{
    new_vm(RAM);
    new_elf(true, 0, 0); // which is not to be looked at
    mb1_header(0x10000);
    u32 a[] = {0x300100, 0x300000, 0x303000, 0x304000, 0x300200};
    memcpy(img + HEADER + 12, a, sizeof(a));
    memset(at(0x300000, 0x5000), 0xff, 0x5000);
    CHECK_EQ(load_img(), 0);
    CHECK_EQ(load.start.rip, 0x300200);
    CHECK(!memcmp(at(0x300000, 0x3000), img, 0x3000));
    CHECK_EQ(u32_at(0x303000), 0);
    CHECK_EQ(u32_at(0x303ffc), 0);
    CHECK_EQ(u32_at(0x304000), 0xffffffff);
    a[1] = 0x300040; // from the middle of the file to its end
    a[2] = a[3] = 0;
    memcpy(img + HEADER + 12, a, sizeof(a));
    CHECK_EQ(load_img(), 0);
    CHECK(!memcmp(at(0x300040, sizeof(img) - 0x40), img + 0x40, sizeof(img) - 0x40));
    a[1] = 0x200000; // before the file's start
    memcpy(img + HEADER + 12, a, sizeof(a));
    CHECK_FAILS(load_img(), LOAD_BAD_IMAGE, "impossible addresses");
    a[1] = 0x300101; // behind the header
    memcpy(img + HEADER + 12, a, sizeof(a));
    CHECK_FAILS(load_img(), LOAD_BAD_IMAGE, "impossible addresses");
    a[1] = 0x300000;
    a[2] = 0x304001;
    memcpy(img + HEADER + 12, a, sizeof(a));
    CHECK_FAILS(load_img(), LOAD_BAD_IMAGE, "is cut short");
    CHECK_FAILS(load_bytes(img, HEADER + 20), LOAD_BAD_IMAGE, "header is cut short");
}

TEST(multiboot1_refused)
{
    new_vm(RAM);
    new_elf(false, 0x200000, 0x200000);
    mb1_header(7);
    CHECK_FAILS(load_img(), LOAD_UNSUPPORTED, "video mode");
    mb1_header(0x8003);
    CHECK_FAILS(load_img(), LOAD_UNSUPPORTED, "flags 0x8000");
    load.initrd.size = 1;
    CHECK_FAILS(load_img(), LOAD_UNSUPPORTED, "no initrd");
}

// The body of the Multiboot2 information tag of this type, or 0.
static u64 find_tag(u32 type, unsigned index)
{
    u64 base = load.start.rbx, total = u32_at(base);
    for (u64 a = 8; a < total; a += align_up(u32_at(base + a + 4), 8)) {
        CHECK(u32_at(base + a + 4) >= 8);
        if (u32_at(base + a) == type && !index--)
            return base + a + 8;
    }
    return 0;
}

TEST(multiboot2_elf64)
{
    new_vm(RAM);
    new_elf(true, 0x400000, 0x400000);
    // Required: information request for memory and map; optional: a screen, a framebuffer, EFI.
    MB2(1, 16, 4, 6, 1 << 16 | 4, 12, 1, 0, 1 << 16 | 5, 20, 0, 0, 0, 0, 7, 8, 6, 8, 1 << 16 | 99,
        8);
    add_modules();
    CHECK_EQ(image_probe(img, sizeof(img)), IMAGE_MULTIBOOT2);
    CHECK_EQ(load_img(), 0);
    CHECK_EQ(load.start.rax, 0x36d76289);
    CHECK_EQ(load.start.rip, 0x400010);
    CHECK_EQ(load.start.rbx % 8, 0);
    check_segment(0x400000);
    CHECK(!strcmp(at(find_tag(1, 0), 20), "image a=b c"));
    CHECK(!strcmp(at(find_tag(2, 0), 20), "Nestor"));
    CHECK_EQ(u32_at(find_tag(3, 0)), 0x403000);
    CHECK_EQ(u32_at(find_tag(3, 0) + 4), 0x404800);
    CHECK(!strcmp(at(find_tag(3, 0) + 8, 20), "a.img x y"));
    CHECK_EQ(u32_at(find_tag(3, 1)), 0x405000);
    CHECK(!strcmp(at(find_tag(3, 1) + 8, 20), "b.img"));
    CHECK(!find_tag(3, 2) && !find_tag(21, 0));
    CHECK_EQ(u32_at(find_tag(4, 0)), 639);
    u64 map = find_tag(6, 0);
    CHECK_EQ(u32_at(map), 24);
    CHECK_EQ(u32_at(map - 4), 16 + 5 * 24);
    CHECK_EQ(u64_at(map + 8 + 4 * 24), MIB);
    CHECK(!memcmp(at(find_tag(15, 0), 36), at(ACPI_BUILD_BASE, 36), 36));
    CHECK(!memcmp(at(find_tag(14, 0), 20), at(ACPI_BUILD_BASE, 20), 20));
    u64 end = find_tag(0, 0);
    CHECK_EQ(end, load.start.rbx + u32_at(load.start.rbx));
}

TEST(multiboot2_is_preferred_and_its_entry_tag_counts)
{
    const u32 first[] = {0x1badb002, 3, -(0x1badb002u + 3)};
    new_vm(RAM);
    new_elf(false, 0x200000, 0x200000);
    memcpy(img + 0x80, first, sizeof(first));
    CHECK_EQ(image_probe(img, sizeof(img)), IMAGE_MULTIBOOT1);
    MB2(3, 12, 0x200abc, 0);
    CHECK_EQ(image_probe(img, sizeof(img)), IMAGE_MULTIBOOT2);
    CHECK_EQ(load_img(), 0);
    CHECK_EQ(load.start.rip, 0x200abc);
    CHECK_EQ(load.start.rax, 0x36d76289);
}

TEST(multiboot2_addresses)
{
    new_vm(RAM);
    new_elf(false, 0, 0);
    MB2(2, 24, 0x300100, 0xffffffff, 0, 0, 3, 12, 0x300200, 0);
    CHECK_EQ(load_img(), 0);
    CHECK_EQ(load.start.rip, 0x300200);
    CHECK(!memcmp(at(0x300000, sizeof(img)), img, sizeof(img)));
    MB2(2, 24, 0x80, 0xffffffff, 0, 0, 3, 12, 0x300200, 0);
    CHECK_FAILS(load_img(), LOAD_BAD_IMAGE, "impossible addresses");
    MB2(2, 24, 0x300100, 0x300000, 0, 0);
    CHECK_FAILS(load_img(), LOAD_BAD_IMAGE, "no entry");
}

TEST(multiboot2_relocation)
{
    new_vm(16 * MIB);
    new_elf(true, 0x8000000, 0x8000000); // far above the VM's memory
    MB2(6, 8);
    CHECK_FAILS(load_img(), LOAD_NO_ROOM,
                "needs 0x8000000-0x8002800, where the VM has no free RAM");
    MB2(10, 24, 0x300000, 0xffffffff, 0x200000, 0);
    CHECK_EQ(load_img(), 0);
    check_segment(0x400000);
    CHECK_EQ(load.start.rip, 0x400010);
    CHECK_EQ(u32_at(find_tag(21, 0)), 0x400000);
    MB2(10, 24, 0x300000, 0x401fff, 0x200000, 0);
    CHECK_FAILS(load_img(), LOAD_NO_ROOM, "no free RAM");
    MB2(10, 24, 0x300000, 0xffffffff, 0x300000, 0); // no power of two
    CHECK_FAILS(load_img(), LOAD_NO_ROOM, "no free RAM");
}

TEST(multiboot2_refused)
{
    new_vm(RAM);
    new_elf(true, 0x400000, 0x400000);
    MB2(5, 20, 0, 0, 0, 0);
    CHECK_FAILS(load_img(), LOAD_UNSUPPORTED, "framebuffer");
    MB2(4, 12, 1, 0);
    CHECK_FAILS(load_img(), LOAD_UNSUPPORTED, "screen");
    MB2(4, 12, 2, 0);
    CHECK_EQ(load_img(), 0);
    MB2(99, 8);
    CHECK_FAILS(load_img(), LOAD_UNSUPPORTED, "type 99");
    MB2(1, 12, 8, 0);
    CHECK_FAILS(load_img(), LOAD_UNSUPPORTED, "boot information of type 8");
    MB2(6, 7);
    CHECK_FAILS(load_img(), LOAD_BAD_IMAGE, "damaged");
    MB2(6, 64);
    CHECK_FAILS(load_img(), LOAD_BAD_IMAGE, "damaged");
    mb2_header(NULL, 0);
    u32 length = sizeof(img), sum = -(0xe85250d6 + length);
    poke(img, HEADER + 8, length, 4);
    poke(img, HEADER + 12, sum, 4);
    CHECK_FAILS(load_img(), LOAD_BAD_IMAGE, "leaves the file");
    length = 16; // no end tag
    poke(img, HEADER + 8, length, 4);
    poke(img, HEADER + 12, -(0xe85250d6 + length), 4);
    CHECK_FAILS(load_img(), LOAD_BAD_IMAGE, "damaged");
}

TEST(elf_errors)
{
    new_vm(RAM);
    new_elf(true, 0x400000, 0x400000);
    mb1_header(0);
    poke(img, 18, 183, 2); // another machine
    CHECK_FAILS(load_img(), LOAD_BAD_IMAGE, "no ELF file for x86");
    static const struct {
        u64 offset, value;
        int error;
        const char *text;
    } bad[] = {
        {32, ~0ull, LOAD_BAD_IMAGE, "no ELF file"},              // e_phoff
        {32, 0x3fd0, LOAD_BAD_IMAGE, "no ELF file"},             // the table leaves the file
        {64 + 8, ~0ull - 4, LOAD_BAD_IMAGE, "outside the file"}, // p_offset
        {64 + 8, 0x2001, LOAD_BAD_IMAGE, "outside the file"},    //
        {64 + 24, 0xfffff000, LOAD_BAD_IMAGE, "above 4G"},       // p_paddr
        {64 + 24, ~0ull - 0xfff, LOAD_BAD_IMAGE, "above 4G"},    //
        {64 + 32, 0x2801, LOAD_BAD_IMAGE, "outside the file"},   // p_filesz > p_memsz
        {64 + 40, ~0ull, LOAD_BAD_IMAGE, "above 4G"},            // p_memsz
        {64 + 40, RAM, LOAD_NO_ROOM, "raise its memory"},        //
        {64 + 24, 0x9f000, LOAD_NO_ROOM, "0x9f000-0xa1800"},     // into the hole
        {64 + 24, 0xe0000, LOAD_NO_ROOM, "no free RAM"},         // onto the ACPI tables
        {64, 2, LOAD_BAD_IMAGE, "no segment"},                   // no PT_LOAD
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        new_elf(true, 0x400000, 0x400000);
        mb1_header(0);
        poke(img, bad[i].offset, bad[i].value, 8);
        CHECK_FAILS(load_img(), bad[i].error, bad[i].text);
    }
    new_elf(false, 0x400000, 0x400000);
    mb1_header(0);
    poke(img, 42, 31, 2); // e_phentsize
    CHECK_FAILS(load_img(), LOAD_BAD_IMAGE, "no ELF file");
}

TEST(segments_that_overlap_or_are_too_many)
{
    new_vm(RAM);
    new_elf(false, 0x400000, 0x400000);
    memset(img + 52, 0, 0xa00);
    poke(img, 44, 40, 2);
    for (u32 i = 0; i < 40; i++) {
        u32 ph[] = {1, 0x1000, 0x400000, 0x400000 + i * 0x1000, 0x10, 0x1000, 5, 0};
        memcpy(img + 52 + i * 32, ph, 32);
    }
    u32 h1[] = {0x1badb002, 0, -0x1badb002u};
    memcpy(img + 0x800, h1, 12);
    CHECK_FAILS(load_img(), LOAD_UNSUPPORTED, "more than 32 segments");
    poke(img, 44, 32, 2);
    CHECK_EQ(load_img(), 0);
    CHECK(!memcmp(at(0x41f000, 16), img + 0x1000, 16));
    poke(img, 52 + 12 + 32, 0x400fff, 4);
    CHECK_FAILS(load_img(), LOAD_NO_ROOM, "0x400fff-0x401fff");
}

TEST(modules_that_do_not_fit)
{
    new_vm(8 * MIB);
    new_elf(false, 0x400000, 0x400000);
    mb1_header(0);
    add_modules();
    load.module[1].size = 5 * MIB; // its data is not looked at
    CHECK_FAILS(load_img(), LOAD_NO_ROOM, "no room for module b.img (6M): raise the VM's memory");
    load.module[1].size = ~0ull;
    CHECK_FAILS(load_img(), LOAD_NO_ROOM, "no room for module b.img");
    load.modules = LOAD_MODULES + 1;
    CHECK_FAILS(load_img(), LOAD_UNSUPPORTED, "at most 16 modules");
}

TEST(no_kernel)
{
    new_vm(RAM);
    memset(img, 0x90, sizeof(img));
    CHECK_EQ(image_probe(img, sizeof(img)), IMAGE_UNKNOWN);
    CHECK_FAILS(load_img(), LOAD_BAD_IMAGE, "is no kernel");
    CHECK_FAILS(load_bytes(img, 0), LOAD_BAD_IMAGE, "is no kernel");
    mb1_header(0);
    img[HEADER + 8] ^= 1; // checksum
    CHECK_FAILS(load_img(), LOAD_BAD_IMAGE, "is no kernel");
    memset(img, 0, sizeof(img));
    static u8 late[10000];
    new_elf(false, 0x400000, 0x400000);
    u32 h1[] = {0x1badb002, 0, -0x1badb002u};
    memcpy(late + 8184, h1, 12); // ends beyond the first 8192 bytes
    CHECK_EQ(image_probe(late, sizeof(late)), IMAGE_UNKNOWN);
    memset(late, 0, sizeof(late));
    memcpy(late + 8180, h1, 12);
    CHECK_EQ(image_probe(late, sizeof(late)), IMAGE_MULTIBOOT1);
}

TEST(memory_in_several_ranges)
{
    new_vm(16 * MIB);
    mem = (struct guest_mem){.range = {{GPA(0), HPA(0x1000), 0xa0000},
                                       {GPA(0xc0000), HPA(0x1000 + 0xc0000), 0x40000},
                                       {GPA(0x100000), HPA(0x1000 + 0x100000), 15 * MIB}},
                             .count = 3};
    new_elf(false, 0x200000, 0x200000);
    mb1_header(3);
    CHECK_EQ(load_img(), 0);
    check_segment(0x200000);
    new_bzimage();
    CHECK_EQ(load_bz(), 0);
    CHECK_EQ(load.start.rip, 0x200200);
}

TEST(random_damage_is_survived)
{
    for (unsigned kind = 0; kind < 3; kind++) {
        static u8 sound[sizeof(img)];
        new_vm(4 * MIB);
        add_modules();
        new_elf(kind == 1, 0x200000, 0x200000);
        if (kind)
            MB2(10, 24, 0x300000, 0xffffffff, 0x1000, 0, 2, 24, 0x300100, 0x300000, 0, 0x301000, 3,
                12, 0x300010, 0);
        else
            mb1_header(3);
        memcpy(sound, img, sizeof(img));
        for (unsigned round = 0; round < 2000; round++) {
            memcpy(img, sound, sizeof(img));
            for (unsigned i = 0; i < 3; i++)
                img[(unsigned)rand() % (HEADER + 80)] = (u8)rand();
            load_img(); // the sanitizers judge
        }
    }
    new_vm(24 * MIB);
    for (unsigned round = 0; round < 500; round++) {
        new_bzimage();
        for (unsigned i = 0; i < 3; i++)
            bz[0x1f1 + (unsigned)rand() % 0x80] = (u8)rand();
        load_bz();
    }
}
