#include "kernel/boot_info.h"

#include "libc/string.h"

void mem_map_build(struct mem_map *map, const struct range_source *firmware)
{
    struct range r;
    map->count = 0;
    for (u64 pos = 0; map->count < BOOT_MEM_RANGES && ranges_next(firmware, pos, &r); pos = r.end)
        map->range[map->count++] = (struct mem_range){HPA(r.base), r.end - r.base, r.kind};
}

void boot_string(struct boot_info *info, char *to, size_t size, const char *from, size_t len)
{
    len = strnlen(from, len);
    if (len >= size) {
        len = size - 1;
        info->string_cut = true;
    }
    memcpy(to, from, len);
    to[len] = 0;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

void boot_module_add(struct boot_info *info, hpa_t start, u64 size, const char *string, size_t len)
{
    if (info->modules == BOOT_MODULES) {
        info->modules_dropped++;
        return;
    }
    struct boot_module *m = &info->module[info->modules++];
    m->start = start;
    m->size = size;
    len = strnlen(string, len);
    size_t begin = 0;
    while (begin < len && is_space(string[begin]))
        begin++;
    size_t end = begin;
    while (end < len && !is_space(string[end]))
        end++;
    size_t args = end;
    while (args < len && is_space(string[args]))
        args++;
    boot_string(info, m->name, sizeof(m->name), string + begin, end - begin);
    boot_string(info, m->args, sizeof(m->args), string + args, len - args);
}
