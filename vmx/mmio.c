#include "vmx/mmio.h"

#include "libc/x86.h"

#define RFLAGS_DF BIT(10)

static u64 truncate(u64 v, unsigned bytes)
{
    return bytes >= 8 ? v : v & (BIT(bytes * 8) - 1);
}

static u64 sign_extend(u64 v, unsigned bytes)
{
    unsigned spare = 64 - 8 * bytes;
    return (u64)((s64)(v << spare) >> spare);
}

static u64 sign_bit(unsigned bytes)
{
    return BIT(bytes * 8 - 1);
}

// 32-bit results clear the upper half of a register, smaller ones leave the rest alone.
static void write_gpr(struct mmio_ctx *ctx, unsigned reg, unsigned shift, unsigned size, u64 v)
{
    u64 *gpr = &ctx->cpu.gpr[reg];
    if (size >= 4)
        *gpr = truncate(v, size);
    else
        *gpr = (*gpr & ~(truncate(~0ull, size) << shift)) | truncate(v, size) << shift;
}

static u64 read_gpr(const struct mmio_ctx *ctx, unsigned reg, unsigned shift, unsigned size)
{
    return truncate(ctx->cpu.gpr[reg] >> shift, size);
}

static void write_reg(struct mmio_ctx *ctx, const struct insn *insn, u64 v)
{
    write_gpr(ctx, insn->reg, insn->reg_shift, insn->size, v);
}

static u64 read_reg(const struct mmio_ctx *ctx, const struct insn *insn)
{
    return read_gpr(ctx, insn->reg, insn->reg_shift, insn->size);
}

static bool address(struct mmio_ctx *ctx, const struct mem_operand *mem, unsigned size,
                    enum mem_access access, u64 *linear)
{
    return linear_address(&ctx->cpu, mem, size, access, linear, &ctx->fault);
}

static bool read_at(struct mmio_ctx *ctx, u64 linear, unsigned size, u64 *v)
{
    if (!ctx->ops->read(ctx->context, linear, size, v, &ctx->fault))
        return false;
    *v = truncate(*v, size);
    return true;
}

static bool write_at(struct mmio_ctx *ctx, u64 linear, unsigned size, u64 v)
{
    return ctx->ops->write(ctx->context, linear, size, truncate(v, size), &ctx->fault);
}

static bool load(struct mmio_ctx *ctx, const struct mem_operand *mem, unsigned size, u64 *v)
{
    u64 linear;
    return address(ctx, mem, size, MEM_READ, &linear) && read_at(ctx, linear, size, v);
}

static bool store(struct mmio_ctx *ctx, const struct mem_operand *mem, unsigned size, u64 v)
{
    u64 linear;
    return address(ctx, mem, size, MEM_WRITE, &linear) && write_at(ctx, linear, size, v);
}

static void set_flags(struct mmio_ctx *ctx, u64 which, u64 values)
{
    ctx->rflags = (ctx->rflags & ~which) | (values & which);
}

static u64 flag_if(bool on, u64 flag)
{
    return on ? flag : 0;
}

static u64 result_flags(u64 r, unsigned size)
{
    return flag_if(r == 0, RFLAGS_ZF) | flag_if(r & sign_bit(size), RFLAGS_SF) |
           flag_if(!__builtin_parity((u8)r), RFLAGS_PF);
}

// a + b + carry, and all arithmetic flags of that.
static u64 add(u64 a, u64 b, bool carry, unsigned size, u64 *flags)
{
    u64 r = truncate(a + b + carry, size);
    u64 carries = (a & b) | ((a | b) & ~r); // out of each bit
    *flags = result_flags(r, size) | flag_if(carries & sign_bit(size), RFLAGS_CF) |
             flag_if((a ^ r) & (b ^ r) & sign_bit(size), RFLAGS_OF) |
             flag_if(carries & BIT(3), RFLAGS_AF);
    return r;
}

// a - b - borrow, and all arithmetic flags of that.
static u64 subtract(u64 a, u64 b, bool borrow, unsigned size, u64 *flags)
{
    u64 r = truncate(a - b - borrow, size);
    u64 borrows = (~a & b) | ((~a | b) & r);
    *flags = result_flags(r, size) | flag_if(borrows & sign_bit(size), RFLAGS_CF) |
             flag_if((a ^ b) & (a ^ r) & sign_bit(size), RFLAGS_OF) |
             flag_if(borrows & BIT(3), RFLAGS_AF);
    return r;
}

