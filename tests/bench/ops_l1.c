// Operations of L1 itself: instructions that exit to L0, and VMX instructions beside entries.

#include "tests/bench/bench.h"

enum { IA32_VMX_BASIC = 0x480, MARK = 0x1230 };

static struct cpuid answer;
static u64 got;

static void run_cpuid(void)
{
    answer = cpuid(0, 0);
}

static bool good_cpuid(void)
{
    return answer.b == 0x756e6547; // "Genu"
}

static void run_rdmsr(void)
{
    got = rdmsr(IA32_VMX_BASIC);
}

static bool good_rdmsr(void)
{
    return got == caps.basic;
}

static void begin_fields(void)
{
    bench_l2(l2_vmcalls);
    vmwrite(GUEST_RSP, MARK);
    vmwrite(GUEST_ES_BASE, MARK);
    vmwrite(TSC_OFFSET, 0);
    got = 0;
}

static void run_read_common(void)
{
    got = field_read(GUEST_RSP);
}

static void run_read_rare(void)
{
    got = field_read(GUEST_ES_BASE);
}

static bool good_mark(void)
{
    return got == MARK;
}

static void run_write_common(void)
{
    field_write(GUEST_RIP, got);
}

static bool good_write_common(void)
{
    return vmread(GUEST_RIP) == got++;
}

static void run_write_rare(void)
{
    field_write(GUEST_ES_BASE, got);
}

static bool good_write_rare(void)
{
    return vmread(GUEST_ES_BASE) == got++;
}

static void run_read_unshadowed(void)
{
    got = field_read(TSC_OFFSET);
}

static bool good_zero(void)
{
    return got == 0;
}

// The first access to a rare field after L2 ran: what L0 left in vmcs02 must be fetched.
static void begin_after_exit(void)
{
    bench_l2(l2_vmcalls);
    vmwrite(GUEST_ES_BASE, MARK);
}

static void before_after_exit(void)
{
    got = 0;
    l2_goto(l2_vmcalls);
    bench_enter();
    read_reason();
}

static void run_invept(void)
{
    struct invept_desc d = {ept_pointer(), 0};
    u64 type = 1;
    asm volatile("invept %1, %2" : "=@ccbe"(got) : "m"(d), "r"(type) : "memory");
}

static void run_invvpid_of(u64 type)
{
    struct invvpid_desc d = {5, {0}, 0};
    asm volatile("invvpid %1, %2" : "=@ccbe"(got) : "m"(d), "r"(type) : "memory");
}

static void run_invvpid(void)
{
    run_invvpid_of(1);
}

static void run_invvpid_address(void)
{
    run_invvpid_of(0);
}

static void run_invvpid_all(void)
{
    run_invvpid_of(2);
}

// The flag is one byte; the rest of `got` must not be old.
static void clear_got(void)
{
    got = 0;
}

static const struct op list[] = {
    {.name = "cpuid", .run = run_cpuid, .good = good_cpuid},
    {.name = "rdmsr", .run = run_rdmsr, .good = good_rdmsr},
    {.name = "vmread-common", .begin = begin_fields, .run = run_read_common, .good = good_mark},
    {.name = "vmwrite-common",
     .begin = begin_fields,
     .run = run_write_common,
     .good = good_write_common},
    {.name = "vmread-rare", .begin = begin_fields, .run = run_read_rare, .good = good_mark},
    {.name = "vmwrite-rare", .begin = begin_fields, .run = run_write_rare, .good = good_write_rare},
    {.name = "vmread-unshadowed",
     .begin = begin_fields,
     .run = run_read_unshadowed,
     .good = good_zero},
    {.name = "vmread-after-exit",
     .begin = begin_after_exit,
     .before = before_after_exit,
     .run = run_read_rare,
     .good = good_mark},
    {.name = "invept", .before = clear_got, .run = run_invept, .good = good_zero},
    {.name = "invvpid", .before = clear_got, .run = run_invvpid, .good = good_zero},
    {.name = "invvpid-address", .before = clear_got, .run = run_invvpid_address, .good = good_zero},
    {.name = "invvpid-all", .before = clear_got, .run = run_invvpid_all, .good = good_zero},
};
const struct ops ops_l1 = {list, ARRAY_SIZE(list), NULL};
