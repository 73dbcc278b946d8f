#pragma once
// L0's own exceptions and interrupts.

#include "libc/types.h"

struct trap_frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    u64 vector, error;
    u64 rip, cs, rflags, rsp, ss;
};

// Fills the interrupt descriptor table (once) and loads it on the calling CPU.
void trap_init(void);
void trap_load(void);

// The base of the interrupt descriptor table, for the host state of VM exits.
u64 trap_idt_base(void);

// Calls `handler(context)` for each interrupt with this vector (32..255), with interrupts off. The
// handler acknowledges the interrupt at its controller.
void trap_set_irq(u8 vector, void (*handler)(void *), void *context);

// Runs the handler of a vector that a VM exit acknowledged.
void trap_dispatch_irq(u8 vector);
