#include "drivers/model/vbus.h"

#include "libc/string.h"

// --- I/O ports ---

void port_bus_init(struct port_bus *bus)
{
    bus->count = 0;
    bus->hit = 0;
}

bool port_bus_add(struct port_bus *bus, u16 first, u16 last, const struct port_ops *ops, void *dev)
{
    unsigned at = 0;
    while (at < bus->count && bus->range[at].last < first)
        at++;
    if (bus->count == PORT_BUS_MAX || last < first ||
        (at < bus->count && bus->range[at].first <= last))
        return false;
    memmove(&bus->range[at + 1], &bus->range[at], (bus->count - at) * sizeof(bus->range[0]));
    bus->range[at] = (struct port_range){first, last, ops, dev};
    bus->count++;
    return true;
}

static const struct port_range *port_find(struct port_bus *bus, u16 port)
{
    const struct port_range *r = &bus->range[bus->hit];
    if (LIKELY(bus->count && port >= r->first && port <= r->last))
        return r;
    for (unsigned low = 0, high = bus->count; low < high;) {
        unsigned mid = (low + high) / 2;
        r = &bus->range[mid];
        if (port < r->first)
            high = mid;
        else if (port > r->last)
            low = mid + 1;
        else {
            bus->hit = mid;
            return r;
        }
    }
    return NULL;
}

// One bus cycle reaches the device whole if the device takes that width, lies under all of it, and
// the address is aligned; else the bus makes it single bytes.
static bool takes_whole(const struct port_range *r, u16 port, unsigned size)
{
    return size <= r->ops->width && (port & (size - 1)) == 0 && port + size - 1 <= r->last;
}

u32 port_read(struct port_bus *bus, u16 port, unsigned size)
{
    const struct port_range *r = port_find(bus, port);
    if (LIKELY(r && takes_whole(r, port, size)))
        return r->ops->read(r->dev, port, size);
    if (size == 1)
        return 0xff;
    u32 value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= port_read(bus, (u16)(port + i), 1) << (8 * i);
    return value;
}

void port_write(struct port_bus *bus, u16 port, unsigned size, u32 value)
{
    const struct port_range *r = port_find(bus, port);
    if (LIKELY(r && takes_whole(r, port, size))) {
        r->ops->write(r->dev, port, size, value & (u32)bus_ones(size));
        return;
    }
    for (unsigned i = 0; size > 1 && i < size; i++)
        port_write(bus, (u16)(port + i), 1, value >> (8 * i) & 0xff);
}

// --- Memory-mapped registers ---

void mmio_bus_init(struct mmio_bus *bus)
{
    bus->count = 0;
    bus->hit = 0;
}

bool mmio_bus_add(struct mmio_bus *bus, gpa_t first, u64 size, const struct mmio_ops *ops,
                  void *dev)
{
    u64 last = first.v + size - 1;
    unsigned at = 0;
    while (at < bus->count && bus->range[at].last < first.v)
        at++;
    if (bus->count == MMIO_BUS_MAX || !size || last < first.v ||
        (at < bus->count && bus->range[at].first <= last))
        return false;
    memmove(&bus->range[at + 1], &bus->range[at], (bus->count - at) * sizeof(bus->range[0]));
    bus->range[at] = (struct mmio_range){first.v, last, ops, dev};
    bus->count++;
    return true;
}

// The range that holds all `size` bytes at `addr`.
static const struct mmio_range *mmio_find(struct mmio_bus *bus, u64 addr, unsigned size)
{
    u64 end = addr + size - 1;
    const struct mmio_range *r = &bus->range[bus->hit];
    if (LIKELY(bus->count && addr >= r->first && addr <= end && end <= r->last))
        return r;
    for (unsigned i = 0; i < bus->count; i++) {
        r = &bus->range[i];
        if (addr >= r->first && addr <= end && end <= r->last) {
            bus->hit = i;
            return r;
        }
    }
    return NULL;
}

u64 mmio_read(struct mmio_bus *bus, gpa_t addr, unsigned size)
{
    const struct mmio_range *r = mmio_find(bus, addr.v, size);
    if (UNLIKELY(!r))
        return bus_ones(size);
    return r->ops->read(r->dev, addr.v - r->first, size) & bus_ones(size);
}

void mmio_write(struct mmio_bus *bus, gpa_t addr, unsigned size, u64 value)
{
    const struct mmio_range *r = mmio_find(bus, addr.v, size);
    if (LIKELY(r != NULL))
        r->ops->write(r->dev, addr.v - r->first, size, value & bus_ones(size));
}
