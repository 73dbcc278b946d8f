#include "drivers/uart.h"

#include "libc/x86.h"

enum { DATA, IER, FCR, LCR, MCR, LSR, MSR, SCRATCH };

#define LSR_DATA  BIT(0)
#define LSR_EMPTY BIT(5)
#define LSR_SENT  BIT(6)
#define LCR_8N1   0x03
#define LCR_DLAB  0x80
#define FCR_ON    0x07 // enable, clear both FIFOs
#define MCR_LINES 0x0b // DTR, RTS, OUT2 (interrupt gate)
#define CLOCK     115200
#define PATIENCE  100000

bool uart_init(struct uart *u, u16 port, u32 baud)
{
    u16 divisor = (u16)(CLOCK / (baud ? baud : CLOCK));
    u->port = port;
    outb(port + SCRATCH, 0x5a);
    u->present = inb(port + SCRATCH) == 0x5a;
    if (!u->present)
        return false;
    outb(port + IER, 0);
    outb(port + LCR, LCR_DLAB);
    outb(port + DATA, (u8)divisor);
    outb(port + IER, (u8)(divisor >> 8));
    outb(port + LCR, LCR_8N1);
    outb(port + FCR, FCR_ON);
    outb(port + MCR, MCR_LINES);
    return true;
}

void uart_put(struct uart *u, u8 byte)
{
    if (!u->present)
        return;
    for (int i = 0; i < PATIENCE && !(inb(u->port + LSR) & LSR_EMPTY); i++)
        __builtin_ia32_pause();
    outb(u->port + DATA, byte);
}

int uart_get(struct uart *u)
{
    if (!u->present || !(inb(u->port + LSR) & LSR_DATA))
        return -1;
    return inb(u->port + DATA);
}

void uart_receive_irq(struct uart *u, bool on)
{
    if (u->present)
        outb(u->port + IER, on ? 1 : 0);
}

void uart_drain(struct uart *u)
{
    for (int i = 0; u->present && i < PATIENCE && !(inb(u->port + LSR) & LSR_SENT); i++)
        __builtin_ia32_pause();
}
