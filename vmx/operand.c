#include "vmx/operand.h"

#include "libc/bits.h"
#include "libc/x86.h"

static u64 truncate(u64 v, unsigned bytes)
{
    return bytes >= 8 ? v : v & (BIT(bytes * 8) - 1);
}

u64 effective_address(const u64 *gpr, const struct mem_operand *mem)
{
    u64 ea = mem->disp;
    if (mem->base != GPR_NONE)
        ea += gpr[mem->base];
    if (mem->index != GPR_NONE)
        ea += gpr[mem->index] << mem->scale;
    return truncate(ea, mem->addr_size);
}

static bool canonical(u64 linear, unsigned linear_bits)
{
    unsigned spare = 64 - linear_bits;
    return (u64)((s64)(linear << spare) >> spare) == linear;
}

static bool type_allows(const struct seg_state *seg, enum mem_access access)
{
    if (seg->ar & SEG_AR_CODE)
        return access == MEM_READ && (seg->ar & SEG_AR_READABLE);
    return access == MEM_READ || (seg->ar & SEG_AR_WRITABLE);
}

static bool limit_allows(const struct seg_state *seg, u32 offset, unsigned size)
{
    u64 last = (u64)offset + size - 1;
    bool expand_down = (seg->ar & SEG_AR_EXPAND_DOWN) && !(seg->ar & SEG_AR_CODE);
    if (expand_down)
        return offset > seg->limit && last <= (seg->ar & SEG_AR_BIG ? 0xffffffff : 0xffff);
    // Whether an access that wraps around in a segment of 4 GiB faults is up to the implementation.
    return last <= seg->limit || seg->limit == 0xffffffff;
}

static bool segment_allows(const struct linear_ctx *ctx, const struct seg_state *seg, u32 offset,
                           unsigned size, enum mem_access access)
{
    if (seg->ar & SEG_AR_UNUSABLE)
        return false;
    if (ctx->protected && !type_allows(seg, access))
        return false;
    return limit_allows(seg, offset, size);
}

bool linear_address(const struct linear_ctx *ctx, const struct mem_operand *mem, unsigned size,
                    enum mem_access access, u64 *linear, struct guest_fault *fault)
{
    const struct seg_state *seg = &ctx->seg[mem->seg];
    u64 ea = effective_address(ctx->gpr, mem);
    bool ok;
    if (ctx->mode == MODE_64) {
        *linear = ea + (mem->seg >= SEG_FS ? seg->base : 0);
        ok =
            canonical(*linear, ctx->linear_bits) && canonical(*linear + size - 1, ctx->linear_bits);
    } else {
        *linear = (u32)(seg->base + ea);
        ok = segment_allows(ctx, seg, (u32)ea, size, access);
    }
    if (!ok)
        *fault = (struct guest_fault){.vector = mem->seg == SEG_SS ? VEC_SS : VEC_GP};
    return ok;
}

#define HAS_MEM      BIT(0) // scaling, address size, segment, index and base
#define HAS_REG_FORM BIT(1) // bit 10 tells a register from memory
#define HAS_REG1     BIT(2)
#define HAS_REG2     BIT(3)
#define HAS_SIZE     BIT(4) // in bits 12:11
#define HAS_IDENTITY BIT(5)

static const u8 format_fields[] = {
    [INFO_INVALIDATE] = HAS_MEM | HAS_REG2,
    [INFO_DESCRIPTOR_TABLE] = HAS_MEM | HAS_IDENTITY,
    [INFO_SELECTOR] = HAS_MEM | HAS_REG_FORM | HAS_IDENTITY,
    [INFO_RANDOM] = HAS_REG1 | HAS_SIZE,
    [INFO_REGION] = HAS_MEM,
    [INFO_VMCS_FIELD] = HAS_MEM | HAS_REG_FORM | HAS_REG2,
};

// Codes that the manual leaves out become the last one that it has.
static u8 size_of_code(u64 code)
{
    return (u8)(2u << MIN(code, 2u));
}

static u8 seg_of_info(u32 info)
{
    return (u8)MIN(bits(info, 17, 15), (u64)SEG_GS);
}

static struct mem_operand mem_of_info(u32 info, u64 qualification)
{
    return (struct mem_operand){
        .base = bits(info, 27, 27) ? GPR_NONE : (s8)bits(info, 26, 23),
        .index = bits(info, 22, 22) ? GPR_NONE : (s8)bits(info, 21, 18),
        .scale = (u8)bits(info, 1, 0),
        .seg = seg_of_info(info),
        .addr_size = size_of_code(bits(info, 9, 7)),
        .disp = qualification,
    };
}

// INS and OUTS name the address size only, and OUTS the segment: the registers are implied.
static struct mem_operand mem_of_string_io(u32 info, enum info_format format)
{
    return (struct mem_operand){
        .base = format == INFO_INS ? GPR_RDI : GPR_RSI,
        .index = GPR_NONE,
        .seg = format == INFO_INS ? SEG_ES : seg_of_info(info),
        .addr_size = size_of_code(bits(info, 9, 7)),
    };
}

void insn_info_decode(enum info_format format, u32 info, u64 qualification, struct insn_info *out)
{
    *out = (struct insn_info){0};
    if (format == INFO_INS || format == INFO_OUTS) {
        out->mem = mem_of_string_io(info, format);
        return;
    }
    unsigned fields = format_fields[format];
    out->is_reg = fields & HAS_REG1 || (fields & HAS_REG_FORM && bits(info, 10, 10));
    if (out->is_reg)
        out->reg1 = (u8)bits(info, 6, 3);
    else if (fields & HAS_MEM)
        out->mem = mem_of_info(info, qualification);
    if (fields & HAS_REG2)
        out->reg2 = (u8)bits(info, 31, 28);
    if (fields & HAS_IDENTITY)
        out->identity = (u8)bits(info, 29, 28);
    if (fields & HAS_SIZE)
        out->operand_size = size_of_code(bits(info, 12, 11));
    if (format == INFO_DESCRIPTOR_TABLE)
        out->operand_size = bits(info, 11, 11) ? 4 : 2;
}
