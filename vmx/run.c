#include "vmx/run.h"

#include "drivers/cpu.h"
#include "drivers/tsc.h"
#include "libc/x86.h"
#include "vmx/count.h"
#include "vmx/cpu.h"
#include "vmx/event.h"
#include "vmx/mitigate.h"
#include "vmx/nested/nested.h"
#include "vmx/switch.h"

_Static_assert(offsetof(struct vcpu, gpr) == 0, "vmx/enter.asm");
_Static_assert(offsetof(struct cpu, exit_stack) == 8, "vmx/enter.asm");
_Static_assert(offsetof(struct cpu, caller_rsp) == 16, "vmx/enter.asm");

// vmx/enter.asm and what it calls.
enum run_result vmx_run(struct vcpu *vcpu);
enum run_result vmx_resume(struct vcpu *vcpu);
enum run_result vcpu_exit(struct vcpu *vcpu);
enum run_result vcpu_enter(struct vcpu *vcpu);
enum run_result vcpu_entry_failed(struct vcpu *vcpu);

static inline u64 next_timer(const struct vcpu *vcpu)
{
    const struct machine *m = &vcpu->vm->machine;
    u64 ns = timers_next(&m->cpu_timers[vcpu->id]);
    return vcpu->id == 0 ? MIN(ns, timers_next(&m->timers)) : ns;
}

static void set_deadline(struct vcpu *vcpu, u64 ns)
{
    u64 start = vcpu->vm->tsc_start, at = ns == TIMER_NEVER ? ~0ull : tsc_from_ns(ns) + 1;
    vcpu->timer_ns = ns;
    vcpu->deadline = at > ~0ull - start ? ~0ull : at + start;
    // So far as the preemption timer can count, which spares each entry a comparison.
    u64 reach = rdtsc() + (0xffffffffull << vmx.timer_shift);
    vcpu->until_l0 = MIN(MIN(vcpu->deadline, vcpu->slice_end), reach);
    u64 until_l1 = nested_timer_deadline(vcpu);
    vcpu->until = MIN(vcpu->until_l0, until_l1);
}

void vcpu_update_deadline(struct vcpu *vcpu)
{
    u64 ns = next_timer(vcpu);
    if (UNLIKELY(ns != vcpu->timer_ns))
        set_deadline(vcpu, ns);
}

static void run_timers(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    u64 now = vm_now_ns(vm);
    if (timers_next(&vm->machine.cpu_timers[vcpu->id]) <= now)
        timers_run(&vm->machine.cpu_timers[vcpu->id], now);
    if (vcpu->id == 0 && timers_next(&vm->machine.timers) <= now) {
        spin_lock(&vm->device_lock);
        timers_run(&vm->machine.timers, now);
        spin_unlock(&vm->device_lock);
    }
    set_deadline(vcpu, next_timer(vcpu));
}

// What vcpu->work or the local APIC have for the vCPU before it enters.
static enum run_result do_work(struct vcpu *vcpu)
{
    u32 work = __atomic_exchange_n(&vcpu->work, 0, __ATOMIC_ACQ_REL);
    if (work & WORK_STOP || vcpu->vm->state == VM_ENDED)
        return RUN_STOPPED;
    if (work & WORK_FLUSH)
        vmxop_invept(INVEPT_SINGLE, ept_eptp(&vcpu->vm->ept01));
    bool active = nested_in_l2(vcpu) ? nested_deliver_events(vcpu) : vcpu_deliver_events(vcpu);
    if (vcpu->vm->state == VM_ENDED)
        return RUN_STOPPED;
    return active ? RUN_RESUME : RUN_HALTED;
}

static inline bool has_work(const struct vcpu *vcpu)
{
    return __atomic_load_n(&vcpu->work, __ATOMIC_ACQUIRE) | vlapic_wants_attention(vcpu->lapic);
}

// A VM entry with more to it than the way in vcpu_enter(). What is left for another time
// (RUN_PREEMPTED) comes first: once an event is in the VM-entry fields the vCPU enters.
static NOINLINE enum run_result enter_slowly(struct vcpu *vcpu)
{
    u64 now = rdtsc();
    if (now >= vcpu->slice_end)
        return RUN_PREEMPTED;
    if (now >= vcpu->until)
        run_timers(vcpu);
    if (has_work(vcpu)) {
        enum run_result r = do_work(vcpu);
        if (r != RUN_RESUME)
            return r;
    }
    u64 until = nested_leaves_at_once(vcpu) ? 0 : vcpu->until;
    vmwrite(F(PREEMPTION_TIMER), until > now ? (until - now) >> vmx.timer_shift : 0);
    return vmx_resume(vcpu);
}

// Everything between the end of an exit's handling and the VM entry: nothing, most of the time, but
// the timer that brings the CPU back.
enum run_result vcpu_enter(struct vcpu *vcpu)
{
    u64 left;
    if (UNLIKELY(__builtin_sub_overflow(vcpu->until, rdtsc(), &left) || has_work(vcpu)))
        return enter_slowly(vcpu);
    vmwrite(F(PREEMPTION_TIMER), left >> vmx.timer_shift);
    return vmx_resume(vcpu);
}

enum run_result vcpu_exit(struct vcpu *vcpu)
{
    u64 reason = vmread(F(EXIT_REASON));
    COUNT(exits);
    if (nested_in_l2(vcpu))
        return nested_exit(vcpu, (u32)reason);
    if (UNLIKELY(reason >= STAT_REASONS))
        return exit_unhandled(vcpu);
    vcpu->stats.l1[reason]++;
    return exit_handlers[reason](vcpu);
}

// VMLAUNCH or VMRESUME itself failed: L0 put something impossible into the VMCS.
enum run_result vcpu_entry_failed(struct vcpu *vcpu)
{
    vcpu_fail(vcpu, "VM entry failed, VM-instruction error %u",
              (unsigned)vmread(F(INSTRUCTION_ERROR)));
    return RUN_STOPPED;
}

// Brings the state that L0 does not switch at every exit onto this CPU.
static void become_current(struct vcpu *vcpu)
{
    struct cpu *cpu = this_cpu();
    if (cpu->current != vcpu) {
        if (cpu->current) {
            switch_save(cpu->current);
            if (cpu->current->vm != vcpu->vm)
                mitigate(BOUNDARY_VM);
        }
        switch_load(vcpu);
        cpu->current = vcpu;
    }
    vmcs_load(vcpu->vmcs);
}

enum run_result vcpu_run(struct vcpu *vcpu, u64 slice_end)
{
    vcpu->slice_end = slice_end;
    if (vcpu->vm->state == VM_ENDED)
        return RUN_STOPPED;
    become_current(vcpu);
    set_deadline(vcpu, next_timer(vcpu));
    if (vcpu->activity != VCPU_ACTIVE)
        vcpu_note(vcpu, WORK_EVENTS);
    return vmx_run(vcpu);
}

u64 vcpu_wake_time(struct vcpu *vcpu)
{
    vcpu_update_deadline(vcpu);
    return MIN(vcpu->deadline, nested_timer_deadline(vcpu));
}

bool vcpu_has_work(struct vcpu *vcpu)
{
    return has_work(vcpu) || rdtsc() >= MIN(vcpu->deadline, nested_timer_deadline(vcpu));
}
