#include "kernel/loader_internal.h"
#include "libc/string.h"

#define PT_LOAD   1u
#define EM_386    3u
#define EM_X86_64 62u

struct elf32_header {
    u8 ident[16];
    u16 type, machine;
    u32 version, entry, phoff, shoff, flags;
    u16 ehsize, phentsize, phnum;
};

struct elf64_header {
    u8 ident[16];
    u16 type, machine;
    u32 version;
    u64 entry, phoff, shoff;
    u32 flags;
    u16 ehsize, phentsize, phnum;
};

struct elf32_segment {
    u32 type, offset, vaddr, paddr, filesz, memsz, flags, align;
};

struct elf64_segment {
    u32 type, flags;
    u64 offset, vaddr, paddr, filesz, memsz, align;
};

// Either class, in the form of ELF64.
struct elf {
    const struct image *file;
    bool wide;
    u16 machine, phentsize, phnum;
    u64 entry, phoff;
};

static bool open_elf(struct elf *e)
{
    struct elf32_header narrow;
    struct elf64_header wide;
    const struct image *f = e->file;
    if (!in_image(f, 0, sizeof(wide)) ||
        memcmp(f->data,
               "\x7f"
               "ELF",
               4) ||
        f->data[5] != 1)
        return false;
    e->wide = f->data[4] == 2;
    if (e->wide) {
        memcpy(&wide, f->data, sizeof(wide));
        *e =
            (struct elf){f, true, wide.machine, wide.phentsize, wide.phnum, wide.entry, wide.phoff};
    } else {
        memcpy(&narrow, f->data, sizeof(narrow));
        *e = (struct elf){
            f, false, narrow.machine, narrow.phentsize, narrow.phnum, narrow.entry, narrow.phoff};
    }
    u64 least = e->wide ? sizeof(struct elf64_segment) : sizeof(struct elf32_segment);
    return (e->machine == EM_386 || e->machine == EM_X86_64) && e->phentsize >= least &&
           in_image(f, e->phoff, (u64)e->phentsize * e->phnum);
}

static struct elf64_segment segment(const struct elf *e, u32 i)
{
    const u8 *at = e->file->data + e->phoff + (u64)i * e->phentsize;
    struct elf64_segment s;
    struct elf32_segment n;
    if (e->wide) {
        memcpy(&s, at, sizeof(s));
        return s;
    }
    memcpy(&n, at, sizeof(n));
    return (struct elf64_segment){n.type,  n.flags,  n.offset, n.vaddr,
                                  n.paddr, n.filesz, n.memsz,  n.align};
}

static bool sound(const struct elf *e, const struct elf64_segment *s)
{
    return s->filesz <= s->memsz && in_image(e->file, s->offset, s->filesz) &&
           s->paddr < LOAD_LIMIT && s->memsz <= LOAD_LIMIT - s->paddr;
}

int elf_parse(struct load *l, struct executable *x)
{
    struct elf e = {.file = &l->kernel};
    bool has_entry = false;
    if (!open_elf(&e))
        return load_fail(l, LOAD_BAD_IMAGE,
                         "is no ELF file for x86 and has no load addresses in its "
                         "Multiboot header either");
    x->chunks = 0;
    for (u32 i = 0; i < e.phnum; i++) {
        struct elf64_segment s = segment(&e, i);
        if (s.type != PT_LOAD || !s.memsz)
            continue;
        if (!sound(&e, &s))
            return load_fail(l, LOAD_BAD_IMAGE, "segment %u lies outside the file or above 4G", i);
        if (x->chunks == LOAD_CHUNKS)
            return load_fail(l, LOAD_UNSUPPORTED, "has more than %d segments", LOAD_CHUNKS);
        x->chunk[x->chunks++] = (struct chunk){s.offset, s.filesz, s.paddr, s.memsz};
        // The entry is a virtual address, and paging is off there.
        if (!has_entry && e.entry - s.vaddr < s.memsz) {
            x->entry = e.entry - s.vaddr + s.paddr;
            has_entry = true;
        }
    }
    if (!x->chunks)
        return load_fail(l, LOAD_BAD_IMAGE, "has no segment to load");
    if (!has_entry)
        x->entry = e.entry;
    return 0;
}
