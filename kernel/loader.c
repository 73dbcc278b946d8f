#include "kernel/loader_internal.h"

#include "libc/printf.h"
#include "libc/ranges.h"
#include "libc/string.h"

struct e820_source {
    const struct guest_mem *mem;
    struct acpi_region acpi;
};

// The types' numbers are in the order of their strength, as ranges.h wants it.
static struct range e820_source_get(const void *ctx, unsigned i)
{
    const struct e820_source *s = ctx;
    if (i == 0)
        return (struct range){LOW_MEMORY_END, HIGH_MEMORY, E820_RESERVED};
    if (i == 1)
        return (struct range){s->acpi.base.v, range_end(s->acpi.base.v, s->acpi.size), E820_ACPI};
    const struct ram_range *r = &s->mem->range[i - 2];
    return (struct range){r->gpa.v, range_end(r->gpa.v, r->size), E820_RAM};
}

void e820_build(struct e820_map *map, const struct guest_mem *mem, struct acpi_region acpi)
{
    struct e820_source s = {mem, acpi};
    struct range_source source = {e820_source_get, &s, mem->count + 2};
    struct range r;
    map->count = 0;
    for (u64 pos = 0; map->count < E820_ENTRIES && ranges_next(&source, pos, &r); pos = r.end)
        map->entry[map->count++] = (struct e820_entry){r.base, r.end - r.base, r.kind};
}

void layout_init(struct layout *y, const struct load *l)
{
    memset(y, 0, sizeof(*y));
    e820_build(&y->e820, l->mem, l->acpi);
}

// The RAM of the i-th entry of the map below LOAD_LIMIT; empty if it is no RAM.
static struct extent ram_of(const struct layout *y, u32 i)
{
    const struct e820_entry *e = &y->e820.entry[i];
    struct extent ram = {e->base, MIN(e->base + e->size, LOAD_LIMIT)};
    if (e->type != E820_RAM || ram.base >= ram.end)
        return (struct extent){0, 0};
    return ram;
}

static const struct extent *overlap(const struct layout *y, u64 base, u64 size)
{
    for (u32 i = 0; i < y->count; i++)
        if (base < y->used[i].end && y->used[i].base < base + size)
            return &y->used[i];
    return NULL;
}

static bool fits(struct extent in, u64 base, u64 size)
{
    return base >= in.base && base < in.end && size <= in.end - base;
}

bool layout_take(struct layout *y, u64 base, u64 size)
{
    size = MAX(size, 1ull);
    for (u32 i = 0; i < y->e820.count; i++) {
        if (!fits(ram_of(y, i), base, size) || overlap(y, base, size) || y->count == LAYOUT_EXTENTS)
            continue;
        y->used[y->count++] = (struct extent){base, base + size};
        return true;
    }
    return false;
}

static struct extent cut(struct extent a, struct extent b)
{
    return (struct extent){MAX(a.base, b.base), MIN(a.end, b.end)};
}

bool layout_take_lowest(struct layout *y, u64 size, u64 align, struct extent within, u64 *at)
{
    size = MAX(size, 1ull);
    for (u32 i = 0; i < y->e820.count; i++) {
        struct extent room = cut(ram_of(y, i), within);
        const struct extent *other = NULL;
        for (*at = align_up(room.base, align); fits(room, *at, size);
             *at = align_up(other->end, align))
            if (!(other = overlap(y, *at, size)))
                return layout_take(y, *at, size);
    }
    return false;
}

bool layout_take_highest(struct layout *y, u64 size, u64 align, struct extent within, u64 *at)
{
    size = MAX(size, 1ull);
    for (u32 i = y->e820.count; i--;) {
        struct extent room = cut(ram_of(y, i), within);
        for (u64 end = room.end; end > room.base && size <= end - room.base;) {
            *at = align_down(end - size, align);
            const struct extent *other = overlap(y, *at, size);
            if (*at >= room.base && !other)
                return layout_take(y, *at, size);
            end = other ? other->base : room.base;
        }
    }
    return false;
}

int load_fail(struct load *l, enum load_error error, const char *fmt, ...)
{
    va_list args;
    int n = snprintf(l->error, sizeof(l->error), "%.64s: ", l->kernel.name);
    va_start(args, fmt);
    vsnprintf(l->error + n, sizeof(l->error) - (size_t)n, fmt, args);
    va_end(args);
    return error;
}

static bool linux_magic(const u8 *data, u64 size)
{
    return size >= 0x206 && data[0x1fe] == 0x55 && data[0x1ff] == 0xaa &&
           !memcmp(data + 0x202, "HdrS", 4);
}

enum image_kind image_probe(const u8 *data, u64 size)
{
    u64 offset;
    if (linux_magic(data, size))
        return IMAGE_LINUX;
    if (multiboot2_find(data, size, &offset))
        return IMAGE_MULTIBOOT2;
    if (multiboot1_find(data, size, &offset))
        return IMAGE_MULTIBOOT1;
    return IMAGE_UNKNOWN;
}

int load_image(struct load *l)
{
    if (image_probe(l->kernel.data, l->kernel.size) == IMAGE_LINUX)
        return load_linux(l);
    return load_multiboot(l);
}
