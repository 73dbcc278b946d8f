#include "tests/host/test.h"

#include "tests/host/model_world.h"

struct dev {
    u16 port;
    u64 offset;
    unsigned size, count;
    u64 value;
};

static u32 dev_read(void *ctx, u16 port, unsigned size)
{
    struct dev *d = ctx;
    d->port = port;
    d->size = size;
    d->count++;
    return size == 1 ? port & 0xff : size == 2 ? 0xbeef : 0xcafebabe;
}

static void dev_write(void *ctx, u16 port, unsigned size, u32 value)
{
    struct dev *d = ctx;
    d->port = port;
    d->size = size;
    d->value = d->value << 8 * size | value;
    d->count++;
}

static const struct port_ops byte_ops = {dev_read, dev_write, 1};
static const struct port_ops wide_ops = {dev_read, dev_write, 4};

TEST(absent_ports_float)
{
    struct port_bus bus;
    port_bus_init(&bus);
    CHECK_EQ(port_read(&bus, 0x80, 1), 0xff);
    CHECK_EQ(port_read(&bus, 0x80, 2), 0xffff);
    CHECK_EQ(port_read(&bus, 0xffff, 4), 0xffffffff);
    port_write(&bus, 0x80, 4, 1);
}

TEST(wide_access_to_byte_device_is_split)
{
    struct port_bus bus;
    struct dev d = {0};
    port_bus_init(&bus);
    CHECK(port_bus_add(&bus, 0x10, 0x12, &byte_ops, &d));
    CHECK_EQ(port_read(&bus, 0x10, 2), 0x1110);
    CHECK_EQ(d.count, 2);
    CHECK_EQ(port_read(&bus, 0x10, 4), 0xff121110); // the last byte is nobody's
    d.value = 0;
    port_write(&bus, 0x11, 2, 0xaabb);
    CHECK_EQ(d.value, 0xbbaa);
    CHECK_EQ(d.size, 1);
}

TEST(wide_device_takes_aligned_accesses_whole)
{
    struct port_bus bus;
    struct dev d = {0};
    port_bus_init(&bus);
    CHECK(port_bus_add(&bus, 0x20, 0x27, &wide_ops, &d));
    CHECK_EQ(port_read(&bus, 0x24, 4), 0xcafebabe);
    CHECK_EQ(d.size, 4);
    CHECK_EQ(port_read(&bus, 0x26, 2), 0xbeef);
    CHECK_EQ(port_read(&bus, 0x26, 4), 0xffff2726);
    CHECK_EQ(port_read(&bus, 0x21, 2), 0x2221);
    CHECK_EQ(port_read(&bus, 0x1e, 4), 0x2120ffff);
}

TEST(port_ranges_do_not_overlap)
{
    struct port_bus bus;
    port_bus_init(&bus);
    CHECK(port_bus_add(&bus, 0x60, 0x60, &byte_ops, NULL));
    CHECK(port_bus_add(&bus, 0x40, 0x43, &byte_ops, NULL));
    CHECK(port_bus_add(&bus, 0x61, 0x61, &byte_ops, NULL));
    CHECK(!port_bus_add(&bus, 0x43, 0x44, &byte_ops, NULL));
    CHECK(!port_bus_add(&bus, 0x3f, 0x70, &byte_ops, NULL));
    CHECK(!port_bus_add(&bus, 0x60, 0x60, &byte_ops, NULL));
    CHECK(!port_bus_add(&bus, 0x81, 0x80, &byte_ops, NULL));
    CHECK_EQ(bus.count, 3);
    CHECK_EQ(bus.range[0].first, 0x40);
    CHECK_EQ(bus.range[2].first, 0x61);
    for (unsigned i = 3; i < PORT_BUS_MAX; i++)
        CHECK(port_bus_add(&bus, (u16)(0x100 * i), (u16)(0x100 * i), &byte_ops, NULL));
    CHECK(!port_bus_add(&bus, 0xff00, 0xff00, &byte_ops, NULL));
}

TEST(every_registered_port_is_found)
{
    struct port_bus bus;
    struct dev d[8] = {0};
    port_bus_init(&bus);
    for (unsigned i = 0; i < 8; i++)
        CHECK(
            port_bus_add(&bus, (u16)(0x100 - 0x10 * i), (u16)(0x103 - 0x10 * i), &byte_ops, &d[i]));
    for (unsigned port = 0; port < 0x200; port++)
        port_read(&bus, (u16)port, 1);
    for (unsigned i = 0; i < 8; i++)
        CHECK_EQ(d[i].count, 4);
}

