#include "kernel/vms.h"

#include "drivers/cmos.h"
#include "ept/pool.h"
#include "kernel/acpi_build.h"
#include "kernel/bios_stub.h"
#include "kernel/console.h"
#include "kernel/end.h"
#include "kernel/input.h"
#include "kernel/loader.h"
#include "kernel/sched.h"
#include "kernel/summary.h"
#include "libc/string.h"
#include "libc/x86.h"
#include "vmx/run.h"

#define LOW_RAM_MAX   (3 * GIB) // below the PCI hole
#define HIGH_RAM      (4 * GIB)
#define VGA_HOLE      0xa0000ull
#define BIOS_AREA     0xe0000ull
#define MEMORY_MIN    (2 * MIB)
#define POOL_MIN      (4 * MIB)
#define POOL_SHARE    128 // of the VM's memory
#define PCI_HOLE_SIZE (GIB - 64 * MIB)

static struct vm *vms[CONFIG_VMS];
static unsigned count;
static u64 load_ticks;
static struct input typed;

typedef unsigned long long ull;

static void vm_error(const struct vm_config *c, u32 line, const char *text)
{
    log_error("nestor.cfg:%u: VM %s is not started: %s", line, c->name, text);
}

static void on_console(struct vm *vm, u8 byte)
{
    console_vm_put(vm, count > 1 ? vm->name : NULL, byte);
}

static void on_ended(struct vm *vm)
{
    static const char *const how[] = {"powered off", "reset itself", "wrote to its debug-exit port",
                                      "was stopped"};
    log_info("VM %s %s", vm->name, how[vm->end]);
}

// The VM that gets what is typed. Its device lock covers `typed`, too.
static struct vm *console_vm(void)
{
    return vms[0];
}

static bool give_byte(void *ctx, u8 byte)
{
    struct vm *vm = ctx;
    return machine_console_input(&vm->machine, byte);
}

static void feed_console(struct vm *vm)
{
    if (vm == console_vm())
        input_feed(&typed, give_byte, vm);
}

static const struct vm_ops ops = {on_console, feed_console, on_ended, sched_wake};

static const struct boot_module *find_module(const struct boot_info *info, const char *name)
{
    for (unsigned i = 0; i < info->modules; i++)
        if (!strcmp(info->module[i].name, name))
            return &info->module[i];
    return NULL;
}

static bool get_image(const struct vm_config *c, const struct boot_info *info,
                      const struct config_file *f, struct image *image)
{
    const struct boot_module *m = find_module(info, f->name);
    if (!m) {
        log_error("nestor.cfg:%u: VM %s is not started: file %s is not there (it must be a module "
                  "of the boot loader with that name)",
                  f->line, c->name, f->name);
        return false;
    }
    *image = (struct image){.data = phys_ptr(m->start),
                            .size = m->size,
                            .name = f->name,
                            .args = f->args ? f->args : ""};
    return true;
}

static void add_range(struct guest_mem *mem, u64 gpa, u64 hpa, u64 size)
{
    mem->range[mem->count++] = (struct ram_range){GPA(gpa), HPA(hpa), size};
}

// RAM from 0, without the VGA hole; what does not fit below 3 GiB goes above 4 GiB.
static bool give_memory(struct vm *vm, u64 size, struct frames *frames)
{
    u64 low = MIN(size, LOW_RAM_MAX), high = size - low;
    hpa_t base = frames_take(frames, low, low >= GIB ? GIB : 2 * MIB, FRAME_ANY);
    if (base.v == HPA_NONE.v)
        base = frames_take(frames, low, 2 * MIB, FRAME_ANY);
    hpa_t above = high ? frames_take(frames, high, 2 * MIB, FRAME_ANY) : HPA(0);
    u64 pool = POOL_MIN + align_up(size / POOL_SHARE, PAGE_SIZE);
    hpa_t pool_base = frames_take(frames, pool, PAGE_SIZE, FRAME_ANY);
    if (base.v == HPA_NONE.v || above.v == HPA_NONE.v || pool_base.v == HPA_NONE.v) {
        frames_add(frames, base.v == HPA_NONE.v ? HPA(0) : base, base.v == HPA_NONE.v ? 0 : low);
        frames_add(frames, above.v == HPA_NONE.v ? HPA(0) : above,
                   above.v == HPA_NONE.v ? 0 : high);
        frames_add(frames, pool_base.v == HPA_NONE.v ? HPA(0) : pool_base,
                   pool_base.v == HPA_NONE.v ? 0 : pool);
        return false;
    }
    // The largest range first (guest_mem.h).
    if (high > low)
        add_range(&vm->mem, HIGH_RAM, above.v, high);
    add_range(&vm->mem, BIOS_AREA, base.v + BIOS_AREA, low - BIOS_AREA);
    add_range(&vm->mem, 0, base.v, VGA_HOLE);
    if (high && high <= low)
        add_range(&vm->mem, HIGH_RAM, above.v, high);
    pool_init(&vm->pool, pool_base, pool / PAGE_SIZE);
    return true;
}

