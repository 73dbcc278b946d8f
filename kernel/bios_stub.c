#include "kernel/bios_stub.h"

#include "libc/string.h"

#define STUB_SEGMENT 0xf000
#define STUB_BASE    ((u64)STUB_SEGMENT << 4)
#define RESET_VECTOR 0xffff0ull
#define MODEL_BYTE   0xffffeull
#define MODEL_AT     0xfc
#define BDA          0x400ull
#define EBDA         0x9fc00ull
#define COM1_PORT    0x3f8
#define ONE_SERIAL   0x0200
#define LOW_KIB      639

// kernel/bios_stub.asm
extern const u8 bios_stub_image[], bios_stub_map[];
extern const u16 bios_stub_entries[];

enum bios_entry {
    NOTHING,
    INTERRUPT_MASTER,
    INTERRUPT_SLAVE,
    UNSUPPORTED,
    EQUIPMENT,
    MEMORY_SIZE,
    DISK,
    KEYBOARD,
    SYSTEM,
    RESTART,
};

struct far {
    u16 offset, segment;
};

static enum bios_entry entry_of(u8 vector)
{
    switch (vector) {
    case 0x11:
        return EQUIPMENT;
    case 0x12:
        return MEMORY_SIZE;
    case 0x13:
        return DISK;
    case 0x15:
        return SYSTEM;
    case 0x16:
        return KEYBOARD;
    case 0x14: // serial port
    case 0x17: // printer
    case 0x1a: // clock, PCI
        return UNSUPPORTED;
    case 0x18:
    case 0x19:
        return RESTART;
    default:
        break;
    }
    if (vector >= 8 && vector < 0x10)
        return INTERRUPT_MASTER;
    return vector >= 0x70 && vector < 0x78 ? INTERRUPT_SLAVE : NOTHING;
}

static struct far far_to(enum bios_entry e)
{
    return (struct far){bios_stub_entries[e], STUB_SEGMENT};
}

static void write_vectors(const struct guest_mem *mem)
{
    struct far vectors[256];
    for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++)
        vectors[i] = far_to(entry_of((u8)i));
    guest_write(mem, GPA(0), vectors, sizeof(vectors));
}

// The BIOS data area, as far as something here stands for it.
static void write_data_areas(const struct guest_mem *mem)
{
    const struct {
        u16 com[4], lpt[3], ebda_segment, equipment;
        u8 post;
        u16 low_kib;
    } PACKED bda = {
        .com = {COM1_PORT}, .ebda_segment = EBDA >> 4, .equipment = ONE_SERIAL, .low_kib = LOW_KIB};
    const u8 ebda_kib = 1;
    guest_write(mem, GPA(BDA), &bda, sizeof(bda));
    guest_write(mem, GPA(EBDA), &ebda_kib, sizeof(ebda_kib));
}

static void write_code(const struct guest_mem *mem, const struct e820_map *map)
{
    const u64 size = (u64)(bios_stub_map - bios_stub_image);
    struct far restart = far_to(RESTART);
    const u8 jump_far = 0xea, model = MODEL_AT;
    guest_write(mem, GPA(STUB_BASE), bios_stub_image, size);
    guest_write(mem, GPA(STUB_BASE + size), &map->count, sizeof(map->count));
    guest_write(mem, GPA(STUB_BASE + size + sizeof(map->count)), map->entry,
                map->count * sizeof(map->entry[0]));
    guest_write(mem, GPA(RESET_VECTOR), &jump_far, sizeof(jump_far));
    guest_write(mem, GPA(RESET_VECTOR + 1), &restart, sizeof(restart));
    guest_write(mem, GPA(MODEL_BYTE), &model, sizeof(model));
}

void bios_stub_install(const struct guest_mem *mem, const struct e820_map *map)
{
    write_vectors(mem);
    write_data_areas(mem);
    write_code(mem, map);
}
