#include "tests/host/test.h"

#include "drivers/model/vpit.h"
#include "tests/host/model_world.h"

static struct port_bus bus;
static struct vpit pit;
static struct timer_set timers;
static struct world_line irq;

static void setup(void)
{
    world_now = 5 * MS;
    irq = (struct world_line){0};
    port_bus_init(&bus);
    timer_set_init(&timers);
    vpit_init(&pit, &world_clock, &timers, WORLD_LINE(&irq));
    CHECK(vpit_attach(&pit, &bus));
    world_now = ticks_to_ns(6000, VPIT_HZ);
}

// Programs a counter, low byte then high.
static void program(unsigned counter, unsigned mode, u16 count)
{
    outb(&bus, 0x43, (u8)(counter << 6 | 0x30 | mode << 1));
    outb(&bus, (u16)(0x40 + counter), (u8)count);
    outb(&bus, (u16)(0x40 + counter), (u8)(count >> 8));
}

static void step(u64 ticks)
{
    u64 tick = ns_to_ticks(world_now, VPIT_HZ) + ticks;
    world_run(&timers, ticks_to_ns(tick, VPIT_HZ));
}

static u16 both(u16 port)
{
    u8 low = inb(&bus, port);
    return (u16)(low | inb(&bus, port) << 8);
}

static u16 latched(unsigned counter)
{
    outb(&bus, 0x43, (u8)(counter << 6));
    return both((u16)(0x40 + counter));
}

static bool out(unsigned counter)
{
    outb(&bus, 0x43, (u8)(0xe0 | 2 << counter));
    return inb(&bus, (u16)(0x40 + counter)) & 0x80;
}

TEST(mode0_interrupts_once)
{
    setup();
    program(0, 0, 100);
    CHECK(!out(0));
    step(40);
    CHECK_EQ(latched(0), 60);
    step(59);
    CHECK(!irq.level);
    step(1);
    CHECK(irq.level);
    CHECK(out(0));
    step(1);
    CHECK_EQ(latched(0), 0xffff); // counts on
    step(70000);
    CHECK_EQ(irq.rises, 1);
    CHECK_EQ(timers_next(&timers), TIMER_NEVER);
    program(0, 0, 100);
    CHECK(!irq.level);
    step(100);
    CHECK_EQ(irq.rises, 2);
    outb(&bus, 0x40, 100); // without a control word
    outb(&bus, 0x40, 0);
    CHECK(!irq.level);
    step(100);
    CHECK_EQ(irq.rises, 3);
}

TEST(mode0_first_byte_stops_the_count)
{
    setup();
    program(0, 0, 100);
    step(50);
    outb(&bus, 0x40, 200);
    step(500);
    CHECK(!irq.level);
    outb(&bus, 0x40, 0);
    step(199);
    CHECK(!irq.level);
    step(1);
    CHECK(irq.level);
}

TEST(mode2_rate_generator)
{
    setup();
    program(0, 2, 1000);
    irq.rises = 0;
    CHECK(out(0));
    step(250);
    CHECK_EQ(latched(0), 750);
    step(749);
    CHECK(!out(0)); // low in the last tick
    CHECK_EQ(latched(0), 1);
    step(1);
    CHECK(out(0));
    CHECK_EQ(irq.rises, 1);
    CHECK_EQ(latched(0), 1000);
    step(10000);
    CHECK_EQ(irq.rises, 11);
}

TEST(mode2_new_count_waits_for_the_period)
{
    setup();
    program(0, 2, 1000);
    step(3500);
    irq.rises = 0;
    outb(&bus, 0x40, 100);
    outb(&bus, 0x40, 0);
    step(499);
    CHECK_EQ(irq.rises, 0);
    CHECK_EQ(latched(0), 1);
    step(1);
    CHECK_EQ(irq.rises, 1);
    step(100);
    CHECK_EQ(irq.rises, 2);
    step(1000);
    CHECK_EQ(irq.rises, 12);
    outb(&bus, 0x40, 50);
    outb(&bus, 0x40, 0);
    program(0, 2, 300); // a control word drops the count that waits
    irq.rises = 0;
    step(300);
    CHECK_EQ(irq.rises, 1);
    step(299);
    CHECK_EQ(irq.rises, 1);
}

TEST(late_ticks_coalesce)
{
    setup();
    program(0, 2, 2); // the shortest period
    irq.rises = 0;
    world_now += 10 * S;
    timers_run(&timers, world_now);
    CHECK_EQ(irq.rises, 1);
    CHECK(timers_next(&timers) > world_now);
}

