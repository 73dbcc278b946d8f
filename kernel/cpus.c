#include "kernel/cpus.h"

#include "ept/pool.h"
#include "kernel/paging.h"
#include "kernel/trap.h"
#include "libc/log.h"
#include "libc/string.h"

#define STACK_PAGES 4
#define IST_PAGES   2

static struct cpu *new_cpu(struct frames *frames, unsigned id)
{
    hpa_t hpa = frames_take(frames, sizeof(struct cpu), PAGE_SIZE, FRAME_ANY);
    if (hpa.v == HPA_NONE.v)
        panic("no memory for CPU %u", id);
    struct cpu *cpu = memset(phys_ptr(hpa), 0, sizeof(*cpu));
    cpu->id = id;
    cpu->stack_top = paging_new_stack(STACK_PAGES);
    cpu->exit_stack = paging_new_stack(STACK_PAGES);
    for (unsigned i = 1; i < IST_COUNT; i++)
        cpu->tss.ist[i - 1] = paging_new_stack(IST_PAGES);
    return cpu;
}

struct cpu *cpus_init_boot(struct frames *frames)
{
    struct cpu *cpu = new_cpu(frames, 0);
    cpu_load(cpu);
    trap_init();
    return cpu;
}
