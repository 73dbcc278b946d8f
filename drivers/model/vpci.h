#pragma once
// PCI configuration space by mechanism 1 (ports CF8H-CFFH), bus 0, and the host bridge 00:00.0.

#include "drivers/model/vbus.h"

#define VPCI_DEVFN(dev, fn) ((dev) << 3 | (fn))

// A function on bus 0: assigned, virtual, or the host bridge. Accesses are aligned, of 1, 2 or 4
// bytes, within the 256 bytes.
struct vpci_function {
    u32 (*read)(struct vpci_function *fn, unsigned offset, unsigned size);
    void (*write)(struct vpci_function *fn, unsigned offset, unsigned size, u32 value);
};

struct vpci_bus {
    u32 address; // CONFIG_ADDRESS
    struct vpci_function *function[256];
    struct vpci_function host_bridge;
    void (*reset)(void *ctx); // by the reset register CF9H, which lies inside CONFIG_ADDRESS
    void *ctx;
    u8 reset_control;
};

void vpci_init(struct vpci_bus *pci, void (*reset)(void *ctx), void *ctx);
bool vpci_attach(struct vpci_bus *pci, struct port_bus *bus);

// False if there is a function already.
bool vpci_add(struct vpci_bus *pci, u8 devfn, struct vpci_function *fn);
