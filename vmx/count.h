#pragma once
// What L0 executes, counted for the benchmark: only in a build with COUNT=1, at no cost otherwise.
// A VM reads the counters with CPUID, as 32-bit numbers that wrap around:
//   leaf 400000F0H  EAX VM exits, EBX VMREADs, ECX VMWRITEs, EDX VMPTRLDs
//   leaf 400000F1H  EAX VMCLEARs, EBX INVEPTs and INVVPIDs together
//   leaf 400000F2H  EAX the signature 4E54H

#include "libc/types.h"

#ifdef NESTOR_COUNT

struct counts {
    u32 exits, vmreads, vmwrites, vmptrlds, vmclears, vmxons, invalidations;
};

// One for all CPUs: the benchmark has one.
extern struct counts counts;
#define COUNT(what) (counts.what++)

// Answers these leaves in `gpr` (RAX, RCX, RDX, RBX in the order of enum gpr); false: another leaf.
bool count_cpuid(u64 *gpr);

#else

#define COUNT(what) ((void)0)

static inline bool count_cpuid(u64 *gpr)
{
    (void)gpr;
    return false;
}

#endif
