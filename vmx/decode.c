#include "vmx/decode.h"

#include "libc/string.h"

// How an opcode arranges its operands.
enum form {
    FORM_NONE,   // not an instruction that we know
    FORM_MR,     // memory, register
    FORM_RM,     // register, memory
    FORM_M,      // memory only
    FORM_MI,     // memory, immediate of the operand size (at most 32 bits)
    FORM_MI8,    // memory, 8-bit immediate
    FORM_MA,     // memory at an absolute offset, accumulator
    FORM_AM,     // accumulator, memory at an absolute offset
    FORM_STRING, // implied operands
    FORM_GROUP,  // the reg field of ModRM selects in groups[]
};

static const struct {
    u8 dst, src; // enum insn_operand
} form_operands[] = {
    [FORM_MR] = {OPERAND_MEM, OPERAND_REG},  [FORM_RM] = {OPERAND_REG, OPERAND_MEM},
    [FORM_M] = {OPERAND_MEM, OPERAND_NONE},  [FORM_MI] = {OPERAND_MEM, OPERAND_IMM},
    [FORM_MI8] = {OPERAND_MEM, OPERAND_IMM}, [FORM_MA] = {OPERAND_MEM, OPERAND_REG},
    [FORM_AM] = {OPERAND_REG, OPERAND_MEM},  [FORM_STRING] = {OPERAND_NONE, OPERAND_NONE},
};

#define F_BYTE   BIT(0) // the operand size is 1
#define F_32     BIT(1) // it is 4, or 8 with REX.W; another instruction with 66, F2 or F3
#define F_STACK  BIT(2) // it is 8 in 64-bit mode
#define F_MEM64  BIT(3) // it is 8; another instruction with REX.W
#define F_SRC8   BIT(4) // the memory operand is smaller
#define F_SRC16  BIT(5)
#define F_SRC32  BIT(6)
#define F_LOCK   BIT(7) // LOCK is allowed
#define F_ONLY64 BIT(8) // another instruction outside 64-bit mode
#define F_NOT64  BIT(9) // invalid in 64-bit mode

struct opcode {
    u8 form;
    u8 op; // enum insn_op; of FORM_GROUP: enum group
    u16 flags;
};

enum group {
    GROUP_1,
    GROUP_1_IMM8,
    GROUP_1A,
    GROUP_3,
    GROUP_4,
    GROUP_5,
    GROUP_8,
    GROUP_9,
    GROUP_11,
};

// Neighbours of which the first works on bytes.
#define PAIR(code, form, op, flags)                                                                \
    [code] = {form, op, (flags) | F_BYTE}, [(code) + 1] = {form, op, flags}
#define ARITHMETIC(op, flags) PAIR((op)*8, FORM_MR, op, flags), PAIR((op)*8 + 2, FORM_RM, op, 0)

static const struct opcode one_byte[256] = {
    ARITHMETIC(INSN_ADD, F_LOCK),
    ARITHMETIC(INSN_OR, F_LOCK),
    ARITHMETIC(INSN_ADC, F_LOCK),
    ARITHMETIC(INSN_SBB, F_LOCK),
    ARITHMETIC(INSN_AND, F_LOCK),
    ARITHMETIC(INSN_SUB, F_LOCK),
    ARITHMETIC(INSN_XOR, F_LOCK),
    ARITHMETIC(INSN_CMP, 0),
    [0x63] = {FORM_RM, INSN_MOVSX, F_SRC32 | F_ONLY64},
    PAIR(0x80, FORM_GROUP, GROUP_1, 0),
    [0x82] = {FORM_GROUP, GROUP_1, F_BYTE | F_NOT64},
    [0x83] = {FORM_GROUP, GROUP_1_IMM8, 0},
    PAIR(0x84, FORM_MR, INSN_TEST, 0),
    PAIR(0x86, FORM_MR, INSN_XCHG, F_LOCK),
    PAIR(0x88, FORM_MR, INSN_MOV, 0),
    PAIR(0x8a, FORM_RM, INSN_MOV, 0),
    [0x8f] = {FORM_GROUP, GROUP_1A, 0},
    PAIR(0xa0, FORM_AM, INSN_MOV, 0),
    PAIR(0xa2, FORM_MA, INSN_MOV, 0),
    PAIR(0xa4, FORM_STRING, INSN_MOVS, 0),
    PAIR(0xa6, FORM_STRING, INSN_CMPS, 0),
    PAIR(0xaa, FORM_STRING, INSN_STOS, 0),
    PAIR(0xac, FORM_STRING, INSN_LODS, 0),
    PAIR(0xae, FORM_STRING, INSN_SCAS, 0),
    PAIR(0xc6, FORM_GROUP, GROUP_11, 0),
    PAIR(0xf6, FORM_GROUP, GROUP_3, 0),
    [0xfe] = {FORM_GROUP, GROUP_4, F_BYTE},
    [0xff] = {FORM_GROUP, GROUP_5, 0},
};

