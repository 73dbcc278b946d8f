#pragma once
// Counters of one vCPU, for the summary. Written by the CPU that runs the vCPU only.

#include "libc/types.h"

#define STAT_REASONS 80

struct stats {
    u64 l1[STAT_REASONS];         // exits of L1
    u64 l2_handled[STAT_REASONS]; // exits of L2 that L0 handled itself
    u64 l2_to_l1[STAT_REASONS];   // virtual exits, by the reason that L1 saw
    u64 entries;                  // virtual VM entries
    u64 ept02_faults;
};
