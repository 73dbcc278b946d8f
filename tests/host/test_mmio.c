// The emulator where a comparison with the host's processor (test_mmio_native.c) does not reach:
// faults, restarts, and modes other than 64-bit.

#include "tests/host/mmio_block.h"

static struct machine {
    u8 memory[256]; // at linear address 0x10000
    struct block block;
    u64 gpr[GPR_COUNT];
    struct seg_state seg[SEG_COUNT];
    struct mmio_ctx ctx;
} m;

#define LINEAR 0x10000ull

static void machine(enum cpu_mode mode)
{
    m = (struct machine){.block = {.linear = LINEAR, .bytes = m.memory, .size = sizeof(m.memory)},
                         .ctx = {.cpu = {.mode = mode,
                                         .protected = mode != MODE_16,
                                         .linear_bits = 48,
                                         .gpr = m.gpr,
                                         .seg = m.seg},
                                 .rip = 0xfff0,
                                 .rflags = RFLAGS_FIXED,
                                 .ops = &block_ops,
                                 .context = &m.block}};
    for (unsigned i = 0; i < SEG_COUNT; i++)
        m.seg[i] = (struct seg_state){.limit = mode == MODE_16 ? 0xffff : 0xffffffff,
                                      .base = mode == MODE_16 ? LINEAR : 0,
                                      .ar = 0x93 | (mode == MODE_32 ? SEG_AR_BIG : 0)};
    for (unsigned i = 0; i < sizeof(m.memory); i++)
        m.memory[i] = (u8)(i * 7);
}

// The bytes are those of a string literal.
#define STEP(bytes) step((const u8 *)(bytes), sizeof(bytes) - 1)

static enum mmio_result step(const u8 *bytes, unsigned len)
{
    struct insn insn;
    int error = decode_insn(bytes, len, m.ctx.cpu.mode, m.ctx.rip, &insn);
    CHECK_EQ(error, 0);
    CHECK_EQ(insn.length, len);
    return error ? MMIO_FAULT : mmio_emulate(&m.ctx, &insn);
}

static u64 memory_at(u64 linear, unsigned size)
{
    u64 v = 0;
    memcpy(&v, m.memory + (linear - LINEAR), size);
    return v;
}

TEST(only_the_accesses_of_the_instruction)
{
    static const struct {
        u8 bytes[4];
        unsigned len, reads, writes;
    } cases[] = {
        {{0x89, 0x03}, 2, 0, 1},          // mov [rbx], eax
        {{0xc6, 0x03, 1}, 3, 0, 1},       // mov byte [rbx], 1
        {{0x8b, 0x03}, 2, 1, 0},          // mov eax, [rbx]
        {{0x39, 0x03}, 2, 1, 0},          // cmp [rbx], eax
        {{0x3b, 0x03}, 2, 1, 0},          // cmp eax, [rbx]
        {{0x85, 0x03}, 2, 1, 0},          // test [rbx], eax
        {{0xf6, 0x03, 1}, 3, 1, 0},       // test byte [rbx], 1
        {{0x0f, 0xba, 0x23, 1}, 4, 1, 0}, // bt dword [rbx], 1
        {{0x03, 0x03}, 2, 1, 0},          // add eax, [rbx]
        {{0x01, 0x03}, 2, 1, 1},          // add [rbx], eax
        {{0xf7, 0x13}, 2, 1, 1},          // not dword [rbx]
        {{0x87, 0x03}, 2, 1, 1},          // xchg
        {{0x0f, 0xb1, 0x03}, 3, 1, 1},    // cmpxchg, unequal
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        machine(MODE_64);
        m.gpr[GPR_RBX] = LINEAR;
        CHECK_EQ(step(cases[i].bytes, cases[i].len), MMIO_DONE);
        CHECK_EQ(m.block.reads, cases[i].reads);
        CHECK_EQ(m.block.writes, cases[i].writes);
        CHECK_EQ(m.ctx.rip, 0xfff0 + cases[i].len);
    }
}

