// Hostile instruction bytes: the decoder reads no byte that it was not given and reports a sane
// instruction, and the emulator makes a bounded number of accesses, whatever registers and segments
// are.

#include <stdlib.h>

#include "libc/log.h"
#include "libc/string.h"
#include "vmx/mmio.h"

#define MAX_ACCESSES (2 * MMIO_MAX_ELEMENTS)

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct input {
    const u8 *data;
    size_t left;
};

static u64 take(struct input *in, unsigned bytes)
{
    u64 v = 0;
    for (unsigned i = 0; i < bytes && in->left; i++, in->left--)
        v |= (u64)*in->data++ << (8 * i);
    return v;
}

struct memory {
    struct input *in;
    enum cpu_mode mode;
    unsigned accesses, fault_after;
};

static bool allow(struct memory *m, u64 linear, unsigned size, struct guest_fault *fault)
{
    ASSERT(size == 1 || size == 2 || size == 4 || size == 8);
    ASSERT(m->mode == MODE_64 || linear <= 0xffffffff);
    if (m->accesses++ < m->fault_after)
        return true;
    *fault = (struct guest_fault){.vector = 14, .error = 2, .cr2 = linear};
    return false;
}

static bool read(void *context, u64 linear, unsigned size, u64 *v, struct guest_fault *fault)
{
    struct memory *m = context;
    *v = take(m->in, 8);
    return allow(m, linear, size, fault);
}

static bool write(void *context, u64 linear, unsigned size, u64 v, struct guest_fault *fault)
{
    ASSERT(size == 8 || v >> (8 * size) == 0);
    return allow(context, linear, size, fault);
}

static void check_insn(const struct insn *insn, unsigned len)
{
    ASSERT(insn->length >= 1 && insn->length <= len);
    ASSERT(insn->op <= INSN_SCAS && insn->reg < GPR_COUNT);
    ASSERT(insn->size == 1 || insn->size == 2 || insn->size == 4 || insn->size == 8);
    ASSERT(insn->mem_size >= 1 && insn->mem_size <= insn->size);
    ASSERT(insn->mem.base >= GPR_NONE && insn->mem.base < GPR_COUNT);
    ASSERT(insn->mem.index >= GPR_NONE && insn->mem.index < GPR_COUNT && insn->mem.scale < 4);
    ASSERT(insn->mem.seg < SEG_COUNT);
}

static void emulate(struct input *in, enum cpu_mode mode, const struct insn *insn, u64 rip)
{
    static const struct insn_mem_ops ops = {read, write};
    u8 kind = (u8)take(in, 1);
    struct memory memory = {.in = in, .mode = mode, .fault_after = kind & 1 ? kind >> 1 : ~0u};
    u64 gpr[GPR_COUNT];
    struct seg_state seg[SEG_COUNT];
    struct mmio_ctx ctx = {.cpu = {.mode = mode,
                                   .protected = mode != MODE_16,
                                   .linear_bits = 48,
                                   .gpr = gpr,
                                   .seg = seg},
                           .rip = rip,
                           .rflags = take(in, 4),
                           .ops = &ops,
                           .context = &memory};
    for (unsigned i = 0; i < GPR_COUNT; i++)
        gpr[i] = take(in, 4) * 0x100000001;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        seg[i] = (struct seg_state){
            .base = take(in, 4), .limit = ~(u32)take(in, 4), .ar = 0x93 ^ (u32)take(in, 3)};
    enum mmio_result result = mmio_emulate(&ctx, insn);
    ASSERT(memory.accesses <= MAX_ACCESSES);
    ASSERT((result == MMIO_DONE) == (ctx.rip != rip));
    ASSERT(result != MMIO_RESTART || insn->rep != REP_NONE);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct input in = {data, size};
    enum cpu_mode mode = take(&in, 1) % 3;
    unsigned len = (unsigned)take(&in, 1) % 17;
    u64 rip = take(&in, 4);
    struct insn insn;
    len = (unsigned)MIN(len, in.left);
    u8 *bytes = malloc(len + !len); // of its own, so that reading past it is found
    memcpy(bytes, in.data, len);
    int error = decode_insn(bytes, len, mode, rip, &insn);
    free(bytes);
    in.data += len;
    in.left -= len;
    if (error == 0) {
        check_insn(&insn, MIN(len, INSN_MAX_LENGTH));
        emulate(&in, mode, &insn, rip);
    }
    return 0;
}
