#include "vmx/run.h"

#include "drivers/cpu.h"
#include "drivers/tsc.h"
#include "libc/x86.h"
#include "vmx/count.h"
#include "vmx/cpu.h"
#include "vmx/event.h"
#include "vmx/nested/nested.h"
#include "vmx/switch.h"

#define QUIRK_PERIOD_NS 10000000

_Static_assert(offsetof(struct vcpu, gpr) == 0, "vmx/enter.asm");
_Static_assert(offsetof(struct vcpu, vmcs) == 128, "vmx/enter.asm");
_Static_assert(offsetof(struct vcpu, host_rsp) == 136, "vmx/enter.asm");
_Static_assert(offsetof(struct vmcs, host_rsp) == 0, "vmx/enter.asm");
_Static_assert(offsetof(struct vmcs, launched) == 8, "vmx/enter.asm");

// vmx/enter.asm and what it calls.
enum run_result vmx_run(struct vcpu *vcpu);
enum run_result vcpu_exit(struct vcpu *vcpu);
enum run_result vcpu_entry_failed(struct vcpu *vcpu);

void vcpu_update_deadline(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    u64 ns = timers_next(&vm->machine.cpu_timers[vcpu->id]);
    if (vcpu->id == 0)
        ns = MIN(ns, timers_next(&vm->machine.timers));
    u64 at = ns == TIMER_NEVER ? ~0ull : tsc_from_ns(ns) + 1;
    vcpu->deadline = at > ~0ull - vm->tsc_start ? ~0ull : at + vm->tsc_start;
    // So far as the preemption timer can count, which spares each entry a comparison.
    u64 reach = rdtsc() + (0xffffffffull << vmx.timer_shift);
    vcpu->until = MIN(MIN(vcpu->deadline, vcpu->slice_end), reach);
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
    vcpu_update_deadline(vcpu);
}

// What the fast path in prepare() found to need a closer look.
static enum run_result prepare_slow(struct vcpu *vcpu)
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

// `until` is reached: timers, and perhaps the end of the slice.
static enum run_result expire(struct vcpu *vcpu, u64 now)
{
    if (now >= vcpu->slice_end)
        return RUN_PREEMPTED;
    run_timers(vcpu);
    return RUN_RESUME;
}

// Everything between the end of an exit's handling and the VM entry. What is left for another time
// (RUN_PREEMPTED) comes first: once an event is in the VM-entry fields the vCPU enters.
static inline enum run_result prepare(struct vcpu *vcpu)
{
    enum run_result r;
    u64 now = rdtsc();
    if (UNLIKELY(now >= vcpu->until)) {
        r = expire(vcpu, now);
        if (r != RUN_RESUME)
            return r;
    }
    if (UNLIKELY(__atomic_load_n(&vcpu->work, __ATOMIC_ACQUIRE) ||
                 vlapic_wants_attention(vcpu->lapic))) {
        r = prepare_slow(vcpu);
        if (r != RUN_RESUME)
            return r;
    }
    if (UNLIKELY(nested_in_l2(vcpu)))
        nested_arm_timer(vcpu, now);
    else
        vmwrite(F(PREEMPTION_TIMER),
                vcpu->until > now ? (vcpu->until - now) >> vmx.timer_shift : 0);
    return RUN_RESUME;
}

enum run_result vcpu_exit(struct vcpu *vcpu)
{
    u32 reason = (u32)vmread(F(EXIT_REASON));
    vcpu->vmcs->launched = true;
    COUNT(exits);
    enum run_result r;
    if (nested_in_l2(vcpu)) {
        r = nested_exit(vcpu, reason);
    } else {
        if (LIKELY(reason < STAT_REASONS))
            vcpu->stats.l1[reason]++;
        r = exit_dispatch(vcpu, reason);
    }
    return r == RUN_RESUME ? prepare(vcpu) : r;
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
        if (cpu->current)
            switch_save(cpu->current);
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
    vcpu_update_deadline(vcpu);
    if (vcpu->activity != VCPU_ACTIVE)
        vcpu_note(vcpu, WORK_EVENTS);
    enum run_result r = prepare(vcpu);
    return r == RUN_RESUME ? vmx_run(vcpu) : r;
}

u64 vcpu_wake_time(struct vcpu *vcpu)
{
    vcpu_update_deadline(vcpu);
    return MIN(vcpu->deadline, nested_timer_deadline(vcpu));
}

bool vcpu_has_work(struct vcpu *vcpu)
{
    return __atomic_load_n(&vcpu->work, __ATOMIC_ACQUIRE) || vlapic_wants_attention(vcpu->lapic) ||
           rdtsc() >= MIN(vcpu->deadline, nested_timer_deadline(vcpu));
}