static bool load_images(struct vm *vm, const struct vm_config *c, const struct boot_info *info,
                        struct load *load)
{
    static u8 tables[ACPI_BUILD_SIZE];
    struct acpi_build acpi = {.base = GPA(ACPI_BUILD_BASE),
                              .cpus = c->cpus,
                              .pci_mmio_base = LOW_RAM_MAX,
                              .pci_mmio_size = PCI_HOLE_SIZE};
    u64 used = acpi_build(&acpi, tables, sizeof(tables));
    guest_write(&vm->mem, acpi.base, tables, used);
    load->mem = &vm->mem;
    load->acpi = (struct acpi_region){acpi.base, ACPI_BUILD_SIZE};
    struct e820_map map;
    e820_build(&map, &vm->mem, load->acpi);
    bios_stub_install(&vm->mem, &map);
    load->rsdp = acpi.base;
    load->cmdline = c->cmdline;
    load->loader_name = "Nestor " NESTOR_VERSION;
    if (!get_image(c, info, &c->kernel, &load->kernel) ||
        (c->initrd.name && !get_image(c, info, &c->initrd, &load->initrd)))
        return false;
    for (u32 i = 0; i < c->modules; i++)
        if (!get_image(c, info, &c->module[i], &load->module[load->modules++]))
            return false;
    int r = c->kind == VM_KIND_LINUX       ? load_linux(load)
            : c->kind == VM_KIND_MULTIBOOT ? load_multiboot(load)
                                           : load_image(load);
    if (r)
        vm_error(c, c->kernel.line, load->error);
    return !r;
}

static void start_boot_cpu(struct vm *vm, const struct start_state *s)
{
    struct vcpu_start start = {.long_mode = s->mode == START_LONG64,
                               .rip = s->rip,
                               .rsp = s->rsp,
                               .rax = s->rax,
                               .rbx = s->rbx,
                               .rsi = s->rsi,
                               .cr3 = s->cr3.v,
                               .gdt_base = s->gdt.v,
                               .gdt_limit = s->gdt_limit,
                               .code_selector = s->code_selector,
                               .data_selector = s->data_selector};
    vcpu_start(vm->vcpu[0], &start);
    sched_add(vm->vcpu[0]);
}

static bool description_ok(const struct vm_config *c)
{
    if (!c->valid)
        return false; // reported by the parser
    if (c->cpus != 1)
        vm_error(c, c->line, "cpus must be 1 in this version");
    else if (c->pcis)
        vm_error(c, c->line, "pci needs VT-d, which this version does not drive; leave pci out");
    else if (c->memory < MEMORY_MIN)
        vm_error(c, c->memory_line, "memory must be 2M or more");
    else
        return true;
    return false;
}

static bool start_vm(const struct vm_config *c, const struct boot_info *info, struct frames *frames)
{
    if (!description_ok(c))
        return false;
    hpa_t place = frames_take(frames, sizeof(struct vm), PAGE_SIZE, FRAME_ANY);
    if (place.v == HPA_NONE.v)
        return false;
    struct vm *vm = memset(phys_ptr(place), 0, sizeof(*vm));
    memcpy(vm->name, c->name, MIN(strlen(c->name), sizeof(vm->name) - 1));
    vm->id = count;
    vm->ops = &ops;
    if (!give_memory(vm, c->memory, frames)) {
        log_error("nestor.cfg:%u: VM %s is not started: too little memory: it asks for %lluM, free "
                  "are %lluM in one piece at most",
                  c->memory_line, c->name, (ull)(c->memory / MIB),
                  (ull)(frames_largest(frames, 2 * MIB) / MIB));
        return false;
    }
    struct load load = {0};
    u64 before = rdtsc();
    if (!load_images(vm, c, info, &load))
        return false;
    load_ticks += rdtsc() - before;
    struct machine_params params = {.cpus = c->cpus,
                                    .ram_below_4g = MIN(c->memory, LOW_RAM_MAX),
                                    .ram_above_4g = c->memory - MIN(c->memory, LOW_RAM_MAX),
                                    .start_time = cmos_seconds(),
                                    .debug_exit =
                                        c->debug_exit == CONFIG_NO_PORT ? 0 : (u16)c->debug_exit};
    vm->hide_vmx = c->vmx == VMX_HIDDEN;
    vm->lock_vmx = c->vmx == VMX_LOCKED_OFF;
    const char *missing = vm_init(vm, &params);
    if (missing) {
        vm_error(c, c->line, missing);
        return false;
    }
    start_boot_cpu(vm, &load.start);
    vms[count++] = vm;
    log_info("VM %s: %lluM of memory, kernel %s", vm->name, (ull)(c->memory / MIB), c->kernel.name);
    return true;
}

unsigned vms_start(const struct config *config, const struct boot_info *info, struct frames *frames)
{
    for (u32 i = 0; i < config->nvms; i++)
        start_vm(&config->vm[i], info, frames);
    return count;
}

void vms_console_input(u8 byte)
{
    if (!count)
        return;
    struct vm *vm = console_vm();
    spin_lock(&vm->device_lock);
    if (!input_put(&typed, byte))
        log_debug("nobody reads what is typed: a byte is lost");
    feed_console(vm);
    spin_unlock(&vm->device_lock);
}

u64 vms_load_ticks(void)
{
    return load_ticks;
}

void vms_end(void)
{
    enum end_kind kind = END_OK;
    u32 code = 0;
    for (unsigned i = 0; i < count; i++) {
        struct vm *vm = vms[i];
        summary_print(vm, vm_release(vm));
        if (vm->end == VM_END_FAILED)
            kind = END_VM_FAILED;
        else if (kind != END_VM_FAILED && vm->end == VM_END_RESET)
            kind = END_VM_RESET;
        else if (kind == END_OK && vm->end == VM_END_DEBUG_EXIT && vm->end_code) {
            kind = END_DEBUG_EXIT;
            code = vm->end_code;
        }
    }
    end(kind, code);
}
