#include "tests/host/test.h"

#include "libc/x86.h"
#include "vmx/operand.h"

#define AR_DATA      0x93u // read/write, present
#define AR_READ_ONLY 0x91u
#define AR_DOWN      0x97u // read/write, expand-down
#define AR_CODE      0x9bu // execute/read
#define AR_EXECUTE   0x99u // execute only

static struct {
    u64 gpr[GPR_COUNT];
    struct seg_state seg[SEG_COUNT];
    struct linear_ctx ctx;
    u64 linear;
    struct guest_fault fault;
} t;

static void setup(enum cpu_mode mode)
{
    t.ctx = (struct linear_ctx){
        .mode = mode, .protected = true, .linear_bits = 48, .gpr = t.gpr, .seg = t.seg};
    for (unsigned i = 0; i < SEG_COUNT; i++)
        t.seg[i] = (struct seg_state){.limit = 0xffffffff, .ar = AR_DATA | SEG_AR_BIG};
    memset(t.gpr, 0, sizeof(t.gpr));
    t.linear = 0;
}

// An access of `size` bytes at offset `disp`.
static bool access_at(enum seg seg, u64 disp, unsigned size, enum mem_access access)
{
    struct mem_operand mem = {.base = GPR_NONE,
                              .index = GPR_NONE,
                              .seg = (u8)seg,
                              .disp = disp,
                              .addr_size = t.ctx.mode == MODE_64 ? 8 : 4};
    t.fault = (struct guest_fault){.vector = 0xff, .error = 0xff, .cr2 = 0xff};
    return linear_address(&t.ctx, &mem, size, access, &t.linear, &t.fault);
}

static bool faults(enum seg seg, u64 disp, unsigned size, enum mem_access access, u8 vector)
{
    return !access_at(seg, disp, size, access) && t.fault.vector == vector && t.fault.error == 0;
}

TEST(offset_is_truncated_to_the_address_size)
{
    u64 gpr[GPR_COUNT] = {[GPR_RAX] = 0xfffffffffffffff0, [GPR_R15] = 0x123456789};
    struct mem_operand mem = {
        .base = GPR_RAX, .index = GPR_R15, .scale = 3, .addr_size = 8, .disp = 0x18};
    CHECK_EQ(effective_address(gpr, &mem), (0x123456789ull << 3) + 8);
    mem.addr_size = 4;
    CHECK_EQ(effective_address(gpr, &mem), (u32)(0x123456789ull << 3) + 8);
    mem.addr_size = 2;
    CHECK_EQ(effective_address(gpr, &mem), (u16)((0x123456789ull << 3) + 8));
    mem.index = GPR_NONE;
    mem.disp = 0x10;
    CHECK_EQ(effective_address(gpr, &mem), 0);
    mem.base = GPR_NONE;
    mem.disp = (u64)-1;
    CHECK_EQ(effective_address(gpr, &mem), 0xffff);
}

TEST(segment_base_counts_after_truncation)
{
    setup(MODE_16);
    struct mem_operand mem = {
        .base = GPR_RBX, .index = GPR_NONE, .seg = SEG_ES, .addr_size = 2, .disp = 2};
    t.gpr[GPR_RBX] = 0xffff;
    t.seg[SEG_ES].base = 0xa0000;
    CHECK(linear_address(&t.ctx, &mem, 1, MEM_READ, &t.linear, &t.fault));
    CHECK_EQ(t.linear, 0xa0001);
}

TEST(linear_addresses_wrap_at_4g_outside_64_bit_mode)
{
    setup(MODE_32);
    t.seg[SEG_DS].base = 0xfffff000;
    CHECK(access_at(SEG_DS, 0x2000, 4, MEM_READ));
    CHECK_EQ(t.linear, 0x1000);
    CHECK(access_at(SEG_DS, 0xffffffff, 8, MEM_WRITE));
    CHECK_EQ(t.linear, 0xffffefff);
}