// The result of an arithmetic or logical operation on operands of `size` bytes. `flags` has the
// flags before, and afterwards those that the operation leaves.
static u64 compute(enum insn_op op, u64 a, u64 b, unsigned size, u64 *flags)
{
    u64 before = *flags;
    bool carry = before & RFLAGS_CF;
    u64 r = a;
    switch (op) {
    case INSN_ADD:
        return add(a, b, false, size, flags);
    case INSN_ADC:
        return add(a, b, carry, size, flags);
    case INSN_SUB:
    case INSN_CMP:
        return subtract(a, b, false, size, flags);
    case INSN_SBB:
        return subtract(a, b, carry, size, flags);
    case INSN_NEG:
        return subtract(0, a, false, size, flags);
    case INSN_INC:
    case INSN_DEC:
        r = op == INSN_INC ? add(a, 1, false, size, flags) : subtract(a, 1, false, size, flags);
        *flags = (*flags & ~RFLAGS_CF) | (before & RFLAGS_CF);
        return r;
    case INSN_NOT:
        return ~a;
    case INSN_OR:
        r = a | b;
        break;
    case INSN_XOR:
        r = a ^ b;
        break;
    default: // AND, TEST
        r = a & b;
    }
    *flags = result_flags(r, size); // CF = OF = 0, and AF as processors leave it
    return r;
}

// The source operand, if it is not memory.
static u64 source(const struct mmio_ctx *ctx, const struct insn *insn)
{
    return insn->src == OPERAND_REG ? read_reg(ctx, insn) : truncate(insn->imm, insn->size);
}

static bool arithmetic(struct mmio_ctx *ctx, const struct insn *insn)
{
    bool to_mem = insn->dst == OPERAND_MEM, keep = insn->op != INSN_CMP && insn->op != INSN_TEST;
    u64 linear, m, r, flags = ctx->rflags & RFLAGS_ARITH;
    if (!address(ctx, &insn->mem, insn->size, to_mem && keep ? MEM_WRITE : MEM_READ, &linear) ||
        !read_at(ctx, linear, insn->size, &m))
        return false;
    if (to_mem)
        r = compute(insn->op, m, source(ctx, insn), insn->size, &flags);
    else
        r = compute(insn->op, read_reg(ctx, insn), m, insn->size, &flags);
    if (keep && to_mem && !write_at(ctx, linear, insn->size, r))
        return false;
    if (keep && !to_mem)
        write_reg(ctx, insn, r);
    set_flags(ctx, RFLAGS_ARITH, flags);
    return true;
}

static bool move(struct mmio_ctx *ctx, const struct insn *insn)
{
    u64 v;
    if (insn->dst == OPERAND_MEM)
        return store(ctx, &insn->mem, insn->mem_size, source(ctx, insn));
    if (!load(ctx, &insn->mem, insn->mem_size, &v))
        return false;
    write_reg(ctx, insn, insn->op == INSN_MOVSX ? sign_extend(v, insn->mem_size) : v);
    return true;
}

// XCHG and XADD: the register gets what was in memory.
static bool exchange(struct mmio_ctx *ctx, const struct insn *insn)
{
    u64 linear, m, r = read_reg(ctx, insn), flags = ctx->rflags;
    if (!address(ctx, &insn->mem, insn->size, MEM_WRITE, &linear) ||
        !read_at(ctx, linear, insn->size, &m))
        return false;
    if (insn->op == INSN_XADD)
        r = add(m, r, false, insn->size, &flags);
    if (!write_at(ctx, linear, insn->size, r))
        return false;
    write_reg(ctx, insn, m);
    set_flags(ctx, RFLAGS_ARITH, flags);
    return true;
}

