#include "tests/host/test.h"

#include "drivers/model/vpic.h"
#include "tests/host/model_world.h"

static struct port_bus bus;
static struct vpic pic;
static struct world_line intr;

static void setup_icw4(u8 icw4)
{
    port_bus_init(&bus);
    intr = (struct world_line){0};
    vpic_init(&pic, WORLD_LINE(&intr));
    CHECK(vpic_attach(&pic, &bus));
    outb(&bus, 0x20, 0x11);
    outb(&bus, 0x21, 0x20);
    outb(&bus, 0x21, 0x04);
    outb(&bus, 0x21, icw4);
    outb(&bus, 0xa0, 0x11);
    outb(&bus, 0xa1, 0x28);
    outb(&bus, 0xa1, 0x02);
    outb(&bus, 0xa1, icw4);
}

static void setup(void)
{
    setup_icw4(0x01);
}

static void pulse(unsigned irq)
{
    vpic_set_irq(&pic, irq, false);
    vpic_set_irq(&pic, irq, true);
}

static u8 isr(u16 port)
{
    outb(&bus, port, 0x0b);
    return inb(&bus, port);
}

static u8 irr(u16 port)
{
    outb(&bus, port, 0x0a);
    return inb(&bus, port);
}

TEST(nothing_before_initialisation)
{
    port_bus_init(&bus);
    intr = (struct world_line){0};
    vpic_init(&pic, WORLD_LINE(&intr));
    vpic_attach(&pic, &bus);
    pulse(1);
    CHECK(!intr.level);
}

TEST(request_acknowledge_eoi)
{
    setup();
    pulse(4);
    CHECK(intr.level);
    CHECK_EQ(irr(0x20), 0x10);
    CHECK_EQ(vpic_ack(&pic), 0x24);
    CHECK(!intr.level);
    CHECK_EQ(irr(0x20), 0);
    CHECK_EQ(isr(0x20), 0x10);
    pulse(4);
    CHECK(!intr.level); // in service
    outb(&bus, 0x20, 0x20);
    CHECK(intr.level);
    CHECK_EQ(vpic_ack(&pic), 0x24);
}

TEST(fixed_priority)
{
    setup();
    pulse(5);
    pulse(3);
    CHECK_EQ(vpic_ack(&pic), 0x23);
    CHECK(!intr.level);
    pulse(1); // higher: interrupts the service
    CHECK_EQ(vpic_ack(&pic), 0x21);
    CHECK_EQ(isr(0x20), 0x0a);
    outb(&bus, 0x20, 0x20); // ends the highest
    CHECK_EQ(isr(0x20), 0x08);
    outb(&bus, 0x20, 0x20);
    CHECK_EQ(vpic_ack(&pic), 0x25);
}

TEST(slave_cascade)
{
    setup();
    pulse(10);
    pulse(8);
    CHECK_EQ(vpic_ack(&pic), 0x28);
    CHECK_EQ(isr(0x20), 0x04);
    CHECK_EQ(isr(0xa0), 0x01);
    CHECK(!intr.level); // 10 is lower than 8 in service
    outb(&bus, 0xa0, 0x20);
    CHECK(!intr.level); // the master still has IR2 in service
    outb(&bus, 0x20, 0x20);
    CHECK_EQ(vpic_ack(&pic), 0x2a);
}

TEST(slave_with_master_eoi_first)
{
    setup();
    pulse(8);
    pulse(12);
    CHECK_EQ(vpic_ack(&pic), 0x28);
    outb(&bus, 0x20, 0x20);
    CHECK(!intr.level);
    outb(&bus, 0xa0, 0x20);
    CHECK(intr.level);
    CHECK_EQ(vpic_ack(&pic), 0x2c);
}

TEST(mask)
{
    setup();
    outb(&bus, 0x21, 0x10);
    CHECK_EQ(inb(&bus, 0x21), 0x10);
    pulse(4);
    CHECK(!intr.level);
    outb(&bus, 0x21, 0);
    CHECK(intr.level); // the edge was kept
}

TEST(spurious_irq7_and_irq15)
{
    setup();
    pulse(4);
    vpic_set_irq(&pic, 4, false);
    CHECK(!intr.level);
    CHECK_EQ(vpic_ack(&pic), 0x27);
    CHECK_EQ(isr(0x20), 0); // so that software can tell
    // The slave's request goes between the master's acknowledge and its own: IR2 stays in service.
    setup();
    pulse(9);
    pic.chip[1].irr = 0;
    CHECK_EQ(vpic_ack(&pic), 0x2f);
    CHECK_EQ(isr(0x20), 0x04);
    CHECK_EQ(isr(0xa0), 0);
}

TEST(edge_needs_a_new_edge_level_does_not)
{
    setup();
    vpic_set_irq(&pic, 5, true);
    vpic_ack(&pic);
    outb(&bus, 0x20, 0x20);
    vpic_set_irq(&pic, 5, true);
    CHECK(!intr.level);
    vpic_set_irq(&pic, 5, false);
    outb(&bus, 0x4d0, 0xff);
    CHECK_EQ(inb(&bus, 0x4d0), 0xf8);
    outb(&bus, 0x4d1, 0xff);
    CHECK_EQ(inb(&bus, 0x4d1), 0xde);
    vpic_set_irq(&pic, 5, true);
    CHECK_EQ(vpic_ack(&pic), 0x25);
    CHECK(!intr.level);
    outb(&bus, 0x20, 0x20);
    CHECK(intr.level);
    vpic_set_irq(&pic, 5, false);
    CHECK(!intr.level);
}