TEST(only_fs_and_gs_have_a_base_in_64_bit_mode)
{
    setup(MODE_64);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        t.seg[i].base = 0x7000000000;
        t.seg[i].limit = 0;
        t.seg[i].ar = SEG_AR_UNUSABLE;
        CHECK(access_at(i, 0x123456789a, 8, MEM_WRITE));
        CHECK_EQ(t.linear, 0x123456789a + (i >= SEG_FS ? 0x7000000000 : 0));
    }
    t.seg[SEG_GS].base = 0xffff800000000000;
    CHECK(access_at(SEG_GS, 0x1000, 8, MEM_READ));
    CHECK_EQ(t.linear, 0xffff800000001000);
    t.seg[SEG_FS].base = 0x1000;
    CHECK(access_at(SEG_FS, -0x800ull, 8, MEM_READ));
    CHECK_EQ(t.linear, 0x800);
}

TEST(canonical_addresses)
{
    setup(MODE_64);
    CHECK(access_at(SEG_DS, 0x00007ffffffffff8, 8, MEM_READ));
    CHECK(faults(SEG_DS, 0x00007ffffffffff9, 8, MEM_READ, VEC_GP));
    CHECK(faults(SEG_DS, 0x0000800000000000, 1, MEM_READ, VEC_GP));
    CHECK(faults(SEG_SS, 0x0000800000000000, 1, MEM_READ, VEC_SS));
    CHECK(faults(SEG_GS, 0xffff7fffffffffff, 1, MEM_READ, VEC_GP));
    CHECK(faults(SEG_DS, 0xffff7fffffffffff, 8, MEM_READ, VEC_GP));
    CHECK(access_at(SEG_DS, 0xffff800000000000, 8, MEM_WRITE));
    CHECK(access_at(SEG_DS, 0xfffffffffffffff8, 8, MEM_WRITE));
    t.ctx.linear_bits = 57;
    CHECK(access_at(SEG_DS, 0x0000800000000000, 1, MEM_READ));
    CHECK(access_at(SEG_DS, 0x00fffffffffffff8, 8, MEM_READ));
    CHECK(faults(SEG_DS, 0x0100000000000000, 1, MEM_READ, VEC_GP));
}

TEST(expand_up_limit)
{
    setup(MODE_32);
    t.seg[SEG_DS].limit = t.seg[SEG_SS].limit = 0xfff;
    for (unsigned size = 1; size <= 16; size *= 2) {
        CHECK(access_at(SEG_DS, 0x1000 - size, size, MEM_WRITE));
        CHECK(faults(SEG_DS, 0x1001 - size, size, MEM_WRITE, VEC_GP));
        CHECK(faults(SEG_SS, 0x1001 - size, size, MEM_READ, VEC_SS));
    }
    CHECK(faults(SEG_DS, 0xffffffff, 8, MEM_READ, VEC_GP));
    t.seg[SEG_DS].limit = 0;
    CHECK(access_at(SEG_DS, 0, 1, MEM_READ));
    CHECK(faults(SEG_DS, 0, 2, MEM_READ, VEC_GP));
    t.seg[SEG_DS].limit = 0xfffffffe;
    CHECK(faults(SEG_DS, 0xffffffff, 1, MEM_READ, VEC_GP));
    CHECK(faults(SEG_DS, 0xfffffffe, 4, MEM_READ, VEC_GP));
}

TEST(expand_down_limit)
{
    setup(MODE_32);
    t.seg[SEG_DS] = (struct seg_state){.limit = 0xfff, .ar = AR_DOWN | SEG_AR_BIG};
    CHECK(faults(SEG_DS, 0, 1, MEM_READ, VEC_GP));
    CHECK(faults(SEG_DS, 0xfff, 4, MEM_READ, VEC_GP));
    CHECK(access_at(SEG_DS, 0x1000, 4, MEM_WRITE));
    CHECK(access_at(SEG_DS, 0xfffffffc, 4, MEM_WRITE));
    CHECK(faults(SEG_DS, 0xfffffffd, 4, MEM_WRITE, VEC_GP));
    t.seg[SEG_DS].ar = AR_DOWN; // the upper bound of a 16-bit segment
    CHECK(access_at(SEG_DS, 0xfffc, 4, MEM_WRITE));
    CHECK(faults(SEG_DS, 0xfffd, 4, MEM_WRITE, VEC_GP));
    CHECK(faults(SEG_DS, 0x10000, 1, MEM_READ, VEC_GP));
    t.seg[SEG_DS].limit = 0xffffffff; // no byte at all
    CHECK(faults(SEG_DS, 0xffff, 1, MEM_READ, VEC_GP));
    t.seg[SEG_DS].ar = AR_CODE | SEG_AR_EXPAND_DOWN; // that bit means "conforming" of code
    t.seg[SEG_DS].limit = 0xfff;
    CHECK(access_at(SEG_DS, 0, 4, MEM_READ));
}

