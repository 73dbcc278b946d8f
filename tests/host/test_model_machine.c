#include "tests/host/test.h"

#include "drivers/model/machine.h"
#include "tests/host/model_world.h"

static struct machine m;
static struct machine_params params;
static u32 pages[MACHINE_MAX_CPUS][1024] ALIGNED(4096);
static char console[64];
static unsigned console_count, resets, power_offs, exits, kicks;
static u32 exit_code;

static void on_console(void *ctx, u8 byte)
{
    (void)ctx;
    if (console_count < sizeof(console))
        console[console_count++] = (char)byte;
}

static void on_reset(void *ctx)
{
    (void)ctx;
    resets++;
}

static void on_power_off(void *ctx)
{
    (void)ctx;
    power_offs++;
}

static void on_exit_code(void *ctx, u32 code)
{
    (void)ctx;
    exits++;
    exit_code = code;
}

static void on_kick(void *ctx, unsigned cpu)
{
    (void)ctx;
    (void)cpu;
    kicks++;
}

static void set_params(unsigned cpus)
{
    world_now = 0;
    console_count = resets = power_offs = exits = 0;
    params = (struct machine_params){
        .cpus = cpus,
        .ram_below_4g = 64 * MIB,
        .start_time = 1000000000,
        .debug_exit = 0xf4,
        .phys_bits = 40,
        .x2apic = true,
        .tsc_deadline = true,
        .clock = world_clock,
        .console_output = on_console,
        .power_off = on_power_off,
        .reset = on_reset,
        .debug_exit_code = on_exit_code,
        .kick = on_kick,
    };
    for (unsigned i = 0; i < MACHINE_MAX_CPUS; i++)
        params.apic_page[i] = pages[i];
}

static void setup(unsigned cpus)
{
    set_params(cpus);
    CHECK(machine_init(&m, &params));
}

static void out8(u16 port, u8 value)
{
    machine_port_write(&m, port, 1, value);
}

static u32 in(u16 port, unsigned size)
{
    return machine_port_read(&m, port, size);
}

static void lapic_write(unsigned cpu, unsigned reg, u32 value)
{
    machine_mmio_write(&m, cpu, GPA(LAYOUT_LAPIC_BASE + reg), 4, value);
}

static void route(unsigned pin, u32 low)
{
    machine_mmio_write(&m, 0, GPA(LAYOUT_IOAPIC_BASE), 4, 0x11 + 2 * pin);
    machine_mmio_write(&m, 0, GPA(LAYOUT_IOAPIC_BASE + 0x10), 4, 0);
    machine_mmio_write(&m, 0, GPA(LAYOUT_IOAPIC_BASE), 4, 0x10 + 2 * pin);
    machine_mmio_write(&m, 0, GPA(LAYOUT_IOAPIC_BASE + 0x10), 4, low);
}

static void init_pics(u8 mask)
{
    static const u8 icw[] = {0x11, 0x20, 0x04, 0x01};
    for (unsigned i = 0; i < 4; i++)
        out8(i ? 0x21 : 0x20, icw[i]);
    for (unsigned i = 0; i < 4; i++)
        out8(i ? 0xa1 : 0xa0, i == 1 ? 0x28 : i == 2 ? 0x02 : icw[i]);
    out8(0x21, mask);
    out8(0xa1, 0);
}

TEST(parameters_out_of_range)
{
    set_params(0);
    CHECK(!machine_init(&m, &params));
    set_params(MACHINE_MAX_CPUS + 1);
    CHECK(!machine_init(&m, &params));
    set_params(1);
    params.debug_exit = 0x3f8; // COM1 is there
    CHECK(!machine_init(&m, &params));
    params.debug_exit = 0xffff;
    CHECK(!machine_init(&m, &params));
    params.debug_exit = 0;
    CHECK(machine_init(&m, &params));
    params.phys_bits = 31;
    CHECK(!machine_init(&m, &params));
    params.phys_bits = 53;
    CHECK(!machine_init(&m, &params));
    params.phys_bits = 32;
    CHECK(machine_init(&m, &params));
    params.phys_bits = 52;
    CHECK(machine_init(&m, &params));
    setup(MACHINE_MAX_CPUS);
}

TEST(pit_through_pic_in_virtual_wire_mode)
{
    setup(2);
    init_pics(0);
    out8(0x43, 0x30);
    out8(0x40, 100);
    out8(0x40, 0);
    kicks = 0;
    world_run(&m.timers, ticks_to_ns(100, VPIT_HZ));
    CHECK(kicks > 0);
    CHECK(vlapic_accepts_extint(&m.lapic[0]));
    CHECK(!vlapic_accepts_extint(&m.lapic[1]));
    CHECK_EQ(machine_extint(&m, 0), 0x20);
    CHECK(!vlapic_accepts_extint(&m.lapic[0]));
    out8(0x20, 0x20);
    CHECK(!vlapic_accepts_extint(&m.lapic[0]));
}

