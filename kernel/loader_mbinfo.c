// The information that a Multiboot image finds at EBX ("Boot information format" in both
// specifications).

#include "kernel/loader_internal.h"
#include "libc/string.h"

#define MB1_MMAP_ENTRY_SIZE sizeof(struct e820_entry) // as the entry's size field counts it
#define RSDP_V0_SIZE        20u
#define RSDP_V2_SIZE        36u

enum mb1_info_flags {
    MB1_INFO_MEMORY = 1 << 0,
    MB1_INFO_CMDLINE = 1 << 2,
    MB1_INFO_MODULES = 1 << 3,
    MB1_INFO_MMAP = 1 << 6,
    MB1_INFO_LOADER_NAME = 1 << 9,
};

struct mb1_info {
    u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
    u32 syms[4];
    u32 mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name;
};

struct mb1_module {
    u32 start, end, string, reserved;
};

struct mb1_mmap_entry {
    u32 size;
    struct e820_entry e;
} PACKED;

enum mb2_info_type {
    MB2_INFO_END = 0,
    MB2_INFO_CMDLINE = 1,
    MB2_INFO_LOADER_NAME = 2,
    MB2_INFO_MODULE = 3,
    MB2_INFO_MEMORY = 4,
    MB2_INFO_MMAP = 6,
    MB2_INFO_RSDP_V0 = 14,
    MB2_INFO_RSDP_V2 = 15,
    MB2_INFO_LOAD_BASE = 21,
};

// Writes upwards from `at`; without `mem` it only counts. Both structures are made twice by the
// same code, for their size and for their content.
struct writer {
    const struct guest_mem *mem;
    u64 at;
};

static void put(struct writer *w, const void *data, u64 n)
{
    if (w->mem)
        guest_write(w->mem, GPA(w->at), data, n);
    w->at += n;
}

static void put_u32(struct writer *w, u32 v)
{
    put(w, &v, sizeof(v));
}

static void put_align(struct writer *w)
{
    put(w, "\0\0\0\0\0\0\0", align_up(w->at, 8) - w->at);
}

// "name args", or either alone, with a NUL. Returns its address.
static u32 put_string(struct writer *w, const char *name, const char *args)
{
    u64 at = w->at, n = name ? strlen(name) : 0;
    put(w, name, n);
    if (args && args[0]) {
        put(w, " ", n ? 1 : 0);
        put(w, args, strlen(args));
    }
    put(w, "", 1);
    return (u32)at;
}

static u32 lower_kib(void)
{
    return LOW_MEMORY_END / KIB;
}

// RAM from 1M to the first hole.
static u32 upper_kib(const struct e820_map *map)
{
    for (u32 i = 0; i < map->count; i++)
        if (map->entry[i].type == E820_RAM && map->entry[i].base == HIGH_MEMORY)
            return (u32)MIN(map->entry[i].size / KIB, 0xffffffffull);
    return 0;
}

static u32 module_end(const struct multiboot_info *info, u32 i)
{
    return (u32)(info->module[i] + info->load->module[i].size);
}

static u32 put_mb1_modules(struct writer *w, const struct multiboot_info *info)
{
    struct mb1_module m[LOAD_MODULES] = {0};
    u32 n = info->load->modules;
    for (u32 i = 0; i < n; i++) {
        const struct image *file = &info->load->module[i];
        m[i] = (struct mb1_module){(u32)info->module[i], module_end(info, i),
                                   put_string(w, file->name, file->args), 0};
    }
    put_align(w);
    u64 at = w->at;
    put(w, m, n * sizeof(m[0]));
    return (u32)at;
}

static u32 put_mb1_mmap(struct writer *w, const struct e820_map *map)
{
    u64 at = w->at;
    for (u32 i = 0; i < map->count; i++) {
        struct mb1_mmap_entry e = {MB1_MMAP_ENTRY_SIZE, map->entry[i]};
        put(w, &e, sizeof(e));
    }
    return (u32)at;
}

