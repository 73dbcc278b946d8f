// The emulator against the host's own processor, which executes the same bytes on the same
// registers and memory.

#include <sys/mman.h>

#include "tests/host/mmio_block.h"

#define RFLAGS_TESTED (RFLAGS_ARITH | RFLAGS_DF)

static u64 random_state = 88172645463325252ull;

static u64 random64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static unsigned below(unsigned n)
{
    return (unsigned)((random64() >> 32) % n);
}

// Values at which carries and signs change are as likely as any others.
static u64 random_value(void)
{
    static const u64 edges[] = {0,
                                1,
                                0x7f,
                                0x80,
                                0xff,
                                0x7fff,
                                0x8000,
                                0xffff,
                                0x7fffffff,
                                0x80000000,
                                0xffffffff,
                                0x7fffffffffffffff,
                                0x8000000000000000};
    u64 v = below(2) ? edges[below(ARRAY_SIZE(edges))] : random64();
    return below(2) ? v : ~v;
}

// ---- Native execution

#define BUFFER_SIZE 4096

// Below 2 GiB, so that a 32-bit displacement reaches everything.
static struct native {
    u8 code[4096];
    u8 buffer[BUFFER_SIZE];
    u64 gpr_in[GPR_COUNT], rflags_in, gpr_out[GPR_COUNT], rflags_out, rsp;
} * native;

#define CODE_PREFIX 256 // the instruction under test is at this offset

static u8 *emit;

static void emit_bytes(const void *bytes, unsigned n)
{
    memcpy(emit, bytes, n);
    emit += n;
}

// An instruction whose operand is the absolute address `p`: ModRM (with `reg`) and SIB.
static void emit_abs(u8 opcode, unsigned reg, bool wide, const void *p)
{
    u8 bytes[4] = {(u8)(wide ? 0x48 | reg >> 3 << 2 : 0x90), opcode, (u8)((reg & 7) << 3 | 4),
                   0x25};
    u32 disp = (u32)(u64)p;
    emit_bytes(bytes, 4);
    emit_bytes(&disp, 4);
}

static void emit_program(const u8 *insn, unsigned len)
{
    emit = native->code;
    emit_bytes("\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57\x9c", 11); // push rbx rbp r12-r15 flags
    emit_abs(0x89, GPR_RSP, true, &native->rsp);
    emit_abs(0xff, 6, false, &native->rflags_in); // push
    emit_bytes("\x9d", 1);                        // popf
    for (unsigned r = 0; r < GPR_COUNT; r++)
        emit_abs(0x8b, r, true, &native->gpr_in[r]);
    CHECK(emit <= native->code + CODE_PREFIX);
    while (emit < native->code + CODE_PREFIX)
        emit_bytes("\x90", 1);
    emit_bytes(insn, len);
    for (unsigned r = 0; r < GPR_COUNT; r++)
        emit_abs(0x89, r, true, &native->gpr_out[r]);
    emit_abs(0x8b, GPR_RSP, true, &native->rsp);
    emit_bytes("\x9c", 1);                         // pushf
    emit_abs(0x8f, 0, false, &native->rflags_out); // pop
    emit_bytes("\x9d\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3", 12);
}

