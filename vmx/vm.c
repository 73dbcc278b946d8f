#include "vmx/vm.h"

#include "drivers/cpu.h"
#include "drivers/tsc.h"
#include "libc/printf.h"
#include "libc/string.h"
#include "libc/x86.h"
#include "vmx/apicv.h"
#include "vmx/cpu.h"
#include "vmx/exit.h"
#include "vmx/msr.h"
#include "vmx/nested/nested.h"
#include "vmx/run.h"
#include "vmx/switch.h"
#include "vmx/vmcs01.h"

#define FEATURE_CONTROL_FIRMWARE 5 // locked, VMX outside SMX allowed
#define FEATURE_CONTROL_LOCKED   1
#define MTRR_DEF_TYPE_FIRMWARE   0xc06 // enabled, fixed ranges enabled, write-back
#define MTRR_FIXED_WB            0x0606060606060606ull

typedef unsigned long long ull;

u64 vm_now_ns(const struct vm *vm)
{
    return tsc_to_ns(rdtsc() - vm->tsc_start);
}

static u64 clock_now_ns(void *ctx)
{
    return vm_now_ns(ctx);
}

static u64 clock_tsc_to_ns(void *ctx, unsigned cpu, u64 t)
{
    struct vm *vm = ctx;
    u64 host = rdtsc(), now = host + vm->vcpu[cpu]->tsc_offset;
    if (t <= now) // the processor compares unsigned values
        return 0;
    host += t - now;
    return host < t - now ? TIMER_NEVER : tsc_to_ns(host - vm->tsc_start) + 1;
}

static void machine_output(void *ctx, u8 byte)
{
    struct vm *vm = ctx;
    vm->ops->console(vm, byte);
}

static void machine_room(void *ctx)
{
    struct vm *vm = ctx;
    vm->ops->console_room(vm);
}

static void machine_power_off(void *ctx)
{
    vm_end(ctx, VM_END_POWER_OFF, 0);
}

static void machine_reset(void *ctx)
{
    vm_end(ctx, VM_END_RESET, 0);
}

static void machine_debug_exit(void *ctx, u32 code)
{
    vm_end(ctx, VM_END_DEBUG_EXIT, code);
}

static void machine_kick(void *ctx, unsigned cpu)
{
    struct vm *vm = ctx;
    vcpu_kick(vm->vcpu[cpu], WORK_EVENTS);
}

void vcpu_kick(struct vcpu *vcpu, u32 work)
{
    vcpu_note(vcpu, work);
    vcpu->vm->ops->wake(vcpu);
}

static struct vcpu *new_vcpu(struct vm *vm, unsigned id)
{
    _Static_assert(sizeof(struct vcpu) <= PAGE_SIZE, "one page of the pool");
    struct vcpu *v = pool_page(&vm->pool);
    void *apic = pool_page(&vm->pool);
    if (!v || !apic)
        return NULL;
    v->vm = vm;
    v->id = id;
    v->activity = VCPU_WAIT_SIPI;
    v->apic_page = ptr_phys(apic);
    v->lapic = &vm->machine.lapic[id];
    v->vpid = this_cpu()->next_vpid + 1;
    this_cpu()->next_vpid += 1 + NESTED_VPIDS;
    v->feature_control = vm->lock_vmx ? FEATURE_CONTROL_LOCKED : FEATURE_CONTROL_FIRMWARE;
    v->misc_enable = 1;
    v->cr4_mask = cpuid_cr4_mask(&vm->cpuid);
    v->mtrr[0] = MTRR_DEF_TYPE_FIRMWARE;
    for (unsigned i = 17; i < ARRAY_SIZE(v->mtrr); i++)
        v->mtrr[i] = MTRR_FIXED_WB;
    v->vmcs = &v->vmcs01;
    if (!vmcs_create(&v->vmcs01, &vm->pool, false) || !switch_init(v) || !nested_init(v))
        return NULL;
    vmcs_load(&v->vmcs01);
    vmcs01_init(v);
    nested_init_vmcs01(v);
    return v;
}

static void build_cpu(struct vm *vm, unsigned cpus)
{
    struct cpuid_params p = {.cpus = cpus,
                             .vmx = !vm->hide_vmx,
                             .xsaves = CAP_HAS(&vmx.caps, XSAVES),
                             .invpcid = CAP_HAS(&vmx.caps, INVPCID),
                             .rdtscp = CAP_HAS(&vmx.caps, RDTSCP)};
    struct vmx_offer offer = {0};
    cpuid_build(&vm->cpuid, host_cpuid, &p);
    vm->phys_bits = vm->cpuid.phys_bits;
    offer.hide_cr4 = ~cpuid_cr4_mask(&vm->cpuid);
    vmx_caps_for_l1(&vmx.caps, &offer, &vm->caps);
}

static bool build_machine(struct vm *vm, const struct machine_params *wanted)
{
    struct machine_params p = *wanted;
    p.phys_bits = vm->phys_bits;
    p.x2apic = p.tsc_deadline = true;
    p.clock = (struct vclock){clock_now_ns, clock_tsc_to_ns, vm};
    p.console_output = machine_output;
    p.console_room = machine_room;
    p.power_off = machine_power_off;
    p.reset = machine_reset;
    p.debug_exit_code = machine_debug_exit;
    p.kick = machine_kick;
    p.ctx = vm;
    for (unsigned i = 0; i < p.cpus; i++)
        p.apic_page[i] = phys_ptr(vm->vcpu[i]->apic_page);
    return machine_init(&vm->machine, &p);
}

