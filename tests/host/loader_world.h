#pragma once
// A VM for the image loaders to load into, and a Linux image, for the tests of the loaders.

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