static void native_setup(void)
{
    if (native)
        return;
    native = mmap(NULL, sizeof(*native), PROT_READ | PROT_WRITE | PROT_EXEC,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (native == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
}

static u64 native_rip(void)
{
    return (u64)native->code + CODE_PREFIX;
}

__attribute__((no_sanitize("address", "undefined"))) static void native_run(void)
{
    void (*run)(void) = (void (*)(void))(void *)native->code;
    asm volatile("" ::: "memory");
    run();
    asm volatile("" ::: "memory");
}

// ---- Random instructions whose operand is in the buffer

struct attempt {
    u8 bytes[INSN_MAX_LENGTH];
    struct insn insn;
    u64 gpr[GPR_COUNT];
};

static void put_bytes(u8 *bytes, unsigned *len, u64 v, unsigned n)
{
    for (unsigned i = 0; i < n && *len < INSN_MAX_LENGTH; i++)
        bytes[(*len)++] = (u8)(v >> (8 * i));
}

static u64 target(void)
{
    return (u64)native->buffer + BUFFER_SIZE / 2 + below(64);
}

// Prefixes, then the opcode with `reg` in ModRM, then enough random bytes.
static void random_bytes(u8 *bytes, bool two_byte, u8 opcode, unsigned reg)
{
    unsigned len = 0;
    bool rex = below(2);
    if (below(4) == 0)
        put_bytes(bytes, &len, 0x66, 1);
    if (below(4) == 0)
        put_bytes(bytes, &len, 0x67, 1);
    if (below(6) == 0)
        put_bytes(bytes, &len, below(2) ? 0xf2 : 0xf3, 1);
    if (below(6) == 0)
        put_bytes(bytes, &len, 0x26 | below(4) << 3, 1);
    if (below(12) == 0)
        put_bytes(bytes, &len, 0xf0, 1);
    if (rex)
        put_bytes(bytes, &len, 0x40 | below(16), 1);
    if (two_byte)
        put_bytes(bytes, &len, 0x0f, 1);
    put_bytes(bytes, &len, opcode, 1);
    if (!two_byte && opcode >= 0xa0 && opcode <= 0xa3) {
        put_bytes(bytes, &len, target(), 8);
        return;
    }
    put_bytes(bytes, &len, below(3) << 6 | reg << 3 | below(8), 1);
    while (len < INSN_MAX_LENGTH)
        put_bytes(bytes, &len, random64(), 1);
}

// Where the displacement alone is the address, it has to be made right in the bytes.
static bool aim_displacement(struct attempt *a)
{
    u64 there = target();
    u32 now = (u32)a->insn.mem.disp, want = (u32)there;
    for (unsigned i = 0; i + 4 <= a->insn.length; i++) {
        u32 disp;
        memcpy(&disp, a->bytes + i, 4);
        for (unsigned relative = 0; relative < 2; relative++) {
            u32 rip = relative ? (u32)(native_rip() + a->insn.length) : 0;
            if (disp + rip != now)
                continue;
            disp = want - rip;
            memcpy(a->bytes + i, &disp, 4);
            return !decode_insn(a->bytes, INSN_MAX_LENGTH, MODE_64, native_rip(), &a->insn) &&
                   a->insn.mem.disp == there;
        }
    }
    return false;
}

static bool uses_stack(const struct insn *insn)
{
    return insn->op == INSN_PUSH || insn->op == INSN_POP;
}

static bool aim_registers(struct attempt *a)
{
    const struct mem_operand *m = &a->insn.mem;
    bool bit_string = a->insn.op >= INSN_BT && a->insn.op <= INSN_BTC && a->insn.src == OPERAND_REG;
    if (bit_string) {
        if (a->insn.reg == m->base || a->insn.reg == m->index || a->insn.reg == GPR_RSP)
            return false;
        u64 high = random64() << (a->insn.size * 8 % 64);
        u64 number = (u64)(s64)((int)below(4096) - 2048);
        u64 mask = a->insn.size == 8 ? ~0ull : BIT(a->insn.size * 8) - 1;
        a->gpr[a->insn.reg] = (number & mask) | (high & ~mask);
    }
    u64 offset = m->disp;
    if (m->index != GPR_NONE) {
        if (m->index == m->base)
            return false;
        if (m->base == GPR_NONE)
            a->gpr[m->index] = 0;
        offset += a->gpr[m->index] << m->scale;
    }
    if (m->base == GPR_NONE)
        return aim_displacement(a);
    a->gpr[m->base] = target() - offset;
    if (uses_stack(&a->insn) && m->base == GPR_RSP) // both operands must be in the buffer
        return offset + 1024 < 2048;
    if (m->addr_size == 4 && m->base != GPR_RSP)
        a->gpr[m->base] ^= random64() << 32;
    return true;
}

static bool make_attempt(struct attempt *a, bool two_byte, u8 opcode, unsigned reg)
{
    random_bytes(a->bytes, two_byte, opcode, reg);
    if (decode_insn(a->bytes, INSN_MAX_LENGTH, MODE_64, native_rip(), &a->insn) ||
        a->insn.mem.seg >= SEG_FS)
        return false;
    for (unsigned r = 0; r < GPR_COUNT; r++)
        a->gpr[r] = random_value();
    a->gpr[GPR_RSP] = target();
    if (a->insn.op >= INSN_MOVS) {
        a->gpr[GPR_RSI] = target();
        a->gpr[GPR_RDI] = target();
        if (a->insn.rep)
            a->gpr[GPR_RCX] = below(4) ? 1 + below(100) : 0;
        if (a->insn.mem.addr_size == 4)
            for (unsigned r = GPR_RCX; r < GPR_R8; r++)
                if (r != GPR_RSP && a->gpr[r])
                    a->gpr[r] |= random64() << 32;
        return true;
    }
    return aim_registers(a);
}

// Runs the bytes on the processor and in the emulator. Returns whether all results are the same.
static bool agrees(const struct attempt *a)
{
    static u8 memory[BUFFER_SIZE];
    static const struct seg_state flat[SEG_COUNT];
    u64 gpr[GPR_COUNT];
    struct block block = {.linear = (u64)native->buffer, .bytes = memory, .size = BUFFER_SIZE};
    struct mmio_ctx ctx = {
        .cpu = {.mode = MODE_64, .protected = true, .linear_bits = 48, .gpr = gpr, .seg = flat},
        .rip = native_rip(),
        .ops = &block_ops,
        .context = &block};
    for (unsigned i = 0; i < BUFFER_SIZE; i += 8) {
        u64 v = random_value();
        memcpy(memory + i, &v, 8);
    }
    if (below(4) == 0) // so that comparisons find something equal
        memset(memory, (int)below(3) - 1, BUFFER_SIZE);
    memcpy(gpr, a->gpr, sizeof(gpr));
    memcpy(native->gpr_in, a->gpr, sizeof(gpr));
    memcpy(native->buffer, memory, BUFFER_SIZE);
    ctx.rflags = native->rflags_in = RFLAGS_FIXED | RFLAGS_IF | (random64() & RFLAGS_TESTED);
    emit_program(a->bytes, a->insn.length);
    native_run();

    enum mmio_result result;
    do
        result = mmio_emulate(&ctx, &a->insn);
    while (result == MMIO_RESTART);
    return result == MMIO_DONE && ctx.rip == native_rip() + a->insn.length &&
           !memcmp(gpr, native->gpr_out, sizeof(gpr)) &&
           !memcmp(memory, native->buffer, BUFFER_SIZE) &&
           (ctx.rflags & RFLAGS_TESTED) == (native->rflags_out & RFLAGS_TESTED);
}

static void report(const struct attempt *a)
{
    printf("  op %u size %u:", a->insn.op, a->insn.size);
    for (unsigned i = 0; i < a->insn.length; i++)
        printf(" %02x", a->bytes[i]);
    printf("\n");
}

// Executes `rounds` variants of each opcode and counts them by operation and size.
static void compare_with_processor(unsigned rounds, unsigned count[INSN_SCAS + 1][9])
{
    struct attempt a;
    unsigned differences = 0;
    for (unsigned i = 0; i < 512 * 8 * rounds; i++) {
        if (!make_attempt(&a, i & 1, (u8)(i >> 1), i >> 9 & 7))
            continue;
        count[a.insn.op][a.insn.size]++;
        bool same = agrees(&a);
        CHECK(same);
        if (!same) {
            report(&a);
            if (++differences > 10)
                return;
        }
    }
}

TEST(same_as_the_processor)
{
    static unsigned count[INSN_SCAS + 1][9];
    native_setup();
    compare_with_processor(300, count);
    for (unsigned op = 0; op <= INSN_SCAS; op++) {
        bool wide_only = op == INSN_CMPXCHG8B;
        bool stack = op == INSN_PUSH || op == INSN_POP;
        bool no_byte =
            stack || (op >= INSN_BT && op <= INSN_BTC) || op == INSN_MOVZX || op == INSN_MOVSX;
        CHECK(wide_only || no_byte || count[op][1] > 20);
        CHECK(wide_only || count[op][2] > 20);
        CHECK(wide_only || stack || count[op][4] > 20);
        CHECK(count[op][8] > 20);
    }
}
