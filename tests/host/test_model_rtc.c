#include "tests/host/test.h"

#include "drivers/model/vrtc.h"
#include "tests/host/model_world.h"

static struct port_bus bus;
static struct vrtc rtc;
static struct timer_set timers;
static struct world_line irq;

// 2024-02-28 23:59:50 UTC, a Wednesday.
#define START 1709164790ull

static void setup_at(u64 start)
{
    struct vrtc_params p = {
        .start_time = start,
        .ram_below_4g = 512 * MIB,
        .ram_above_4g = GIB,
        .cpus = 2,
    };
    world_now = 0;
    irq = (struct world_line){0};
    port_bus_init(&bus);
    timer_set_init(&timers);
    vrtc_init(&rtc, &p, &world_clock, &timers, WORLD_LINE(&irq));
    CHECK(vrtc_attach(&rtc, &bus));
}

static void setup(void)
{
    setup_at(START);
}

static u8 rd(u8 reg)
{
    outb(&bus, 0x70, reg);
    return inb(&bus, 0x71);
}

static void wr(u8 reg, u8 value)
{
    outb(&bus, 0x70, reg);
    outb(&bus, 0x71, value);
}

// The time as yymmddhhmmss in BCD.
static u64 shown(void)
{
    static const u8 regs[] = {9, 8, 7, 4, 2, 0};
    u64 v = 0;
    for (unsigned i = 0; i < 6; i++)
        v = v << 8 | rd(regs[i]);
    return v;
}

TEST(calendar)
{
    setup();
    CHECK_EQ(shown(), 0x240228235950);
    CHECK_EQ(rd(6), 4);
    CHECK_EQ(rd(0x32), 0x20);
    world_now = 10 * S; // a leap day
    CHECK_EQ(shown(), 0x240229000000);
    CHECK_EQ(rd(6), 5);
    world_now += 86400 * S;
    CHECK_EQ(shown(), 0x240301000000);
    setup_at(0);
    CHECK_EQ(shown(), 0x700101000000);
    CHECK_EQ(rd(0x32), 0x19);
    CHECK_EQ(rd(6), 5);
    setup_at(951782399); // 2000 is a leap year
    CHECK_EQ(shown(), 0x000228235959);
    world_now = S;
    CHECK_EQ(shown(), 0x000229000000);
    setup_at(4107542399); // 2100 is none
    CHECK_EQ(shown(), 0x000228235959);
    CHECK_EQ(rd(0x32), 0x21);
    world_now = S;
    CHECK_EQ(shown(), 0x000301000000);
    setup_at(~0ull); // as late as can be shown
    CHECK_EQ(shown(), 0x991231235959);
    CHECK_EQ(rd(0x32), 0x99);
}

