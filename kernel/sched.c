#include "kernel/sched.h"

#include "drivers/apic.h"
#include "drivers/tsc.h"
#include "kernel/vectors.h"
#include "libc/log.h"
#include "libc/x86.h"
#include "vmx/platform.h"
#include "vmx/run.h"

#define SLICE_NS    5000000
#define QUIRK_NS    50000000
#define IDLE_MAX_NS 1000000000

static struct vcpu *queue[SCHED_VCPUS];
static unsigned count;

void sched_add(struct vcpu *vcpu)
{
    ASSERT(count < SCHED_VCPUS);
    queue[count++] = vcpu;
}

void sched_wake(struct vcpu *vcpu)
{
    // With one CPU the waker is the CPU itself, which looks at vcpu->work before it halts.
    (void)vcpu;
}

static void drop(unsigned at)
{
    queue[at] = queue[--count];
}

// A vCPU alone on its CPU needs no end of its slice, but for what a quirk asks.
static u64 slice(u64 now)
{
    if (count > 1)
        return now + tsc_from_ns(SLICE_NS);
    return quirks.lost_interrupt_exits ? now + tsc_from_ns(QUIRK_NS) : ~0ull;
}

static bool wants_cpu(struct vcpu *v)
{
    return v->activity == VCPU_ACTIVE || vcpu_has_work(v);
}

static void idle(void)
{
    u64 wake = rdtsc() + tsc_from_ns(IDLE_MAX_NS);
    for (unsigned i = 0; i < count; i++)
        wake = MIN(wake, vcpu_wake_time(queue[i]));
    apic_timer_at(wake, VECTOR_TIMER);
    irq_wait();
    apic_timer_at(~0ull, VECTOR_TIMER);
}

void sched_run(void)
{
    while (count) {
        bool ran = false;
        for (unsigned i = 0; i < count;) {
            struct vcpu *v = queue[i];
            if (v->vm->state == VM_ENDED) {
                drop(i);
                continue;
            }
            if (wants_cpu(v)) {
                ran = true;
                vcpu_run(v, slice(rdtsc()));
                irq_window();
            }
            i++;
        }
        if (count && !ran)
            idle();
    }
}
