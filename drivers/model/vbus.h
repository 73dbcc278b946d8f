#pragma once
// How accesses of a VM find their device model: I/O ports, memory-mapped registers, interrupt
// lines.

#include "libc/addr.h"

// --- Interrupt lines ---

// One input of an interrupt controller as its device sees it. `level` is logical: asserted or not.
struct irq_line {
    void (*set)(void *ctx, unsigned n, bool level);
    void *ctx;
    unsigned n;
};

static inline void irq_set(const struct irq_line *line, bool level)
{
    line->set(line->ctx, line->n, level);
}

// --- I/O ports ---

#define PORT_BUS_MAX 24

struct port_ops {
    // `size` is 1, 2 or 4 and at most `width`; all ports of the access lie in the device's range.
    u32 (*read)(void *dev, u16 port, unsigned size);
    void (*write)(void *dev, u16 port, unsigned size, u32 value);
    unsigned width; // wider accesses are split into single bytes, as an 8-bit bus does
};

struct port_range {
    u16 first, last; // inclusive
    const struct port_ops *ops;
    void *dev;
};

struct port_bus {
    unsigned count, hit;                   // `hit`: where the last access went
    struct port_range range[PORT_BUS_MAX]; // by address
};

void port_bus_init(struct port_bus *bus);

// False, and nothing registered, if the range meets one that is there or the table is full.
bool port_bus_add(struct port_bus *bus, u16 first, u16 last, const struct port_ops *ops, void *dev);

// An access of 1, 2 or 4 bytes. Where there is no device reads give ones and writes are lost.
u32 port_read(struct port_bus *bus, u16 port, unsigned size);
void port_write(struct port_bus *bus, u16 port, unsigned size, u32 value);

// --- Memory-mapped registers ---

#define MMIO_BUS_MAX 24

struct mmio_ops {
    // `offset` from the start of the range; `size` is 1, 2, 4 or 8; the access lies in the range.
    u64 (*read)(void *dev, u64 offset, unsigned size);
    void (*write)(void *dev, u64 offset, unsigned size, u64 value);
};

struct mmio_range {
    u64 first, last; // guest-physical, inclusive
    const struct mmio_ops *ops;
    void *dev;
};

struct mmio_bus {
    unsigned count, hit;
    struct mmio_range range[MMIO_BUS_MAX]; // by address
};

void mmio_bus_init(struct mmio_bus *bus);

// False, and nothing registered, if the range meets one that is there, wraps, is empty, or the
// table is full.
bool mmio_bus_add(struct mmio_bus *bus, gpa_t first, u64 size, const struct mmio_ops *ops,
                  void *dev);

// An access of 1, 2, 4 or 8 bytes. Where there is no device (or only under a part of the access)
// reads give ones and writes are lost.
u64 mmio_read(struct mmio_bus *bus, gpa_t addr, unsigned size);
void mmio_write(struct mmio_bus *bus, gpa_t addr, unsigned size, u64 value);

// All ones in `size` bytes: what reads give where nothing answers.
static inline u64 bus_ones(unsigned size)
{
    return ~0ull >> (64 - 8 * size);
}
