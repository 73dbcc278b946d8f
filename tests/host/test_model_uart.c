#include "tests/host/test.h"

#include "drivers/model/vuart.h"
#include "tests/host/model_world.h"

#define P 0x3f8

static struct port_bus bus;
static struct vuart uart;
static struct world_line irq;
static char sent[256];
static unsigned sent_count;

static void output(void *ctx, u8 byte)
{
    (void)ctx;
    if (sent_count < sizeof(sent))
        sent[sent_count++] = (char)byte;
}

static void setup(void)
{
    irq = (struct world_line){0};
    sent_count = 0;
    port_bus_init(&bus);
    vuart_init(&uart, WORLD_LINE(&irq), output, NULL);
    CHECK(vuart_attach(&uart, &bus, P));
}

static u8 rd(unsigned reg)
{
    return inb(&bus, (u16)(P + reg));
}

static void wr(unsigned reg, u8 value)
{
    outb(&bus, (u16)(P + reg), value);
}

static unsigned room_calls;

// Takes the chance at once, as the console does.
static void fill_room(void *ctx)
{
    (void)ctx;
    room_calls++;
    CHECK(vuart_receive(&uart, 'r'));
}

TEST(room_is_told_when_the_receiver_is_not_full_any_more)
{
    setup();
    uart.room = fill_room;
    room_calls = 0;
    CHECK(vuart_receive(&uart, 'a') && !vuart_receive(&uart, 'b'));
    CHECK_EQ(rd(5) & 1, 1); // an access that makes no room
    CHECK_EQ(room_calls, 0);
    CHECK_EQ(rd(0), 'a');
    CHECK_EQ(room_calls, 1);
    CHECK_EQ(rd(0), 'r');
    CHECK_EQ(room_calls, 2);
    wr(2, 0x01); // the FIFO comes on empty
    CHECK_EQ(room_calls, 3);
    CHECK_EQ(rd(0), 'r');
    CHECK_EQ(room_calls, 3); // it was not full
    wr(4, 0x10);
    CHECK(!vuart_receive(&uart, 'x'));
    wr(4, 0x00);
    CHECK_EQ(room_calls, 4);
}

TEST(transmit)
{
    setup();
    CHECK_EQ(rd(5), 0x60);
    for (const char *s = "hello"; *s; s++)
        wr(0, (u8)*s);
    CHECK(sent_count == 5 && !memcmp(sent, "hello", 5));
    CHECK_EQ(rd(5), 0x60);
    CHECK_EQ(irq.rises, 0);
}

TEST(divisor_latch)
{
    setup();
    wr(3, 0x83);
    wr(0, 0x01);
    wr(1, 0x02);
    CHECK_EQ(rd(0), 1);
    CHECK_EQ(rd(1), 2);
    wr(3, 0x03);
    CHECK_EQ(rd(3), 3);
    CHECK_EQ(rd(1), 0);
    CHECK_EQ(sent_count, 0);
    wr(7, 0xa5);
    CHECK_EQ(rd(7), 0xa5);
}

TEST(receive)
{
    setup();
    wr(2, 0x01);
    CHECK(vuart_receive(&uart, 'a'));
    CHECK(vuart_receive(&uart, 'b'));
    CHECK_EQ(rd(5), 0x61);
    CHECK_EQ(rd(0), 'a');
    CHECK_EQ(rd(0), 'b');
    CHECK_EQ(rd(5), 0x60);
    CHECK_EQ(rd(0), 0);
    for (unsigned i = 0; i < 16; i++)
        CHECK(vuart_receive(&uart, (u8)i));
    CHECK(!vuart_receive(&uart, 16));
    CHECK_EQ(rd(0), 0);
    CHECK(vuart_receive(&uart, 16));
    wr(2, 0x81);
    CHECK_EQ(rd(5), 0x61); // another trigger level keeps the bytes
    wr(2, 0x03);
    CHECK_EQ(rd(5), 0x60);
    wr(2, 0);
    CHECK(vuart_receive(&uart, 'x')); // without FIFOs: one
    CHECK(!vuart_receive(&uart, 'y'));
}

TEST(receive_interrupt)
{
    setup();
    wr(4, 0x08);
    wr(1, 0x01);
    CHECK(vuart_receive(&uart, 'a'));
    CHECK(irq.level);
    CHECK_EQ(rd(2), 0x04);
    CHECK(irq.level); // reading IIR does not take it away
    rd(0);
    CHECK(!irq.level);
    CHECK_EQ(rd(2), 0x01);
    wr(2, 0x81); // FIFOs, trigger at 8
    vuart_receive(&uart, 'a');
    CHECK_EQ(rd(2), 0xcc); // character time-out
    for (unsigned i = 0; i < 7; i++)
        vuart_receive(&uart, 'a');
    CHECK_EQ(rd(2), 0xc4);
}

TEST(interrupt_needs_out2)
{
    setup();
    wr(1, 0x01);
    vuart_receive(&uart, 'a');
    CHECK(!irq.level);
    CHECK_EQ(rd(2), 0x04);
    wr(4, 0x08);
    CHECK(irq.level);
}

