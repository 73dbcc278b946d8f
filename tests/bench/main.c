// The frame: repetitions, medians, output.

#include "tests/bench/bench.h"

enum { SAMPLES = 31, SAMPLES_MAX = SAMPLES, WARM_UP = 3 };

// CPUID leaves of a Nestor that counts: see vmx/count.h.
enum { COUNT_LEAF = 0x400000f0, COUNT_SIGNATURE = 0x4e54u };

enum { EXITS, VMREADS, VMWRITES, VMPTRLDS, VMCLEARS, INVEPTS, COUNTS };
static const char *const count_names[COUNTS] = {"exits",    "vmreads",  "vmwrites",
                                                "vmptrlds", "vmclears", "invepts"};

struct sample {
    u64 ticks, count[COUNTS];
};

static bool counting;
static struct sample nothing[2]; // of the frame: for operations that L1 measures, and L2

static void read_counts(u64 *count)
{
    if (!counting)
        return;
    struct cpuid r = cpuid(COUNT_LEAF, 0);
    count[EXITS] = r.a;
    count[VMREADS] = r.b;
    count[VMWRITES] = r.c;
    count[VMPTRLDS] = r.d;
    r = cpuid(COUNT_LEAF + 1, 0);
    count[VMCLEARS] = r.a;
    count[INVEPTS] = r.b;
}

// A stop for the emulator's debugger, so that it can trace what lies between two of them.
static void stop_here(bool wanted)
{
    if (wanted)
        asm volatile("xchg %bx, %bx");
}

static struct sample measure(const struct op *op, bool traced)
{
    u64 from[COUNTS] = {0}, to[COUNTS] = {0};
    struct sample s;
    if (op->before)
        op->before();
    stop_here(traced);
    read_counts(from);
    u64 start = rdtsc();
    op->run();
    s.ticks = rdtsc() - start;
    read_counts(to);
    stop_here(traced);
    if (op->in_l2)
        s.ticks = l2.r9;
    for (u32 i = 0; i < COUNTS; i++)
        s.count[i] = (u32)(to[i] - from[i]);
    return s;
}

static void sort(u64 *v, u32 n)
{
    for (u32 i = 1; i < n; i++)
        for (u32 j = i; j && v[j - 1] > v[j]; j--) {
            u64 t = v[j];
            v[j] = v[j - 1];
            v[j - 1] = t;
        }
}

// The median of the number `which` of all samples: the ticks, or a count.
static u64 median(const struct sample *s, u32 n, u32 which)
{
    u64 v[SAMPLES_MAX];
    for (u32 i = 0; i < n; i++)
        v[i] = which ? s[i].count[which - 1] : s[i].ticks;
    sort(v, n);
    return v[n / 2];
}

// Median sample; false after a wrong result.
static bool run_op(const struct op *op, struct sample *result)
{
    static struct sample s[SAMPLES_MAX];
    u32 n = op->samples ? op->samples : SAMPLES;
    const char *traced = arg_text("trace");
    bool trace = traced && !strncmp(traced, op->name, strlen(op->name));
    if (op->begin)
        op->begin();
    for (u32 i = 0; i < WARM_UP + n; i++) {
        s[i < WARM_UP ? 0 : i - WARM_UP] = measure(op, trace && i == WARM_UP);
        if (op->good && !op->good()) {
            print("bench %s wrong: repetition %u, exit reason %llu, entry %s\n", op->name, i,
                  (unsigned long long)exit_reason, bench_failed ? "failed" : "worked");
            return false;
        }
    }
    result->ticks = median(s, n, 0);
    for (u32 i = 0; i < COUNTS; i++)
        result->count[i] = median(s, n, i + 1);
    return true;
}

static void show(const char *name, const char *what, u64 v, u64 frame)
{
    print("bench %s %s %llu\n", name, what, (unsigned long long)(v > frame ? v - frame : 0));
}

static bool bench(const struct op *op)
{
    struct sample s;
    if (!run_op(op, &s))
        return false;
    const struct sample *frame = &nothing[op->in_l2];
    show(op->name, "ticks", s.ticks, frame->ticks);
    for (u32 i = 0; counting && i < COUNTS; i++)
        show(op->name, count_names[i], s.count[i], frame->count[i]);
    return true;
}

static void do_nothing(void)
{
}

L2_CODE(nothing, L2_START L2_STOP);

static void begin_l2_nothing(void)
{
    bench_l2(l2_nothing);
}

static void before_l2_nothing(void)
{
    l2_goto(l2_nothing);
}

static void run_l2_nothing(void)
{
    bench_enter();
    read_reason();
}

static bool good_l2_nothing(void)
{
    return left_by(R_VMCALL);
}

static bool measure_frame(void)
{
    static const struct op frame[] = {
        {.name = "nothing", .run = do_nothing},
        {.name = "nothing-l2",
         .begin = begin_l2_nothing,
         .before = before_l2_nothing,
         .run = run_l2_nothing,
         .good = good_l2_nothing,
         .in_l2 = true},
    };
    return run_op(&frame[0], &nothing[0]) && run_op(&frame[1], &nothing[1]);
}

// Does the command line ask for this one? only=cpuid,vm: those that begin with one of the words.
static bool wanted(const char *name)
{
    const char *p = arg_text("only");
    if (!p)
        return true;
    for (;;) {
        size_t n = 0;
        while (p[n] && p[n] != ' ' && p[n] != ',')
            n++;
        if (n && !strncmp(name, p, n))
            return true;
        if (p[n] != ',')
            return false;
        p += n + 1;
    }
}

static bool bench_all(const struct ops *ops)
{
    const char *missing = ops->missing ? ops->missing() : NULL;
    bool good = true;
    for (u32 i = 0; i < ops->count; i++) {
        if (!wanted(ops->op[i].name))
            continue;
        if (missing)
            print("bench %s missing: %s\n", ops->op[i].name, missing);
        else
            good &= bench(&ops->op[i]);
        bench_failed = 0;
    }
    return good;
}

int main(void);
int main(void)
{
    static const struct ops *const all[] = {&ops_l1,   &ops_exits, &ops_ept,
                                            &ops_vmcs, &ops_irq,   &ops_mmu};
    bool good = true;
    outb(0x21, 0xff); // no interrupts of the PIC, whose timer may run
    outb(0xa1, 0xff);
    vmx_begin();
    counting = (cpuid(1, 0).c & BIT(31)) && cpuid(COUNT_LEAF + 2, 0).a == COUNT_SIGNATURE;
    print("bench: counts %s\n", counting ? "yes" : "no");
    if (!measure_frame())
        return 1;
    for (u32 i = 0; i < ARRAY_SIZE(all); i++)
        good &= bench_all(all[i]);
    return !good;
}