TEST(every_day_of_a_century)
{
    static const u8 length[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    setup_at(0);
    wr(11, 0x06); // binary
    unsigned y = 1970, m = 1, d = 1;
    for (unsigned day = 0; day < 40000; day++) {
        world_now = day * 86400ull * S;
        CHECK_EQ(rd(9), y % 100);
        CHECK_EQ(rd(8), m);
        CHECK_EQ(rd(7), d);
        CHECK_EQ(rd(6), (day + 4) % 7 + 1);
        bool leap = (y % 4 == 0 && y % 100) || y % 400 == 0;
        if (++d > length[m - 1] + (unsigned)(m == 2 && leap)) {
            d = 1;
            if (++m > 12) {
                m = 1;
                y++;
            }
        }
    }
}

TEST(formats)
{
    setup();
    wr(11, 0x06);
    CHECK_EQ(rd(4), 23);
    CHECK_EQ(rd(2), 59);
    wr(11, 0x00); // BCD, 12 hours
    CHECK_EQ(rd(4), 0x91);
    wr(11, 0x04);
    CHECK_EQ(rd(4), 0x8b);
    world_now = 10 * S; // midnight
    CHECK_EQ(rd(4), 12);
    world_now += 12 * 3600 * S; // noon
    CHECK_EQ(rd(4), 0x8c);
}

TEST(set_time_as_linux_does)
{
    setup();
    world_now = 3 * S + S / 4;
    u8 b = rd(11), a = rd(10) & 0x7f;
    wr(11, b | 0x80);
    wr(10, a | 0x70); // stop the divider
    static const u8 regs[] = {9, 8, 7, 4, 2, 0}, values[] = {0x31, 0x12, 0x31, 0x23, 0x59, 0x58};
    for (unsigned i = 0; i < 6; i++)
        wr(regs[i], values[i]);
    world_now += 5 * S;
    CHECK_EQ(shown(), 0x311231235958); // stands
    wr(11, b);
    wr(10, a);
    CHECK_EQ(shown(), 0x311231235958);
    world_now += S / 2 - 1;
    CHECK_EQ(shown(), 0x311231235958);
    world_now += 1; // the first update comes half a second after the start
    CHECK_EQ(shown(), 0x311231235959);
    world_now += S;
    CHECK_EQ(shown(), 0x320101000000);
    CHECK_EQ(rd(0x32), 0x20);
}

TEST(set_without_stopping)
{
    setup();
    wr(2, 0x30);
    CHECK_EQ(shown(), 0x240228233050);
    world_now = 10 * S;
    CHECK_EQ(shown(), 0x240228233100);
}

TEST(impossible_times_are_clamped)
{
    setup();
    static const u8 bad[] = {0x00, 0x7f, 0x80, 0xff};
    for (unsigned i = 0; i < sizeof(bad); i++)
        for (u8 reg = 0; reg <= 9; reg++) {
            wr(11, 0x82);
            for (u8 r = 0; r <= 9; r++)
                wr(r, r == reg ? bad[i] : 0x12);
            wr(0x32, bad[i]);
            wr(11, 0x02);
            world_now += S;
            u64 t = shown();
            CHECK((t & 0xff) <= 0x59 && (t >> 8 & 0xff) <= 0x59 && (t >> 16 & 0xff) <= 0x23);
        }
}

TEST(update_in_progress)
{
    setup();
    CHECK_EQ(rd(10), 0x26);
    world_now = S - 3 * MS;
    CHECK_EQ(rd(10), 0x26);
    world_now = S - MS;
    CHECK_EQ(rd(10), 0xa6);
    world_now = S;
    CHECK_EQ(rd(10), 0x26);
    wr(11, 0x82); // never while the time is being set
    world_now = 2 * S - MS;
    CHECK_EQ(rd(10), 0x26);
}

TEST(update_interrupt)
{
    setup();
    CHECK_EQ(timers_next(&timers), TIMER_NEVER);
    wr(11, 0x12);
    world_run(&timers, S - 1);
    CHECK(!irq.level);
    world_run(&timers, S);
    CHECK(irq.level);
    world_run(&timers, 10 * S);
    CHECK_EQ(irq.rises, 1); // no further edge before C is read
    CHECK_EQ(timers_next(&timers), TIMER_NEVER);
    CHECK_EQ(rd(12) & 0x90, 0x90);
    CHECK(!irq.level);
    CHECK_EQ(rd(12), 0);
    world_run(&timers, 11 * S);
    CHECK(irq.level);
    wr(11, 0x02);
    CHECK(!irq.level);
    CHECK_EQ(timers_next(&timers), TIMER_NEVER);
}

TEST(setting_the_time_ends_update_interrupts)
{
    setup();
    wr(11, 0x12);
    wr(11, 0x92);
    CHECK_EQ(rd(11), 0x82);
    CHECK_EQ(timers_next(&timers), TIMER_NEVER);
}

TEST(a_new_rate_keeps_the_second)
{
    setup();
    world_now = S / 4;
    wr(10, 0x2a);
    world_now = S - 1;
    CHECK_EQ(rd(0), 0x50);
    world_now = S;
    CHECK_EQ(rd(0), 0x51);
}

TEST(flags_without_interrupts)
{
    setup();
    CHECK_EQ(rd(12), 0);
    world_now = 3 * S;
    CHECK_EQ(rd(12) & 0x90, 0x10);
    CHECK_EQ(rd(12), 0);
    world_now += MS;
    CHECK_EQ(rd(12), 0x40); // 1024 Hz
    CHECK_EQ(irq.rises, 0);
}

TEST(periodic_interrupt)
{
    setup();
    wr(10, 0x2f); // 2 Hz
    wr(11, 0x42);
    world_run(&timers, S / 2 - 1);
    CHECK(!irq.level);
    world_run(&timers, S / 2);
    CHECK(irq.level);
    CHECK_EQ(rd(12), 0xc0);
    wr(10, 0x26); // 1024 Hz
    for (unsigned i = 0; i < 4096; i++) {
        CHECK(timers_next(&timers) != TIMER_NEVER);
        world_run(&timers, timers_next(&timers));
        CHECK(rd(12) & 0x40);
    }
    CHECK(world_now >= 4 * S + S / 2 - MS && world_now <= 4 * S + S / 2 + MS);
    wr(10, 0x20); // rate 0: none
    CHECK_EQ(timers_next(&timers), TIMER_NEVER);
    wr(10, 0x21); // 1 and 2 are as 8 and 9
    world_now = 100 * S;
    rd(12);
    u64 from = world_now;
    world_run(&timers, timers_next(&timers));
    CHECK(world_now - from <= S / 256 + 1);
    wr(10, 0x22);
    rd(12);
    from = world_now = 200 * S;
    rd(12);
    world_run(&timers, timers_next(&timers));
    CHECK(world_now - from <= S / 128 + 1 && world_now - from > S / 256 + 1);
}

TEST(alarm)
{
    setup();
    wr(5, 0x00);
    wr(3, 0x00);
    wr(1, 0x05);
    wr(11, 0x22);
    CHECK_EQ(timers_next(&timers), 15 * S);
    world_run(&timers, 15 * S);
    CHECK(irq.level);
    CHECK_EQ(rd(12) & 0xb0, 0xb0);
    CHECK_EQ(timers_next(&timers), (15 + 86400) * S);
    wr(5, 0xff); // every hour
    CHECK_EQ(timers_next(&timers), (15 + 3600) * S);
    wr(3, 0xc0); // every minute
    CHECK_EQ(timers_next(&timers), (15 + 60) * S);
    wr(1, 0xff); // every second
    CHECK_EQ(timers_next(&timers), 16 * S);
    wr(2, rd(2)); // setting the time moves it
    wr(1, 0x05);
    wr(3, 0x10);
    wr(2, 0x09);
    wr(0, 0x55);
    CHECK_EQ(timers_next(&timers), (15 + 10) * S);
    wr(3, 0x7a); // never
    CHECK_EQ(timers_next(&timers), TIMER_NEVER);
}

TEST(alarm_against_a_search)
{
    setup_at(START - 50);
    wr(11, 0x26); // binary
    u32 seed = 5;
    for (unsigned i = 0; i < 300; i++) {
        seed = seed * 1664525 + 1013904223;
        u8 h = seed & 0x100 ? 0xff : seed >> 9 & 31, m = seed & 0x4000 ? 0xff : seed >> 15 & 63,
           s = seed & 0x200000 ? 0xff : seed >> 22 & 63;
        wr(5, h);
        wr(3, m);
        wr(1, s);
        rd(12);
        u64 want = TIMER_NEVER, now = world_now / S;
        for (u64 t = now + 1; t <= now + 86400; t++) {
            u64 day = (START - 50 + t) % 86400;
            if ((h == 0xff || h == day / 3600) && (m == 0xff || m == day / 60 % 60) &&
                (s == 0xff || s == day % 60)) {
                want = t * S;
                break;
            }
        }
        CHECK_EQ(timers_next(&timers), want);
        world_now += (seed >> 4 & 0xfff) * S;
    }
}

TEST(memory_sizes_and_cmos)
{
    setup();
    CHECK_EQ(rd(0x15) | rd(0x16) << 8, 640);
    CHECK_EQ(rd(0x17) | rd(0x18) << 8, 0xffff);
    CHECK_EQ(rd(0x30) | rd(0x31) << 8, 0xffff);
    CHECK_EQ(rd(0x34) | rd(0x35) << 8, (512 - 16) * 16);
    CHECK_EQ(rd(0x5b) | rd(0x5c) << 8 | rd(0x5d) << 16, 16384);
    CHECK_EQ(rd(0x5f), 1);
    CHECK_EQ(rd(13), 0x80);
    wr(13, 0);
    CHECK_EQ(rd(13), 0x80);
    wr(0x0f, 0x5a); // shutdown status
    CHECK_EQ(rd(0x0f), 0x5a);
    CHECK_EQ(inb(&bus, 0x70), 0xff);
    outb(&bus, 0x70, 0x8f);
    CHECK(rtc.nmi_masked);
    CHECK_EQ(inb(&bus, 0x71), 0x5a);
}

TEST(random_writes_are_harmless)
{
    setup();
    u32 seed = 11;
    for (unsigned i = 0; i < 200000; i++) {
        seed = seed * 1664525 + 1013904223;
        if (seed >> 31)
            wr(seed >> 8 & 0x3f, (u8)(seed >> 16));
        else
            rd(seed >> 8 & 0x3f);
        world_now += (u64)(seed & 0xffff) << (seed >> 28);
        timers_run(&timers, world_now);
    }
    CHECK(world_now > 100 * S);
}
