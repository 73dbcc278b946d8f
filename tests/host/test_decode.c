// The decoder against hand-assembled instructions; that lengths and operands are right for many
// more is shown by test_mmio_native.c, which executes them on the host's processor too.

#include "tests/host/test.h"

#include "vmx/decode.h"

#define RIP 0x1000ull

struct sample {
    const char *hex;
    enum cpu_mode mode;
    enum insn_op op;
    u8 size, mem_size;
    enum insn_operand dst, src;
    u8 reg, reg_shift;
    struct mem_operand mem;
    u64 imm;
    u8 rep;
};

#define MEM OPERAND_MEM
#define REG OPERAND_REG
#define IMM OPERAND_IMM
#define NO  OPERAND_NONE
#define AT(base, index, scale, seg, addr_size, disp)                                               \
    {                                                                                              \
        GPR_##base, GPR_##index, scale, SEG_##seg, addr_size, (u64)(disp)                          \
    }

// clang-format off
static const struct sample samples[] = {
    // Direction, size, registers
    {"8900", MODE_64, INSN_MOV, 4, 4, MEM, REG, GPR_RAX, 0, AT(RAX, NONE, 0, DS, 8, 0), 0, 0},
    {"8b00", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RAX, NONE, 0, DS, 8, 0), 0, 0},
    {"66890b", MODE_64, INSN_MOV, 2, 2, MEM, REG, GPR_RCX, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"48890b", MODE_64, INSN_MOV, 8, 8, MEM, REG, GPR_RCX, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"6648890b", MODE_64, INSN_MOV, 8, 8, MEM, REG, GPR_RCX, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"4866890b", MODE_64, INSN_MOV, 2, 2, MEM, REG, GPR_RCX, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"41474d8b07", MODE_64, INSN_MOV, 8, 8, REG, MEM, GPR_R8, 0, AT(R15, NONE, 0, DS, 8, 0), 0, 0},
    {"8823", MODE_64, INSN_MOV, 1, 1, MEM, REG, GPR_RAX, 8, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"408823", MODE_64, INSN_MOV, 1, 1, MEM, REG, GPR_RSP, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"883b", MODE_32, INSN_MOV, 1, 1, MEM, REG, GPR_RBX, 8, AT(RBX, NONE, 0, DS, 4, 0), 0, 0},
    {"448823", MODE_64, INSN_MOV, 1, 1, MEM, REG, GPR_R12, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"f28900", MODE_64, INSN_MOV, 4, 4, MEM, REG, GPR_RAX, 0, AT(RAX, NONE, 0, DS, 8, 0), 0, 0},
    // Addresses of 32 and 64 bits
    {"8b4510", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RBP, NONE, 0, SS, 8, 0x10), 0, 0},
    {"418b45f0", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(R13, NONE, 0, DS, 8, -16), 0, 0},
    {"8b8500000080", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RBP, NONE, 0, SS, 8, -0x80000000ll), 0, 0},
    {"8b0510000000", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(NONE, NONE, 0, DS, 8, RIP + 6 + 16), 0, 0},
    {"678b05f0ffffff", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(NONE, NONE, 0, DS, 4, RIP + 7 - 16), 0, 0},
    {"c705100000007856f4f2", MODE_64, INSN_MOV, 4, 4, MEM, IMM, 0, 0, AT(NONE, NONE, 0, DS, 8, RIP + 10 + 16), 0xfffffffff2f45678, 0},
    {"8b0510000000", MODE_32, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(NONE, NONE, 0, DS, 4, 0x10), 0, 0},
    {"8b042510000000", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(NONE, NONE, 0, DS, 8, 0x10), 0, 0},
    {"8b0424", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RSP, NONE, 0, SS, 8, 0), 0, 0},
    {"418b0424", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(R12, NONE, 0, DS, 8, 0), 0, 0},
    {"8b4c8804", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RCX, 0, AT(RAX, RCX, 2, DS, 8, 4), 0, 0},
    {"428b0ce0", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RCX, 0, AT(RAX, R12, 3, DS, 8, 0), 0, 0},
    {"8b0c4d78563412", MODE_32, INSN_MOV, 4, 4, REG, MEM, GPR_RCX, 0, AT(NONE, RCX, 1, DS, 4, 0x12345678), 0, 0},
    {"8b4c2d00", MODE_32, INSN_MOV, 4, 4, REG, MEM, GPR_RCX, 0, AT(RBP, RBP, 0, SS, 4, 0), 0, 0},
    {"8b4c2800", MODE_32, INSN_MOV, 4, 4, REG, MEM, GPR_RCX, 0, AT(RAX, RBP, 0, DS, 4, 0), 0, 0},
    {"678b03", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RBX, NONE, 0, DS, 4, 0), 0, 0},
    // Addresses of 16 bits
    {"8b00", MODE_16, INSN_MOV, 2, 2, REG, MEM, GPR_RAX, 0, AT(RBX, RSI, 0, DS, 2, 0), 0, 0},
    {"8b01", MODE_16, INSN_MOV, 2, 2, REG, MEM, GPR_RAX, 0, AT(RBX, RDI, 0, DS, 2, 0), 0, 0},
    {"8b02", MODE_16, INSN_MOV, 2, 2, REG, MEM, GPR_RAX, 0, AT(RBP, RSI, 0, SS, 2, 0), 0, 0},
    {"8b03", MODE_16, INSN_MOV, 2, 2, REG, MEM, GPR_RAX, 0, AT(RBP, RDI, 0, SS, 2, 0), 0, 0},
    {"8b04", MODE_16, INSN_MOV, 2, 2, REG, MEM, GPR_RAX, 0, AT(RSI, NONE, 0, DS, 2, 0), 0, 0},
    {"8b05", MODE_16, INSN_MOV, 2, 2, REG, MEM, GPR_RAX, 0, AT(RDI, NONE, 0, DS, 2, 0), 0, 0},
    {"8b0600f0", MODE_16, INSN_MOV, 2, 2, REG, MEM, GPR_RAX, 0, AT(NONE, NONE, 0, DS, 2, -0x1000), 0, 0},
    {"8b4680", MODE_16, INSN_MOV, 2, 2, REG, MEM, GPR_RAX, 0, AT(RBP, NONE, 0, SS, 2, -128), 0, 0},
    {"8b871234", MODE_16, INSN_MOV, 2, 2, REG, MEM, GPR_RAX, 0, AT(RBX, NONE, 0, DS, 2, 0x3412), 0, 0},
    {"66678b0424", MODE_16, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RSP, NONE, 0, SS, 4, 0), 0, 0},
    {"66678b00", MODE_32, INSN_MOV, 2, 2, REG, MEM, GPR_RAX, 0, AT(RBX, RSI, 0, DS, 2, 0), 0, 0},
    // Segments
    {"268b00", MODE_32, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RAX, NONE, 0, ES, 4, 0), 0, 0},
    {"2e8b00", MODE_32, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RAX, NONE, 0, CS, 4, 0), 0, 0},
    {"368b00", MODE_32, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RAX, NONE, 0, SS, 4, 0), 0, 0},
    {"3e8b4500", MODE_32, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RBP, NONE, 0, DS, 4, 0), 0, 0},
    {"658b4500", MODE_32, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RBP, NONE, 0, GS, 4, 0), 0, 0},
    {"64658b00", MODE_32, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RAX, NONE, 0, GS, 4, 0), 0, 0},
    {"3e8b4500", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RBP, NONE, 0, SS, 8, 0), 0, 0},
    {"643e8b00", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(RAX, NONE, 0, FS, 8, 0), 0, 0},
    // Absolute offsets
    {"a0f0debc9a78563412", MODE_64, INSN_MOV, 1, 1, REG, MEM, GPR_RAX, 0, AT(NONE, NONE, 0, DS, 8, 0x123456789abcdef0), 0, 0},
    {"48a3f0debc9a78563412", MODE_64, INSN_MOV, 8, 8, MEM, REG, GPR_RAX, 0, AT(NONE, NONE, 0, DS, 8, 0x123456789abcdef0), 0, 0},
    {"67a178563412", MODE_64, INSN_MOV, 4, 4, REG, MEM, GPR_RAX, 0, AT(NONE, NONE, 0, DS, 4, 0x12345678), 0, 0},
    {"65a13412", MODE_16, INSN_MOV, 2, 2, REG, MEM, GPR_RAX, 0, AT(NONE, NONE, 0, GS, 2, 0x1234), 0, 0},
    // Immediates
    {"c60380", MODE_64, INSN_MOV, 1, 1, MEM, IMM, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), -0x80ull, 0},
    {"66c7033412", MODE_64, INSN_MOV, 2, 2, MEM, IMM, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), 0x1234, 0},
    {"48c70300000080", MODE_64, INSN_MOV, 8, 8, MEM, IMM, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), -0x80000000ull, 0},
    {"c7073412", MODE_16, INSN_MOV, 2, 2, MEM, IMM, 0, 0, AT(RBX, NONE, 0, DS, 2, 0), 0x1234, 0},
    {"8363fcfe", MODE_64, INSN_AND, 4, 4, MEM, IMM, 0, 0, AT(RBX, NONE, 0, DS, 8, -4), -2ull, 0},
    {"8023fe", MODE_64, INSN_AND, 1, 1, MEM, IMM, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), -2ull, 0},
    {"8223fe", MODE_32, INSN_AND, 1, 1, MEM, IMM, 0, 0, AT(RBX, NONE, 0, DS, 4, 0), -2ull, 0},
    {"813b78563412", MODE_64, INSN_CMP, 4, 4, MEM, IMM, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), 0x12345678, 0},
    {"f70378563412", MODE_64, INSN_TEST, 4, 4, MEM, IMM, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), 0x12345678, 0},
    {"f60b01", MODE_64, INSN_TEST, 1, 1, MEM, IMM, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), 1, 0},
    {"480fba6b0107", MODE_64, INSN_BTS, 8, 8, MEM, IMM, 0, 0, AT(RBX, NONE, 0, DS, 8, 1), 7, 0},
    // Extension
    {"0fb603", MODE_64, INSN_MOVZX, 4, 1, REG, MEM, GPR_RAX, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"660fb623", MODE_64, INSN_MOVZX, 2, 1, REG, MEM, GPR_RSP, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"480fbf03", MODE_64, INSN_MOVSX, 8, 2, REG, MEM, GPR_RAX, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"486303", MODE_64, INSN_MOVSX, 8, 4, REG, MEM, GPR_RAX, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"666303", MODE_64, INSN_MOVSX, 2, 2, REG, MEM, GPR_RAX, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    // One operand, LOCK, the rest
    {"f0ff03", MODE_64, INSN_INC, 4, 4, MEM, NO, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"f0fe0b", MODE_64, INSN_DEC, 1, 1, MEM, NO, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"f0f713", MODE_64, INSN_NOT, 4, 4, MEM, NO, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"f61b", MODE_64, INSN_NEG, 1, 1, MEM, NO, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"f00108", MODE_32, INSN_ADD, 4, 4, MEM, REG, GPR_RCX, 0, AT(RAX, NONE, 0, DS, 4, 0), 0, 0},
    {"8703", MODE_64, INSN_XCHG, 4, 4, MEM, REG, GPR_RAX, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"f00fc10b", MODE_64, INSN_XADD, 4, 4, MEM, REG, GPR_RCX, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"f0480fb10b", MODE_64, INSN_CMPXCHG, 8, 8, MEM, REG, GPR_RCX, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"f00fc70b", MODE_64, INSN_CMPXCHG8B, 8, 8, MEM, NO, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"0fc30b", MODE_64, INSN_MOV, 4, 4, MEM, REG, GPR_RCX, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"480fc30b", MODE_64, INSN_MOV, 8, 8, MEM, REG, GPR_RCX, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"0fc30f", MODE_16, INSN_MOV, 4, 4, MEM, REG, GPR_RCX, 0, AT(RBX, NONE, 0, DS, 2, 0), 0, 0},
    {"ff33", MODE_64, INSN_PUSH, 8, 8, MEM, NO, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"66ff33", MODE_64, INSN_PUSH, 2, 2, MEM, NO, 0, 0, AT(RBX, NONE, 0, DS, 8, 0), 0, 0},
    {"8f03", MODE_32, INSN_POP, 4, 4, MEM, NO, 0, 0, AT(RBX, NONE, 0, DS, 4, 0), 0, 0},
    // Strings
    {"f3a5", MODE_64, INSN_MOVS, 4, 4, NO, NO, 0, 0, AT(RSI, NONE, 0, DS, 8, 0), 0, REP_E},
    {"f348a5", MODE_64, INSN_MOVS, 8, 8, NO, NO, 0, 0, AT(RSI, NONE, 0, DS, 8, 0), 0, REP_E},
    {"26a4", MODE_32, INSN_MOVS, 1, 1, NO, NO, 0, 0, AT(RSI, NONE, 0, ES, 4, 0), 0, REP_NONE},
    {"67f3ab", MODE_64, INSN_STOS, 4, 4, NO, NO, 0, 0, AT(RSI, NONE, 0, DS, 4, 0), 0, REP_E},
    {"f2f3f2ae", MODE_64, INSN_SCAS, 1, 1, NO, NO, 0, 0, AT(RSI, NONE, 0, DS, 8, 0), 0, REP_NE},
    {"f3a7", MODE_16, INSN_CMPS, 2, 2, NO, NO, 0, 0, AT(RSI, NONE, 0, DS, 2, 0), 0, REP_E},
    {"65ad", MODE_64, INSN_LODS, 4, 4, NO, NO, 0, 0, AT(RSI, NONE, 0, GS, 8, 0), 0, REP_NONE},
};
// clang-format on

