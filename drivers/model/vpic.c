#include "drivers/model/vpic.h"

#include "libc/bits.h"

#define MASTER_PORT 0x20
#define SLAVE_PORT  0xa0
#define ELCR_PORT   0x4d0
#define CASCADE     2

enum {
    ICW1_ICW4 = 0x01,
    ICW1_SINGLE = 0x02,
    ICW1_INIT = 0x10,
    ICW4_AUTO_EOI = 0x02,
    ICW4_SPECIAL_NESTED = 0x10,
    OCW3_SELECT = 0x08, // with bit 4 clear: OCW3, else OCW2
    OCW3_POLL = 0x04,
    OCW3_READ = 0x02,
    OCW3_READ_ISR = 0x01,
    OCW3_SET_SPECIAL_MASK = 0x40,
    OCW3_SPECIAL_MASK = 0x20,
    OCW2_ROTATE = 0x80,
    OCW2_SPECIFIC = 0x40,
    OCW2_EOI = 0x20,
};

// Distance of the best input in `set` from the highest priority, 8 if `set` is empty.
static unsigned best_rank(const struct vpic_chip *c, u8 set)
{
    unsigned shift = (c->lowest + 1u) & 7;
    unsigned rotated = ((unsigned)set | (unsigned)set << 8) >> shift & 0xff;
    return rotated ? bit_lowest(rotated) : 8;
}

static unsigned input_of_rank(const struct vpic_chip *c, unsigned rank)
{
    return (c->lowest + 1u + rank) & 7;
}

// The input that requests service now, or -1.
static int chip_request(const struct vpic_chip *c)
{
    if (c->init_step)
        return -1;
    unsigned rank = best_rank(c, c->irr & (u8)~c->imr);
    u8 blocking = c->isr;
    if (c->special_mask)
        blocking &= (u8)~c->imr;
    unsigned limit = best_rank(c, blocking);
    // Special fully nested: the slave may interrupt its own service with a better request.
    if (c->master && c->special_nested && limit < 8 && input_of_rank(c, limit) == CASCADE)
        limit++;
    return rank < limit ? (int)input_of_rank(c, rank) : -1;
}

static void chip_set(struct vpic_chip *c, unsigned input, bool level)
{
    u8 bit = (u8)(1u << input);
    if (!level)
        c->irr &= (u8)~bit; // also in edge mode: a request must stay until it is acknowledged
    else if ((c->elcr & bit) || !(c->line & bit))
        c->irr |= bit;
    c->line = (u8)(level ? c->line | bit : c->line & ~bit);
}

static void set_intr(struct vpic *pic, bool level)
{
    if (level != pic->intr_level) {
        pic->intr_level = level;
        irq_set(&pic->intr, level);
    }
}

// Carries the slave's output to the master and the master's to the processor.
static void update(struct vpic *pic)
{
    chip_set(&pic->chip[0], CASCADE, chip_request(&pic->chip[1]) >= 0);
    set_intr(pic, chip_request(&pic->chip[0]) >= 0);
}

// What the first INTA pulse does in one chip; the input is 7 when there is no request (spurious).
static unsigned chip_ack(struct vpic_chip *c)
{
    int input = chip_request(c);
    if (input < 0)
        return 7;
    u8 bit = (u8)(1u << input);
    if (!(c->elcr & bit))
        c->irr &= (u8)~bit;
    if (!c->auto_eoi)
        c->isr |= bit;
    else if (c->rotate_on_auto_eoi)
        c->lowest = (u8)input;
    return (unsigned)input;
}

u8 vpic_ack(struct vpic *pic)
{
    struct vpic_chip *c = &pic->chip[0];
    unsigned input = chip_ack(c);
    if (input == CASCADE && !c->single) {
        c = &pic->chip[1];
        input = chip_ack(c);
        // The slave may have further requests: in edge mode the master must see a new edge.
        chip_set(&pic->chip[0], CASCADE, false);
    }
    set_intr(pic, false); // INT falls with the acknowledge: a further request is a new edge
    update(pic);
    return (u8)(c->vector + input);
}

void vpic_set_irq(struct vpic *pic, unsigned irq, bool level)
{
    if (irq > 15 || irq == CASCADE)
        return;
    chip_set(&pic->chip[irq / 8], irq % 8, level);
    update(pic);
}

static void write_icw1(struct vpic_chip *c, u8 value)
{
    c->irr = c->elcr & c->line; // edges seen before are forgotten
    c->imr = c->isr = 0;
    c->lowest = 7;
    c->auto_eoi = c->rotate_on_auto_eoi = false;
    c->special_mask = c->special_nested = false;
    c->read_isr = c->poll = false;
    c->need_icw4 = value & ICW1_ICW4;
    c->single = value & ICW1_SINGLE;
    c->init_step = 2;
}

