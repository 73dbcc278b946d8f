#pragma once
// A guest to experiment with: by default 64-bit code that shares the address space, the GDT and
// the IDT with its host, with identity-mapped EPT where there is EPT (not with mmu=none on the
// command line). What is not given exits: nothing is intercepted but what always is.

#include "tests/l1/vmx/vmx.h"

struct l2_regs {
    u64 rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
};
extern struct l2_regs l2;
extern u8 l2_launched;
extern u64 l2_vmcs, l2_stack_top;

// A new VMCS in the default state; L2 will begin at `code`.
void l2_reset(const void *code);
// The default state again, without a new VMCS, and L2 at `code`.
void l2_defaults(const void *code);

// The host-state area of the current VMCS: L1 as it is.
void l2_host_state(void);

// Enters L2. Returns the exit reason (bit 31 with a failed entry), or L2_FAILED plus the outcome
// (VMX_INVALID, VMX_VALID | error) when VMLAUNCH or VMRESUME failed.
u32 l2_run(void);
enum { L2_FAILED = 0x10000 };

// Skips the instruction that exited; continues L2 at `code` instead.
void l2_skip(void);
void l2_goto(const void *code);

// "exit 10", "VMfailValid 7", "exit 33 with failed entry"
const char *l2_name(u32 result);
bool check_exit(u32 got, u32 want, const char *fmt, ...) PRINTF(3, 4);
// Runs L2 and checks why it comes back.
bool check_run(u32 want, const char *fmt, ...) PRINTF(2, 3);

// Sets a control in the word (PIN_CTLS, PROC_CTLS, PROC2_CTLS, EXIT_CTLS or ENTRY_CTLS) if it is
// offered; false if not.
bool l2_control(u32 word, u64 bits);
bool l2_offers(u32 word, u64 bits);
bool l2_uses_ept(void);

// The EPT of the default state: 4 GiB in 2 MiB pages, all permissions, write-back.
extern u64 *ept_pml4, *ept_pdpt, *ept_pd;
u64 ept_pointer(void);
// The entry of a page of 4 KiB (splits the 2 MiB page once).
u64 *ept_entry(u64 a);
void ept_flush(void);

// Code of L2: ends with VMCALL, over and over.
#define L2_CODE(name, text)                                                                        \
    asm(".pushsection .text\nl2_" #name ": " text "\n1: vmcall\njmp 1b\n.popsection\n");           \
    extern u8 l2_##name[]