static unsigned from_hex(const char *hex, u8 *bytes)
{
    unsigned n = 0;
    for (; hex[2 * n]; n++) {
        char pair[3] = {hex[2 * n], hex[2 * n + 1], 0};
        bytes[n] = (u8)strtoul(pair, NULL, 16);
    }
    return n;
}

// Decodes from a block of exactly `len` bytes, so that reading past it is found.
static int decode_exactly(const u8 *bytes, unsigned len, enum cpu_mode mode, struct insn *out)
{
    u8 *copy = malloc(len + !len);
    memcpy(copy, bytes, len);
    int error = decode_insn(copy, len, mode, RIP, out);
    free(copy);
    return error;
}

static int decode_hex(const char *hex, enum cpu_mode mode)
{
    struct insn insn;
    u8 bytes[32];
    return decode_exactly(bytes, from_hex(hex, bytes), mode, &insn);
}

static bool same_mem(const struct mem_operand *a, const struct mem_operand *b)
{
    return a->base == b->base && a->index == b->index && a->scale == b->scale && a->seg == b->seg &&
           a->addr_size == b->addr_size && a->disp == b->disp;
}

TEST(samples)
{
    for (unsigned i = 0; i < ARRAY_SIZE(samples); i++) {
        const struct sample *s = &samples[i];
        struct insn insn;
        u8 bytes[32];
        unsigned len = from_hex(s->hex, bytes);
        int before = test_failures;
        CHECK_EQ(decode_exactly(bytes, len, s->mode, &insn), 0);
        CHECK_EQ(insn.length, len);
        CHECK_EQ(insn.op, s->op);
        CHECK_EQ(insn.size, s->size);
        CHECK_EQ(insn.mem_size, s->mem_size);
        CHECK_EQ(insn.dst, s->dst);
        CHECK_EQ(insn.src, s->src);
        CHECK_EQ(insn.reg, s->reg);
        CHECK_EQ(insn.reg_shift, s->reg_shift);
        CHECK_EQ(insn.imm, s->imm);
        CHECK_EQ(insn.rep, s->rep);
        CHECK(same_mem(&insn.mem, &s->mem));
        if (test_failures != before)
            printf("  in %s, mode %d\n", s->hex, s->mode);
    }
}

