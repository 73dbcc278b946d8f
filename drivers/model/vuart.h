#pragma once
// A 16550A serial port. Transmission takes no time: each byte goes to the output at once.
// Facts: National Semiconductor PC16550D data sheet.

#include "drivers/model/vbus.h"

#define VUART_FIFO 16

struct vuart {
    u8 ier, fcr, lcr, mcr, msr, scratch;
    u16 divisor;
    u8 lsr_errors; // overrun and the like, cleared by reading LSR
    bool thre;     // "transmitter empty" waits to be reported
    bool line;     // level of the interrupt output
    u8 fifo[VUART_FIFO];
    unsigned head, used;
    u16 base;
    struct irq_line irq;
    void (*output)(void *ctx, u8 byte);
    void (*room)(void *ctx); // may be NULL
    void *ctx;
};

void vuart_init(struct vuart *uart, struct irq_line irq, void (*output)(void *ctx, u8 byte),
                void *ctx);
bool vuart_attach(struct vuart *uart, struct port_bus *bus, u16 base);

// A byte from outside. False, and the byte not taken, while the receiver is full. The guest's
// access that makes room again calls `room`, which may call this.
bool vuart_receive(struct vuart *uart, u8 byte);
