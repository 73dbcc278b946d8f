// The headers by which an image asks for Multiboot ("OS image format" in the Multiboot and the
// Multiboot2 Specification).

#include "kernel/loader_internal.h"
#include "libc/string.h"

#define MB1_MAGIC  0x1badb002u
#define MB1_SEARCH 8192u
#define MB2_MAGIC  0xe85250d6u
#define MB2_SEARCH 32768u
#define MB2_I386   0u

enum mb1_flags {
    MB1_PAGE_ALIGN = 1 << 0,
    MB1_MEMORY_INFO = 1 << 1,
    MB1_VIDEO_MODE = 1 << 2,
    MB1_ADDRESSES = 1 << 16,
    MB1_REQUIREMENTS = 0xffff, // flags that a loader must understand
};

struct mb1_header {
    u32 magic, flags, checksum;
};

struct mb1_addresses {
    u32 header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

struct mb2_header {
    u32 magic, architecture, length, checksum;
};

enum mb2_type {
    MB2_END = 0,
    MB2_INFORMATION_REQUEST = 1,
    MB2_ADDRESS = 2,
    MB2_ENTRY = 3,
    MB2_CONSOLE = 4,
    MB2_FRAMEBUFFER = 5,
    MB2_MODULE_ALIGN = 6,
    MB2_EFI_BOOT_SERVICES = 7,
    MB2_EFI_ENTRY_32 = 8,
    MB2_EFI_ENTRY_64 = 9,
    MB2_RELOCATABLE = 10,
};

enum { MB2_OPTIONAL = 1 << 0 };
enum { CONSOLE_REQUIRED = 1 << 0 };

struct mb2_tag {
    u16 type, flags;
    u32 size;
};

bool multiboot1_find(const u8 *data, u64 size, u64 *offset)
{
    struct mb1_header h;
    for (*offset = 0; *offset + sizeof(h) <= MIN(size, MB1_SEARCH); *offset += 4) {
        memcpy(&h, data + *offset, sizeof(h));
        if (h.magic == MB1_MAGIC && !(h.magic + h.flags + h.checksum))
            return true;
    }
    return false;
}

bool multiboot2_find(const u8 *data, u64 size, u64 *offset)
{
    struct mb2_header h;
    for (*offset = 0; *offset + sizeof(h) <= MIN(size, MB2_SEARCH); *offset += 8) {
        memcpy(&h, data + *offset, sizeof(h));
        if (h.magic == MB2_MAGIC && h.architecture == MB2_I386 &&
            !(h.magic + h.architecture + h.length + h.checksum))
            return true;
    }
    return false;
}

int multiboot1_header(struct load *l, struct multiboot_header *h)
{
    struct mb1_header head;
    struct mb1_addresses a;
    u64 addresses = h->offset + sizeof(head);
    memcpy(&head, l->kernel.data + h->offset, sizeof(head));
    if (head.flags & MB1_VIDEO_MODE)
        return load_fail(l, LOAD_UNSUPPORTED,
                         "its Multiboot header demands a video mode, which a VM "
                         "does not have");
    u32 unknown = head.flags & MB1_REQUIREMENTS & ~(u32)(MB1_PAGE_ALIGN | MB1_MEMORY_INFO);
    if (unknown)
        return load_fail(l, LOAD_UNSUPPORTED,
                         "its Multiboot header has unknown demands (flags 0x%x)", unknown);
    if (!(head.flags & MB1_ADDRESSES))
        return 0;
    if (!in_image(&l->kernel, addresses, sizeof(a)))
        return load_fail(l, LOAD_BAD_IMAGE, "its Multiboot header is cut short");
    memcpy(&a, l->kernel.data + addresses, sizeof(a));
    h->has_addresses = h->has_entry = true;
    h->header_addr = a.header_addr;
    h->load_addr = a.load_addr;
    h->load_end_addr = a.load_end_addr;
    h->bss_end_addr = a.bss_end_addr;
    h->entry = a.entry_addr;
    return 0;
}

// Is this a part of the boot information that multiboot2_info gives?
static bool is_provided(u32 type)
{
    const u64 provided = BIT(1) | BIT(2) | BIT(3) | BIT(4) | BIT(6) | BIT(14) | BIT(15) | BIT(21);
    return type < 64 && provided >> type & 1;
}

static int information_request(struct load *l, const u8 *body, u32 len)
{
    for (u32 i = 0; i + 4 <= len; i += 4) {
        u32 type;
        memcpy(&type, body + i, sizeof(type));
        if (!is_provided(type))
            return load_fail(l, LOAD_UNSUPPORTED,
                             "its Multiboot2 header demands boot information of type %u", type);
    }
    return 0;
}

static int console_request(struct load *l, const u8 *body, u32 len)
{
    u32 flags = 0;
    memcpy(&flags, body, MIN(len, sizeof(flags)));
    if (flags & CONSOLE_REQUIRED)
        return load_fail(l, LOAD_UNSUPPORTED,
                         "its Multiboot2 header demands a screen, which a VM does "
                         "not have");
    return 0;
}

static int required_tag(struct load *l, u16 type, const u8 *body, u32 len)
{
    switch (type) {
    case MB2_INFORMATION_REQUEST:
        return information_request(l, body, len);
    case MB2_CONSOLE:
        return console_request(l, body, len);
    case MB2_FRAMEBUFFER:
        return load_fail(l, LOAD_UNSUPPORTED,
                         "its Multiboot2 header demands a framebuffer, which a VM "
                         "does not have");
    case MB2_ADDRESS:
    case MB2_ENTRY:
    case MB2_MODULE_ALIGN:      // modules are always aligned
    case MB2_EFI_BOOT_SERVICES: // means something to EFI loaders only, as the next two
    case MB2_EFI_ENTRY_32:
    case MB2_EFI_ENTRY_64:
    case MB2_RELOCATABLE:
        return 0;
    default:
        return load_fail(l, LOAD_UNSUPPORTED,
                         "its Multiboot2 header has an unknown demand (type %u)", type);
    }
}

static void take_tag(struct multiboot_header *h, u16 type, const u8 *body, u32 len)
{
    u32 word[4] = {0};
    memcpy(word, body, MIN(len, sizeof(word)));
    switch (type) {
    case MB2_ADDRESS:
        h->has_addresses = true;
        h->header_addr = word[0];
        h->load_addr = word[1];
        h->load_end_addr = word[2];
        h->bss_end_addr = word[3];
        break;
    case MB2_ENTRY:
        h->has_entry = true;
        h->entry = word[0];
        break;
    case MB2_RELOCATABLE:
        h->relocatable = true;
        h->min_addr = word[0];
        h->max_addr = word[1];
        h->align = word[2];
        break;
    default:
        break;
    }
}

int multiboot2_header(struct load *l, struct multiboot_header *h)
{
    struct mb2_header head;
    struct mb2_tag tag;
    const u8 *base = l->kernel.data + h->offset;
    memcpy(&head, base, sizeof(head));
    if (!in_image(&l->kernel, h->offset, head.length))
        return load_fail(l, LOAD_BAD_IMAGE, "its Multiboot2 header leaves the file");
    for (u64 at = sizeof(head); at + sizeof(tag) <= head.length; at += align_up(tag.size, 8)) {
        memcpy(&tag, base + at, sizeof(tag));
        if (tag.type == MB2_END)
            return 0;
        if (tag.size < sizeof(tag) || tag.size > head.length - at)
            break;
        const u8 *body = base + at + sizeof(tag);
        u32 len = tag.size - (u32)sizeof(tag);
        int error = tag.flags & MB2_OPTIONAL ? 0 : required_tag(l, tag.type, body, len);
        if (error)
            return error;
        take_tag(h, tag.type, body, len);
    }
    return load_fail(l, LOAD_BAD_IMAGE, "its Multiboot2 header is damaged");
}