static void write_icw(struct vpic_chip *c, u8 value)
{
    switch (c->init_step) {
    case 2:
        c->vector = value & 0xf8;
        c->init_step = !c->single ? 3 : c->need_icw4 ? 4 : 0;
        break;
    case 3: // the cascade is wired
        c->init_step = c->need_icw4 ? 4 : 0;
        break;
    default:
        c->auto_eoi = value & ICW4_AUTO_EOI;
        c->special_nested = value & ICW4_SPECIAL_NESTED;
        c->init_step = 0;
    }
}

static void end_of_interrupt(struct vpic_chip *c, u8 value)
{
    unsigned input = value & 7;
    if (!(value & OCW2_SPECIFIC)) {
        u8 in_service = c->isr;
        if (c->special_mask)
            in_service &= (u8)~c->imr;
        unsigned rank = best_rank(c, in_service);
        if (rank == 8)
            return;
        input = input_of_rank(c, rank);
    }
    c->isr &= (u8) ~(1u << input);
    if (value & OCW2_ROTATE)
        c->lowest = (u8)input;
}

static void write_ocw2(struct vpic_chip *c, u8 value)
{
    if (value & OCW2_EOI)
        end_of_interrupt(c, value);
    else if ((value & (OCW2_ROTATE | OCW2_SPECIFIC)) == (OCW2_ROTATE | OCW2_SPECIFIC))
        c->lowest = value & 7;
    else if (!(value & OCW2_SPECIFIC))
        c->rotate_on_auto_eoi = value & OCW2_ROTATE;
}

static void write_ocw3(struct vpic_chip *c, u8 value)
{
    if (value & OCW3_POLL)
        c->poll = true;
    else if (value & OCW3_READ)
        c->read_isr = value & OCW3_READ_ISR;
    if (value & OCW3_SET_SPECIAL_MASK)
        c->special_mask = value & OCW3_SPECIAL_MASK;
}

static struct vpic_chip *chip_at(struct vpic *pic, u16 port)
{
    return &pic->chip[port >= SLAVE_PORT];
}

static void write_port(void *dev, u16 port, unsigned size, u32 value)
{
    struct vpic *pic = dev;
    struct vpic_chip *c = chip_at(pic, port);
    u8 byte = (u8)value;
    (void)size;
    if (port & 1) {
        if (c->init_step)
            write_icw(c, byte);
        else
            c->imr = byte;
    } else if (byte & ICW1_INIT) {
        write_icw1(c, byte);
    } else if (byte & OCW3_SELECT) {
        write_ocw3(c, byte);
    } else {
        write_ocw2(c, byte);
    }
    update(pic);
}

// A read after the poll command acknowledges and tells the input.
static u8 poll(struct vpic *pic, struct vpic_chip *c)
{
    c->poll = false;
    if (chip_request(c) < 0)
        return 0;
    u8 answer = (u8)(0x80 | chip_ack(c));
    update(pic);
    return answer;
}

static u32 read_port(void *dev, u16 port, unsigned size)
{
    struct vpic *pic = dev;
    struct vpic_chip *c = chip_at(pic, port);
    (void)size;
    if (c->poll)
        return poll(pic, c);
    if (port & 1)
        return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

static u32 read_elcr(void *dev, u16 port, unsigned size)
{
    struct vpic *pic = dev;
    (void)size;
    return pic->chip[port - ELCR_PORT].elcr;
}

static void write_elcr(void *dev, u16 port, unsigned size, u32 value)
{
    struct vpic *pic = dev;
    struct vpic_chip *c = &pic->chip[port - ELCR_PORT];
    (void)size;
    c->elcr = (u8)value & c->elcr_mask;
    c->irr |= c->elcr & c->line;
    update(pic);
}

void vpic_init(struct vpic *pic, struct irq_line intr)
{
    *pic = (struct vpic){.intr = intr};
    pic->chip[0].master = true;
    pic->chip[0].elcr_mask = 0xf8; // IRQ 0, 1, 2, 8 and 13 are always edge-triggered
    pic->chip[1].elcr_mask = 0xde;
    for (unsigned i = 0; i < 2; i++) {
        pic->chip[i].lowest = 7;
        pic->chip[i].imr = 0xff;
        pic->chip[i].vector = (u8)(8 * i);
    }
}

bool vpic_attach(struct vpic *pic, struct port_bus *bus)
{
    static const struct port_ops ops = {read_port, write_port, 1};
    static const struct port_ops elcr_ops = {read_elcr, write_elcr, 1};
    return port_bus_add(bus, MASTER_PORT, MASTER_PORT + 1, &ops, pic) &&
           port_bus_add(bus, SLAVE_PORT, SLAVE_PORT + 1, &ops, pic) &&
           port_bus_add(bus, ELCR_PORT, ELCR_PORT + 1, &elcr_ops, pic);
}