bool vm_map_memory(struct vm *vm, struct ept *ept)
{
    return !ept_init(ept, &vm->pool, &vmx.ept) && !ept_map_ram(ept, &vm->mem) &&
           !ept_map_nothing(ept, GPA(LAYOUT_ROM_BASE), LAYOUT_ROM_SIZE, vm->ones);
}

const char *vm_init(struct vm *vm, const struct machine_params *params)
{
    const char *no_memory = "the memory that Nestor keeps for the VM is too small";
    vm->cpus_wanted = params->cpus;
    build_cpu(vm, params->cpus);
    vm->tsc_start = rdtsc();
    u8 *bitmap = pool_page(&vm->pool), *ones = pool_page(&vm->pool);
    if (!bitmap || !ones)
        return no_memory;
    vm->ones = ptr_phys(memset(ones, 0xff, PAGE_SIZE));
    if (!vm_map_memory(vm, &vm->ept01))
        return no_memory;
    msr_bitmap_init(bitmap);
    vm->msr_bitmap = ptr_phys(bitmap);
    if (!apicv_init_vm(vm))
        return no_memory;
    for (; vm->cpus < params->cpus; vm->cpus++) {
        vm->vcpu[vm->cpus] = new_vcpu(vm, vm->cpus);
        if (!vm->vcpu[vm->cpus])
            return no_memory;
    }
    if (!build_machine(vm, params))
        return "its description asks for a machine that Nestor does not make";
    vm->pool_at_start = vm->pool.used;
    vm->state = VM_RUNNING;
    return NULL;
}

u64 vm_release(struct vm *vm)
{
    u64 lost = 0;
    for (unsigned i = 0; i < vm->cpus; i++)
        lost += nested_release(vm->vcpu[i]);
    return lost + vm->pool.used - vm->pool_at_start;
}

void vm_end(struct vm *vm, enum vm_end end, u32 code)
{
    if (vm->state == VM_ENDED)
        return;
    vm->state = VM_ENDED;
    vm->end = end;
    vm->end_code = code;
    for (unsigned i = 0; i < vm->cpus; i++)
        vcpu_kick(vm->vcpu[i], WORK_STOP);
    vm->ops->ended(vm);
}

static void dump_segment(const char *name, u64 sel, u64 base, u64 limit, u64 ar)
{
    log_error("  %s %04llx base %016llx limit %08llx access %05llx", name, (ull)sel, (ull)base,
              (ull)limit, (ull)ar);
}

#define DUMP_SEGMENT(NAME)                                                                         \
    dump_segment(#NAME, vmread(F(GUEST_##NAME##_SELECTOR)), vmread(F(GUEST_##NAME##_BASE)),        \
                 vmread(F(GUEST_##NAME##_LIMIT)), vmread(F(GUEST_##NAME##_AR)))

void vcpu_dump(struct vcpu *v)
{
    log_error("vCPU %u of VM %s%s, exit reason %llx, qualification %llx", v->id, v->vm->name,
              nested_in_l2(v) ? ", in L2" : "", (ull)vmread(F(EXIT_REASON)),
              (ull)vmread(F(EXIT_QUALIFICATION)));
    log_error("  rip %016llx rsp %016llx rflags %08llx", (ull)vmread(F(GUEST_RIP)),
              (ull)vmread(F(GUEST_RSP)), (ull)vmread(F(GUEST_RFLAGS)));
    log_error("  cr0 %08llx cr3 %016llx cr4 %08llx efer %04llx", (ull)vmread(F(GUEST_CR0)),
              (ull)vmread(F(GUEST_CR3)), (ull)vmread(F(GUEST_CR4)), (ull)vmread(F(GUEST_EFER)));
    for (unsigned i = 0; i < GPR_COUNT; i += 4)
        log_error("  r%-2u %016llx %016llx %016llx %016llx", i, (ull)v->gpr[i], (ull)v->gpr[i + 1],
                  (ull)v->gpr[i + 2], (ull)v->gpr[i + 3]);
    DUMP_SEGMENT(CS);
    DUMP_SEGMENT(SS);
    DUMP_SEGMENT(DS);
    DUMP_SEGMENT(TR);
    log_error("  controls: pin %08llx proc %08llx %08llx exit %08llx entry %08llx, event %08llx",
              (ull)vmread(F(PIN_CTRL)), (ull)vmread(F(PROC_CTRL)), (ull)vmread(F(PROC2_CTRL)),
              (ull)vmread(F(EXIT_CTRL)), (ull)vmread(F(ENTRY_CTRL)),
              (ull)vmread(F(ENTRY_INTR_INFO)));
    log_error("  eptp %016llx interruptibility %llx activity %llx pending debug %llx",
              (ull)vmread(F(EPTP)), (ull)vmread(F(GUEST_INTERRUPTIBILITY)),
              (ull)vmread(F(GUEST_ACTIVITY)), (ull)vmread(F(GUEST_PENDING_DEBUG)));
    log_error("  gdtr %016llx idtr %016llx gpa %016llx linear %016llx",
              (ull)vmread(F(GUEST_GDTR_BASE)), (ull)vmread(F(GUEST_IDTR_BASE)),
              (ull)vmread(F(GUEST_PHYSICAL_ADDR)), (ull)vmread(F(GUEST_LINEAR_ADDR)));
}

void vcpu_fail(struct vcpu *vcpu, const char *fmt, ...)
{
    char why[160];
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, sizeof(why), fmt, args);
    va_end(args);
    log_error("VM %s is stopped: %s", vcpu->vm->name, why);
    vcpu_dump(vcpu);
    vm_end(vcpu->vm, VM_END_FAILED, 0);
}