TEST(pit_through_ioapic_pin_2)
{
    setup(1);
    route(2, 0x30);
    out8(0x43, 0x34);
    out8(0x40, 0xe8);
    out8(0x40, 0x03);
    vlapic_pending_vector(&m.lapic[0]);
    for (unsigned i = 1; i <= 10; i++) {
        world_run(&m.timers, ticks_to_ns(1000 * i, VPIT_HZ));
        CHECK_EQ(vlapic_pending_vector(&m.lapic[0]), 0x30);
        vlapic_ack(&m.lapic[0], 0x30);
        lapic_write(0, VLAPIC_EOI, 0);
    }
}

TEST(pic_through_ioapic_pin_0)
{
    setup(1);
    init_pics(0xef);
    lapic_write(0, VLAPIC_LVT_LINT0, 0x10700);
    route(0, 0x700);
    machine_irq(&m, 4, true);
    CHECK(vlapic_accepts_extint(&m.lapic[0]));
    CHECK_EQ(machine_extint(&m, 0), 0x24);
    CHECK(!vlapic_accepts_extint(&m.lapic[0]));
}

TEST(uart_through_ioapic)
{
    setup(1);
    route(4, 0x34);
    out8(0x3fc, 0x08);
    out8(0x3f9, 0x01);
    CHECK(machine_console_input(&m, 'k'));
    CHECK_EQ(vlapic_pending_vector(&m.lapic[0]), 0x34);
    CHECK_EQ(in(0x3f8, 1), 'k');
    out8(0x3f8, 'o');
    CHECK(console_count == 1 && console[0] == 'o');
}

TEST(rtc_is_there)
{
    setup(1);
    route(8, 0x38);
    out8(0x70, 0x07);
    CHECK_EQ(in(0x71, 1), 0x09); // 2001-09-09
    out8(0x70, 0x0b);
    out8(0x71, 0x12);
    world_run(&m.timers, S);
    CHECK_EQ(vlapic_pending_vector(&m.lapic[0]), 0x38);
}

TEST(pm_timer_of_24_bits)
{
    struct vpm pm;
    struct port_bus bus;
    struct timer_set timers;
    struct world_line sci = {0};
    struct vpm_params p = {.timer_bits = 24, .power_off = on_power_off};
    world_now = 0;
    timer_set_init(&timers);
    port_bus_init(&bus);
    vpm_init(&pm, &p, &world_clock, &timers, WORLD_LINE(&sci));
    CHECK(vpm_attach(&pm, &bus, 0x600));
    world_now = ticks_to_ns((1 << 23) - 1, VPM_TIMER_HZ);
    CHECK_EQ(port_read(&bus, 0x600, 2), 0);
    world_now = ticks_to_ns(1 << 23, VPM_TIMER_HZ);
    CHECK_EQ(port_read(&bus, 0x600, 2), 1);
    world_now = ticks_to_ns((1 << 24) + 5, VPM_TIMER_HZ);
    CHECK_EQ(port_read(&bus, 0x608, 4), 5);
}

TEST(pm_timer_and_sci)
{
    setup(1);
    route(9, 0x39 | 0x8000);
    CHECK_EQ(in(0x608, 4), 0);
    world_now = S;
    CHECK_EQ(in(0x608, 4), 3579545);
    CHECK_EQ(in(0x609, 1), 3579545 >> 8 & 0xff);
    machine_port_write(&m, 0x608, 4, 0);
    CHECK_EQ(in(0x608, 4), 3579545);
    CHECK_EQ(in(0x604, 2), 1); // SCI_EN
    CHECK_EQ(timers_next(&m.timers), TIMER_NEVER);
    machine_port_write(&m, 0x602, 2, 1);
    u64 carry = ticks_to_ns(1ull << 31, VPM_TIMER_HZ);
    CHECK_EQ(timers_next(&m.timers), carry);
    world_run(&m.timers, carry);
    CHECK_EQ(in(0x600, 4), 0x00010001);
    CHECK_EQ(vlapic_pending_vector(&m.lapic[0]), 0x39);
    vlapic_ack(&m.lapic[0], 0x39);
    machine_port_write(&m, 0x600, 2, 0xffff);
    CHECK_EQ(in(0x600, 2), 0);
    lapic_write(0, VLAPIC_EOI, 0);
    CHECK_EQ(vlapic_pending_vector(&m.lapic[0]), -1);
    CHECK_EQ(timers_next(&m.timers), ticks_to_ns(2ull << 31, VPM_TIMER_HZ));
}

