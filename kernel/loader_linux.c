// Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

#include "kernel/loader_internal.h"
#include "libc/string.h"

// What the loader makes lies together in low memory.
#define LOW_BASE       0x10000ull
#define PAGE_TABLES    (LOW_BASE + 0x0000) // PML4, PDPT, four page directories
#define GDT            (LOW_BASE + 0x6000)
#define BOOT_PARAMS    (LOW_BASE + 0x7000)
#define COMMAND_LINE   (LOW_BASE + 0x8000)
#define COMMAND_SPACE  0x4000ull
#define STACK_TOP      (LOW_BASE + 0x10000)
#define LOW_SIZE       0x10000ull

#define HEADER_OFFSET  0x1f1u // of struct setup_header in the file and in boot_params
#define HEADER_ROOM    0x9fu  // up to the next field of boot_params
#define PROTOCOL_2_12  0x020cu
#define SECTOR         512u
#define ENTRY_64       0x200u
#define LOADED_HIGH    0x01u
#define XLF_KERNEL_64  0x01u
#define LOADER_UNKNOWN 0xffu
#define VIDEO_NORMAL   0xffffu
#define BOOT_CS        0x10u
#define BOOT_DS        0x18u

struct setup_header {
    u8 setup_sects;
    u16 root_flags;
    u32 syssize; // of the protected-mode code, in 16 bytes
    u16 ram_size, vid_mode, root_dev, boot_flag;
    u8 jump_opcode, jump_offset; // over the header, from the next byte
    u32 magic;
    u16 version;
    u32 realmode_swtch;
    u16 start_sys_seg, kernel_version;
    u8 type_of_loader, loadflags;
    u16 setup_move_size;
    u32 code32_start, ramdisk_image, ramdisk_size, bootsect_kludge;
    u16 heap_end_ptr;
    u8 ext_loader_ver, ext_loader_type;
    u32 cmd_line_ptr, initrd_addr_max, kernel_alignment;
    u8 relocatable_kernel, min_alignment;
    u16 xloadflags;
    u32 cmdline_size, hardware_subarch;
    u64 hardware_subarch_data;
    u32 payload_offset, payload_length;
    u64 setup_data, pref_address;
    u32 init_size;
} PACKED;

_Static_assert(HEADER_OFFSET + offsetof(struct setup_header, init_size) == 0x260, "setup header");

// The "zero page", as far as it is filled in.
struct boot_params {
    u8 unused1[0x70];
    u64 acpi_rsdp_addr;
    u8 unused2[0x1e8 - 0x78];
    u8 e820_entries;
    u8 unused3[HEADER_OFFSET - 0x1e9];
    union {
        struct setup_header header;
        u8 header_bytes[HEADER_ROOM];
    };
    u8 unused4[0x2d0 - HEADER_OFFSET - HEADER_ROOM];
    struct e820_entry e820[E820_ENTRIES];
} PACKED;

_Static_assert(offsetof(struct boot_params, e820) == 0x2d0, "boot_params");
_Static_assert(sizeof(struct boot_params) <= PAGE_SIZE, "boot_params");

struct kernel {
    struct setup_header header;
    u32 header_size;  // as far as this kernel has it
    u64 offset, size; // of the protected-mode code in the file
    u64 at;           // where it goes
};

static int read_header(struct load *l, struct kernel *k)
{
    const struct image *file = &l->kernel;
    struct setup_header *h = &k->header;
    if (!in_image(file, HEADER_OFFSET, sizeof(*h)))
        return load_fail(l, LOAD_BAD_IMAGE, "is too short for a Linux kernel (bzImage)");
    memcpy(h, file->data + HEADER_OFFSET, sizeof(*h));
    if (h->boot_flag != 0xaa55 || memcmp(&h->magic, "HdrS", 4))
        return load_fail(l, LOAD_BAD_IMAGE, "is no Linux kernel (bzImage): its magic is missing");
    if (h->version < PROTOCOL_2_12 || !(h->xloadflags & XLF_KERNEL_64))
        return load_fail(l, LOAD_UNSUPPORTED,
                         "has no 64-bit entry: take a 64-bit kernel, Linux 3.8 or later");
    if (!(h->loadflags & LOADED_HIGH))
        return load_fail(l, LOAD_UNSUPPORTED, "is a zImage: take a bzImage");
    k->header_size = 0x202 + h->jump_offset - HEADER_OFFSET;
    if (k->header_size < sizeof(*h) || k->header_size > HEADER_ROOM ||
        !in_image(file, HEADER_OFFSET, k->header_size))
        return load_fail(l, LOAD_BAD_IMAGE, "has a setup header of an impossible length");
    return 0;
}

static int find_code(struct load *l, struct kernel *k)
{
    const struct setup_header *h = &k->header;
    k->offset = ((u64)(h->setup_sects ? h->setup_sects : 4) + 1) * SECTOR;
    u64 want = (u64)h->syssize * 16; // rounded up
    if (!in_image(&l->kernel, k->offset, ENTRY_64 + 1) || want <= ENTRY_64 ||
        l->kernel.size - k->offset + 15 < want)
        return load_fail(l, LOAD_BAD_IMAGE, "is cut short: %llu bytes, %llu expected",
                         (unsigned long long)l->kernel.size,
                         (unsigned long long)(k->offset + want));
    k->size = MIN(want, l->kernel.size - k->offset);
    return 0;
}

