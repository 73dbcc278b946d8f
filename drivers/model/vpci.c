#include "drivers/model/vpci.h"

#include "drivers/model/layout.h"

#define ADDRESS_ENABLE BIT(31)
#define ADDRESS_KEPT   0x80fffffcu
#define RESET_CPU      0x04 // of port CF9H: the write that sets it resets
#define RESET_KEPT     0x0a

bool vpci_add(struct vpci_bus *pci, u8 devfn, struct vpci_function *fn)
{
    if (pci->function[devfn])
        return false;
    pci->function[devfn] = fn;
    return true;
}

static struct vpci_function *selected(const struct vpci_bus *pci)
{
    bool bus0 = !(pci->address & 0xff0000);
    return (pci->address & ADDRESS_ENABLE) && bus0 ? pci->function[pci->address >> 8 & 0xff] : NULL;
}

static u32 read_data(void *dev, u16 port, unsigned size)
{
    struct vpci_bus *pci = dev;
    struct vpci_function *fn = selected(pci);
    if (!fn)
        return (u32)bus_ones(size);
    return fn->read(fn, (pci->address & 0xfc) + port % 4, size) & (u32)bus_ones(size);
}

static void write_data(void *dev, u16 port, unsigned size, u32 value)
{
    struct vpci_bus *pci = dev;
    struct vpci_function *fn = selected(pci);
    if (fn)
        fn->write(fn, (pci->address & 0xfc) + port % 4, size, value);
}

// CONFIG_ADDRESS answers accesses of 32 bits only; the reset register is a byte inside.
static u32 read_address(void *dev, u16 port, unsigned size)
{
    struct vpci_bus *pci = dev;
    if (size == 4)
        return pci->address;
    return size == 1 && port == LAYOUT_PORT_RESET ? pci->reset_control : (u32)bus_ones(size);
}

static void write_address(void *dev, u16 port, unsigned size, u32 value)
{
    struct vpci_bus *pci = dev;
    if (size == 4) {
        pci->address = value & ADDRESS_KEPT;
    } else if (size == 1 && port == LAYOUT_PORT_RESET) {
        pci->reset_control = value & RESET_KEPT;
        if (value & RESET_CPU)
            pci->reset(pci->ctx);
    }
}

// 8086:1237, the host bridge of the 440FX, without registers of its own.
static u32 bridge_read(struct vpci_function *fn, unsigned offset, unsigned size)
{
    static const u32 header[] = {0x12378086, 0x00000006, 0x06000002};
    (void)fn;
    if (offset / 4 >= ARRAY_SIZE(header))
        return 0;
    return header[offset / 4] >> 8 * (offset % 4) & (u32)bus_ones(size);
}

static void bridge_write(struct vpci_function *fn, unsigned offset, unsigned size, u32 value)
{
    (void)fn;
    (void)offset;
    (void)size;
    (void)value;
}

void vpci_init(struct vpci_bus *pci, void (*reset)(void *ctx), void *ctx)
{
    *pci = (struct vpci_bus){.reset = reset, .ctx = ctx};
    pci->host_bridge = (struct vpci_function){bridge_read, bridge_write};
    vpci_add(pci, VPCI_DEVFN(0, 0), &pci->host_bridge);
}

bool vpci_attach(struct vpci_bus *pci, struct port_bus *bus)
{
    static const struct port_ops address_ops = {read_address, write_address, 4};
    static const struct port_ops data_ops = {read_data, write_data, 4};
    return port_bus_add(bus, LAYOUT_PORT_PCI_ADDRESS, LAYOUT_PORT_PCI_ADDRESS + 3, &address_ops,
                        pci) &&
           port_bus_add(bus, LAYOUT_PORT_PCI_DATA, LAYOUT_PORT_PCI_DATA + 3, &data_ops, pci);
}