TEST(every_proper_start_is_short)
{
    for (unsigned i = 0; i < ARRAY_SIZE(samples); i++) {
        struct insn insn;
        u8 bytes[32];
        unsigned len = from_hex(samples[i].hex, bytes);
        for (unsigned n = 0; n < len; n++)
            CHECK_EQ(decode_exactly(bytes, n, samples[i].mode, &insn), DECODE_SHORT);
    }
}

TEST(bytes_behind_do_not_matter)
{
    for (unsigned i = 0; i < ARRAY_SIZE(samples); i++) {
        struct insn alone, followed;
        u8 bytes[32];
        unsigned len = from_hex(samples[i].hex, bytes);
        memset(bytes + len, 0xf0, sizeof(bytes) - len);
        CHECK_EQ(decode_insn(bytes, len, samples[i].mode, RIP, &alone), 0);
        CHECK_EQ(decode_insn(bytes, INSN_MAX_LENGTH, samples[i].mode, RIP, &followed), 0);
        CHECK(!memcmp(&alone, &followed, sizeof(alone)));
    }
}

TEST(length_limit)
{
    CHECK_EQ(decode_hex("262626262626262626262626268b03", MODE_64), 0);
    CHECK_EQ(decode_hex("26262626262626262626262626268b03", MODE_64), DECODE_SHORT);
    CHECK_EQ(decode_hex("66666666666666666666666666666666", MODE_64), DECODE_SHORT);
    CHECK_EQ(decode_hex("40404040404040404040404040404040", MODE_64), DECODE_SHORT);
}