TEST(specific_eoi)
{
    setup();
    pulse(5);
    vpic_ack(&pic);
    pulse(2);
    pulse(1);
    vpic_ack(&pic);
    outb(&bus, 0x20, 0x60 | 5);
    CHECK_EQ(isr(0x20), 0x02);
}

TEST(rotate_on_eoi)
{
    setup();
    pulse(3);
    pulse(4);
    CHECK_EQ(vpic_ack(&pic), 0x23);
    outb(&bus, 0x20, 0xa0); // 3 becomes lowest
    pulse(3);
    CHECK_EQ(vpic_ack(&pic), 0x24);
    outb(&bus, 0x20, 0xe0 | 4); // specific rotate
    CHECK_EQ(vpic_ack(&pic), 0x23);
}

TEST(set_priority)
{
    setup();
    outb(&bus, 0x20, 0xc0 | 4); // 5 is highest now
    pulse(1);
    pulse(6);
    CHECK_EQ(vpic_ack(&pic), 0x26);
    CHECK(!intr.level);
    outb(&bus, 0x20, 0x20);
    CHECK_EQ(vpic_ack(&pic), 0x21);
}

TEST(auto_eoi_and_rotation)
{
    setup_icw4(0x03);
    pulse(3);
    pulse(4);
    CHECK_EQ(vpic_ack(&pic), 0x23);
    CHECK_EQ(isr(0x20), 0);
    CHECK_EQ(intr.rises, 2); // 4 waits: INT fell and rose
    CHECK_EQ(vpic_ack(&pic), 0x24);
    outb(&bus, 0x20, 0x80);
    pulse(0);
    CHECK_EQ(vpic_ack(&pic), 0x20); // 0 is lowest now
    pulse(0);
    pulse(7);
    CHECK_EQ(vpic_ack(&pic), 0x27);
    CHECK_EQ(vpic_ack(&pic), 0x20);
    outb(&bus, 0x20, 0x00); // no more rotation
    CHECK(!pic.chip[0].rotate_on_auto_eoi);
}

TEST(slave_in_auto_eoi_mode)
{
    setup();
    outb(&bus, 0xa0, 0x11);
    outb(&bus, 0xa1, 0x28);
    outb(&bus, 0xa1, 0x02);
    outb(&bus, 0xa1, 0x03);
    pulse(9);
    pulse(11);
    CHECK_EQ(vpic_ack(&pic), 0x29);
    outb(&bus, 0x20, 0x20); // the slave's second request is a new edge at the master
    CHECK(intr.level);
    CHECK_EQ(vpic_ack(&pic), 0x2b);
}

TEST(level_mode_sees_a_line_that_is_up)
{
    setup();
    pulse(5);
    CHECK_EQ(vpic_ack(&pic), 0x25);
    outb(&bus, 0x20, 0x20);
    CHECK(!intr.level);
    outb(&bus, 0x4d0, 0x20);
    CHECK(intr.level);
    outb(&bus, 0x4d0, 0x20);
    CHECK(intr.level);
}

TEST(special_mask_mode)
{
    setup();
    pulse(3);
    vpic_ack(&pic);
    outb(&bus, 0x20, 0x68);
    outb(&bus, 0x21, 0x08);
    pulse(6); // lower than 3, which is in service but masked
    CHECK_EQ(vpic_ack(&pic), 0x26);
    outb(&bus, 0x20, 0x20); // does not touch the masked one
    CHECK_EQ(isr(0x20), 0x08);
    outb(&bus, 0x20, 0x48);
    pulse(6);
    CHECK(!intr.level);
}

TEST(special_fully_nested_mode)
{
    setup_icw4(0x11);
    pulse(10);
    CHECK_EQ(vpic_ack(&pic), 0x2a);
    pulse(8); // better within the slave
    CHECK(intr.level);
    pulse(5);
    CHECK_EQ(vpic_ack(&pic), 0x28);
    CHECK(!intr.level); // 5 is below the cascade
}

TEST(poll_command)
{
    setup();
    outb(&bus, 0x20, 0x0c);
    CHECK_EQ(inb(&bus, 0x20), 0);
    pulse(6);
    outb(&bus, 0x20, 0x0c);
    CHECK_EQ(inb(&bus, 0x20), 0x86);
    CHECK(!intr.level);
    CHECK_EQ(isr(0x20), 0x40);
}

TEST(initialisation_forgets)
{
    setup();
    pulse(3);
    outb(&bus, 0x21, 0xff);
    outb(&bus, 0x20, 0x11);
    CHECK(!intr.level);
    outb(&bus, 0x21, 0x40);
    outb(&bus, 0x21, 0x04);
    outb(&bus, 0x21, 0x01);
    CHECK_EQ(inb(&bus, 0x21), 0);
    CHECK(!intr.level); // line 3 is high, but it takes a new edge
    pulse(3);
    CHECK_EQ(vpic_ack(&pic), 0x43);
}

TEST(linux_probe_8259)
{
    // Linux: mask the slave, write a value to the master's mask, read it back.
    setup();
    outb(&bus, 0xa1, 0xff);
    outb(&bus, 0x21, 0xfb);
    CHECK_EQ(inb(&bus, 0x21), 0xfb);
}

TEST(lines_out_of_range_are_ignored)
{
    setup();
    vpic_set_irq(&pic, 2, true);
    vpic_set_irq(&pic, 16, true);
    vpic_set_irq(&pic, ~0u, true);
    CHECK(!intr.level);
    pulse(15);
    CHECK_EQ(vpic_ack(&pic), 0x2f);
    CHECK_EQ(isr(0xa0), 0x80);
}