TEST(mode3_square_wave)
{
    setup();
    program(0, 3, 1001);
    irq.rises = 0;
    step(500);
    CHECK(out(0)); // 501 high, 500 low
    step(1);
    CHECK(!out(0));
    step(499);
    CHECK_EQ(irq.rises, 0);
    step(1);
    CHECK(out(0));
    CHECK_EQ(irq.rises, 1);
    program(0, 3, 1000);
    step(100);
    CHECK_EQ(latched(0), 800); // counts by two
    step(450);
    CHECK_EQ(latched(0), 900);
}

TEST(count_zero_is_65536)
{
    setup();
    program(0, 2, 0);
    irq.rises = 0;
    step(65535);
    CHECK_EQ(irq.rises, 0);
    step(1);
    CHECK_EQ(irq.rises, 1);
    CHECK_EQ(latched(0), 0);
}

TEST(control_word_sets_the_output)
{
    setup();
    program(0, 2, 1000);
    CHECK(irq.level);
    outb(&bus, 0x43, 0x30); // mode 0: low until the count is over
    CHECK(!irq.level);
    CHECK_EQ(timers_next(&timers), TIMER_NEVER);
}

TEST(count_that_waits_comes_in_unobserved)
{
    setup();
    outb(&bus, 0x61, 1);
    program(2, 3, 1000);
    outb(&bus, 0x42, 100);
    outb(&bus, 0x42, 0);
    step(1000 + 20);
    CHECK(inb(&bus, 0x61) & 0x20); // in the new period: high for 50
    step(40);
    CHECK(!(inb(&bus, 0x61) & 0x20));
    outb(&bus, 0x42, 10);
    outb(&bus, 0x42, 0);
    step(43); // 3 into the period after
    CHECK_EQ(both(0x42), 4);
    outb(&bus, 0x42, 200);
    outb(&bus, 0x42, 0);
    step(7 + 20);
    CHECK_EQ(latched(2), 160);
}

TEST(mode4_strobe)
{
    setup();
    program(0, 4, 50);
    irq.rises = 0;
    step(49);
    CHECK(out(0));
    step(1);
    CHECK(!out(0));
    step(1);
    CHECK(out(0));
    CHECK_EQ(irq.rises, 1);
    step(100000);
    CHECK_EQ(irq.rises, 1);
}

TEST(mode1_one_shot_by_gate)
{
    setup();
    outb(&bus, 0x61, 0);
    program(2, 1, 100);
    step(500);
    CHECK(inb(&bus, 0x61) & 0x20); // waits for the gate
    outb(&bus, 0x61, 1);
    CHECK(!(inb(&bus, 0x61) & 0x20));
    step(60);
    outb(&bus, 0x61, 0);
    outb(&bus, 0x61, 1); // starts again
    step(99);
    CHECK(!(inb(&bus, 0x61) & 0x20));
    step(1);
    CHECK(inb(&bus, 0x61) & 0x20);
    outb(&bus, 0x42, 30);
    outb(&bus, 0x42, 0);
    step(10);
    CHECK(inb(&bus, 0x61) & 0x20); // a new count waits for the trigger
    outb(&bus, 0x61, 0);
    outb(&bus, 0x61, 1);
    step(29);
    CHECK(!(inb(&bus, 0x61) & 0x20));
    step(1);
    CHECK(inb(&bus, 0x61) & 0x20);
}

TEST(mode5_strobe_by_gate)
{
    setup();
    outb(&bus, 0x61, 0);
    program(2, 5, 10);
    step(50);
    CHECK(out(2));
    outb(&bus, 0x61, 1);
    step(10);
    CHECK(!out(2));
    step(1);
    CHECK(out(2));
}

TEST(gate_suspends_mode0)
{
    setup();
    outb(&bus, 0x61, 1);
    program(2, 0, 1000);
    step(300);
    outb(&bus, 0x61, 0);
    step(5000);
    CHECK_EQ(latched(2), 700);
    CHECK(!(inb(&bus, 0x61) & 0x20));
    outb(&bus, 0x61, 1);
    step(699);
    CHECK(!(inb(&bus, 0x61) & 0x20));
    step(1);
    CHECK(inb(&bus, 0x61) & 0x20);
}

TEST(gate_restarts_mode2)
{
    setup();
    outb(&bus, 0x61, 1);
    program(2, 2, 1000);
    step(999);
    CHECK(!out(2));
    outb(&bus, 0x61, 0);
    CHECK(out(2));
    outb(&bus, 0x61, 1);
    CHECK_EQ(latched(2), 1000);
    outb(&bus, 0x61, 1); // no edge
    step(10);
    CHECK_EQ(latched(2), 990);
    outb(&bus, 0x61, 1);
    CHECK_EQ(latched(2), 990);
    outb(&bus, 0x42, 100);
    outb(&bus, 0x42, 0);
    outb(&bus, 0x61, 0);
    outb(&bus, 0x61, 1); // brings in the count that waits
    CHECK_EQ(latched(2), 100);
    step(250);
    CHECK_EQ(latched(2), 50);
}

