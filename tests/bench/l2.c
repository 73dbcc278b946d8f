// The usual L2 of the operations.

#include "tests/bench/bench.h"

enum { BENCH_VPID = 5 };

u64 exit_reason;
extern u8 bench_exit[], bench_stack[];

asm(".pushsection .text\n.globl l2_vmcalls\nl2_vmcalls: vmcall\njmp l2_vmcalls\n.popsection\n");

static void finish(void)
{
    vmwrite(HOST_RSP, (u64)bench_stack);
    vmwrite(HOST_RIP, (u64)bench_exit);
    if (l2_control(PROC2_CTLS, PROC2_VPID))
        vmwrite(VPID, BENCH_VPID);
    bench_failed = 0;
}

void bench_l2(const void *code)
{
    l2_reset(code);
    finish();
}

void bench_vmcs(u64 region, const void *code, u64 eptp)
{
    vmclear(region);
    vmptrld(region);
    l2_launched = 0;
    l2_defaults(code);
    finish();
    if (l2_uses_ept())
        vmwrite(EPTP, eptp);
}