TEST(a_fault_leaves_everything)
{
    static const struct {
        u8 bytes[4];
        unsigned len;
    } cases[] = {
        {{0x01, 0x03}, 2},       // add [rbx], eax
        {{0xff, 0x03}, 2},       // inc dword [rbx]
        {{0x87, 0x03}, 2},       // xchg [rbx], eax
        {{0x0f, 0xc1, 0x03}, 3}, // xadd [rbx], eax
        {{0x0f, 0xb1, 0x03}, 3}, // cmpxchg [rbx], eax
        {{0x0f, 0xc7, 0x0b}, 3}, // cmpxchg8b [rbx]
        {{0x0f, 0xab, 0x03}, 3}, // bts [rbx], eax
        {{0xff, 0x33}, 2},       // push qword [rbx]
        {{0x8f, 0x03}, 2},       // pop qword [rbx]
        {{0x8f, 0x04, 0x24}, 3}, // pop qword [rsp]
        {{0xa4}, 1},             // movsb
        {{0xaa}, 1},             // stosb
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        machine(MODE_64);
        for (unsigned r = 0; r < GPR_COUNT; r++)
            m.gpr[r] = r == GPR_RAX ? 5 : LINEAR + 16 * r;
        m.ctx.rflags = RFLAGS_FIXED | RFLAGS_ARITH | RFLAGS_RF;
        struct machine before = m;
        m.block.read_only = true;
        CHECK_EQ(step(cases[i].bytes, cases[i].len), MMIO_FAULT);
        CHECK_EQ(m.ctx.fault.vector, VEC_PF);
        CHECK_EQ(m.ctx.fault.error, 3);
        CHECK_EQ(m.block.writes, 0);
        CHECK_EQ(m.ctx.rip, before.ctx.rip);
        CHECK_EQ(m.ctx.rflags, before.ctx.rflags);
        CHECK(!memcmp(m.gpr, before.gpr, sizeof(m.gpr)));
    }
}

TEST(repeat_is_bounded_and_goes_on)
{
    machine(MODE_64);
    m.gpr[GPR_RDI] = LINEAR;
    m.gpr[GPR_RCX] = MMIO_MAX_ELEMENTS + 3;
    m.gpr[GPR_RAX] = 0xee;
    m.ctx.rflags |= RFLAGS_RF;
    CHECK_EQ(STEP("\xf3\xaa"), MMIO_RESTART);
    CHECK_EQ(m.block.writes, MMIO_MAX_ELEMENTS);
    CHECK_EQ(m.gpr[GPR_RCX], 3);
    CHECK_EQ(m.gpr[GPR_RDI], LINEAR + MMIO_MAX_ELEMENTS);
    CHECK_EQ(m.ctx.rip, 0xfff0);
    CHECK_EQ(STEP("\xf3\xaa"), MMIO_DONE);
    CHECK_EQ(m.block.writes, MMIO_MAX_ELEMENTS + 3);
    CHECK_EQ(m.gpr[GPR_RCX], 0);
    CHECK_EQ(m.ctx.rip, 0xfff2);
    CHECK_EQ(m.ctx.rflags, RFLAGS_FIXED);
}

TEST(repeat_of_exactly_the_bound_is_done)
{
    machine(MODE_64);
    m.gpr[GPR_RDI] = LINEAR;
    m.gpr[GPR_RCX] = MMIO_MAX_ELEMENTS;
    CHECK_EQ(STEP("\xf3\xaa"), MMIO_DONE);
    CHECK_EQ(m.ctx.rip, 0xfff2);
}

TEST(repeat_faults_at_an_element)
{
    machine(MODE_64);
    m.gpr[GPR_RSI] = LINEAR;
    m.gpr[GPR_RDI] = LINEAR + 0x80;
    m.gpr[GPR_RCX] = 10;
    m.block.fault_at = LINEAR + 0x80 + 4 * 5 + 1;
    CHECK_EQ(STEP("\xf3\xa5"), MMIO_FAULT);
    CHECK_EQ(m.ctx.fault.vector, VEC_PF);
    CHECK_EQ(m.ctx.fault.cr2, LINEAR + 0x80 + 4 * 5);
    CHECK_EQ(m.gpr[GPR_RCX], 5);
    CHECK_EQ(m.gpr[GPR_RSI], LINEAR + 20);
    CHECK_EQ(m.gpr[GPR_RDI], LINEAR + 0x80 + 20);
    CHECK_EQ(m.block.writes, 5);
    CHECK_EQ(m.ctx.rip, 0xfff0);
}

TEST(repeat_zero_touches_nothing)
{
    machine(MODE_16);
    m.gpr[GPR_RCX] = 0x70000; // CX is 0
    CHECK_EQ(STEP("\xf3\xa4"), MMIO_DONE);
    CHECK_EQ(m.block.reads + m.block.writes, 0);
    CHECK_EQ(m.gpr[GPR_RCX], 0x70000);
    CHECK_EQ(m.ctx.rip, 0xfff2);
}

TEST(string_index_of_16_bits_wraps)
{
    machine(MODE_16);
    m.seg[SEG_DS].base = LINEAR - 0xff00;
    m.gpr[GPR_RSI] = 0xabcdffff;
    m.gpr[GPR_RAX] = 0x12345678;
    CHECK_EQ(STEP("\xac"), MMIO_DONE); // lodsb
    CHECK_EQ(m.gpr[GPR_RSI], 0xabcd0000);
    CHECK_EQ(m.gpr[GPR_RAX], 0x12345600 | memory_at(LINEAR + 0xff, 1));
}