TEST(linux_tsc_calibration)
{
    // Linux: gate on, speaker off, mode 0 with CLOCK_TICK_RATE / (1000 / 50), poll OUT2.
    setup();
    u16 count = 1193182 / 20;
    outb(&bus, 0x61, (inb(&bus, 0x61) & (u8)~0x02) | 0x01);
    outb(&bus, 0x43, 0xb0);
    outb(&bus, 0x42, (u8)count);
    outb(&bus, 0x42, (u8)(count >> 8));
    u64 start = world_now, polls = 0;
    while (!(inb(&bus, 0x61) & 0x20) && polls < 1000000) {
        world_now += US;
        polls++;
    }
    CHECK(world_now - start >= 50 * MS - 2 * US && world_now - start <= 50 * MS + 2 * US);
}

TEST(latch_holds_and_is_not_overwritten)
{
    setup();
    program(0, 2, 1000);
    step(100);
    outb(&bus, 0x43, 0);
    step(100);
    outb(&bus, 0x43, 0);
    CHECK_EQ(inb(&bus, 0x40), 900 & 0xff);
    CHECK_EQ(inb(&bus, 0x40), 900 >> 8);
    CHECK_EQ(both(0x40), 800); // live again
}

TEST(read_back)
{
    setup();
    program(0, 2, 1000);
    program(2, 3, 500);
    step(100);
    outb(&bus, 0x43, 0xc0 | 0x02 | 0x08); // count and status of 0 and 2
    CHECK_EQ(inb(&bus, 0x40), 0xb4);      // OUT, both bytes, mode 2
    CHECK_EQ(both(0x40), 900);
    CHECK_EQ(inb(&bus, 0x42) & 0x3f, 0x36);
    outb(&bus, 0x43, 0x30);
    outb(&bus, 0x43, 0xe2);
    CHECK_EQ(inb(&bus, 0x40), 0x70); // no count yet: null, OUT low
}

TEST(bcd)
{
    setup();
    outb(&bus, 0x43, 0x31 | 2 << 1);
    outb(&bus, 0x40, 0x00);
    outb(&bus, 0x40, 0x10); // 1000
    step(1);
    CHECK_EQ(latched(0), 0x999);
    step(998);
    CHECK_EQ(latched(0), 0x001);
    outb(&bus, 0x43, 0x31 | 0 << 1);
    outb(&bus, 0x40, 0);
    outb(&bus, 0x40, 0); // 10000
    CHECK_EQ(latched(0), 0);
    step(1);
    CHECK_EQ(latched(0), 0x9999);
}

TEST(single_byte_access)
{
    setup();
    outb(&bus, 0x43, 0x14); // low byte only, mode 2
    outb(&bus, 0x40, 200);
    irq.rises = 0;
    step(200);
    CHECK_EQ(irq.rises, 1);
    step(50);
    CHECK_EQ(inb(&bus, 0x40), 150);
    CHECK_EQ(inb(&bus, 0x40), 150);
    outb(&bus, 0x43, 0x24); // high byte only
    outb(&bus, 0x40, 2);
    step(12);
    CHECK_EQ(inb(&bus, 0x40), 1);
    CHECK_EQ(inb(&bus, 0x43), 0xff);
}

TEST(port61_refresh_toggles)
{
    setup();
    u8 first = inb(&bus, 0x61) & 0x10;
    world_now += 15086;
    CHECK((inb(&bus, 0x61) & 0x10) != first);
    outb(&bus, 0x61, 0xff);
    CHECK_EQ(inb(&bus, 0x61) & 0xcf, 0x0f);
}

TEST(random_programming_is_bounded)
{
    setup();
    u32 seed = 1;
    for (unsigned i = 0; i < 200000; i++) {
        seed = seed * 1664525 + 1013904223;
        static const u16 ports[] = {0x40, 0x41, 0x42, 0x43, 0x43, 0x61};
        u16 port = ports[(seed >> 8) % ARRAY_SIZE(ports)];
        if (seed >> 31)
            outb(&bus, port, (u8)(seed >> 16));
        else
            inb(&bus, port);
        world_now += seed >> 20 & 0xff;
        if (!(i % 100))
            world_now += (u64)seed << 8;
        timers_run(&timers, world_now);
    }
    program(0, 2, 1000); // and it still works
    irq.rises = 0;
    step(1000);
    CHECK_EQ(irq.rises, 1);
}