// Memory is written in either case, as the processor does.
static bool compare_exchange(struct mmio_ctx *ctx, const struct insn *insn)
{
    u64 linear, m, flags;
    if (!address(ctx, &insn->mem, insn->size, MEM_WRITE, &linear) ||
        !read_at(ctx, linear, insn->size, &m))
        return false;
    u64 accumulator = read_gpr(ctx, GPR_RAX, 0, insn->size);
    subtract(accumulator, m, false, insn->size, &flags);
    bool equal = accumulator == m;
    if (!write_at(ctx, linear, insn->size, equal ? read_reg(ctx, insn) : m))
        return false;
    if (!equal)
        write_gpr(ctx, GPR_RAX, 0, insn->size, m);
    set_flags(ctx, RFLAGS_ARITH, flags);
    return true;
}

static bool compare_exchange_8b(struct mmio_ctx *ctx, const struct insn *insn)
{
    const u64 *gpr = ctx->cpu.gpr;
    u64 linear, m;
    if (!address(ctx, &insn->mem, 8, MEM_WRITE, &linear) || !read_at(ctx, linear, 8, &m))
        return false;
    bool equal = m == (gpr[GPR_RDX] << 32 | (u32)gpr[GPR_RAX]);
    u64 new = gpr[GPR_RCX] << 32 | (u32)gpr[GPR_RBX];
    if (!write_at(ctx, linear, 8, equal ? new : m))
        return false;
    if (!equal) {
        write_gpr(ctx, GPR_RAX, 0, 4, m);
        write_gpr(ctx, GPR_RDX, 0, 4, m >> 32);
    }
    set_flags(ctx, RFLAGS_ZF, flag_if(equal, RFLAGS_ZF));
    return true;
}

// A bit number in a register reaches beyond the operand, in both directions.
static bool bit_test(struct mmio_ctx *ctx, const struct insn *insn)
{
    struct mem_operand mem = insn->mem;
    s64 number = (s64)sign_extend(source(ctx, insn), insn->size);
    s64 width = insn->size * 8;
    u64 linear, m, mask = BIT(number & (width - 1));
    if (insn->src == OPERAND_REG)
        mem.disp += (u64)((number & -width) / 8);
    if (!address(ctx, &mem, insn->size, insn->op == INSN_BT ? MEM_READ : MEM_WRITE, &linear) ||
        !read_at(ctx, linear, insn->size, &m))
        return false;
    u64 r = insn->op == INSN_BTS ? m | mask : insn->op == INSN_BTR ? m & ~mask : m ^ mask;
    if (insn->op != INSN_BT && !write_at(ctx, linear, insn->size, r))
        return false;
    set_flags(ctx, RFLAGS_CF, flag_if(m & mask, RFLAGS_CF));
    return true;
}

// The stack at an offset from RSP; the stack segment tells how many bits of RSP count.
static struct mem_operand stack_operand(const struct mmio_ctx *ctx, u64 disp)
{
    bool big = ctx->cpu.mode != MODE_64 && ctx->cpu.seg[SEG_SS].ar & SEG_AR_BIG;
    u8 addr_size = ctx->cpu.mode == MODE_64 ? 8 : big ? 4 : 2;
    return (struct mem_operand){
        .base = GPR_RSP, .index = GPR_NONE, .seg = SEG_SS, .addr_size = addr_size, .disp = disp};
}

static void move_stack(struct mmio_ctx *ctx, unsigned addr_size, u64 by)
{
    write_gpr(ctx, GPR_RSP, 0, addr_size, ctx->cpu.gpr[GPR_RSP] + by);
}

static bool push(struct mmio_ctx *ctx, const struct insn *insn)
{
    struct mem_operand stack = stack_operand(ctx, 0ull - insn->size);
    u64 v;
    if (!load(ctx, &insn->mem, insn->size, &v) || !store(ctx, &stack, insn->size, v))
        return false;
    move_stack(ctx, stack.addr_size, 0ull - insn->size);
    return true;
}

// An address that uses RSP uses it as it is after the increment.
static bool pop(struct mmio_ctx *ctx, const struct insn *insn)
{
    struct mem_operand stack = stack_operand(ctx, 0);
    u64 v, rsp = ctx->cpu.gpr[GPR_RSP];
    if (!load(ctx, &stack, insn->size, &v))
        return false;
    move_stack(ctx, stack.addr_size, insn->size);
    if (store(ctx, &insn->mem, insn->size, v))
        return true;
    ctx->cpu.gpr[GPR_RSP] = rsp;
    return false;
}

