#pragma once
// Small legacy ports: reset through port 92H and through the keyboard controller's command FEH (the
// controller itself reads as absent), and the debug-exit port.

#include "drivers/model/vbus.h"

struct legacy {
    u8 port92;
    u16 exit_port;
    void (*reset)(void *ctx);
    void (*debug_exit)(void *ctx, u32 code);
    void *ctx;
};

// `exit_port` 0: no debug-exit port.
void legacy_init(struct legacy *legacy, u16 exit_port, void (*reset)(void *ctx),
                 void (*debug_exit)(void *ctx, u32 code), void *ctx);
bool legacy_attach(struct legacy *legacy, struct port_bus *bus);
