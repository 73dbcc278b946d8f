// The image loaders: what they put where in the VM's memory, and what they say about images that do
// not fit or are damaged.

#include "kernel/acpi_build.h"
#include "kernel/loader_internal.h"
#include "tests/host/test.h"

#define RAM (64 * MIB)

static struct guest_mem mem;
static struct load load;

// ---- A VM of `size` bytes of RAM from 0, at host-physical 0x1000

static void new_vm(u64 size)
{
    free(phys_window);
    phys_window = calloc(1, size + 0x1000);
    mem = (struct guest_mem){.range = {{GPA(0), HPA(0x1000), size}}, .count = 1};
    load = (struct load){.mem = &mem,
                         .acpi = {GPA(ACPI_BUILD_BASE), ACPI_BUILD_SIZE},
                         .rsdp = GPA(ACPI_BUILD_BASE),
                         .cmdline = "a=b c",
                         .loader_name = "Nestor"};
    for (unsigned i = 0; i < 36; i++)
        phys_window[0x1000 + ACPI_BUILD_BASE + i] = (u8)(0xc0 + i);
}

static void *at(u64 gpa, u64 len)
{
    void *p = guest_ptr(&mem, GPA(gpa), len);
    if (!p) {
        printf("no guest memory at 0x%llx\n", (unsigned long long)gpa);
        exit(1);
    }
    return p;
}

static u32 u32_at(u64 gpa)
{
    u32 v;
    memcpy(&v, at(gpa, 4), 4);
    return v;
}

static u64 u64_at(u64 gpa)
{
    u64 v;
    memcpy(&v, at(gpa, 8), 8);
    return v;
}

static void poke(u8 *image, u64 offset, u64 v, unsigned size)
{
    memcpy(image + offset, &v, size);
}

// Loads a copy of exactly the right size, so that reads beyond it are seen.
static int load_bytes(const u8 *data, u64 size)
{
    u8 *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    load.kernel = (struct image){copy, size, "image", NULL};
    load.error[0] = 0;
    int r = load_image(&load);
    free(copy);
    return r;
}

#define CHECK_FAILS(call, code, text)                                                              \
    do {                                                                                           \
        CHECK_EQ(call, code);                                                                      \
        CHECK(strstr(load.error, text));                                                           \
        CHECK(!strncmp(load.error, "image: ", 7));                                                 \
        if (!strstr(load.error, text))                                                             \
            printf("said \"%s\"\n", load.error);                                                   \
    } while (0)

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

#define SETUP_SECTS  4
#define CODE_OFFSET  ((SETUP_SECTS + 1) * 512)
#define CODE_SIZE    0x3000
#define BZIMAGE_SIZE (CODE_OFFSET + CODE_SIZE)

static u8 bz[BZIMAGE_SIZE];

static void new_bzimage(void)
{
    for (unsigned i = 0; i < BZIMAGE_SIZE; i++)
        bz[i] = i < CODE_OFFSET ? 0 : (u8)(i * 7);
    poke(bz, 0x1f1, SETUP_SECTS, 1);
    poke(bz, 0x1f4, CODE_SIZE / 16, 4);
    poke(bz, 0x1fe, 0xaa55, 2);
    poke(bz, 0x200, 0x6aeb, 2); // jump over the header, which ends at 0x26c
    memcpy(bz + 0x202, "HdrS", 4);
    poke(bz, 0x206, 0x20f, 2);
    poke(bz, 0x211, 1, 1);
    poke(bz, 0x22c, 0x7fffffff, 4);
    poke(bz, 0x230, 0x200000, 4);
    poke(bz, 0x234, 1, 1);
    poke(bz, 0x236, 0x3f, 2);
    poke(bz, 0x238, 2047, 4);
    poke(bz, 0x250, 0xdead, 8); // setup_data: not for the loader to believe
    poke(bz, 0x258, 0x1000000, 8);
    poke(bz, 0x260, 0x800000, 4);
    poke(bz, 0x268, 0x12345678, 4);
}

static int load_bz(void)
{
    return load_bytes(bz, BZIMAGE_SIZE);
}

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