static void step_index(struct mmio_ctx *ctx, const struct insn *insn, enum gpr reg)
{
    u64 by = ctx->rflags & RFLAGS_DF ? 0ull - insn->size : insn->size;
    write_gpr(ctx, reg, 0, insn->mem.addr_size, ctx->cpu.gpr[reg] + by);
}

static bool compare(struct mmio_ctx *ctx, unsigned size, u64 a, u64 b)
{
    u64 flags;
    subtract(a, b, false, size, &flags);
    set_flags(ctx, RFLAGS_ARITH, flags);
    return true;
}

// One element: memory, accumulator and flags.
static bool transfer(struct mmio_ctx *ctx, const struct insn *insn, bool from_mem, bool to_mem)
{
    struct mem_operand dst = {
        .base = GPR_RDI, .index = GPR_NONE, .seg = SEG_ES, .addr_size = insn->mem.addr_size};
    unsigned size = insn->size;
    u64 a = read_gpr(ctx, GPR_RAX, 0, size), b;
    if (from_mem && !load(ctx, &insn->mem, size, &a))
        return false;
    if (insn->op == INSN_CMPS || insn->op == INSN_SCAS)
        return load(ctx, &dst, size, &b) && compare(ctx, size, a, b);
    if (to_mem)
        return store(ctx, &dst, size, a);
    write_gpr(ctx, GPR_RAX, 0, size, a);
    return true;
}

static bool element(struct mmio_ctx *ctx, const struct insn *insn)
{
    bool uses_si = insn->op != INSN_STOS && insn->op != INSN_SCAS;
    bool uses_di = insn->op != INSN_LODS;
    if (!transfer(ctx, insn, uses_si, uses_di))
        return false;
    if (uses_si)
        step_index(ctx, insn, GPR_RSI);
    if (uses_di)
        step_index(ctx, insn, GPR_RDI);
    return true;
}

// Whether REPE or REPNE ends here because of the comparison.
static bool comparison_ends(const struct mmio_ctx *ctx, const struct insn *insn)
{
    if (insn->op != INSN_CMPS && insn->op != INSN_SCAS)
        return false;
    return !(ctx->rflags & RFLAGS_ZF) == (insn->rep == REP_E);
}

static enum mmio_result string(struct mmio_ctx *ctx, const struct insn *insn)
{
    unsigned width = insn->mem.addr_size;
    if (insn->rep == REP_NONE)
        return element(ctx, insn) ? MMIO_DONE : MMIO_FAULT;
    for (unsigned i = 0; i < (ctx->traced ? 1 : MMIO_MAX_ELEMENTS); i++) {
        u64 count = read_gpr(ctx, GPR_RCX, 0, width);
        if (count == 0)
            return MMIO_DONE;
        if (!element(ctx, insn))
            return MMIO_FAULT;
        write_gpr(ctx, GPR_RCX, 0, width, count - 1);
        if (count == 1 || comparison_ends(ctx, insn))
            return MMIO_DONE;
    }
    return MMIO_RESTART;
}

static bool (*const execute[])(struct mmio_ctx *, const struct insn *) = {
    [INSN_ADD... INSN_DEC] = arithmetic,
    [INSN_MOV... INSN_MOVSX] = move,
    [INSN_XCHG... INSN_XADD] = exchange,
    [INSN_CMPXCHG] = compare_exchange,
    [INSN_CMPXCHG8B] = compare_exchange_8b,
    [INSN_BT... INSN_BTC] = bit_test,
    [INSN_PUSH] = push,
    [INSN_POP] = pop,
};

enum mmio_result mmio_emulate(struct mmio_ctx *ctx, const struct insn *insn)
{
    enum mmio_result result;
    if (insn->op >= INSN_MOVS)
        result = string(ctx, insn);
    else
        result = execute[insn->op](ctx, insn) ? MMIO_DONE : MMIO_FAULT;
    if (result != MMIO_DONE)
        return result;
    ctx->rip += insn->length;
    if (ctx->cpu.mode != MODE_64)
        ctx->rip = (u32)ctx->rip;
    ctx->rflags &= ~RFLAGS_RF;
    return MMIO_DONE;
}