TEST(override_moves_the_source_only)
{
    machine(MODE_16);
    m.seg[SEG_GS].base = LINEAR + 0x20;
    m.seg[SEG_ES].base = LINEAR + 0x40;
    m.gpr[GPR_RSI] = 1;
    m.gpr[GPR_RDI] = 2;
    CHECK_EQ(STEP("\x65\xa5"), MMIO_DONE); // movsw from gs
    CHECK_EQ(memory_at(LINEAR + 0x42, 2), memory_at(LINEAR + 0x21, 2));
}

TEST(gs_base_in_64_bit_mode)
{
    machine(MODE_64);
    m.seg[SEG_GS].base = LINEAR;
    CHECK_EQ(STEP("\x65\x8b\x04\x25\x10\0\0\0"), MMIO_DONE); // mov eax, gs:[0x10]
    CHECK_EQ(m.gpr[GPR_RAX], memory_at(LINEAR + 0x10, 4));
}

TEST(push_uses_the_size_of_the_stack_segment)
{
    machine(MODE_16);
    m.gpr[GPR_RSP] = 0xabcd0080;
    m.gpr[GPR_RBX] = 0x10;
    CHECK_EQ(STEP("\xff\x37"), MMIO_DONE); // push word [bx]
    CHECK_EQ(m.gpr[GPR_RSP], 0xabcd007e);
    CHECK_EQ(memory_at(LINEAR + 0x7e, 2), memory_at(LINEAR + 0x10, 2));

    machine(MODE_16);
    m.seg[SEG_SS].ar |= SEG_AR_BIG;
    m.seg[SEG_SS].limit = 0xffffffff;
    m.gpr[GPR_RSP] = 0xabcd0080;
    m.gpr[GPR_RBX] = 0x10;
    m.seg[SEG_SS].base = LINEAR - 0xabcd0000;
    CHECK_EQ(STEP("\x66\xff\x37"), MMIO_DONE); // push dword [bx]
    CHECK_EQ(m.gpr[GPR_RSP], 0xabcd007c);
    CHECK_EQ(memory_at(LINEAR + 0x7c, 4), memory_at(LINEAR + 0x10, 4));
}

TEST(pop_addresses_with_the_incremented_stack_pointer)
{
    machine(MODE_32);
    m.gpr[GPR_RSP] = LINEAR + 0x40;
    CHECK_EQ(STEP("\x8f\x44\x24\x08"), MMIO_DONE); // pop dword [esp+8]
    CHECK_EQ(m.gpr[GPR_RSP], LINEAR + 0x44);
    CHECK_EQ(memory_at(LINEAR + 0x4c, 4), memory_at(LINEAR + 0x40, 4));
}

TEST(segment_faults)
{
    machine(MODE_32);
    m.gpr[GPR_RBX] = LINEAR;
    m.gpr[GPR_RSP] = LINEAR + 0x80;
    m.seg[SEG_SS].limit = 0x1000;
    CHECK_EQ(STEP("\xff\x33"), MMIO_FAULT); // push dword [ebx]
    CHECK_EQ(m.ctx.fault.vector, VEC_SS);
    CHECK_EQ(m.gpr[GPR_RSP], LINEAR + 0x80);

    machine(MODE_32);
    m.seg[SEG_DS].ar = 0x91; // read-only: the read of the read-modify-write does not happen either
    m.gpr[GPR_RBX] = LINEAR;
    CHECK_EQ(STEP("\xff\x03"), MMIO_FAULT); // inc dword [ebx]
    CHECK_EQ(m.ctx.fault.vector, VEC_GP);
    CHECK_EQ(m.block.reads, 0);
}

TEST(instruction_pointer_is_truncated)
{
    machine(MODE_32);
    m.ctx.rip = 0xfffffffe;
    m.gpr[GPR_RBX] = LINEAR;
    CHECK_EQ(STEP("\x8b\x03"), MMIO_DONE);
    CHECK_EQ(m.ctx.rip, 0);
    machine(MODE_64);
    m.ctx.rip = 0xfffffffe;
    m.gpr[GPR_RBX] = LINEAR;
    CHECK_EQ(STEP("\x8b\x03"), MMIO_DONE);
    CHECK_EQ(m.ctx.rip, 0x100000000);
}

TEST(bit_string_with_16_bit_addresses)
{
    machine(MODE_16);
    m.gpr[GPR_RBX] = 0x20;
    m.gpr[GPR_RAX] = 0xffff; // bit -1: the top bit of the word before
    m.memory[0x1f] = 0x80;
    CHECK_EQ(STEP("\x0f\xb3\x07"), MMIO_DONE); // btr [bx], ax
    CHECK_EQ(m.memory[0x1f], 0);
    CHECK_EQ(m.ctx.rflags & RFLAGS_CF, RFLAGS_CF);
}
