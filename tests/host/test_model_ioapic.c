#include "tests/host/test.h"

#include "drivers/model/vioapic.h"
#include "tests/host/model_apics.h"

static struct vioapic io;
static struct mmio_bus bus;

static void to_ioapic(void *ctx, u8 vector)
{
    last_eoi = vector;
    vioapic_eoi(ctx, vector);
}

static void setup(void)
{
    apics_setup(2, false);
    mmio_bus_init(&bus);
    vioapic_init(&io, 2, &apics);
    CHECK(vioapic_attach(&io, &bus, GPA(0xfec00000)));
    apics.eoi = to_ioapic;
    apics.ctx = &io;
}

static u32 io_rd(u8 index)
{
    mmio_write(&bus, GPA(0xfec00000), 4, index);
    return (u32)mmio_read(&bus, GPA(0xfec00010), 4);
}

static void io_wr(u8 index, u32 value)
{
    mmio_write(&bus, GPA(0xfec00000), 4, index);
    mmio_write(&bus, GPA(0xfec00010), 4, value);
}

static void route(unsigned pin, u64 entry)
{
    io_wr((u8)(0x11 + 2 * pin), (u32)(entry >> 32));
    io_wr((u8)(0x10 + 2 * pin), (u32)entry);
}

static int io_take(unsigned cpu)
{
    int vector = vlapic_pending_vector(&lapics[cpu]);
    if (vector >= 0)
        vlapic_ack(&lapics[cpu], (u8)vector);
    return vector;
}

static void eoi(unsigned cpu)
{
    vlapic_mmio_write(&lapics[cpu], VLAPIC_EOI, 4, 0);
}

#define LEVEL  0x8000u
#define MASKED 0x10000u
#define CPU1   (1ull << 56)

TEST(registers)
{
    setup();
    CHECK_EQ(io_rd(0), 2u << 24);
    CHECK_EQ(io_rd(1), 0x00170020);
    CHECK_EQ(io_rd(0x10), MASKED);
    io_wr(0, 0x0f000000);
    CHECK_EQ(io_rd(0), 0x0f000000);
    io_wr(1, 0xffffffff);
    CHECK_EQ(io_rd(1), 0x00170020);
    io_wr(0x10, 0xffffffff);
    CHECK_EQ(io_rd(0x10), 0x1afff); // remote IRR and delivery status are read-only
    io_wr(0x11, 0xffffffff);
    CHECK_EQ(io_rd(0x11), 0xff000000);
    CHECK_EQ(io_rd(0x40), 0);
    CHECK_EQ(io_rd(0xff), 0);
    io_wr(0x40, ~0u);
    io_wr(0xff, ~0u);
    CHECK_EQ(mmio_read(&bus, GPA(0xfec00000), 4), 0xff);
    CHECK_EQ(mmio_read(&bus, GPA(0xfec00004), 4), 0);
    CHECK_EQ(mmio_read(&bus, GPA(0xfec00ff8), 8), 0);
}

TEST(edge)
{
    setup();
    route(4, 0x34 | CPU1);
    vioapic_set_irq(&io, 4, true);
    CHECK_EQ(io_take(1), 0x34);
    CHECK_EQ(io_take(0), -1);
    vioapic_set_irq(&io, 4, true); // no edge
    eoi(1);
    CHECK_EQ(last_eoi, -1);
    CHECK_EQ(io_take(1), -1);
    vioapic_set_irq(&io, 4, false);
    vioapic_set_irq(&io, 4, true);
    CHECK_EQ(io_take(1), 0x34);
}

TEST(masked_edge_is_lost)
{
    setup();
    route(4, 0x34 | MASKED);
    vioapic_set_irq(&io, 4, true);
    route(4, 0x34);
    CHECK_EQ(io_take(0), -1);
    vioapic_set_irq(&io, 4, false);
    vioapic_set_irq(&io, 4, true);
    CHECK_EQ(io_take(0), 0x34);
}

TEST(level_delivers_again_on_eoi)
{
    setup();
    route(9, 0x59 | LEVEL);
    vioapic_set_irq(&io, 9, true);
    CHECK_EQ(io_rd(0x10 + 18), 0x59 | LEVEL | 0x4000);
    CHECK_EQ(io_take(0), 0x59);
    vioapic_set_irq(&io, 9, false); // while in service: nothing new
    vioapic_set_irq(&io, 9, true);
    CHECK_EQ(io_take(0), -1);
    eoi(0);
    CHECK_EQ(io_take(0), 0x59);
    vioapic_set_irq(&io, 9, false);
    eoi(0);
    CHECK_EQ(io_take(0), -1);
    CHECK_EQ(io_rd(0x10 + 18), 0x59 | LEVEL);
}

