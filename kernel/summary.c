#include "kernel/summary.h"

#include "drivers/tsc.h"
#include "libc/log.h"
#include "libc/x86.h"
#include "vmx/exit.h"

typedef unsigned long long ull;

static void print_reasons(const char *title, const u64 *n)
{
    u64 sum = 0;
    for (unsigned i = 0; i < STAT_REASONS; i++)
        sum += n[i];
    if (!sum)
        return;
    log_info("  %s: %llu", title, (ull)sum);
    for (unsigned i = 0; i < STAT_REASONS; i++)
        if (n[i])
            log_info("    %-20s %llu", exit_reason_name(i), (ull)n[i]);
}

static void print_vcpu(const struct vcpu *v)
{
    print_reasons("exits of L1", v->stats.l1);
    print_reasons("exits of L2 that L0 handled itself", v->stats.l2_handled);
    print_reasons("virtual exits to L1", v->stats.l2_to_l1);
    if (v->stats.entries)
        log_info("  virtual entries: %llu, EPT02 faults: %llu", (ull)v->stats.entries,
                 (ull)v->stats.ept02_faults);
}

void summary_print(const struct vm *vm, u64 lost)
{
    log_info("summary of VM %s", vm->name);
    for (unsigned i = 0; i < vm->cpus; i++)
        print_vcpu(vm->vcpu[i]);
    log_info("  pages of L0 for this VM: %llu at its start, %llu at most, of %llu; %llu lost",
             (ull)vm->pool_at_start, (ull)vm->pool.peak, (ull)vm->pool.pages, (ull)lost);
    log_info("  ticks of the TSC since its start: %llu", (ull)(rdtsc() - vm->tsc_start));
}