static const struct opcode two_byte[256] = {
    [0xa3] = {FORM_MR, INSN_BT, 0},
    [0xab] = {FORM_MR, INSN_BTS, F_LOCK},
    PAIR(0xb0, FORM_MR, INSN_CMPXCHG, F_LOCK),
    [0xb3] = {FORM_MR, INSN_BTR, F_LOCK},
    [0xb6] = {FORM_RM, INSN_MOVZX, F_SRC8},
    [0xb7] = {FORM_RM, INSN_MOVZX, F_SRC16},
    [0xba] = {FORM_GROUP, GROUP_8, 0},
    [0xbb] = {FORM_MR, INSN_BTC, F_LOCK},
    [0xbe] = {FORM_RM, INSN_MOVSX, F_SRC8},
    [0xbf] = {FORM_RM, INSN_MOVSX, F_SRC16},
    PAIR(0xc0, FORM_MR, INSN_XADD, F_LOCK),
    [0xc3] = {FORM_MR, INSN_MOV, F_32}, // MOVNTI
    [0xc7] = {FORM_GROUP, GROUP_9, 0},
};

#define GROUP_ARITHMETIC(form)                                                                     \
    {                                                                                              \
        {form, INSN_ADD, F_LOCK}, {form, INSN_OR, F_LOCK}, {form, INSN_ADC, F_LOCK},               \
            {form, INSN_SBB, F_LOCK}, {form, INSN_AND, F_LOCK}, {form, INSN_SUB, F_LOCK},          \
            {form, INSN_XOR, F_LOCK}, {form, INSN_CMP, 0},                                         \
    }

static const struct opcode groups[][8] = {
    [GROUP_1] = GROUP_ARITHMETIC(FORM_MI),
    [GROUP_1_IMM8] = GROUP_ARITHMETIC(FORM_MI8),
    [GROUP_1A] = {{FORM_M, INSN_POP, F_STACK}},
    [GROUP_3] = {{FORM_MI, INSN_TEST, 0},
                 {FORM_MI, INSN_TEST, 0},
                 {FORM_M, INSN_NOT, F_LOCK},
                 {FORM_M, INSN_NEG, F_LOCK}},
    [GROUP_4] = {{FORM_M, INSN_INC, F_LOCK}, {FORM_M, INSN_DEC, F_LOCK}},
    [GROUP_5] = {{FORM_M, INSN_INC, F_LOCK},
                 {FORM_M, INSN_DEC, F_LOCK},
                 [6] = {FORM_M, INSN_PUSH, F_STACK}},
    [GROUP_8] = {[4] = {FORM_MI8, INSN_BT, 0},
                 {FORM_MI8, INSN_BTS, F_LOCK},
                 {FORM_MI8, INSN_BTR, F_LOCK},
                 {FORM_MI8, INSN_BTC, F_LOCK}},
    [GROUP_9] = {[1] = {FORM_M, INSN_CMPXCHG8B, F_LOCK | F_MEM64}},
    [GROUP_11] = {{FORM_MI, INSN_MOV, 0}},
};

struct decoder {
    const u8 *bytes;
    unsigned len, pos;
    bool overrun; // the instruction goes on after `len` bytes
    enum cpu_mode mode;
    bool opsize, addrsize, lock; // prefixes
    u8 rep;                      // enum insn_rep
    s8 seg;                      // -1: no override
    u8 rex;
    bool rip_relative;
    struct insn *insn;
};

