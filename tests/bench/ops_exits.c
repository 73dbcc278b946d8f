// Round trips: L2 exits to L1, L1's handler does its accesses to the VMCS, L2 resumes and runs to
// the next exit.

#include "tests/bench/bench.h"

enum { CPUID_LENGTH = 2, OUT_LENGTH = 2, PORT = 0x80 };

asm(".pushsection .text\n"
    "l2_cpuids: cpuid\njmp l2_cpuids\n"
    "l2_outs: out %al, $0x80\njmp l2_outs\n"
    ".popsection\n");
extern u8 l2_cpuids[], l2_outs[];

static u64 sum; // of what the handlers read, so that they read it

static void begin_vmcall(void)
{
    bench_l2(l2_vmcalls);
    l2.rbx = 0x1234;
}

// Three accesses.
static void run_vmcall(void)
{
    bench_enter();
    read_reason();
    skip_insn(VMCALL_LENGTH);
}

static bool good_vmcall(void)
{
    return left_by(R_VMCALL) && l2.rbx == 0x1234 &&
           vmread(GUEST_RIP) == (u64)l2_vmcalls + VMCALL_LENGTH;
}

static void begin_vmcall_full(void)
{
    static u8 *bitmaps;
    begin_vmcall();
    if (!bitmaps) {
        bitmaps = alloc_pages(3);
        memset(bitmaps, 0xff, 3 * PAGE_SIZE);
    }
    if (l2_control(PROC_CTLS, PROC_MSR_BITMAPS))
        vmwrite(MSR_BITMAP, (u64)bitmaps);
    l2_control(PROC_CTLS, PROC_IO_BITMAPS | PROC_HLT | PROC_TSC_OFFSET);
    vmwrite(IO_BITMAP_A, (u64)bitmaps + PAGE_SIZE);
    vmwrite(IO_BITMAP_B, (u64)bitmaps + 2 * PAGE_SIZE);
    l2_control(PIN_CTLS, PIN_EXTINT | PIN_NMI | PIN_VNMI);
    l2_control(EXIT_CTLS,
               EXIT_ACK | EXIT_SAVE_EFER | EXIT_LOAD_EFER | EXIT_SAVE_PAT | EXIT_LOAD_PAT);
    l2_control(ENTRY_CTLS, ENTRY_LOAD_EFER | ENTRY_LOAD_PAT);
    vmwrite(HOST_EFER, rdmsr(0xc0000080));
    vmwrite(GUEST_EFER, rdmsr(0xc0000080));
    vmwrite(HOST_PAT, rdmsr(0x277));
    vmwrite(GUEST_PAT, rdmsr(0x277));
}

static void begin_cpuid(void)
{
    bench_l2(l2_cpuids);
}

// Twenty accesses, to fields that hypervisors touch at each exit.
static void run_cpuid(void)
{
    static const u16 reads[] = {QUALIFICATION,
                                EXIT_INTR_INFO,
                                EXIT_INTR_ERROR,
                                IDT_VECTORING,
                                IDT_VECTORING_ERROR,
                                EXIT_LENGTH,
                                GUEST_CR0,
                                GUEST_CR3,
                                GUEST_CR4,
                                GUEST_CS_AR,
                                GUEST_RFLAGS,
                                GUEST_RSP,
                                GUEST_INTERRUPTIBILITY,
                                PROC_CTLS};
    bench_enter();
    read_reason();
    for (u32 i = 0; i < ARRAY_SIZE(reads); i++)
        sum += field_read(reads[i]);
    l2.rax = 1;
    l2.rbx = l2.rcx = l2.rdx = 0;
    field_write(GUEST_INTERRUPTIBILITY, 0);
    field_write(ENTRY_INTR_INFO, 0);
    field_write(GUEST_RFLAGS, 2);
    skip_insn(CPUID_LENGTH);
}

static bool good_cpuid(void)
{
    return left_by(R_CPUID) && vmread(GUEST_RIP) == (u64)l2_cpuids + CPUID_LENGTH;
}

static void begin_out(void)
{
    bench_l2(l2_outs);
    l2_control(PROC_CTLS, PROC_IO);
}

static u64 qualification;

// Five accesses.
static void run_out(void)
{
    bench_enter();
    read_reason();
    qualification = field_read(QUALIFICATION);
    skip_insn(field_read(EXIT_LENGTH));
}

static bool good_out(void)
{
    return left_by(R_IO) && qualification == (PORT << 16 | 0x40) &&
           vmread(GUEST_RIP) == (u64)l2_outs + OUT_LENGTH;
}

static const struct op list[] = {
    {.name = "l2-vmcall", .begin = begin_vmcall, .run = run_vmcall, .good = good_vmcall},
    {.name = "l2-vmcall-bitmaps",
     .begin = begin_vmcall_full,
     .run = run_vmcall,
     .good = good_vmcall},
    {.name = "l2-cpuid", .begin = begin_cpuid, .run = run_cpuid, .good = good_cpuid},
    {.name = "l2-out", .begin = begin_out, .run = run_out, .good = good_out},
};
const struct ops ops_exits = {list, ARRAY_SIZE(list), NULL};
