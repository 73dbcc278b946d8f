// Multiboot and Multiboot2 images: where their parts go, and the state they start in.

#include "kernel/loader_internal.h"
#include "libc/string.h"

#define MB1_LOADER_MAGIC 0x2badb002u
#define MB2_LOADER_MAGIC 0x36d76289u
#define FROM_FILE_START  0xffffffffu // as load_addr, Multiboot2

// The header itself says where the file's bytes go.
static int parse_addresses(struct load *l, const struct multiboot_header *h, struct executable *x)
{
    u64 offset = 0, base = h->load_addr, size;
    if (!h->has_entry)
        return load_fail(l, LOAD_BAD_IMAGE, "its Multiboot2 header has addresses, but no entry");
    if (h->load_addr == FROM_FILE_START) {
        if (h->header_addr < h->offset)
            return load_fail(l, LOAD_BAD_IMAGE, "its Multiboot header has impossible addresses");
        base = h->header_addr - h->offset;
    } else if (h->header_addr < h->load_addr || h->header_addr - h->load_addr > h->offset) {
        return load_fail(l, LOAD_BAD_IMAGE, "its Multiboot header has impossible addresses");
    } else {
        offset = h->offset - (h->header_addr - h->load_addr);
    }
    size = l->kernel.size - offset;
    if (h->load_end_addr) {
        if (h->load_end_addr < base || h->load_end_addr - base > size)
            return load_fail(l, LOAD_BAD_IMAGE, "is cut short: its Multiboot header says more");
        size = h->load_end_addr - base;
    }
    x->chunk[0] = (struct chunk){offset, size, base, size};
    if (h->bss_end_addr > base + size)
        x->chunk[0].size = h->bss_end_addr - base;
    x->chunks = 1;
    return 0;
}

static struct extent span(const struct executable *x)
{
    struct extent e = {~0ull, 0};
    for (u32 i = 0; i < x->chunks; i++) {
        e.base = MIN(e.base, x->chunk[i].base);
        e.end = MAX(e.end, x->chunk[i].base + x->chunk[i].size);
    }
    return e;
}

// Takes the place of every chunk, or none. False with *bad the first that is not free RAM.
static bool take_chunks(struct layout *y, const struct executable *x, u32 *bad)
{
    u32 before = y->count;
    for (*bad = 0; *bad < x->chunks; ++*bad)
        if (!layout_take(y, x->chunk[*bad].base, x->chunk[*bad].size)) {
            y->count = before;
            return false;
        }
    return true;
}

// Moves the executable, as its header permits, to where the VM has RAM.
static bool relocate(struct layout *y, const struct multiboot_header *h, struct executable *x)
{
    struct extent old = span(x), within = {h->min_addr, (u64)h->max_addr + 1};
    u32 bad, before = y->count;
    u64 align = MAX(h->align, 1u), at;
    if (!h->relocatable || align & (align - 1) ||
        !layout_take_lowest(y, old.end - old.base, align, within, &at))
        return false;
    y->count = before; // the chunks take their own parts of it
    for (u32 i = 0; i < x->chunks; i++)
        x->chunk[i].base += at - old.base;
    x->entry += at - old.base;
    return take_chunks(y, x, &bad);
}

static int place(struct load *l, struct layout *y, const struct multiboot_header *h,
                 struct executable *x)
{
    u32 bad;
    if (!take_chunks(y, x, &bad) && !relocate(y, h, x)) {
        const struct chunk *c = &x->chunk[bad];
        return load_fail(
            l, LOAD_NO_ROOM,
            "needs 0x%llx-0x%llx, where the VM has no free RAM: raise its memory, or link "
            "the image elsewhere",
            (unsigned long long)c->base, (unsigned long long)(c->base + c->size));
    }
    for (u32 i = 0; i < x->chunks; i++) {
        const struct chunk *c = &x->chunk[i];
        guest_write(l->mem, GPA(c->base), l->kernel.data + c->offset, c->file_size);
        guest_fill(l->mem, GPA(c->base + c->file_size), 0, c->size - c->file_size);
    }
    return 0;
}

// Modules follow the image, so that what lies below it stays free for the kernel's own early use.
static int place_modules(struct load *l, struct layout *y, u64 floor, struct multiboot_info *info)
{
    struct extent within = {MAX(floor, HIGH_MEMORY), LOAD_LIMIT};
    for (u32 i = 0; i < l->modules; i++) {
        const struct image *m = &l->module[i];
        if (m->size > LOAD_LIMIT ||
            !layout_take_lowest(y, m->size, PAGE_SIZE, within, &info->module[i]))
            return load_fail(l, LOAD_NO_ROOM,
                             "no room for module %.64s (%lluM): raise the VM's memory", m->name,
                             (unsigned long long)(m->size / MIB + 1));
        guest_write(l->mem, GPA(info->module[i]), m->data, m->size);
    }
    return 0;
}

static int read_header(struct load *l, struct multiboot_header *h, bool *v2)
{
    const struct image *k = &l->kernel;
    *v2 = multiboot2_find(k->data, k->size, &h->offset);
    if (*v2)
        return multiboot2_header(l, h);
    if (multiboot1_find(k->data, k->size, &h->offset))
        return multiboot1_header(l, h);
    return load_fail(
        l, LOAD_BAD_IMAGE,
        "is no kernel: neither a Linux bzImage nor a Multiboot image (is it compressed?)");
}

static int parse_executable(struct load *l, const struct multiboot_header *h, struct executable *x)
{
    int error = h->has_addresses ? parse_addresses(l, h, x) : elf_parse(l, x);
    if (!error && h->has_entry)
        x->entry = h->entry;
    return error;
}

int load_multiboot(struct load *l)
{
    struct multiboot_header h = {.offset = 0};
    struct executable x;
    struct layout y;
    struct multiboot_info info = {.load = l, .e820 = &y.e820};
    u64 at;
    bool v2;
    int error;
    layout_init(&y, l);
    if (l->initrd.size)
        return load_fail(l, LOAD_UNSUPPORTED,
                         "is a Multiboot image: it takes module = FILE, no initrd");
    if (l->modules > LOAD_MODULES)
        return load_fail(l, LOAD_UNSUPPORTED, "at most %d modules can be given", LOAD_MODULES);
    if ((error = read_header(l, &h, &v2)) || (error = parse_executable(l, &h, &x)) ||
        (error = place(l, &y, &h, &x)) || (error = place_modules(l, &y, span(&x).end, &info)))
        return error;
    info.has_load_base = h.relocatable;
    info.load_base = (u32)span(&x).base;
    if (!(v2 ? multiboot2_info(&info, &y, &at) : multiboot1_info(&info, &y, &at)))
        return load_fail(l, LOAD_NO_ROOM,
                         "no room for the boot information: raise the VM's memory");
    l->start = (struct start_state){.mode = START_PROTECTED32,
                                    .rip = x.entry,
                                    .rax = v2 ? MB2_LOADER_MAGIC : MB1_LOADER_MAGIC,
                                    .rbx = at};
    return 0;
}
