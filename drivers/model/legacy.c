#include "drivers/model/legacy.h"

#define PORT_92         0x92
#define PORT_KBD_DATA   0x60
#define PORT_KBD_STATUS 0x64

#define PORT92_RESET    0x01
#define PORT92_A20      0x02
#define KBD_RESET       0xfe

static u32 read_kbd(void *dev, u16 port, unsigned size)
{
    (void)dev;
    (void)port;
    (void)size;
    return 0xff; // no controller: drivers stop looking
}

static void write_kbd(void *dev, u16 port, unsigned size, u32 value)
{
    struct legacy *legacy = dev;
    (void)size;
    if (port == PORT_KBD_STATUS && value == KBD_RESET)
        legacy->reset(legacy->ctx);
}

static u32 read_92(void *dev, u16 port, unsigned size)
{
    struct legacy *legacy = dev;
    (void)port;
    (void)size;
    return legacy->port92 | PORT92_A20; // the address line 20 is always on
}

static void write_92(void *dev, u16 port, unsigned size, u32 value)
{
    struct legacy *legacy = dev;
    (void)port;
    (void)size;
    bool rises = value & ~legacy->port92 & PORT92_RESET;
    legacy->port92 = (u8)value;
    if (rises)
        legacy->reset(legacy->ctx);
}

static u32 read_exit(void *dev, u16 port, unsigned size)
{
    (void)dev;
    (void)port;
    return (u32)bus_ones(size);
}

static void write_exit(void *dev, u16 port, unsigned size, u32 value)
{
    struct legacy *legacy = dev;
    (void)port;
    (void)size;
    legacy->debug_exit(legacy->ctx, value);
}

void legacy_init(struct legacy *legacy, u16 exit_port, void (*reset)(void *ctx),
                 void (*debug_exit)(void *ctx, u32 code), void *ctx)
{
    *legacy = (struct legacy){
        .exit_port = exit_port,
        .reset = reset,
        .debug_exit = debug_exit,
        .ctx = ctx,
    };
}

bool legacy_attach(struct legacy *legacy, struct port_bus *bus)
{
    static const struct port_ops kbd_ops = {read_kbd, write_kbd, 1};
    static const struct port_ops ops92 = {read_92, write_92, 1};
    static const struct port_ops exit_ops = {read_exit, write_exit, 4};
    u16 exit = legacy->exit_port;
    return port_bus_add(bus, PORT_KBD_DATA, PORT_KBD_DATA, &kbd_ops, legacy) &&
           port_bus_add(bus, PORT_KBD_STATUS, PORT_KBD_STATUS, &kbd_ops, legacy) &&
           port_bus_add(bus, PORT_92, PORT_92, &ops92, legacy) &&
           (!exit || port_bus_add(bus, exit, (u16)(exit + 3), &exit_ops, legacy));
}