static int place_kernel(struct load *l, struct layout *y, struct kernel *k)
{
    const struct setup_header *h = &k->header;
    u64 need = MAX((u64)h->init_size, k->size), align = h->kernel_alignment;
    struct extent anywhere = {HIGH_MEMORY, LOAD_LIMIT};
    k->at = h->pref_address;
    if (k->at >= HIGH_MEMORY && layout_take(y, k->at, need))
        return 0;
    if (h->relocatable_kernel && align >= PAGE_SIZE && !(align & (align - 1)) &&
        layout_take_lowest(y, need, align, anywhere, &k->at))
        return 0;
    return load_fail(l, LOAD_NO_ROOM, "needs %lluM of memory from 0x%llx: raise the VM's memory",
                     (unsigned long long)((need + MIB - 1) / MIB),
                     (unsigned long long)h->pref_address);
}

static int place_initrd(struct load *l, struct layout *y, struct kernel *k)
{
    struct extent within = {HIGH_MEMORY, (u64)k->header.initrd_addr_max + 1};
    u64 at;
    if (!l->initrd.size)
        return 0;
    if (l->initrd.size > LOAD_LIMIT ||
        !layout_take_highest(y, l->initrd.size, PAGE_SIZE, within, &at))
        return load_fail(l, LOAD_NO_ROOM, "no room for %.64s (%lluM): raise the VM's memory",
                         l->initrd.name, (unsigned long long)(l->initrd.size / MIB + 1));
    guest_write(l->mem, GPA(at), l->initrd.data, l->initrd.size);
    k->header.ramdisk_image = (u32)at;
    k->header.ramdisk_size = (u32)l->initrd.size;
    return 0;
}

static int place_cmdline(struct load *l, struct kernel *k)
{
    const char *text = l->cmdline ? l->cmdline : "";
    u64 len = strlen(text), max = MIN((u64)k->header.cmdline_size, COMMAND_SPACE - 1);
    if (len > max)
        return load_fail(l, LOAD_UNSUPPORTED, "takes a cmdline of at most %u characters, not %u",
                         (unsigned)max, (unsigned)len);
    guest_write(l->mem, GPA(COMMAND_LINE), text, len + 1);
    return 0;
}

static void write_boot_params(const struct load *l, const struct layout *y, struct kernel *k)
{
    struct boot_params bp;
    memset(&bp, 0, sizeof(bp));
    memcpy(bp.header_bytes, l->kernel.data + HEADER_OFFSET, k->header_size);
    bp.header.type_of_loader = LOADER_UNKNOWN;
    bp.header.vid_mode = VIDEO_NORMAL;
    bp.header.ramdisk_image = k->header.ramdisk_image;
    bp.header.ramdisk_size = k->header.ramdisk_size;
    bp.header.cmd_line_ptr = (u32)COMMAND_LINE;
    bp.header.setup_data = 0;
    bp.acpi_rsdp_addr = l->rsdp.v;
    bp.e820_entries = (u8)y->e820.count;
    memcpy(bp.e820, y->e820.entry, y->e820.count * sizeof(bp.e820[0]));
    guest_write(l->mem, GPA(BOOT_PARAMS), &bp, sizeof(bp));
}

// Identity map of the first 4G in 2M pages, which every 64-bit processor has.
static void write_page_tables(const struct guest_mem *mem)
{
    const u64 table = 0x3, page = 0x83; // present, writable; and large
    u64 entry = (PAGE_TABLES + PAGE_SIZE) | table;
    guest_write(mem, GPA(PAGE_TABLES), &entry, sizeof(entry));
    for (u64 i = 0; i < 4; i++) {
        entry = (PAGE_TABLES + (2 + i) * PAGE_SIZE) | table;
        guest_write(mem, GPA(PAGE_TABLES + PAGE_SIZE + i * 8), &entry, sizeof(entry));
    }
    for (u64 i = 0; i < 4 * 512; i++) {
        entry = i * 2 * MIB | page;
        guest_write(mem, GPA(PAGE_TABLES + 2 * PAGE_SIZE + i * 8), &entry, sizeof(entry));
    }
}

static void write_gdt(const struct guest_mem *mem)
{
    static const u64 gdt[] = {
        [BOOT_CS / 8] = 0x00af9b000000ffff, // 64-bit code
        [BOOT_DS / 8] = 0x00cf93000000ffff, // flat data
    };
    guest_write(mem, GPA(GDT), gdt, sizeof(gdt));
}

static void set_start(struct load *l, const struct kernel *k)
{
    l->start = (struct start_state){.mode = START_LONG64,
                                    .rip = k->at + ENTRY_64,
                                    .rsp = STACK_TOP,
                                    .rsi = BOOT_PARAMS,
                                    .cr3 = GPA(PAGE_TABLES),
                                    .gdt = GPA(GDT),
                                    .gdt_limit = BOOT_DS + 7,
                                    .code_selector = BOOT_CS,
                                    .data_selector = BOOT_DS};
}

int load_linux(struct load *l)
{
    struct kernel k = {.at = 0};
    struct layout y;
    int error;
    layout_init(&y, l);
    if (l->modules)
        return load_fail(l, LOAD_UNSUPPORTED,
                         "is a Linux kernel: it takes initrd = FILE, no module");
    if (!layout_take(&y, LOW_BASE, LOW_SIZE))
        return load_fail(l, LOAD_NO_ROOM, "the VM has no memory below 640K");
    if ((error = read_header(l, &k)) || (error = find_code(l, &k)) ||
        (error = place_kernel(l, &y, &k)) || (error = place_initrd(l, &y, &k)) ||
        (error = place_cmdline(l, &k)))
        return error;
    guest_write(l->mem, GPA(k.at), l->kernel.data + k.offset, k.size);
    write_boot_params(l, &y, &k);
    write_page_tables(l->mem);
    write_gdt(l->mem);
    set_start(l, &k);
    return 0;
}
