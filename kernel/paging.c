#include "kernel/paging.h"

#include "ept/pool.h"
#include "libc/log.h"
#include "libc/string.h"
#include "libc/x86.h"

#define PTE_P       BIT(0)
#define PTE_RW      BIT(1)
#define PTE_PWT     BIT(3)
#define PTE_PCD     BIT(4)
#define PTE_LARGE   BIT(7)
#define PTE_NX      BIT(63)
#define PTE_ADDR    0x000ffffffffff000ull

#define KERNEL_VMA  0xffffffff80000000ull
#define STACK_VMA   0xffffff0000000000ull
#define WINDOW_SIZE (64ull << 40)

extern const u8 image_start[], rodata_start[], data_start[], image_end[];

static u64 *root;
static struct frames *source;
static u64 next_stack = STACK_VMA;
static bool has_1g;

static u64 *new_table(void)
{
    // Below 4 GiB, where the boot page tables reach already.
    hpa_t hpa = frames_take(source, PAGE_SIZE, PAGE_SIZE, FRAME_BELOW_4G);
    if (hpa.v == HPA_NONE.v)
        panic("no memory for L0's page tables");
    return memset(phys_ptr(hpa), 0, PAGE_SIZE);
}

// The entry for `va` in the table of `level` (1 = 4K pages), or the large page above it.
static u64 *entry_of(u64 va, unsigned level, bool create)
{
    u64 *table = root;
    for (unsigned l = 4;; l--) {
        u64 *e = &table[va >> (12 + 9 * (l - 1)) & 511];
        if (l == level || (*e & PTE_P && *e & PTE_LARGE && l < 4))
            return e;
        if (!(*e & PTE_P)) {
            if (!create)
                return NULL;
            *e = ptr_phys(new_table()).v | PTE_P | PTE_RW;
        }
        table = phys_ptr(HPA(*e & PTE_ADDR));
    }
}

static void map(u64 va, u64 pa, u64 size, u64 flags)
{
    while (size) {
        unsigned level = 1;
        if (has_1g && (va | pa) % GIB == 0 && size >= GIB)
            level = 3;
        else if ((va | pa) % (2 * MIB) == 0 && size >= 2 * MIB)
            level = 2;
        u64 *e = entry_of(va, level, true);
        if (!(*e & PTE_P))
            *e = pa | flags | (level > 1 ? PTE_LARGE : 0);
        u64 step = PAGE_SIZE << 9 * (level - 1);
        va += step;
        pa += step;
        size -= step;
    }
}

static void map_image(void)
{
    u64 text = (u64)image_start, rodata = (u64)rodata_start, data = (u64)data_start;
    map(text, text - KERNEL_VMA, rodata - text, PTE_P);
    map(rodata, rodata - KERNEL_VMA, data - rodata, PTE_P | PTE_NX);
    map(data, data - KERNEL_VMA, (u64)image_end - data, PTE_P | PTE_RW | PTE_NX);
}

// RAM without the image: no second, writable way to L0's text.
static void map_ram(u64 start, u64 end)
{
    u64 hole = (u64)image_start - KERNEL_VMA, hole_end = (u64)image_end - KERNEL_VMA;
    if (start < hole && end > start)
        map(PHYS_WINDOW + start, start, MIN(end, hole) - start, PTE_P | PTE_RW | PTE_NX);
    start = MAX(start, hole_end);
    if (end > start)
        map(PHYS_WINDOW + start, start, end - start, PTE_P | PTE_RW | PTE_NX);
}

static bool is_ram(enum mem_kind kind)
{
    return kind == MEM_USABLE || kind == MEM_LOADER;
}

void paging_init(const struct boot_info *info, struct frames *frames)
{
    source = frames;
    has_1g = cpuid(0x80000001, 0).edx & BIT(26);
    root = new_table();
    map_image();
    for (unsigned i = 0; i < info->mem.count; i++) {
        const struct mem_range *r = &info->mem.range[i];
        if (is_ram(r->kind) && r->base.v < WINDOW_SIZE)
            map_ram(align_up(r->base.v, PAGE_SIZE),
                    align_down(MIN(r->base.v + r->size, WINDOW_SIZE), PAGE_SIZE));
    }
    write_cr3(paging_root());
    paging_protect_cpu();
}

u64 paging_root(void)
{
    return ptr_phys(root).v;
}

void paging_protect_cpu(void)
{
    struct cpuid c = cpuid(0, 0);
    u32 ebx = c.eax >= 7 ? cpuid(7, 0).ebx : 0;
    u64 cr4 = read_cr4() | (ebx & BIT(7) ? CR4_SMEP : 0) | (ebx & BIT(20) ? CR4_SMAP : 0);
    write_cr4(cr4);
    write_cr0(read_cr0() | CR0_WP);
}

static void *map_window(hpa_t hpa, u64 size, u64 flags)
{
    u64 start = align_down(hpa.v, PAGE_SIZE), end = align_up(hpa.v + size, PAGE_SIZE);
    if (end < start || end > WINDOW_SIZE)
        return NULL;
    for (u64 a = start; a < end; a += PAGE_SIZE)
        map(PHYS_WINDOW + a, a, PAGE_SIZE, flags);
    return phys_ptr(hpa);
}

void *paging_map_device(hpa_t hpa, u64 size)
{
    return map_window(hpa, size, PTE_P | PTE_RW | PTE_NX | PTE_PCD | PTE_PWT);
}

const void *paging_map_firmware(hpa_t hpa, u64 size)
{
    return map_window(hpa, size, PTE_P | PTE_NX);
}

bool paging_is_mapped(hpa_t hpa, u64 size)
{
    if (hpa.v + size < hpa.v || hpa.v + size > WINDOW_SIZE)
        return false;
    for (u64 a = align_down(hpa.v, PAGE_SIZE); a < hpa.v + size; a += PAGE_SIZE) {
        u64 *e = entry_of(PHYS_WINDOW + a, 1, false);
        if (!e || !(*e & PTE_P))
            return false;
    }
    return true;
}

u64 paging_new_stack(unsigned pages)
{
    next_stack += PAGE_SIZE;
    for (unsigned i = 0; i < pages; i++, next_stack += PAGE_SIZE)
        map(next_stack, ptr_phys(new_table()).v, PAGE_SIZE, PTE_P | PTE_RW | PTE_NX);
    u64 top = next_stack;
    next_stack += PAGE_SIZE;
    return top;
}