TEST(sci_stays_until_its_status_is_cleared)
{
    setup(1);
    route(9, 0x39 | 0x8000);
    machine_port_write(&m, 0x602, 2, 1);
    world_run(&m.timers, timers_next(&m.timers));
    CHECK_EQ(vlapic_pending_vector(&m.lapic[0]), 0x39);
    vlapic_ack(&m.lapic[0], 0x39);
    lapic_write(0, VLAPIC_EOI, 0);
    CHECK_EQ(vlapic_pending_vector(&m.lapic[0]), 0x39); // through the EOI's broadcast
}

TEST(power_off)
{
    setup(1);
    machine_port_write(&m, 0x604, 2, 0x1c00); // SLP_TYP without SLP_EN
    CHECK_EQ(in(0x604, 2), 0x1c01);
    CHECK_EQ(power_offs, 0);
    machine_port_write(&m, 0x604, 2, 0x2000 | 1 << 10); // another state
    CHECK_EQ(power_offs, 0);
    machine_port_write(&m, 0x604, 2, 0x2000 | LAYOUT_S5_SLP_TYP << 10);
    CHECK_EQ(power_offs, 1);
    out8(0x605, 0x34); // as a byte
    CHECK_EQ(power_offs, 2);
}

TEST(resets)
{
    setup(1);
    out8(LAYOUT_PORT_RESET, 0x02);
    CHECK_EQ(resets, 0);
    CHECK_EQ(in(LAYOUT_PORT_RESET, 1), 0x02);
    CHECK_EQ(in(0xcf8, 1), 0xff);
    out8(LAYOUT_PORT_RESET, LAYOUT_RESET_VALUE);
    CHECK_EQ(resets, 1);
    out8(0x64, 0xd1);
    CHECK_EQ(resets, 1);
    out8(0x64, 0xfe);
    CHECK_EQ(resets, 2);
    out8(0x92, 0x02);
    CHECK_EQ(resets, 2);
    out8(0x92, 0x03);
    CHECK_EQ(resets, 3);
    CHECK_EQ(in(0x92, 1) & 2, 2);
    CHECK_EQ(in(0x64, 1), 0xff); // no keyboard controller
    CHECK_EQ(in(0x60, 1), 0xff);
    machine_port_write(&m, 0xcf8, 4, 0x80000600); // no reset: CONFIG_ADDRESS
    CHECK_EQ(resets, 3);
}

TEST(debug_exit)
{
    setup(1);
    out8(0xf4, 0x31);
    CHECK(exits == 1 && exit_code == 0x31);
    machine_port_write(&m, 0xf4, 2, 0x1234);
    CHECK(exits == 2 && exit_code == 0x1234);
    machine_port_write(&m, 0xf4, 4, 0xdeadbeef);
    CHECK(exits == 3 && exit_code == 0xdeadbeef);
    CHECK_EQ(in(0xf4, 4), 0xffffffff);
    params.debug_exit = 0;
    CHECK(machine_init(&m, &params));
    out8(0xf4, 1);
    CHECK_EQ(exits, 3);
}

static u32 fn_read(struct vpci_function *fn, unsigned offset, unsigned size)
{
    (void)fn;
    return 0x11111111u * size + offset;
}

static unsigned fn_offset, fn_size;
static u32 fn_value;

static void fn_write(struct vpci_function *fn, unsigned offset, unsigned size, u32 value)
{
    (void)fn;
    fn_offset = offset;
    fn_size = size;
    fn_value = value;
}

TEST(pci_configuration)
{
    setup(1);
    machine_port_write(&m, 0xcf8, 4, 0xff0000ff);
    CHECK_EQ(in(0xcf8, 4), 0x800000fc);
    machine_port_write(&m, 0xcf8, 4, 0x80000000);
    CHECK_EQ(in(0xcfc, 4), 0x12378086);
    CHECK_EQ(in(0xcfc, 2), 0x8086);
    CHECK_EQ(in(0xcfe, 2), 0x1237);
    CHECK_EQ(in(0xcff, 1), 0x12);
    machine_port_write(&m, 0xcfc, 4, 0);
    CHECK_EQ(in(0xcfc, 4), 0x12378086);
    machine_port_write(&m, 0xcf8, 4, 0x80000008);
    CHECK_EQ(in(0xcfe, 2), 0x0600); // host bridge
    machine_port_write(&m, 0xcf8, 4, 0x8000000c);
    CHECK_EQ(in(0xcfe, 1), 0); // single function
    machine_port_write(&m, 0xcf8, 4, 0x80000800);
    CHECK_EQ(in(0xcfc, 4), 0xffffffff);
    machine_port_write(&m, 0xcf8, 4, 0x80010000); // another bus
    CHECK_EQ(in(0xcfc, 2), 0xffff);
    machine_port_write(&m, 0xcf8, 4, 0x00000000); // disabled
    CHECK_EQ(in(0xcfc, 4), 0xffffffff);
}

