// Start of L0: one readable list of steps.

#include "kernel/main.h"

#include "drivers/acpi.h"
#include "drivers/apic.h"
#include "drivers/ioapic.h"
#include "drivers/tsc.h"
#include "ept/pool.h"
#include "kernel/config.h"
#include "kernel/console.h"
#include "kernel/cpus.h"
#include "kernel/end.h"
#include "kernel/paging.h"
#include "kernel/power.h"
#include "kernel/sched.h"
#include "kernel/trap.h"
#include "kernel/vectors.h"
#include "kernel/vms.h"
#include "libc/string.h"
#include "libc/x86.h"
#include "vmx/cpu.h"
#include "vmx/mitigate.h"

#define CONFIG_NAME "nestor.cfg"
#define LOW_MEMORY  MIB // the firmware's, and the trampoline's of other CPUs
#define PIC1_DATA   0x21
#define PIC2_DATA   0xa1
#define COM1_IRQ    4

typedef unsigned long long ull;

extern const u8 image_start[], image_end[];

static const struct boot_info *boot;
static struct frames frames;
static u64 boot_tsc;
static struct config config;

static void collect_memory(void)
{
    for (unsigned i = 0; i < boot->mem.count; i++)
        if (boot->mem.range[i].kind == MEM_USABLE)
            frames_add(&frames, boot->mem.range[i].base, boot->mem.range[i].size);
    frames_remove(&frames, HPA(0), LOW_MEMORY);
    frames_remove(&frames, HPA((u64)image_start & 0x7fffffff), (u64)(image_end - image_start));
    for (unsigned i = 0; i < boot->modules; i++)
        frames_remove(&frames, boot->module[i].start, boot->module[i].size);
}

static void config_error(void *ctx, const char *file, u32 line, const char *message)
{
    (void)ctx;
    log_error("%s:%u: %s", file, line, message);
}

static void read_config(void)
{
    const struct config_report report = {config_error, NULL};
    config_init(&config);
    if (boot->modules)
        config_parse(&config, CONFIG_NAME, phys_ptr(boot->module[0].start), boot->module[0].size,
                     &report);
    config_override(&config, boot->cmdline, &report);
    const struct console_settings s = {config.console == CONSOLE_COM1, config.baud, config.log};
    console_configure(&s);
}

static bool firmware_readable(void *ctx, hpa_t base, u64 len)
{
    (void)ctx;
    return paging_map_firmware(base, len) != NULL;
}

static void com1_interrupt(void *ctx)
{
    (void)ctx;
    for (int c; (c = console_get()) >= 0;)
        vms_console_input((u8)c);
    apic_eoi();
}

static void timer_interrupt(void *ctx)
{
    (void)ctx;
    apic_eoi();
}

static void init_interrupts(void)
{
    static struct acpi_interrupts in;
    const struct acpi_memory memory = {firmware_readable, NULL};
    struct acpi acpi;
    u8 rsdp[BOOT_RSDP_SIZE];
    u32 size = boot->rsdp_size ? boot->rsdp_size : acpi_scan(&memory, rsdp);
    bool tables = !acpi_open(&acpi, boot->rsdp_size ? boot->rsdp : rsdp, size, &memory) &&
                  acpi_interrupts(&acpi, &in);
    if (tables)
        power_init(&acpi);
    outb(PIC1_DATA, 0xff);
    outb(PIC2_DATA, 0xff);
    apic_init_cpu(paging_map_device);
    this_cpu()->apic_id = apic_id();
    trap_set_irq(VECTOR_TIMER, timer_interrupt, NULL);
    trap_set_irq(VECTOR_WAKE, timer_interrupt, NULL);
    trap_set_irq(VECTOR_COM1, com1_interrupt, NULL);
    if (!tables) {
        log_warn("no sound ACPI tables: no input from the serial console");
        return;
    }
    for (u32 i = 0; i < in.ioapics; i++)
        ioapic_add(paging_map_device(in.ioapic[i].address, PAGE_SIZE), in.ioapic[i].gsi_base);
    ioapic_route(acpi_isa_irq(&in, COM1_IRQ).gsi, VECTOR_COM1, this_cpu()->apic_id, false, false);
    console_receive_irq();
}

