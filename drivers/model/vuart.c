#include "drivers/model/vuart.h"

enum {
    RBR_THR = 0, // DLL while DLAB is set
    IER = 1,     // DLM
    IIR_FCR = 2,
    LCR = 3,
    MCR = 4,
    LSR = 5,
    MSR = 6,
    SCR = 7,
};

enum {
    IER_RX = 0x01,
    IER_THRE = 0x02,
    IER_LINE = 0x04,
    IER_MODEM = 0x08,
    IIR_NONE = 0x01,
    IIR_MODEM = 0x00,
    IIR_THRE = 0x02,
    IIR_RX = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFOS = 0xc0,
    FCR_ENABLE = 0x01,
    FCR_CLEAR_RX = 0x02,
    FCR_KEPT = 0xc9,
    LCR_DLAB = 0x80,
    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08, // on a PC, lets the interrupt through
    MCR_LOOP = 0x10,
    LSR_DATA = 0x01,
    LSR_OVERRUN = 0x02,
    LSR_EMPTY = 0x60, // holding register and shift register
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
};

// --- Interrupt ---

static unsigned capacity(const struct vuart *u)
{
    return u->fcr & FCR_ENABLE ? VUART_FIFO : 1;
}

// The receiver's part of IIR. Bytes come at once or not at all, so that below the trigger level the
// time-out is over at once, too.
static u8 receiver_source(const struct vuart *u)
{
    static const u8 trigger[4] = {1, 4, 8, 14};
    return !(u->fcr & FCR_ENABLE) || u->used >= trigger[u->fcr >> 6] ? IIR_RX : IIR_TIMEOUT;
}

static u8 source(const struct vuart *u)
{
    if ((u->ier & IER_LINE) && u->lsr_errors)
        return IIR_LINE;
    if ((u->ier & IER_RX) && u->used)
        return receiver_source(u);
    if ((u->ier & IER_THRE) && u->thre)
        return IIR_THRE;
    if ((u->ier & IER_MODEM) && (u->msr & 0x0f))
        return IIR_MODEM;
    return IIR_NONE;
}

static void drive(struct vuart *u)
{
    bool level = source(u) != IIR_NONE && (u->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    if (level != u->line) {
        u->line = level;
        irq_set(&u->irq, level);
    }
}

// --- Data ---

static void push(struct vuart *u, u8 byte)
{
    if (u->used < capacity(u))
        u->fifo[(u->head + u->used++) % VUART_FIFO] = byte;
    else
        u->lsr_errors |= LSR_OVERRUN;
}

static u8 pop(struct vuart *u)
{
    if (!u->used)
        return 0;
    u8 byte = u->fifo[u->head];
    u->head = (u->head + 1) % VUART_FIFO;
    u->used--;
    return byte;
}

static bool receives(const struct vuart *u)
{
    return u->used < capacity(u) && !(u->mcr & MCR_LOOP);
}

bool vuart_receive(struct vuart *u, u8 byte)
{
    if (!receives(u))
        return false;
    push(u, byte);
    drive(u);
    return true;
}

static void transmit(struct vuart *u, u8 byte)
{
    // Taking the byte withdraws the interrupt, having sent it raises it again: the line must fall
    // in between, for the PIC sees edges.
    u->thre = false;
    drive(u);
    if (u->mcr & MCR_LOOP)
        push(u, byte);
    else
        u->output(u->ctx, byte);
    u->thre = true;
}

// --- Modem lines ---

// The inputs: those of a peer that is always there, or, in loop mode, the own outputs.
static u8 modem_inputs(const struct vuart *u)
{
    if (!(u->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return (u8)((u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) |
                (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static void write_mcr(struct vuart *u, u8 value)
{
    u->mcr = value & 0x1f;
    u8 now = modem_inputs(u), changed = now ^ (u->msr & 0xf0);
    if (now & MSR_RI)
        changed &= (u8)~MSR_RI; // its delta tells the trailing edge
    u->msr = (u8)((u->msr & 0x0f) | changed >> 4 | now);
}

// --- Registers ---

static void write_fcr(struct vuart *u, u8 value)
{
    if (((value ^ u->fcr) & FCR_ENABLE) || (value & FCR_CLEAR_RX))
        u->used = 0;
    u->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
}

static void write_ier(struct vuart *u, u8 value)
{
    // Enabling the interrupt of an empty transmitter raises it, however often.
    if (value & ~u->ier & IER_THRE)
        u->thre = true;
    u->ier = value & 0x0f;
}

static u8 read_iir(struct vuart *u)
{
    u8 id = source(u);
    if (id == IIR_THRE)
        u->thre = false;
    return id | (u->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static u8 read_lsr(struct vuart *u)
{
    u8 value = u->lsr_errors | LSR_EMPTY | (u->used ? LSR_DATA : 0);
    u->lsr_errors = 0;
    return value;
}

static u8 read_msr(struct vuart *u)
{
    u8 value = u->msr;
    u->msr &= 0xf0;
    return value;
}

static u8 read_register(struct vuart *u, unsigned reg)
{
    bool dlab = u->lcr & LCR_DLAB;
    switch (reg) {
    case RBR_THR:
        return dlab ? (u8)u->divisor : pop(u);
    case IER:
        return dlab ? (u8)(u->divisor >> 8) : u->ier;
    case IIR_FCR:
        return read_iir(u);
    case LCR:
        return u->lcr;
    case MCR:
        return u->mcr;
    case LSR:
        return read_lsr(u);
    case MSR:
        return read_msr(u);
    default:
        return u->scratch;
    }
}

static void write_register(struct vuart *u, unsigned reg, u8 value)
{
    bool dlab = u->lcr & LCR_DLAB;
    switch (reg) {
    case RBR_THR:
        if (dlab)
            u->divisor = (u16)((u->divisor & 0xff00) | value);
        else
            transmit(u, value);
        break;
    case IER:
        if (dlab)
            u->divisor = (u16)((u->divisor & 0xff) | value << 8);
        else
            write_ier(u, value);
        break;
    case IIR_FCR:
        write_fcr(u, value);
        break;
    case LCR:
        u->lcr = value;
        break;
    case MCR:
        write_mcr(u, value);
        break;
    case SCR:
        u->scratch = value;
        break;
    default: // LSR and MSR are read-only
        break;
    }
}

static void after_access(struct vuart *u, bool received)
{
    drive(u);
    if (!received && receives(u) && u->room)
        u->room(u->ctx);
}

static u32 read_port(void *dev, u16 port, unsigned size)
{
    struct vuart *u = dev;
    bool received = receives(u);
    (void)size;
    u8 value = read_register(u, port - u->base);
    after_access(u, received);
    return value;
}

static void write_port(void *dev, u16 port, unsigned size, u32 value)
{
    struct vuart *u = dev;
    bool received = receives(u);
    (void)size;
    write_register(u, port - u->base, (u8)value);
    after_access(u, received);
}

void vuart_init(struct vuart *u, struct irq_line irq, void (*output)(void *ctx, u8 byte), void *ctx)
{
    *u = (struct vuart){.irq = irq, .output = output, .ctx = ctx, .divisor = 12};
    u->msr = modem_inputs(u);
}

bool vuart_attach(struct vuart *u, struct port_bus *bus, u16 base)
{
    static const struct port_ops ops = {read_port, write_port, 1};
    u->base = base;
    return port_bus_add(bus, base, (u16)(base + 7), &ops, u);
}
