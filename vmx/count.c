#include "vmx/count.h"

#ifdef NESTOR_COUNT

#include "vmx/vm.h"

#define LEAF      0x400000f0u
#define SIGNATURE 0x4e54u

struct counts counts;

bool count_cpuid(u64 *gpr)
{
    const u32 answer[][4] = {{counts.exits, counts.vmreads, counts.vmwrites, counts.vmptrlds},
                             {counts.vmclears, counts.invalidations, 0, 0},
                             {SIGNATURE, 0, 0, 0}};
    u32 leaf = (u32)gpr[GPR_RAX] - LEAF;
    if (leaf >= ARRAY_SIZE(answer))
        return false;
    gpr[GPR_RAX] = answer[leaf][0];
    gpr[GPR_RBX] = answer[leaf][1];
    gpr[GPR_RCX] = answer[leaf][2];
    gpr[GPR_RDX] = answer[leaf][3];
    return true;
}

#endif