TEST(thre_semantics)
{
    setup();
    wr(4, 0x08);
    wr(1, 0x02); // enabling it while empty raises it
    CHECK(irq.level);
    CHECK_EQ(rd(2), 0x02);
    CHECK(!irq.level); // reading IIR as the source withdraws it
    CHECK_EQ(rd(2), 0x01);
    wr(1, 0x02); // was enabled: no new one
    CHECK(!irq.level);
    unsigned rises = irq.rises;
    wr(0, 'x'); // sent: empty again
    CHECK_EQ(irq.rises, rises + 1);
    wr(0, 'y'); // and each byte is an edge of its own
    CHECK_EQ(irq.rises, rises + 2);
    // A receive interrupt hides it and reading IIR then does not take it away.
    wr(1, 0x03);
    vuart_receive(&uart, 'a');
    CHECK_EQ(rd(2), 0x04);
    rd(0);
    CHECK_EQ(rd(2), 0x02);
    wr(1, 0);
    wr(0, 'z');
    CHECK(!irq.level);
}

TEST(linux_autoconfig)
{
    setup();
    // Interrupt enables can be cleared and set, four of them.
    wr(1, 0);
    CHECK_EQ(rd(1), 0);
    wr(1, 0x0f);
    CHECK_EQ(rd(1), 0x0f);
    wr(1, 0);
    // Loop-back of the modem lines.
    wr(4, 0x10 | 0x0a);
    CHECK_EQ(rd(6) & 0xf0, 0x90);
    wr(4, 0);
    // FIFOs: 16550A.
    wr(3, 0xbf);
    wr(2, 0);
    wr(3, 0);
    wr(2, 0x01);
    CHECK_EQ(rd(2) >> 6, 3);
    // No enhanced feature register (reads IIR, not 0), no 64-byte FIFO, no UUE.
    wr(3, 0x80);
    CHECK(rd(2) != 0);
    wr(3, 0xbf);
    CHECK(rd(2) != 0);
    wr(3, 0);
    wr(2, 0x01);
    u8 without = rd(2) >> 5;
    wr(2, 0x01);
    wr(3, 0x80);
    wr(2, 0x21);
    CHECK_EQ(without, 6);
    CHECK_EQ(rd(2) >> 5, 6);
    wr(3, 0);
    wr(1, 0x40);
    CHECK_EQ(rd(1), 0);
    CHECK_EQ(sent_count, 0);
}

TEST(linux_startup_thre_test)
{
    setup();
    wr(2, 0x01);
    wr(4, 0x08);
    CHECK_EQ(rd(5), 0x60);
    wr(1, 0x02);
    u8 iir1 = rd(2);
    wr(1, 0);
    wr(1, 0x02);
    u8 iir2 = rd(2);
    wr(1, 0);
    CHECK(!(iir1 & 1));
    CHECK(!(iir2 & 1)); // asserted again: no "THRE bug" work-around
    wr(1, 0x02);
    CHECK_EQ(rd(5) & 0x40, 0x40);
    CHECK(!(rd(2) & 1)); // no "TXEN bug" either
    wr(1, 0);
    CHECK(!irq.level);
}

TEST(xen_check_existence)
{
    setup();
    wr(7, 0x5a);
    CHECK_EQ(rd(7), 0x5a);
    wr(7, 0xa5);
    CHECK_EQ(rd(7), 0xa5);
    wr(1, 0);
    wr(4, 0x10 | 0x0a);
    CHECK_EQ(rd(6) & 0xf0, 0x90);
    // Init with FIFOs at 14 bytes, then IER with receive and THRE interrupts.
    wr(4, 0x0b);
    wr(2, 0xc1 | 0x06);
    CHECK_EQ(rd(2) & 0xc0, 0xc0);
    wr(1, 0x03);
    CHECK(irq.level);
    while (!(rd(2) & 1))
        if (rd(5) & 1)
            rd(0);
    CHECK(!irq.level);
}

TEST(loop_mode)
{
    setup();
    wr(2, 0x01);
    wr(1, 0x05);
    wr(4, 0x18);
    wr(0, 'q');
    CHECK_EQ(sent_count, 0);
    CHECK(!irq.level); // OUT2 is held off
    CHECK(!vuart_receive(&uart, 'z'));
    CHECK_EQ(rd(0), 'q');
    for (unsigned i = 0; i < 17; i++)
        wr(0, (u8)i);
    CHECK_EQ(rd(2), 0xc6); // overrun: line status
    CHECK_EQ(rd(5), 0x63);
    CHECK_EQ(rd(5), 0x61);
}

TEST(modem_status)
{
    setup();
    CHECK_EQ(rd(6), 0xb0);
    wr(1, 0x08);
    wr(4, 0x18); // loop, OUT2: CTS and DSR fall
    CHECK_EQ(rd(2), 0x00);
    CHECK_EQ(rd(6), 0x83);
    CHECK_EQ(rd(2), 0x01);
    CHECK_EQ(rd(6), 0x80);
    wr(4, 0x1c); // ring rises: no delta
    CHECK_EQ(rd(6), 0xc0);
    wr(4, 0x18); // its trailing edge
    CHECK_EQ(rd(6), 0x84);
}
