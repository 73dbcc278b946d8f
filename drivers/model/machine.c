#include "drivers/model/machine.h"

// --- Interrupt wiring ---

void machine_irq(struct machine *m, unsigned irq, bool level)
{
    if (irq < 16)
        vpic_set_irq(&m->pic, irq, level);
    vioapic_set_irq(&m->ioapic, irq == LAYOUT_IRQ_PIT ? LAYOUT_GSI_PIT : irq, level);
}

static void device_irq(void *ctx, unsigned n, bool level)
{
    machine_irq(ctx, n, level);
}

static struct irq_line irq_line(struct machine *m, unsigned irq)
{
    return (struct irq_line){device_irq, m, irq};
}

// The PIC's output goes to LINT0 of every CPU and to input 0 of the I/O APIC.
static void pic_output(void *ctx, unsigned n, bool level)
{
    struct machine *m = ctx;
    (void)n;
    for (unsigned i = 0; i < m->cpus; i++)
        vlapic_set_lint(&m->lapic[i], 0, level);
    vioapic_set_irq(&m->ioapic, 0, level);
}

static void lapic_eoi(void *ctx, u8 vector)
{
    struct machine *m = ctx;
    vioapic_eoi(&m->ioapic, vector);
}

u8 machine_extint(struct machine *m, unsigned cpu)
{
    vlapic_ack_extint(&m->lapic[cpu]);
    return vpic_ack(&m->pic);
}

// --- Memory-mapped devices ---

bool machine_is_lapic(const struct machine *m, unsigned cpu, gpa_t addr)
{
    const struct vlapic *l = &m->lapic[cpu];
    bool xapic = vlapic_enabled(l) && !vlapic_x2apic(l);
    return xapic && align_down(addr.v, PAGE_SIZE) == vlapic_page_address(l).v;
}

u64 machine_mmio_read(struct machine *m, unsigned cpu, gpa_t addr, unsigned size)
{
    if (machine_is_lapic(m, cpu, addr))
        return vlapic_mmio_read(&m->lapic[cpu], addr.v % PAGE_SIZE, size);
    return mmio_read(&m->mmio, addr, size);
}

void machine_mmio_write(struct machine *m, unsigned cpu, gpa_t addr, unsigned size, u64 value)
{
    if (machine_is_lapic(m, cpu, addr))
        vlapic_mmio_write(&m->lapic[cpu], addr.v % PAGE_SIZE, size, value);
    else
        mmio_write(&m->mmio, addr, size, value);
}

// --- Power-up ---

static void init_apics(struct machine *m, const struct machine_params *p)
{
    m->apics = (struct vapic_bus){.count = p->cpus, .eoi = lapic_eoi, .ctx = m};
    for (unsigned i = 0; i < p->cpus; i++) {
        struct vlapic_params lp = {
            .id = i,
            .page = p->apic_page[i],
            .phys_bits = p->phys_bits,
            .x2apic = p->x2apic,
            .tsc_deadline = p->tsc_deadline,
            .clock = &m->clock,
            .timers = &m->cpu_timers[i],
            .kick = p->kick,
            .ctx = p->ctx,
        };
        timer_set_init(&m->cpu_timers[i]);
        vlapic_init(&m->lapic[i], &lp, &m->apics);
    }
    vlapic_virtual_wire(&m->lapic[0]);
    vioapic_init(&m->ioapic, (u8)p->cpus, &m->apics);
}

static void init_devices(struct machine *m, const struct machine_params *p)
{
    struct vrtc_params rtc = {
        .start_time = p->start_time,
        .ram_below_4g = p->ram_below_4g,
        .ram_above_4g = p->ram_above_4g,
        .cpus = p->cpus,
    };
    struct vpm_params pm = {
        .timer_bits = LAYOUT_PM_TIMER_BITS,
        .s5_type = LAYOUT_S5_SLP_TYP,
        .power_off = p->power_off,
        .ctx = p->ctx,
    };
    timer_set_init(&m->timers);
    vpic_init(&m->pic, (struct irq_line){pic_output, m, 0});
    vpit_init(&m->pit, &m->clock, &m->timers, irq_line(m, LAYOUT_IRQ_PIT));
    vrtc_init(&m->rtc, &rtc, &m->clock, &m->timers, irq_line(m, LAYOUT_IRQ_RTC));
    vuart_init(&m->com1, irq_line(m, LAYOUT_IRQ_COM1), p->console_output, p->ctx);
    m->com1.room = p->console_room;
    vpm_init(&m->pm, &pm, &m->clock, &m->timers, irq_line(m, LAYOUT_IRQ_SCI));
    vpci_init(&m->pci, p->reset, p->ctx);
    legacy_init(&m->legacy, p->debug_exit, p->reset, p->debug_exit_code, p->ctx);
}

static bool attach_devices(struct machine *m)
{
    port_bus_init(&m->ports);
    mmio_bus_init(&m->mmio);
    return vpic_attach(&m->pic, &m->ports) && vpit_attach(&m->pit, &m->ports) &&
           vrtc_attach(&m->rtc, &m->ports) && vuart_attach(&m->com1, &m->ports, LAYOUT_PORT_COM1) &&
           vpm_attach(&m->pm, &m->ports, LAYOUT_PM_BASE) && vpci_attach(&m->pci, &m->ports) &&
           legacy_attach(&m->legacy, &m->ports) &&
           vioapic_attach(&m->ioapic, &m->mmio, GPA(LAYOUT_IOAPIC_BASE));
}

bool machine_init(struct machine *m, const struct machine_params *params)
{
    if (params->cpus < 1 || params->cpus > MACHINE_MAX_CPUS || params->phys_bits < 32 ||
        params->phys_bits > 52)
        return false;
    m->clock = params->clock;
    m->cpus = params->cpus;
    init_apics(m, params);
    init_devices(m, params);
    if (!attach_devices(m))
        return false;
    // The SCI is level-triggered for the PIC, too, as firmware sets it up.
    port_write(&m->ports, 0x4d1, 1, 1u << (LAYOUT_IRQ_SCI - 8));
    return true;
}
