#pragma once
// What the random L1 plays with. L2 may do anything, so that what it could spoil L1 by is laid out
// beforehand:
//
// - L2 writes to the sandbox, to its stack and to nothing else, whatever its EPT looks like: only
//   entries of that kind have write permission.
// - Memory that L0 or the processor writes to for L1 (virtual-APIC page, log, information areas,
// EPT
//   accessed flags in tables that are none) is in the sandbox or in the rubbish, too.
// - Ports and MSRs by which a guest takes the machine from its host stay closed.

#include "tests/l1/vmx/events.h"

// A random number: the same ones for the same seed.
void random_seed(u64 seed);
u64 random(void);
u64 below(u64 n);
bool one_in(u64 n);

// A value that is likely to matter somewhere.
u64 random_value(void);

enum { VMCSS = 72, SHADOW_VMCSS = 4 };
#define WINDOW     0x40000000ull // of L2's addresses: 2 MiB of pages whose EPT entries are mutated
#define SANDBOX    (80 * MIB)
#define SANDBOX_MB 16

void world_init(void);

// The VMCS regions: of L2s, and shadow VMCSs.
u64 world_vmcs(u32 i);
u64 world_shadow(u32 i);

// An EPT pointer: of the good EPT, of one that is mutated, or none at all.
u64 world_eptp(void);

// A page for L0 or the processor to write to; a page that they only read, mostly `kept`. Both are
// now and then one that is not there, or no page address.
u64 world_written(void);
u64 world_read(u64 kept);

// Things that only L1 writes to.
struct world {
    u8 *io_a, *io_b, *msrs;
    struct msr_entry {
        u32 index, reserved;
        u64 v;
    } * entry_load, *exit_load, *exit_store;
    u64 *eptps;
};
extern struct world world;
enum { LIST = 8 };

// An MSR, mostly one that exists, for L2 to try.
u32 world_msr(void);
// A port that may be open to L2, or one that is not.
u16 world_port(void);

// Changes an EPT entry, a bitmap, an MSR list, the list of EPT pointers.
void world_mutate(void);

// Whether memory that L2 may read but not write is as it was.
bool world_canary(void);
