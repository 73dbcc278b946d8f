#pragma once
// Memory operands of a guest's instructions: where an instruction says its operand is, and which
// linear address that means. Pure; used for VM exits that come with instruction information and for
// instructions that L0 decodes itself.

#include "libc/types.h"

#define GPR_COUNT 16

// The order of the instruction encoding, of the VM-exit instruction information and of every array
// of general-purpose registers here.
enum gpr {
    GPR_RAX,
    GPR_RCX,
    GPR_RDX,
    GPR_RBX,
    GPR_RSP,
    GPR_RBP,
    GPR_RSI,
    GPR_RDI,
    GPR_R8,
    GPR_R9,
    GPR_R10,
    GPR_R11,
    GPR_R12,
    GPR_R13,
    GPR_R14,
    GPR_R15,
    GPR_NONE = -1,
};

enum seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

// Access rights in the layout of the guest-state area of the VMCS.
#define SEG_AR_WRITABLE    BIT(1) // of a data segment
#define SEG_AR_READABLE    BIT(1) // of a code segment
#define SEG_AR_EXPAND_DOWN BIT(2) // of a data segment
#define SEG_AR_CODE        BIT(3)
#define SEG_AR_BIG         BIT(14) // D/B
#define SEG_AR_UNUSABLE    BIT(16)

struct seg_state {
    u16 sel;
    u64 base;
    u32 limit; // in bytes, whatever the granularity bit says
    u32 ar;
};

// The default sizes of the code that runs: CS.L and CS.D.
enum cpu_mode { MODE_16, MODE_32, MODE_64 };

// What an address depends on. In 64-bit mode only the bases of FS and GS are read from `seg`.
struct linear_ctx {
    enum cpu_mode mode;
    bool protected;              // CR0.PE = 1 and not virtual-8086 mode: segments have types
    u8 linear_bits;              // 48, or 57 with five-level paging
    u64 *gpr;                    // GPR_COUNT registers; not changed
    const struct seg_state *seg; // SEG_COUNT segments
};

struct mem_operand {
    s8 base;  // register, or GPR_NONE (also if relative to RIP: then `disp` includes RIP)
    s8 index; // register, or GPR_NONE
    u8 scale; // 0..3: the index is shifted left so much
    u8 seg;
    u8 addr_size; // 2, 4 or 8 bytes
    u64 disp;     // sign-extended
};

enum mem_access { MEM_READ, MEM_WRITE };

// Why L0 cannot make an access in the guest's place.
enum guest_fault_kind {
    FAULT_EXCEPTION, // the guest gets it
    FAULT_EXIT,      // it is an exit of L1's, which waits already (nested_l2_denied)
    FAULT_RETRY,     // the guest keeps changing its tables: it is to execute the instruction again
};

// `cr2` counts for page faults only.
struct guest_fault {
    enum guest_fault_kind kind;
    u8 vector;
    u32 error;
    u64 cr2;
};

// The offset of the operand in its segment, truncated to the address size.
u64 effective_address(const u64 *gpr, const struct mem_operand *mem);

// The linear address of an operand of `size` bytes (at least 1), with the checks of segmentation,
// or of canonical form in 64-bit mode. False: `fault` is #SS(0) for the stack segment, else #GP(0).
// Outside 64-bit mode the bytes of an operand wrap around at 4 GiB. (SDM, "Limit Checking", "Type
// Checking", "Canonical Addressing".)
bool linear_address(const struct linear_ctx *ctx, const struct mem_operand *mem, unsigned size,
                    enum mem_access access, u64 *linear, struct guest_fault *fault);

// The layouts of the VM-exit instruction-information field (SDM, "Information for VM Exits Due to
// Instruction Execution").
enum info_format {
    INFO_INS,
    INFO_OUTS,
    INFO_INVALIDATE,       // INVEPT, INVPCID, INVVPID
    INFO_DESCRIPTOR_TABLE, // LGDT, LIDT, SGDT, SIDT
    INFO_SELECTOR,         // LLDT, LTR, SLDT, STR
    INFO_RANDOM,           // RDRAND, RDSEED, TPAUSE, UMWAIT
    INFO_REGION,           // VMCLEAR, VMPTRLD, VMPTRST, VMXON, XRSTORS, XSAVES
    INFO_VMCS_FIELD,       // VMREAD, VMWRITE
};

// Members that a format does not have are 0, and those for memory if the operand is a register.
struct insn_info {
    bool is_reg; // the operand is register `reg1`, not memory
    u8 reg1;
    u8 reg2;         // the register operand besides the register-or-memory one
    u8 operand_size; // bytes: RDRAND..; 2 or 4 of LGDT.. (undefined in 64-bit mode)
    u8 identity;     // SGDT SIDT LGDT LIDT, or SLDT STR LLDT LTR
    struct mem_operand mem;
};

// `qualification` is the exit qualification: the displacement, RIP included where it is the base.
void insn_info_decode(enum info_format format, u32 info, u64 qualification, struct insn_info *out);