TEST(lock_needs_a_memory_destination)
{
    CHECK_EQ(decode_hex("f00303", MODE_64), DECODE_INVALID);     // add eax, [rbx]
    CHECK_EQ(decode_hex("f03903", MODE_64), DECODE_INVALID);     // cmp
    CHECK_EQ(decode_hex("f0833b01", MODE_64), DECODE_INVALID);   // cmp
    CHECK_EQ(decode_hex("f08903", MODE_64), DECODE_INVALID);     // mov
    CHECK_EQ(decode_hex("f08503", MODE_64), DECODE_INVALID);     // test
    CHECK_EQ(decode_hex("f00fa303", MODE_64), DECODE_INVALID);   // bt
    CHECK_EQ(decode_hex("f00fba2301", MODE_64), DECODE_INVALID); // bt
    CHECK_EQ(decode_hex("f0ff33", MODE_64), DECODE_INVALID);     // push
    CHECK_EQ(decode_hex("f0a5", MODE_64), DECODE_INVALID);       // movs
    CHECK_EQ(decode_hex("f00fab03", MODE_64), 0);                // bts
    CHECK_EQ(decode_hex("f00fba2b01", MODE_64), 0);              // bts
    CHECK_EQ(decode_hex("f08703", MODE_64), 0);                  // xchg
}