static void init_time(void)
{
    tsc_calibrate();
    apic_timer_calibrate();
}

static void init_vmx(void)
{
    const char *missing = "";
    enum vmx_problem p = vmx_probe(&missing);
    if (p == VMX_OK) {
        hpa_t region = frames_take(&frames, PAGE_SIZE, PAGE_SIZE, FRAME_ANY);
        memset(phys_ptr(region), 0, PAGE_SIZE);
        p = vmx_enable(this_cpu(), region);
    }
    vmx.host = (struct vmx_host){paging_root(), trap_idt_base(), trap_dispatch_irq};
    switch (p) {
    case VMX_OK:
        mitigate_init(config.mitigations);
        return;
    case VMX_ABSENT:
        log_error("this processor has no VMX (VT-x), or it is hidden from Nestor: choose another "
                  "processor model, or give the virtual machine VMX");
        break;
    case VMX_LOCKED:
        log_error("VMX (VT-x) is locked off by the firmware: enable virtualization in its setup");
        break;
    case VMX_INCAPABLE:
        log_error("this processor's VMX lacks what Nestor needs: %s", missing);
        break;
    case VMX_VMXON:
        log_error("VMXON failed, although the processor reports VMX: update the firmware");
        break;
    }
    end(END_NO_VMX, 0);
}

static void brand(char out[49])
{
    for (u32 i = 0; i < 3; i++) {
        struct cpuid c = cpuid(0x80000002 + i, 0);
        memcpy(out + 16 * i, &c, 16);
    }
    out[48] = 0;
    while (*out == ' ')
        memmove(out, out + 1, strlen(out));
}

static void banner(void)
{
    char name[49], barriers[64];
    const struct vmx_caps *c = &vmx.caps;
    brand(name);
    log_info("Nestor %s, booted by %s (%s)", NESTOR_VERSION, boot->loader,
             boot->path == BOOT_MULTIBOOT2 ? "multiboot2" : "UEFI");
    log_info("CPU: %s, TSC %llu kHz", name, (ull)(tsc.hz / 1000));
    log_info("VMX: EPT%s%s%s%s%s%s%s", vmx.vpid ? ", VPID" : "",
             vmx.ept.large_1g ? ", 1G pages" : "", vmx.ept.ad ? ", EPT A/D" : "",
             vmx.shadowing ? ", VMCS shadowing" : "",
             CAP_HAS(c, VIRTUAL_INTR_DELIVERY) ? ", virtual-interrupt delivery" : "",
             CAP_HAS(c, PML) ? ", PML" : "", CAP_HAS(c, TSC_SCALING) ? ", TSC scaling" : "");
    log_info("speculation barriers: %s",
             config.mitigations ? mitigate_names(&mitigations, barriers, sizeof(barriers)) : "off");
    log_info("memory: %lluM, of which %lluM are free; VMs in " CONFIG_NAME ": %u",
             (ull)(frames.total / MIB), (ull)(frames_free_bytes(&frames) / MIB), config.nvms);
}

// On the guarded stack of the boot CPU.
static void start(void)
{
    console_screen(boot);
    read_config();
    init_interrupts();
    init_time();
    init_vmx();
    banner();
    if (!boot->modules)
        log_error("no module: the boot loader must load " CONFIG_NAME " as the first module");
    else if (!config.nvms)
        log_error(CONFIG_NAME " describes no VM: add a section such as [vm linux]");
    if (!vms_start(&config, boot, &frames)) {
        log_error("no VM could be started");
        end(END_NO_VM, 0);
    }
    log_info("ready %llu ticks after the boot loader, of which %llu loaded the VMs' images",
             (ull)(rdtsc() - boot_tsc), (ull)vms_load_ticks());
    sched_run();
    vms_end();
}

void kernel_start(const struct boot_info *info)
{
    boot_tsc = rdtsc();
    boot = info;
    collect_memory();
    paging_init(boot, &frames);
    struct cpu *cpu = cpus_init_boot(&frames);
    asm volatile("mov %0, %%rsp\n xor %%ebp, %%ebp\n call *%1\n"
                 :
                 : "r"(cpu->stack_top), "r"(start)
                 : "memory");
    __builtin_unreachable();
}
