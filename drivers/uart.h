#pragma once
// The 16550 of L0's own serial console (the model that a VM sees is drivers/model/vuart.h).

#include "libc/types.h"

struct uart {
    u16 port;
    bool present;
};

// Programs 8N1 at `baud` with FIFOs; false (and not present) if no UART answers at `port`.
bool uart_init(struct uart *u, u16 port, u32 baud);

// Sends one byte; gives up after a bounded time when the line is stuck.
void uart_put(struct uart *u, u8 byte);

// The next received byte, or -1.
int uart_get(struct uart *u);

// Whether the UART interrupts for each received byte.
void uart_receive_irq(struct uart *u, bool on);

// Waits, for a bounded time, until the last byte has left.
void uart_drain(struct uart *u);