static u8 next(struct decoder *d)
{
    if (d->pos < d->len)
        return d->bytes[d->pos++];
    d->overrun = true;
    return 0;
}

// A little-endian number of 1 to 8 bytes, sign-extended.
static u64 next_signed(struct decoder *d, unsigned bytes)
{
    u64 v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v |= (u64)next(d) << (8 * i);
    unsigned spare = 64 - 8 * bytes;
    return (u64)((s64)(v << spare) >> spare);
}

// REX.B, X, R and W are bits 0 to 3. As the top bit of a register number:
static u8 rex_bit(const struct decoder *d, unsigned bit)
{
    return (u8)((d->rex >> bit & 1) << 3);
}

static void override_seg(struct decoder *d, enum seg seg)
{
    if (d->mode != MODE_64 || seg >= SEG_FS)
        d->seg = (s8)seg;
}

static bool legacy_prefix(struct decoder *d, u8 byte)
{
    switch (byte) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
        override_seg(d, byte >> 3 & 3);
        return true;
    case 0x64:
    case 0x65:
        override_seg(d, byte & 7);
        return true;
    case 0x66:
        return d->opsize = true;
    case 0x67:
        return d->addrsize = true;
    case 0xf0:
        return d->lock = true;
    case 0xf2:
    case 0xf3:
        d->rep = byte == 0xf2 ? REP_NE : REP_E;
        return true;
    default:
        return false;
    }
}

// Takes the prefixes and returns the first byte of the opcode. A REX prefix counts only right
// before the opcode.
static u8 take_prefixes(struct decoder *d)
{
    for (;;) {
        u8 byte = next(d);
        if (legacy_prefix(d, byte))
            d->rex = 0;
        else if (d->mode == MODE_64 && (byte & 0xf0) == 0x40)
            d->rex = byte;
        else
            return byte;
    }
}

static u8 address_size(const struct decoder *d)
{
    if (d->mode == MODE_64)
        return d->addrsize ? 4 : 8;
    return (d->mode == MODE_16) != d->addrsize ? 2 : 4;
}

static u8 operand_size(const struct decoder *d, unsigned flags)
{
    if (flags & F_BYTE)
        return 1;
    if (flags & F_MEM64 || rex_bit(d, 3))
        return 8;
    if (flags & F_32)
        return 4;
    if (flags & F_STACK && d->mode == MODE_64)
        return d->opsize ? 2 : 8;
    return (d->mode == MODE_16) != d->opsize ? 2 : 4;
}

static u8 memory_size(u8 size, unsigned flags)
{
    if (flags & F_SRC8)
        return 1;
    if (flags & F_SRC16)
        return 2;
    return flags & F_SRC32 ? MIN(size, 4) : size;
}

// ModRM with 16-bit addresses. Returns the number of bytes of the displacement.
static unsigned take_modrm16(struct mem_operand *mem, unsigned mod, unsigned rm)
{
    static const s8 base[8] = {GPR_RBX, GPR_RBX, GPR_RBP, GPR_RBP,
                               GPR_RSI, GPR_RDI, GPR_RBP, GPR_RBX};
    static const s8 index[8] = {GPR_RSI,  GPR_RDI,  GPR_RSI,  GPR_RDI,
                                GPR_NONE, GPR_NONE, GPR_NONE, GPR_NONE};
    if (mod == 0 && rm == 6)
        return 2;
    mem->base = base[rm];
    mem->index = index[rm];
    return mod;
}

// ModRM and SIB with 32-bit and 64-bit addresses. Returns the number of bytes of the displacement.
static unsigned take_modrm32(struct decoder *d, struct mem_operand *mem, unsigned mod, unsigned rm)
{
    unsigned base = rm;
    if (rm == 4) {
        u8 sib = next(d);
        u8 index = (sib >> 3 & 7) | rex_bit(d, 1);
        if (index != 4)
            mem->index = (s8)index;
        mem->scale = sib >> 6;
        base = sib & 7;
    }
    if (mod == 0 && base == 5) {
        d->rip_relative = rm == 5 && d->mode == MODE_64;
        return 4;
    }
    mem->base = (s8)(base | rex_bit(d, 0));
    return mod == 2 ? 4 : mod;
}

