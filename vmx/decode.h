#pragma once
// Decoder for the instructions with a memory operand that L0 may have to execute for a guest: those
// that drivers use on memory-mapped registers. Pure; `bytes` is hostile.

#include "vmx/operand.h"

#define INSN_MAX_LENGTH 15

enum insn_op {
    // The order of the first eight is that of the opcodes and of the groups 80..83.
    INSN_ADD,
    INSN_OR,
    INSN_ADC,
    INSN_SBB,
    INSN_AND,
    INSN_SUB,
    INSN_XOR,
    INSN_CMP,
    INSN_TEST,
    INSN_NOT,
    INSN_NEG,
    INSN_INC,
    INSN_DEC,
    INSN_MOV,
    INSN_MOVZX,
    INSN_MOVSX, // MOVSXD too
    INSN_XCHG,
    INSN_XADD,
    INSN_CMPXCHG,
    INSN_CMPXCHG8B,
    INSN_BT,
    INSN_BTS,
    INSN_BTR,
    INSN_BTC,
    INSN_PUSH,
    INSN_POP,
    INSN_MOVS,
    INSN_CMPS,
    INSN_STOS,
    INSN_LODS,
    INSN_SCAS,
};

enum insn_operand { OPERAND_NONE, OPERAND_MEM, OPERAND_REG, OPERAND_IMM };

enum insn_rep { REP_NONE, REP_NE, REP_E }; // F2; F3, which is plain REP too

struct insn {
    u8 op;                  // enum insn_op
    u8 length;              // bytes
    u8 size;                // operand size in bytes; of the destination if the two differ
    u8 mem_size;            // bytes at the memory operand
    u8 dst, src;            // enum insn_operand
    u8 reg;                 // the register operand
    u8 reg_shift;           // 8 if it is AH, CH, DH or BH, whose full register `reg` then is
    u8 rep;                 // enum insn_rep; of string instructions only
    struct mem_operand mem; // of string instructions: the source (rSI); ES:rDI is implied
    u64 imm;                // sign-extended to 64 bits
};

enum decode_error {
    DECODE_SHORT = -1,   // goes on after the bytes given; #GP(0) if these were INSN_MAX_LENGTH
    DECODE_INVALID = -2, // LOCK where it may not be: #UD
    DECODE_UNKNOWN = -3, // anything else than the instructions above with a memory operand
};

// Decodes the instruction at `rip` of which `len` bytes (at most INSN_MAX_LENGTH) are given. `rip`
// goes into the displacement of a RIP-relative operand. 0 or an enum decode_error; then `out` is
// undefined. (SDM, "Instruction Format".)
int decode_insn(const u8 *bytes, unsigned len, enum cpu_mode mode, u64 rip, struct insn *out);
