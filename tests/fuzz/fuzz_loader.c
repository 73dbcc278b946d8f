// The image loaders on any file. The first byte chooses the VM: its memory, whether there are an
// initrd or modules, and a magic number to spare the fuzzer the search.

#include <stdlib.h>
#include <string.h>

#include "kernel/loader.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define RAM (3 * MIB)

enum choice {
    WITH_INITRD = 1 << 0,
    WITH_MODULES = 1 << 1,
    MAKE_LINUX = 1 << 2,
    MAKE_MULTIBOOT1 = 1 << 3,
    MAKE_MULTIBOOT2 = 1 << 4,
    SPLIT_RAM = 1 << 5,
    MAKE_ELF = 1 << 6,
};

static void put_words(u8 *image, u64 size, u64 offset, const u32 *word, unsigned n)
{
    if (size >= offset + n * sizeof(*word))
        memcpy(image + offset, word, n * sizeof(*word));
}

static u32 word_at(const u8 *image, u64 size, u64 offset)
{
    u32 v = 0;
    if (size >= offset + sizeof(v))
        memcpy(&v, image + offset, sizeof(v));
    return v;
}

static void help(u8 *image, u64 size, u8 choice)
{
    u32 flags = word_at(image, size, 0x104), length = word_at(image, size, 0x108) & 0xfff;
    const u32 mb1[] = {0x1badb002, flags, -(0x1badb002u + flags)};
    const u32 mb2[] = {0xe85250d6, 0, length, -(0xe85250d6 + length)};
    if (choice & MAKE_MULTIBOOT1)
        put_words(image, size, 0x100, mb1, 3);
    if (choice & MAKE_MULTIBOOT2)
        put_words(image, size, 0x100, mb2, 4);
    if (choice & MAKE_ELF && size >= 8)
        memcpy(image, choice & 1 ? "\x7f\x45\x4c\x46\2\1\1" : "\x7f\x45\x4c\x46\1\1\1", 8);
    if (choice & MAKE_LINUX && size >= 0x238) {
        memcpy(image + 0x1fe, "\x55\xaa\xeb\x6aHdrS\x0f\x02", 10);
        image[0x236] |= 1;
        image[0x211] |= 1;
    }
}

// Wherever the VM starts must be memory of the VM.
static void check_start(const struct load *l)
{
    const struct start_state *s = &l->start;
    bool long64 = s->mode == START_LONG64;
    if (long64 && (!guest_ptr(l->mem, GPA(s->rip), 1) || !guest_ptr(l->mem, s->cr3, 0x6000) ||
                   !guest_ptr(l->mem, s->gdt, s->gdt_limit + 1u) ||
                   !guest_ptr(l->mem, GPA(s->rsi), PAGE_SIZE)))
        abort();
    if (!long64 && !guest_ptr(l->mem, GPA(s->rbx), 8))
        abort();
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static const u8 extra[5000];
    static u8 ram[RAM]; // what an earlier run left does no harm
    if (!size)
        return 0;
    u8 choice = data[0], *image = malloc(size);
    memcpy(image, data + 1, --size);
    help(image, size, choice);
    phys_window = ram;
    struct guest_mem mem = {.range = {{GPA(0), HPA(0), RAM}}, .count = 1};
    if (choice & SPLIT_RAM)
        mem = (struct guest_mem){
            .range = {{GPA(0x100000), HPA(0xa0000), RAM - 0xa0000}, {GPA(0), HPA(0), 0xa0000}},
            .count = 2};
    struct load l = {.mem = &mem,
                     .acpi = {GPA(0xe0000), 0x10000},
                     .rsdp = GPA(0xe0000),
                     .kernel = {image, size, "fuzz", NULL},
                     .cmdline = "a b",
                     .loader_name = "fuzzer"};
    if (choice & WITH_INITRD)
        l.initrd = (struct image){extra, sizeof(extra), "initrd", NULL};
    if (choice & WITH_MODULES) {
        l.module[0] = l.module[1] = (struct image){extra, sizeof(extra), "module", "args"};
        l.modules = 2;
    }
    int error = load_image(&l);
    if (error ? !l.error[0] : l.error[0])
        abort();
    if (!error)
        check_start(&l);
    free(image);
    return 0;
}