TEST(what_is_not_known)
{
    CHECK_EQ(decode_hex("90", MODE_64), DECODE_UNKNOWN);       // nop
    CHECK_EQ(decode_hex("89c0", MODE_64), DECODE_UNKNOWN);     // register form
    CHECK_EQ(decode_hex("8ec0", MODE_64), DECODE_UNKNOWN);     // mov es, ax
    CHECK_EQ(decode_hex("c60bff", MODE_64), DECODE_UNKNOWN);   // group 11 has /0 only
    CHECK_EQ(decode_hex("8f0b", MODE_64), DECODE_UNKNOWN);     // group 1A has /0 only
    CHECK_EQ(decode_hex("ff13", MODE_64), DECODE_UNKNOWN);     // call
    CHECK_EQ(decode_hex("fe33", MODE_64), DECODE_UNKNOWN);     // no byte push
    CHECK_EQ(decode_hex("f733", MODE_64), DECODE_UNKNOWN);     // div
    CHECK_EQ(decode_hex("0fba0301", MODE_64), DECODE_UNKNOWN); // group 8 starts at /4
    CHECK_EQ(decode_hex("8203ff", MODE_64), DECODE_UNKNOWN);   // not in 64-bit mode
    CHECK_EQ(decode_hex("6303", MODE_32), DECODE_UNKNOWN);     // arpl
    CHECK_EQ(decode_hex("660fc30b", MODE_64), DECODE_UNKNOWN); // movnti with 66
    CHECK_EQ(decode_hex("f30fc30b", MODE_64), DECODE_UNKNOWN);
    CHECK_EQ(decode_hex("480fc70b", MODE_64), DECODE_UNKNOWN); // cmpxchg16b
    CHECK_EQ(decode_hex("0fc733", MODE_64), DECODE_UNKNOWN);   // vmptrld
    CHECK_EQ(decode_hex("0f1003", MODE_64), DECODE_UNKNOWN);   // movups
    CHECK_EQ(decode_hex("c5fc1003", MODE_64), DECODE_UNKNOWN); // vmovups
    CHECK_EQ(decode_hex("4089c0", MODE_32), DECODE_UNKNOWN);   // REX is INC there
}