static void take_memory(struct decoder *d, u8 modrm)
{
    struct mem_operand *mem = &d->insn->mem;
    unsigned mod = modrm >> 6, rm = modrm & 7;
    unsigned disp =
        mem->addr_size == 2 ? take_modrm16(mem, mod, rm) : take_modrm32(d, mem, mod, rm);
    if (disp)
        mem->disp = next_signed(d, disp);
    if (d->seg < 0 && (mem->base == GPR_RSP || mem->base == GPR_RBP))
        mem->seg = SEG_SS;
}

static void set_register(struct decoder *d, u8 modrm)
{
    struct insn *insn = d->insn;
    insn->reg = (modrm >> 3 & 7) | rex_bit(d, 2);
    if (insn->size == 1 && !d->rex && insn->reg >= 4) {
        insn->reg -= 4;
        insn->reg_shift = 8;
    }
}

static void take_operands(struct decoder *d, const struct opcode *code, u8 modrm)
{
    struct insn *insn = d->insn;
    switch (code->form) {
    case FORM_STRING:
        insn->mem.base = GPR_RSI;
        insn->rep = d->rep;
        break;
    case FORM_AM:
    case FORM_MA:
        insn->mem.disp = next_signed(d, insn->mem.addr_size);
        break;
    case FORM_MR:
    case FORM_RM:
        set_register(d, modrm);
        take_memory(d, modrm);
        break;
    default:
        take_memory(d, modrm);
    }
    if (code->form == FORM_MI)
        insn->imm = next_signed(d, MIN(insn->size, 4));
    if (code->form == FORM_MI8)
        insn->imm = next_signed(d, 1);
}

// Looks the opcode up, and takes the ModRM byte if it has one.
static struct opcode take_opcode(struct decoder *d, u8 *modrm)
{
    u8 byte = take_prefixes(d);
    struct opcode code = byte == 0x0f ? two_byte[next(d)] : one_byte[byte];
    if (code.form == FORM_NONE || code.form == FORM_STRING || code.form == FORM_AM ||
        code.form == FORM_MA)
        return code;
    *modrm = next(d);
    if (*modrm >> 6 == 3)
        return (struct opcode){.form = FORM_NONE};
    if (code.form == FORM_GROUP) {
        unsigned flags = code.flags;
        code = groups[code.op][*modrm >> 3 & 7];
        code.flags |= flags;
    }
    return code;
}

static bool exists(const struct decoder *d, const struct opcode *code)
{
    if (code->form == FORM_NONE || code->flags & (d->mode == MODE_64 ? F_NOT64 : F_ONLY64))
        return false;
    if (code->flags & F_MEM64 && rex_bit(d, 3))
        return false;
    return !(code->flags & F_32 && (d->opsize || d->rep));
}

static int decode(struct decoder *d, u64 rip)
{
    struct insn *insn = d->insn;
    u8 modrm = 0;
    struct opcode code = take_opcode(d, &modrm);
    if (!exists(d, &code))
        return DECODE_UNKNOWN;
    if (d->lock && !(code.flags & F_LOCK))
        return DECODE_INVALID;
    insn->op = code.op;
    insn->dst = form_operands[code.form].dst;
    insn->src = form_operands[code.form].src;
    insn->size = operand_size(d, code.flags);
    insn->mem_size = memory_size(insn->size, code.flags);
    insn->mem.addr_size = address_size(d);
    insn->mem.base = insn->mem.index = GPR_NONE;
    insn->mem.seg = d->seg < 0 ? SEG_DS : (u8)d->seg;
    take_operands(d, &code, modrm);
    insn->length = (u8)d->pos;
    if (d->rip_relative)
        insn->mem.disp += rip + insn->length;
    return 0;
}

int decode_insn(const u8 *bytes, unsigned len, enum cpu_mode mode, u64 rip, struct insn *out)
{
    struct decoder d = {
        .bytes = bytes, .len = MIN(len, INSN_MAX_LENGTH), .mode = mode, .seg = -1, .insn = out};
    memset(out, 0, sizeof(*out));
    int error = decode(&d, rip);
    return d.overrun ? DECODE_SHORT : error;
}