TEST(segment_types)
{
    static const struct {
        u32 ar;
        bool read, write;
    } types[] = {
        {0x90, true, false},
        {0x91, true, false},
        {0x92, true, true},
        {0x93, true, true},
        {0x98, false, false},
        {0x99, false, false},
        {0x9a, true, false},
        {0x9b, true, false},
        {0x9c, false, false},
        {0x9d, false, false},
        {0x9e, true, false},
        {0x9f, true, false},
        {AR_DATA | SEG_AR_UNUSABLE, false, false},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
        setup(MODE_32);
        t.seg[SEG_ES].ar = types[i].ar;
        CHECK_EQ(access_at(SEG_ES, 0, 4, MEM_READ), types[i].read);
        CHECK_EQ(access_at(SEG_ES, 0, 4, MEM_WRITE), types[i].write);
        CHECK(types[i].write || faults(SEG_ES, 0, 4, MEM_WRITE, VEC_GP));
    }
}

TEST(real_and_virtual_8086_mode_have_no_types)
{
    setup(MODE_16);
    t.ctx.protected = false;
    t.seg[SEG_CS] = (struct seg_state){.base = 0xf0000, .limit = 0xffff, .ar = AR_CODE};
    CHECK(access_at(SEG_CS, 0xffff, 1, MEM_WRITE));
    CHECK_EQ(t.linear, 0xfffff);
    CHECK(faults(SEG_CS, 0xffff, 2, MEM_WRITE, VEC_GP));
    CHECK(faults(SEG_CS, 0x10000, 1, MEM_READ, VEC_GP));
}

TEST(a_fault_names_no_address)
{
    setup(MODE_32);
    t.seg[SEG_DS].ar = SEG_AR_UNUSABLE;
    CHECK(!access_at(SEG_DS, 0, 1, MEM_READ));
    CHECK_EQ(t.fault.cr2, 0);
}

// ---- VM-exit instruction information

// The fields of the manual's tables, put together.
static u32 info(unsigned scale, unsigned reg1, unsigned addr, bool is_reg, unsigned seg, int index,
                int base, unsigned reg2)
{
    return scale | reg1 << 3 | addr << 7 | (u32)is_reg << 10 | seg << 15 |
           (index < 0 ? 1u << 22 : (u32)index << 18) | (base < 0 ? 1u << 27 : (u32)base << 23) |
           reg2 << 28;
}

TEST(every_memory_operand)
{
    struct insn_info out;
    for (int base = -1; base < 16; base++)
        for (int index = -1; index < 16; index++)
            for (unsigned i = 0; i < 4 * 3 * 6; i++) {
                unsigned scale = i % 4, addr = i / 4 % 3, seg = i / 12;
                u32 field = info(scale, 0, addr, false, seg, index, base, 9);
                insn_info_decode(INFO_INVALIDATE, field, -8ull, &out);
                CHECK(!out.is_reg);
                CHECK_EQ(out.reg2, 9);
                CHECK_EQ(out.mem.base, base);
                CHECK_EQ(out.mem.index, index);
                CHECK_EQ(out.mem.scale, scale);
                CHECK_EQ(out.mem.seg, seg);
                CHECK_EQ(out.mem.addr_size, 2 << addr);
                CHECK_EQ(out.mem.disp, -8ull);
            }
}

TEST(vmread_of_a_register_and_of_memory)
{
    struct insn_info out;
    insn_info_decode(INFO_VMCS_FIELD, info(0, 11, 2, true, 0, -1, -1, 7), 0, &out);
    CHECK(out.is_reg);
    CHECK_EQ(out.reg1, 11);
    CHECK_EQ(out.reg2, 7);
    insn_info_decode(INFO_VMCS_FIELD, info(1, 11, 2, false, 2, 3, 4, 7), 0x20, &out);
    CHECK(!out.is_reg);
    CHECK_EQ(out.reg1, 0);
    CHECK_EQ(out.reg2, 7);
    CHECK_EQ(out.mem.base, GPR_RSP);
    CHECK_EQ(out.mem.index, GPR_RBX);
    CHECK_EQ(out.mem.seg, SEG_SS);
}