// The parts come first, so that the structure can tell their addresses. Returns its own.
static u64 put_mb1(struct writer *w, const struct multiboot_info *info)
{
    const struct load *l = info->load;
    struct mb1_info i = {.flags = MB1_INFO_MEMORY | MB1_INFO_CMDLINE | MB1_INFO_MODULES |
                                  MB1_INFO_MMAP | MB1_INFO_LOADER_NAME,
                         .mem_lower = lower_kib(),
                         .mem_upper = upper_kib(info->e820),
                         .mods_count = l->modules};
    i.cmdline = put_string(w, l->kernel.name, l->cmdline);
    i.boot_loader_name = put_string(w, l->loader_name, NULL);
    i.mods_addr = put_mb1_modules(w, info);
    i.mmap_addr = put_mb1_mmap(w, info->e820);
    i.mmap_length = (u32)(w->at - i.mmap_addr);
    put_align(w);
    u64 at = w->at;
    put(w, &i, sizeof(i));
    return at;
}

static void put_tag(struct writer *w, u32 type, u64 body)
{
    put_u32(w, type);
    put_u32(w, (u32)(8 + body));
}

static void put_string_tag(struct writer *w, u32 type, const char *name, const char *args)
{
    struct writer count = {NULL, 0};
    put_string(&count, name, args);
    put_tag(w, type, count.at);
    put_string(w, name, args);
    put_align(w);
}

static void put_module_tag(struct writer *w, const struct multiboot_info *info, u32 i)
{
    const struct image *file = &info->load->module[i];
    struct writer count = {NULL, 0};
    put_string(&count, file->name, file->args);
    put_tag(w, MB2_INFO_MODULE, 8 + count.at);
    put_u32(w, (u32)info->module[i]);
    put_u32(w, module_end(info, i));
    put_string(w, file->name, file->args);
    put_align(w);
}

static void put_mmap_tag(struct writer *w, const struct e820_map *map)
{
    const u32 entry_size = sizeof(struct e820_entry) + 4;
    put_tag(w, MB2_INFO_MMAP, 8 + (u64)map->count * entry_size);
    put_u32(w, entry_size);
    put_u32(w, 0); // version
    for (u32 i = 0; i < map->count; i++) {
        put(w, &map->entry[i], sizeof(map->entry[i]));
        put_u32(w, 0);
    }
}

static void put_rsdp_tag(struct writer *w, const struct load *l, u32 type, u32 size)
{
    u8 rsdp[RSDP_V2_SIZE];
    if (!l->rsdp.v || !guest_read(l->mem, rsdp, l->rsdp, size))
        return;
    put_tag(w, type, size);
    put(w, rsdp, size);
    put_align(w);
}

static u64 put_mb2(struct writer *w, const struct multiboot_info *info, u32 total)
{
    const struct load *l = info->load;
    u64 at = w->at;
    put_u32(w, total);
    put_u32(w, 0);
    put_string_tag(w, MB2_INFO_CMDLINE, l->kernel.name, l->cmdline);
    put_string_tag(w, MB2_INFO_LOADER_NAME, l->loader_name, NULL);
    for (u32 i = 0; i < l->modules; i++)
        put_module_tag(w, info, i);
    put_tag(w, MB2_INFO_MEMORY, 8);
    put_u32(w, lower_kib());
    put_u32(w, upper_kib(info->e820));
    put_mmap_tag(w, info->e820);
    put_rsdp_tag(w, l, MB2_INFO_RSDP_V0, RSDP_V0_SIZE);
    put_rsdp_tag(w, l, MB2_INFO_RSDP_V2, RSDP_V2_SIZE);
    if (info->has_load_base) {
        put_tag(w, MB2_INFO_LOAD_BASE, 4);
        put_u32(w, info->load_base);
        put_align(w);
    }
    put_tag(w, MB2_INFO_END, 0);
    return at;
}

// Low memory above its first 64K is where boot loaders usually put it, and kernels leave it alone.
static bool take_place(struct layout *y, u64 size, u64 *at)
{
    struct extent within = {0x10000, LOAD_LIMIT};
    return layout_take_lowest(y, size, PAGE_SIZE, within, at);
}

bool multiboot1_info(const struct multiboot_info *info, struct layout *y, u64 *at)
{
    struct writer count = {NULL, 0}, w = {info->load->mem, 0};
    put_mb1(&count, info);
    if (!take_place(y, count.at, &w.at))
        return false;
    *at = put_mb1(&w, info);
    return true;
}

bool multiboot2_info(const struct multiboot_info *info, struct layout *y, u64 *at)
{
    struct writer count = {NULL, 0}, w = {info->load->mem, 0};
    put_mb2(&count, info, 0);
    if (!take_place(y, count.at, &w.at))
        return false;
    *at = put_mb2(&w, info, (u32)count.at);
    return true;
}
