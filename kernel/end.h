#pragma once
// How L0 ends: a last line on the console that scripts/bochs-run understands, then the machine is
// switched off as far as L0 can.

#include "libc/types.h"

enum end_kind {
    END_OK,         // every VM ended well
    END_DEBUG_EXIT, // a VM wrote `code` to its debug-exit port
    END_VM_RESET,
    END_VM_FAILED, // a VM was stopped
    END_NO_VM,     // no VM could be started
    END_NO_VMX,
    END_PANIC,
};

// Prints the last line, waits until it has left, and ends the emulator or halts. `code` is that of
// END_DEBUG_EXIT, else 0.
void end(enum end_kind kind, u32 code) NORETURN;