TEST(pci_functions_plug_in)
{
    setup(1);
    struct vpci_function fn = {fn_read, fn_write};
    CHECK(vpci_add(&m.pci, VPCI_DEVFN(3, 1), &fn));
    CHECK(!vpci_add(&m.pci, VPCI_DEVFN(3, 1), &fn));
    CHECK(!vpci_add(&m.pci, 0, &fn));
    machine_port_write(&m, 0xcf8, 4, 0x80001940);
    CHECK_EQ(in(0xcfc, 4), 0x44444444 + 0x40);
    CHECK_EQ(in(0xcfe, 2), 0x2222 + 0x42);
    machine_port_write(&m, 0xcfd, 1, 0x99);
    CHECK(fn_offset == 0x41 && fn_size == 1 && fn_value == 0x99);
    machine_port_write(&m, 0xcfd, 2, 0x7788); // not aligned: bytes
    CHECK(fn_offset == 0x42 && fn_size == 1 && fn_value == 0x77);
}

TEST(linux_probes_mechanism_1)
{
    setup(1);
    out8(0xcfb, 0x01);
    u32 old = in(0xcf8, 4);
    machine_port_write(&m, 0xcf8, 4, 0x80000000);
    CHECK_EQ(in(0xcf8, 4), 0x80000000);
    machine_port_write(&m, 0xcf8, 4, old);
    CHECK_EQ(resets, 0);
}

TEST(local_apic_page_follows_mode_and_base)
{
    setup(2);
    CHECK_EQ(machine_mmio_read(&m, 1, GPA(0xfee00020), 4), 1u << 24);
    CHECK_EQ(machine_mmio_read(&m, 0, GPA(0xfee00020), 4), 0);
    CHECK(vlapic_write_msr(&m.lapic[1], VLAPIC_MSR_BASE, 0xfed00800));
    CHECK_EQ(machine_mmio_read(&m, 1, GPA(0xfee00020), 4), 0xffffffff);
    CHECK_EQ(machine_mmio_read(&m, 1, GPA(0xfed00020), 4), 1u << 24);
    CHECK_EQ(machine_mmio_read(&m, 0, GPA(0xfed00020), 4), 0xffffffff);
    CHECK(machine_is_lapic(&m, 0, GPA(0xfee00000)));
    CHECK(vlapic_write_msr(&m.lapic[0], VLAPIC_MSR_BASE, 0xfee00d00));
    CHECK(!machine_is_lapic(&m, 0, GPA(0xfee00000)));
    CHECK_EQ(machine_mmio_read(&m, 0, GPA(0xfee00020), 4), 0xffffffff);
    CHECK_EQ(machine_mmio_read(&m, 0, GPA(0xfeeffffc), 8), ~0ull);
}

TEST(startup_of_another_cpu)
{
    setup(2);
    kicks = 0;
    lapic_write(0, VLAPIC_ICR_HIGH, 1u << 24);
    lapic_write(0, VLAPIC_ICR, 0xc500);
    lapic_write(0, VLAPIC_ICR, 0x8500);
    lapic_write(0, VLAPIC_ICR, 0x4610);
    CHECK_EQ(kicks, 2);
    CHECK_EQ(vlapic_events(&m.lapic[1]), VLAPIC_INIT | VLAPIC_SIPI);
    CHECK_EQ(m.lapic[1].sipi_vector, 0x10);
}

TEST(elcr_as_firmware_leaves_it)
{
    setup(1);
    CHECK_EQ(in(0x4d0, 2), 0x0200); // the SCI
}

TEST(every_port_answers)
{
    setup(1);
    for (unsigned port = 0; port < 0x10000; port++)
        for (unsigned size = 1; size <= 4; size *= 2) {
            in((u16)port, size);
            machine_port_write(&m, (u16)port, size, 0xa5a5a5a5);
            timers_run(&m.timers, world_now += 1000);
        }
    CHECK(resets > 0);
}
