#include "boot/multiboot2.h"

#include "libc/string.h"

// Real maps have some tens of entries. The work grows with the square.
#define MAP_ENTRIES_MAX 4096

enum tag_type {
    TAG_END = 0,
    TAG_CMDLINE = 1,
    TAG_LOADER = 2,
    TAG_MODULE = 3,
    TAG_MMAP = 6,
    TAG_FRAMEBUFFER = 8,
    TAG_RSDP_V0 = 14,
    TAG_RSDP_V2 = 15,
};

struct tag {
    u32 type;
    u32 size; // with these 8 bytes, without the padding to a multiple of 8
};

struct tag_module {
    struct tag tag;
    u32 start, end;
};

struct tag_mmap {
    struct tag tag;
    u32 entry_size, entry_version;
};

struct mmap_entry {
    u64 base, size;
    u32 type;
    u32 reserved;
};

struct tag_framebuffer {
    struct tag tag;
    u64 address;
    u32 pitch, width, height;
    u8 bpp, type;
    u16 reserved;
};

struct rgb_fields {
    struct color_field red, green, blue;
};

enum { FRAMEBUFFER_TYPE_RGB = 1, FRAMEBUFFER_TYPE_TEXT = 2 };

struct mmap_view {
    const u8 *entries;
    u32 entry_size;
};

static enum mem_kind kind_of(u32 type)
{
    switch (type) {
    case 1:
        return MEM_USABLE;
    case 3:
        return MEM_ACPI_RECLAIM;
    case 4:
        return MEM_ACPI_NVS;
    case 5:
        return MEM_BAD;
    default:
        return MEM_RESERVED;
    }
}

static struct range mmap_get(const void *ctx, unsigned i)
{
    const struct mmap_view *view = ctx;
    struct mmap_entry e;
    memcpy(&e, view->entries + (u64)i * view->entry_size, sizeof(e));
    return (struct range){e.base, range_end(e.base, e.size), kind_of(e.type)};
}

// Each take_ function gets the whole tag, whose `size` bytes are readable.

static int take_mmap(const u8 *tag, u32 size, struct boot_info *out)
{
    struct tag_mmap m;
    if (size < sizeof(m))
        return MULTIBOOT2_BAD_TAG;
    memcpy(&m, tag, sizeof(m));
    if (m.entry_size < sizeof(struct mmap_entry))
        return MULTIBOOT2_BAD_TAG;
    u32 count = (size - (u32)sizeof(m)) / m.entry_size;
    if (count > MAP_ENTRIES_MAX)
        return MULTIBOOT2_LONG_MAP;
    struct mmap_view view = {tag + sizeof(m), m.entry_size};
    struct range_source source = {mmap_get, &view, count};
    mem_map_build(&out->mem, &source);
    return 0;
}

static int take_module(const u8 *tag, u32 size, struct boot_info *out)
{
    struct tag_module m;
    if (size < sizeof(m))
        return MULTIBOOT2_BAD_TAG;
    memcpy(&m, tag, sizeof(m));
    if (m.end < m.start)
        return MULTIBOOT2_BAD_TAG;
    boot_module_add(out, HPA(m.start), m.end - m.start, (const char *)tag + sizeof(m),
                    size - sizeof(m));
    return 0;
}

static int take_framebuffer(const u8 *tag, u32 size, struct boot_info *out)
{
    struct tag_framebuffer t;
    struct rgb_fields rgb = {0};
    if (size < sizeof(t))
        return MULTIBOOT2_BAD_TAG;
    memcpy(&t, tag, sizeof(t));
    struct framebuffer fb = {.address = HPA(t.address),
                             .pitch = t.pitch,
                             .width = t.width,
                             .height = t.height,
                             .bpp = t.bpp};
    if (t.type == FRAMEBUFFER_TYPE_TEXT) {
        fb.kind = FRAMEBUFFER_TEXT;
    } else if (t.type == FRAMEBUFFER_TYPE_RGB && size >= sizeof(t) + sizeof(rgb)) {
        fb.kind = FRAMEBUFFER_RGB;
        memcpy(&rgb, tag + sizeof(t), sizeof(rgb));
    }
    fb.red = rgb.red;
    fb.green = rgb.green;
    fb.blue = rgb.blue;
    out->framebuffer = fb;
    return 0;
}

static int take_rsdp(const u8 *tag, u32 size, struct boot_info *out, u32 rsdp_size)
{
    if (size < sizeof(struct tag) + rsdp_size)
        return MULTIBOOT2_BAD_TAG;
    if (rsdp_size > out->rsdp_size) {
        memcpy(out->rsdp, tag + sizeof(struct tag), rsdp_size);
        out->rsdp_size = rsdp_size;
    }
    return 0;
}

static int take_tag(u32 type, const u8 *tag, u32 size, struct boot_info *out)
{
    const char *text = (const char *)tag + sizeof(struct tag);
    switch (type) {
    case TAG_CMDLINE:
        boot_string(out, out->cmdline, sizeof(out->cmdline), text, size - sizeof(struct tag));
        return 0;
    case TAG_LOADER:
        boot_string(out, out->loader, sizeof(out->loader), text, size - sizeof(struct tag));
        return 0;
    case TAG_MODULE:
        return take_module(tag, size, out);
    case TAG_MMAP:
        return take_mmap(tag, size, out);
    case TAG_FRAMEBUFFER:
        return take_framebuffer(tag, size, out);
    case TAG_RSDP_V0:
        return take_rsdp(tag, size, out, 20);
    case TAG_RSDP_V2:
        return take_rsdp(tag, size, out, BOOT_RSDP_SIZE);
    default:
        return 0;
    }
}

int multiboot2_parse(const void *info, u64 max, struct boot_info *out)
{
    const u8 *base = info;
    struct tag tag;
    u32 total;
    memset(out, 0, sizeof(*out));
    out->path = BOOT_MULTIBOOT2;
    if (max < 8)
        return MULTIBOOT2_BAD_SIZE;
    memcpy(&total, base, sizeof(total));
    if (total < 8 || total > max)
        return MULTIBOOT2_BAD_SIZE;
    for (u64 at = 8;; at += align_up(tag.size, 8)) {
        if (at > total || total - at < sizeof(tag))
            return MULTIBOOT2_BAD_TAG;
        memcpy(&tag, base + at, sizeof(tag));
        if (tag.type == TAG_END)
            return out->mem.count ? 0 : MULTIBOOT2_NO_MAP;
        if (tag.size < sizeof(tag) || tag.size > total - at)
            return MULTIBOOT2_BAD_TAG;
        int error = take_tag(tag.type, base + at, tag.size, out);
        if (error)
            return error;
    }
}

const char *multiboot2_error_text(int error)
{
    switch (error) {
    case MULTIBOOT2_BAD_SIZE:
        return "the boot loader's information has an impossible size";
    case MULTIBOOT2_BAD_TAG:
        return "a part of the boot loader's information is cut short";
    case MULTIBOOT2_NO_MAP:
        return "the boot loader gave no memory map";
    case MULTIBOOT2_LONG_MAP:
        return "the boot loader's memory map is absurdly long";
    default:
        return "no error";
    }
}