static u64 mem_read(void *ctx, u64 offset, unsigned size)
{
    struct dev *d = ctx;
    d->offset = offset;
    d->size = size;
    return 0x1122334455667788;
}

static void mem_write(void *ctx, u64 offset, unsigned size, u64 value)
{
    struct dev *d = ctx;
    d->offset = offset;
    d->size = size;
    d->value = value;
}

static const struct mmio_ops mem_ops = {mem_read, mem_write};

TEST(mmio_dispatch)
{
    struct mmio_bus bus;
    struct dev a = {0}, b = {0};
    mmio_bus_init(&bus);
    CHECK_EQ(mmio_read(&bus, GPA(0), 8), ~0ull);
    CHECK(mmio_bus_add(&bus, GPA(0x2000), 0x1000, &mem_ops, &b));
    CHECK(mmio_bus_add(&bus, GPA(0x1000), 0x1000, &mem_ops, &a));
    CHECK(!mmio_bus_add(&bus, GPA(0x1fff), 2, &mem_ops, &a));
    CHECK(!mmio_bus_add(&bus, GPA(0x5000), 0, &mem_ops, &a));
    CHECK(!mmio_bus_add(&bus, GPA(~0ull), 2, &mem_ops, &a));
    CHECK_EQ(mmio_read(&bus, GPA(0x1010), 2), 0x7788);
    CHECK_EQ(a.offset, 0x10);
    CHECK_EQ(mmio_read(&bus, GPA(0x1ffe), 4), 0xffffffff); // across two devices
    mmio_read(&bus, GPA(0x2000), 8);
    mmio_read(&bus, GPA(0x1000), 8);
    CHECK_EQ(a.size, 8);
    CHECK_EQ(a.offset, 0);
    CHECK_EQ(b.size, 8);
    mmio_write(&bus, GPA(0x2ff8), 8, ~0ull);
    CHECK_EQ(b.offset, 0xff8);
    CHECK_EQ(b.value, ~0ull);
    mmio_write(&bus, GPA(0x2ffc), 4, ~0ull);
    CHECK_EQ(b.value, 0xffffffff);
    b.size = 0;
    mmio_write(&bus, GPA(0x2ffc), 8, 0);
    CHECK_EQ(b.size, 0);
    CHECK_EQ(mmio_read(&bus, GPA(~0ull - 3), 8), ~0ull); // wraps
}

static unsigned fired;
static u64 rearm_at;

static void fire(struct vtimer *t, u64 now)
{
    (void)now;
    fired++;
    timer_arm(t, rearm_at);
}

TEST(timers)
{
    struct timer_set set;
    struct vtimer a, b;
    timer_set_init(&set);
    timer_init(&a, &set, fire);
    timer_init(&b, &set, fire);
    CHECK_EQ(timers_next(&set), TIMER_NEVER);
    fired = 0;
    rearm_at = TIMER_NEVER;
    timers_run(&set, TIMER_NEVER);
    CHECK_EQ(fired, 0);
    timer_arm(&a, 100);
    timer_arm(&b, 50);
    CHECK_EQ(timers_next(&set), 50);
    timer_stop(&b);
    CHECK_EQ(timers_next(&set), 100);
    timers_run(&set, 99);
    CHECK_EQ(fired, 0);
    timers_run(&set, 100);
    CHECK_EQ(fired, 1);
    CHECK_EQ(timers_next(&set), TIMER_NEVER);
    // A timer that arms itself in the past fires once in a run.
    rearm_at = 5;
    timer_arm(&a, 1);
    timers_run(&set, 1000);
    CHECK_EQ(fired, 2);
    CHECK_EQ(timers_next(&set), 5);
}

TEST(ticks_missed_are_dropped)
{
    CHECK_EQ(timer_next_tick(100, 10, 100), 110);
    CHECK_EQ(timer_next_tick(100, 10, 109), 110);
    CHECK_EQ(timer_next_tick(100, 10, 110), 120);
    CHECK_EQ(timer_next_tick(100, 10, 1000000005), 1000000010);
}

TEST(tick_conversion)
{
    static const u64 rates[] = {32768, 1193182, 3579545, 66288};
    for (unsigned r = 0; r < ARRAY_SIZE(rates); r++)
        for (u64 t = 0; t < rates[r] << 32; t = t * 3 + 1)
            CHECK_EQ(ns_to_ticks(ticks_to_ns(t, rates[r]), rates[r]), t);
    CHECK_EQ(ns_to_ticks(3600 * S, 1193182), 3600 * 1193182ull);
}
