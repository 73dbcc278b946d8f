#pragma once
// Executes one decoded instruction on behalf of a guest, because its memory operand is not RAM.
// Every byte of memory goes through callbacks, which know RAM from devices; so the second operand
// of a string instruction and the stack of PUSH and POP need no special case. Pure.

#include "vmx/decode.h"

// A repeated string instruction is left after so many elements, so that a guest cannot keep L0.
#define MMIO_MAX_ELEMENTS 64

// Accesses of 1, 2, 4 or 8 bytes at a linear address of the guest; the value is in the low bytes.
// They may cross a page, and outside 64-bit mode wrap around at 4 GiB. False: nothing was done and
// `fault` says which exception the guest gets.
struct insn_mem_ops {
    bool (*read)(void *context, u64 linear, unsigned size, u64 *value, struct guest_fault *fault);
    bool (*write)(void *context, u64 linear, unsigned size, u64 value, struct guest_fault *fault);
};

struct mmio_ctx {
    struct linear_ctx cpu; // its registers are changed
    u64 rip, rflags;
    const struct insn_mem_ops *ops;
    void *context; // of the callbacks
    bool traced;   // after each element the guest, or who traces it, gets control
    struct guest_fault fault;
};

enum mmio_result {
    MMIO_DONE,    // RIP is at the next instruction; a pending single step is the caller's affair
    MMIO_RESTART, // elements of a string instruction remain: the guest is to execute it again
    MMIO_FAULT,   // the guest gets ctx->fault; registers are as the processor would leave them
};

// Executes `insn`, which decode_insn() made of the bytes at ctx->rip. Read-modify-write is not
// atomic: whoever emulates the device serialises it. RFLAGS bits that the manual leaves undefined
// are as Intel processors leave them where that is known.
enum mmio_result mmio_emulate(struct mmio_ctx *ctx, const struct insn *insn);