TEST(masked_level_is_delivered_on_unmask)
{
    setup();
    route(9, 0x59 | LEVEL | MASKED);
    vioapic_set_irq(&io, 9, true);
    CHECK_EQ(io_take(0), -1);
    route(9, 0x59 | LEVEL);
    CHECK_EQ(io_take(0), 0x59);
    // Linux masks a level interrupt in service before its EOI and unmasks it later.
    route(9, 0x59 | LEVEL | MASKED);
    eoi(0);
    CHECK_EQ(io_rd(0x10 + 18), 0x59 | LEVEL | MASKED);
    CHECK_EQ(io_take(0), -1);
    route(9, 0x59 | LEVEL);
    CHECK_EQ(io_take(0), 0x59);
}

TEST(eoi_concerns_its_own_vector)
{
    setup();
    route(9, 0x59 | LEVEL);
    route(10, 0x6a | LEVEL);
    vioapic_set_irq(&io, 9, true);
    vioapic_set_irq(&io, 10, true);
    CHECK_EQ(io_take(0), 0x6a);
    vioapic_set_irq(&io, 10, false);
    eoi(0);
    CHECK_EQ(io_rd(0x10 + 18) & 0x4000, 0x4000);
    CHECK_EQ(io_rd(0x10 + 20) & 0x4000, 0);
}

TEST(shared_vector)
{
    setup();
    route(16, 0x61 | LEVEL);
    route(17, 0x61 | LEVEL);
    vioapic_set_irq(&io, 16, true);
    vioapic_set_irq(&io, 17, true);
    CHECK_EQ(io_take(0), 0x61);
    vioapic_set_irq(&io, 16, false);
    eoi(0);
    CHECK_EQ(io_take(0), 0x61);
    vioapic_set_irq(&io, 17, false);
    eoi(0);
    CHECK_EQ(io_take(0), -1);
}

TEST(remote_irr_cleared_by_eoi_register_or_edge_mode)
{
    setup();
    route(10, 0x60 | LEVEL);
    vioapic_set_irq(&io, 10, true);
    vioapic_set_irq(&io, 10, false);
    CHECK_EQ(io_rd(0x10 + 20) & 0x4000, 0x4000);
    mmio_write(&bus, GPA(0xfec00040), 4, 0x60);
    CHECK_EQ(io_rd(0x10 + 20) & 0x4000, 0);
    vioapic_set_irq(&io, 10, true);
    CHECK_EQ(io_rd(0x10 + 20) & 0x4000, 0x4000);
    vioapic_set_irq(&io, 10, false);
    io_wr(0x10 + 20, 0x60 | MASKED);
    CHECK_EQ(io_rd(0x10 + 20), 0x60 | MASKED);
}

TEST(not_accepted_does_not_wait)
{
    setup();
    vlapic_mmio_write(&lapics[0], VLAPIC_SVR, 4, 0xff);
    route(9, 0x59 | LEVEL);
    vioapic_set_irq(&io, 9, true);
    CHECK_EQ(io_rd(0x10 + 18) & 0x4000, 0);
}

TEST(delivery_modes)
{
    setup();
    route(1, 0x400);
    vioapic_set_irq(&io, 1, true);
    CHECK_EQ(vlapic_events(&lapics[0]), VLAPIC_NMI);
    route(0, 0x700);
    vioapic_set_irq(&io, 0, true);
    CHECK(vlapic_accepts_extint(&lapics[0]));
    route(2, 0x600); // start-up is not for I/O APICs
    vioapic_set_irq(&io, 2, true);
    CHECK_EQ(vlapic_events(&lapics[0]), VLAPIC_NMI);
    route(3, 0x33 | 0xffull << 56);
    vioapic_set_irq(&io, 3, true);
    CHECK_EQ(io_take(0), 0x33);
    CHECK_EQ(io_take(1), 0x33);
    vioapic_set_irq(&io, 24, true);
    vioapic_set_irq(&io, ~0u, true);
}
