#pragma once
// The machine's real-time clock.

#include "libc/types.h"

// Seconds since 1970 (UTC), as the clock says; 0 if it does not answer.
u64 cmos_seconds(void);