TEST(other_formats)
{
    struct insn_info out;
    insn_info_decode(INFO_REGION, info(0, 15, 2, true, 3, -1, 0, 15), 0, &out);
    CHECK(!out.is_reg); // bit 10 does not count: these have no register form
    CHECK_EQ(out.reg2, 0);
    CHECK_EQ(out.mem.base, GPR_RAX);

    insn_info_decode(INFO_DESCRIPTOR_TABLE, info(0, 0, 1, false, 3, -1, 0, 3) | 1 << 11, 4, &out);
    CHECK_EQ(out.identity, 3);
    CHECK_EQ(out.operand_size, 4);
    insn_info_decode(INFO_DESCRIPTOR_TABLE, info(0, 0, 1, false, 3, -1, 0, 14), 4, &out);
    CHECK_EQ(out.identity, 2);
    CHECK_EQ(out.operand_size, 2);

    insn_info_decode(INFO_SELECTOR, info(0, 5, 1, true, 3, -1, 0, 1), 4, &out);
    CHECK(out.is_reg);
    CHECK_EQ(out.reg1, GPR_RBP);
    CHECK_EQ(out.identity, 1);

    for (unsigned size = 0; size < 3; size++) {
        insn_info_decode(INFO_RANDOM, 12 << 3 | size << 11, 0, &out);
        CHECK(out.is_reg);
        CHECK_EQ(out.reg1, GPR_R12);
        CHECK_EQ(out.operand_size, 2 << size);
    }

    insn_info_decode(INFO_INS, 1 << 7 | 5 << 15, 0x99, &out);
    CHECK_EQ(out.mem.base, GPR_RDI);
    CHECK_EQ(out.mem.seg, SEG_ES);
    CHECK_EQ(out.mem.addr_size, 4);
    CHECK_EQ(out.mem.disp, 0);
    insn_info_decode(INFO_OUTS, 2 << 7 | 5 << 15, 0x99, &out);
    CHECK_EQ(out.mem.base, GPR_RSI);
    CHECK_EQ(out.mem.seg, SEG_GS);
    CHECK_EQ(out.mem.addr_size, 8);
}

TEST(undefined_codes_stay_in_range)
{
    struct insn_info out;
    setup(MODE_32);
    for (u32 i = 0; i < 1u << 16; i++) {
        u32 field = i * 0x9e3779b1u;
        for (unsigned format = INFO_INS; format <= INFO_VMCS_FIELD; format++) {
            insn_info_decode(format, field, 0, &out);
            CHECK(out.is_reg || out.mem.seg < SEG_COUNT);
            CHECK(out.is_reg || out.mem.addr_size == 2 || out.mem.addr_size == 4 ||
                  out.mem.addr_size == 8);
            CHECK(out.mem.base < GPR_COUNT && out.mem.index < GPR_COUNT);
            CHECK(out.reg1 < GPR_COUNT && out.reg2 < GPR_COUNT);
        }
    }
}

TEST(from_the_field_to_the_address)
{
    struct insn_info out;
    setup(MODE_64);
    t.gpr[GPR_R13] = 0x1000;
    t.gpr[GPR_RCX] = 0x20;
    insn_info_decode(INFO_REGION, info(3, 0, 2, false, SEG_DS, GPR_RCX, GPR_R13, 0), -8ull, &out);
    CHECK(linear_address(&t.ctx, &out.mem, 8, MEM_READ, &t.linear, &t.fault));
    CHECK_EQ(t.linear, 0x1000 + 0x100 - 8);
    // Relative to RIP: no base, and the qualification has the whole address.
    insn_info_decode(INFO_REGION, info(0, 0, 2, false, SEG_DS, -1, -1, 0), 0xffffffff81000000,
                     &out);
    CHECK(linear_address(&t.ctx, &out.mem, 8, MEM_READ, &t.linear, &t.fault));
    CHECK_EQ(t.linear, 0xffffffff81000000);
    // Bits of the qualification beyond the address size are undefined.
    insn_info_decode(INFO_REGION, info(0, 0, 1, false, SEG_DS, -1, -1, 0), 0xdead000000001234,
                     &out);
    CHECK(linear_address(&t.ctx, &out.mem, 8, MEM_READ, &t.linear, &t.fault));
    CHECK_EQ(t.linear, 0x1234);
}
