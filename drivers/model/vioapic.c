#include "drivers/model/vioapic.h"

#define REG_SELECT  0x00
#define REG_WINDOW  0x10
#define REG_EOI     0x40
#define IDX_ID      0x00
#define IDX_VERSION 0x01
#define IDX_ARB     0x02
#define IDX_ENTRY   0x10
#define VERSION     (0x20u | (LAYOUT_IOAPIC_PINS - 1) << 16)

// Bits of a redirection entry.
#define ENTRY_LOGICAL    BIT(11)
#define ENTRY_REMOTE_IRR BIT(14)
#define ENTRY_LEVEL      BIT(15)
#define ENTRY_MASKED     BIT(16)
#define ENTRY_WRITABLE   0xff0000000001afffull

static bool deliver(struct vioapic *io, u64 entry)
{
    u32 dest = (u32)(entry >> 56);
    struct vapic_msg msg = {
        .dest = dest == VAPIC_BROADCAST8 ? VAPIC_BROADCAST : dest,
        .mode = (enum vapic_mode)(entry >> 8 & 7),
        .vector = (u8)entry,
        .logical = entry & ENTRY_LOGICAL,
        .level = entry & ENTRY_LEVEL,
    };
    return msg.mode != VAPIC_STARTUP && vapic_deliver(io->apics, &msg);
}

// A level-triggered input that is asserted delivers, then waits for its EOI.
static void try_level(struct vioapic *io, unsigned pin)
{
    u64 entry = io->entry[pin];
    bool waits = (entry & (ENTRY_LEVEL | ENTRY_MASKED | ENTRY_REMOTE_IRR)) == ENTRY_LEVEL;
    if (waits && (io->lines >> pin & 1) && deliver(io, entry))
        io->entry[pin] |= ENTRY_REMOTE_IRR;
}

void vioapic_set_irq(struct vioapic *io, unsigned pin, bool level)
{
    if (pin >= LAYOUT_IOAPIC_PINS)
        return;
    u32 bit = 1u << pin;
    bool rises = level && !(io->lines & bit);
    io->lines = level ? io->lines | bit : io->lines & ~bit;
    if (!rises)
        return;
    if (io->entry[pin] & ENTRY_LEVEL)
        try_level(io, pin);
    else if (!(io->entry[pin] & ENTRY_MASKED)) // edges of a masked input are lost
        deliver(io, io->entry[pin]);
}

void vioapic_eoi(struct vioapic *io, u8 vector)
{
    for (unsigned pin = 0; pin < LAYOUT_IOAPIC_PINS; pin++) {
        if ((u8)io->entry[pin] != vector || !(io->entry[pin] & ENTRY_REMOTE_IRR))
            continue;
        io->entry[pin] &= ~ENTRY_REMOTE_IRR;
        try_level(io, pin);
    }
}

static void write_entry(struct vioapic *io, unsigned half, u32 value)
{
    unsigned pin = half / 2, shift = half % 2 * 32;
    u64 mask = (ENTRY_WRITABLE >> shift & 0xffffffff) << shift;
    u64 entry = (io->entry[pin] & ~mask) | ((u64)value << shift & mask);
    if (!(entry & ENTRY_LEVEL)) // software clears a stuck entry so
        entry &= ~ENTRY_REMOTE_IRR;
    io->entry[pin] = entry;
    try_level(io, pin);
}

static u32 read_window(const struct vioapic *io)
{
    if (io->select == IDX_ID || io->select == IDX_ARB)
        return (u32)io->id << 24;
    if (io->select == IDX_VERSION)
        return VERSION;
    unsigned half = io->select - IDX_ENTRY;
    if (io->select < IDX_ENTRY || half >= 2 * LAYOUT_IOAPIC_PINS)
        return 0;
    return (u32)(io->entry[half / 2] >> half % 2 * 32);
}

static void write_window(struct vioapic *io, u32 value)
{
    if (io->select == IDX_ID)
        io->id = value >> 24 & 0x0f;
    else if (io->select >= IDX_ENTRY && io->select - IDX_ENTRY < 2 * LAYOUT_IOAPIC_PINS)
        write_entry(io, io->select - IDX_ENTRY, value);
}

// Registers are 32 bits wide at multiples of 16; narrower reads get their low bytes.
static u64 read(void *dev, u64 offset, unsigned size)
{
    struct vioapic *io = dev;
    (void)size;
    if (offset == REG_SELECT)
        return io->select;
    return offset == REG_WINDOW ? read_window(io) : 0;
}

static void write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct vioapic *io = dev;
    if (offset == REG_SELECT)
        io->select = (u8)value;
    else if (offset == REG_WINDOW && size >= 4)
        write_window(io, (u32)value);
    else if (offset == REG_EOI)
        vioapic_eoi(io, (u8)value);
}

void vioapic_init(struct vioapic *io, u8 id, struct vapic_bus *apics)
{
    *io = (struct vioapic){.id = id, .apics = apics};
    for (unsigned pin = 0; pin < LAYOUT_IOAPIC_PINS; pin++)
        io->entry[pin] = ENTRY_MASKED;
}

bool vioapic_attach(struct vioapic *io, struct mmio_bus *bus, gpa_t base)
{
    static const struct mmio_ops ops = {read, write};
    return mmio_bus_add(bus, base, LAYOUT_IOAPIC_SIZE, &ops, io);
}
