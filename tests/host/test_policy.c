#include "tests/host/test.h"

#include "libc/bits.h"
#include "libc/x86.h"
#include "vmx/nested/policy.h"

static const struct exit_bitmaps no_maps;

static void set_control(struct vmcs12 *v, unsigned c, bool on)
{
    static const u8 field[WORD_COUNT] = {VF_PIN_CTRL,  VF_PROC_CTRL,  VF_PROC2_CTRL, VF_PROC3_CTRL,
                                         VF_EXIT_CTRL, VF_EXIT2_CTRL, VF_ENTRY_CTRL};
    u64 *word = &v->f[field[control_word(c)]];
    *word = on ? *word | control_bit(c) : *word & ~control_bit(c);
}

static void set_all(struct vmcs12 *v, bool on)
{
    memset(v, 0, sizeof(*v));
    for (unsigned c = 0; c < CI_COUNT; c++)
        set_control(v, c, on);
    set_control(v, CI_SECONDARY, true);
    set_control(v, CI_TERTIARY, true);
    set_control(v, CI_EXIT_SECONDARY, true);
}

static enum exit_owner owner(const struct vmcs12 *v, u32 reason)
{
    struct exit_event x = {.reason = reason};
    return exit_owner(v, &x, &no_maps);
}

// The reasons whose owner is the same whatever L1 asked for.
TEST(fixed_owners)
{
    static const u8 to_l1[] = {2,  9,  10, 11, 13, 17, 18, 19, 20, 21,
                               22, 24, 26, 27, 33, 37, 50, 53, 55};
    static const u8 to_l0[] = {1, 3, 4, 5, 6, 34, 35, 38, 41, 42, 62, 66, 71, 74, 75};
    static const u8 emulate[] = {48, 49, 52, 59, 60, 65, 67, 68, 69, 70, 72, 73, 76, 77};
    for (unsigned on = 0; on < 2; on++) {
        struct vmcs12 v;
        set_all(&v, on);
        for (unsigned i = 0; i < ARRAY_SIZE(to_l1); i++)
            CHECK_EQ(owner(&v, to_l1[i]), EXIT_TO_L1);
        for (unsigned i = 0; i < ARRAY_SIZE(to_l0); i++)
            CHECK_EQ(owner(&v, to_l0[i]), EXIT_TO_L0);
        for (unsigned i = 0; i < ARRAY_SIZE(emulate); i++)
            CHECK_EQ(owner(&v, emulate[i]), EXIT_EMULATE);
        CHECK_EQ(owner(&v, 33 | 1u << 31), EXIT_TO_L1);
        CHECK_EQ(owner(&v, 34 | 1u << 31), EXIT_TO_L0);
        CHECK_EQ(owner(&v, 41 | 1u << 31), EXIT_TO_L0);
        CHECK_EQ(owner(&v, 78), EXIT_TO_L0);
        CHECK_EQ(owner(&v, 0xffff), EXIT_TO_L0);
    }
    for (u32 reason = 0; reason < 128; reason++) {
        CHECK_EQ(exit_is_always(reason, EXIT_TO_L1),
                 memchr(to_l1, (int)reason, sizeof(to_l1)) != NULL);
        CHECK_EQ(exit_is_always(reason, EXIT_EMULATE),
                 reason < 64 && memchr(emulate, (int)reason, sizeof(emulate)) != NULL);
        CHECK(!exit_is_always(reason | 1u << 31, EXIT_TO_L1));
        CHECK(!exit_is_always(reason | 1u << 31, EXIT_EMULATE));
    }
}

// The reasons that one control gives to L1 (two: either does).
static const struct {
    u8 reason;
    short control, other;
} by_control[] = {
    {7, CI_INTR_WINDOW, -1},
    {8, CI_NMI_WINDOW, -1},
    {12, CI_HLT_EXITING, -1},
    {14, CI_INVLPG_EXITING, -1},
    {15, CI_RDPMC_EXITING, -1},
    {16, CI_RDTSC_EXITING, -1},
    {29, CI_MOV_DR_EXITING, -1},
    {36, CI_MWAIT_EXITING, -1},
    {39, CI_MONITOR_EXITING, -1},
    {40, CI_PAUSE_EXITING, CI_PAUSE_LOOP_EXITING},
    {43, CI_TPR_SHADOW, -1},
    {44, CI_VIRTUALIZE_APIC, -1},
    {45, CI_VIRTUAL_INTR_DELIVERY, -1},
    {46, CI_DESC_TABLE_EXITING, -1},
    {47, CI_DESC_TABLE_EXITING, -1},
    {51, CI_RDTSC_EXITING, -1},
    {54, CI_WBINVD_EXITING, -1},
    {56, CI_APIC_REGISTERS, CI_VIRTUAL_INTR_DELIVERY},
    {57, CI_RDRAND_EXITING, -1},
    {58, CI_INVLPG_EXITING, -1},
    {61, CI_RDSEED_EXITING, -1},
};

TEST(reasons_by_controls)
{
    for (unsigned i = 0; i < ARRAY_SIZE(by_control); i++) {
        unsigned reason = by_control[i].reason;
        struct vmcs12 v;
        for (int c = 0; c < CI_COUNT; c++) { // only this one on
            bool counts = c == by_control[i].control || c == by_control[i].other;
            set_all(&v, false);
            set_control(&v, (unsigned)c, true);
            CHECK_EQ(owner(&v, reason), counts ? EXIT_TO_L1 : EXIT_EMULATE);
        }
        for (int c = 0; c < CI_COUNT; c++) { // all on but this one (and its alternative)
            bool counts = c == by_control[i].control;
            set_all(&v, true);
            if (by_control[i].other >= 0)
                set_control(&v, (unsigned)by_control[i].other, false);
            if (c != CI_SECONDARY)
                set_control(&v, (unsigned)c, false);
            CHECK_EQ(owner(&v, reason), counts ? EXIT_EMULATE : EXIT_TO_L1);
        }
        // A secondary control counts only while the secondary controls are active.
        set_all(&v, false);
        set_control(&v, (unsigned)by_control[i].control, true);
        set_control(&v, CI_SECONDARY, false);
        bool secondary = control_word((unsigned)by_control[i].control) == WORD_PROC2;
        CHECK_EQ(owner(&v, reason), secondary ? EXIT_EMULATE : EXIT_TO_L1);
    }
}

TEST(every_reason_is_tested_here)
{
    static const u8 others[] = {0, 23, 25, 28, 30, 31, 32, 63, 64};
    static const u8 fixed[] = {2,  9,  10, 11, 13, 17, 18, 19, 20, 21, 22, 24, 26, 27, 33, 37,
                               50, 53, 55, 1,  3,  4,  5,  6,  34, 35, 38, 41, 42, 62, 66, 71,
                               74, 75, 48, 49, 52, 59, 60, 65, 67, 68, 69, 70, 72, 73, 76, 77};
    bool seen[78] = {0};
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
        seen[others[i]] = true;
    for (unsigned i = 0; i < ARRAY_SIZE(fixed); i++)
        seen[fixed[i]] = true;
    for (unsigned i = 0; i < ARRAY_SIZE(by_control); i++)
        seen[by_control[i].reason] = true;
    for (unsigned i = 0; i < 78; i++)
        CHECK(seen[i]);
}

static enum exit_owner exception(const struct vmcs12 *v, unsigned type, unsigned vector, u32 error)
{
    struct exit_event x = {.intr_info = 1u << 31 | type << 8 | vector, .intr_error = error};
    return exit_owner(v, &x, &no_maps);
}

TEST(exceptions)
{
    struct vmcs12 v;
    set_all(&v, true);
    for (unsigned bit = 0; bit < 32; bit++)
        for (unsigned vector = 0; vector < 32; vector++) {
            v12_set(&v, F(EXCEPTION_BITMAP), BIT(bit));
            enum exit_owner want = bit == vector ? EXIT_TO_L1 : EXIT_EMULATE;
            if (vector == VEC_MC)
                want = EXIT_TO_L0;
            if (vector != VEC_PF)
                CHECK_EQ(exception(&v, vector == 3 || vector == 4 ? 6 : 3, vector, 0), want);
        }
    v12_set(&v, F(EXCEPTION_BITMAP), 0xffffffff);
    CHECK_EQ(exception(&v, 2, 2, 0), EXIT_TO_L0); // NMI
    CHECK_EQ(exception(&v, 5, 1, 0), EXIT_TO_L1); // INT1
}

TEST(page_faults)
{
    struct vmcs12 v;
    set_all(&v, false);
    for (unsigned in_bitmap = 0; in_bitmap < 2; in_bitmap++)
        for (u32 mask = 0; mask < 32; mask++)
            for (u32 match = 0; match < 32; match++)
                for (u32 error = 0; error < 32; error++) {
                    v12_set(&v, F(EXCEPTION_BITMAP), in_bitmap << VEC_PF);
                    v12_set(&v, F(PF_ERROR_MASK), mask);
                    v12_set(&v, F(PF_ERROR_MATCH), match);
                    bool exits = (error & mask) == match ? in_bitmap : !in_bitmap;
                    CHECK_EQ(exception(&v, 3, VEC_PF, error), exits ? EXIT_TO_L1 : EXIT_EMULATE);
                }
}

enum { MOV_TO, MOV_FROM, CLTS, LMSW };

static bool cr_exits(const struct vmcs12 *v, unsigned type, unsigned cr, u64 value)
{
    struct exit_event x = {.reason = 28, .qualification = cr | type << 4, .value = value};
    if (type == LMSW)
        x.qualification |= value << 16;
    enum exit_owner o = exit_owner(v, &x, &no_maps);
    CHECK(o != EXIT_TO_L0);
    return o == EXIT_TO_L1;
}

TEST(mov_to_cr0_and_cr4)
{
    struct vmcs12 v;
    set_all(&v, false);
    for (unsigned mask = 0; mask < 64; mask++)
        for (unsigned shadow = 0; shadow < 64; shadow++)
            for (unsigned value = 0; value < 64; value++) {
                bool want = false;
                for (unsigned i = 0; i < 6; i++)
                    want |= (mask >> i & 1) && (value >> i & 1) != (shadow >> i & 1);
                v12_set(&v, F(CR0_MASK), (u64)mask << 26);
                v12_set(&v, F(CR0_SHADOW), (u64)shadow << 26);
                v12_set(&v, F(CR4_MASK), mask);
                v12_set(&v, F(CR4_SHADOW), shadow);
                CHECK_EQ(cr_exits(&v, MOV_TO, 0, (u64)value << 26), want);
                CHECK_EQ(cr_exits(&v, MOV_TO, 4, value), want);
            }
    CHECK(!cr_exits(&v, MOV_FROM, 0, 0) && !cr_exits(&v, MOV_FROM, 4, 0));
    CHECK(!cr_exits(&v, MOV_TO, 2, ~0ull)); // never exits
}

TEST(lmsw_and_clts)
{
    struct vmcs12 v;
    set_all(&v, false);
    for (unsigned mask = 0; mask < 32; mask++)
        for (unsigned shadow = 0; shadow < 32; shadow++) {
            v12_set(&v, F(CR0_MASK), mask);
            v12_set(&v, F(CR0_SHADOW), shadow);
            CHECK_EQ(cr_exits(&v, CLTS, 0, 0), mask & 8 && shadow & 8);
            for (unsigned source = 0; source < 32; source++) {
                bool want = mask & 1 && source & 1 && !(shadow & 1); // PE is only ever set
                for (unsigned i = 1; i < 4; i++)                     // MP, EM, TS
                    want |= (mask >> i & 1) && (source >> i & 1) != (shadow >> i & 1);
                CHECK_EQ(cr_exits(&v, LMSW, 0, source), want);
            }
        }
}

TEST(cr3_and_cr8)
{
    struct vmcs12 v;
    set_all(&v, false);
    CHECK(!cr_exits(&v, MOV_TO, 3, 5) && !cr_exits(&v, MOV_FROM, 3, 0));
    CHECK(!cr_exits(&v, MOV_TO, 8, 5) && !cr_exits(&v, MOV_FROM, 8, 0));
    set_control(&v, CI_CR3_STORE_EXITING, true);
    set_control(&v, CI_CR8_LOAD_EXITING, true);
    CHECK(cr_exits(&v, MOV_FROM, 3, 0) && !cr_exits(&v, MOV_TO, 3, 5));
    CHECK(cr_exits(&v, MOV_TO, 8, 0) && !cr_exits(&v, MOV_FROM, 8, 0));
    set_control(&v, CI_CR8_STORE_EXITING, true);
    set_control(&v, CI_CR3_LOAD_EXITING, true);
    CHECK(cr_exits(&v, MOV_FROM, 8, 0));
    for (unsigned i = 0; i < 4; i++)
        v12_set(&v, field_at(VF_CR3_TARGET_0 + i), 0x1000 * (i + 1));
    for (unsigned count = 0; count <= 4; count++) {
        v12_set(&v, F(CR3_TARGET_COUNT), count);
        for (unsigned i = 0; i < 6; i++)
            CHECK_EQ(cr_exits(&v, MOV_TO, 3, 0x1000 * (i + 1)), i >= count);
    }
    v12_set(&v, F(CR3_TARGET_COUNT), ~0u); // hostile: still four values
    CHECK(cr_exits(&v, MOV_TO, 3, 0x9999));
}

static u64 seed = 1;

static u64 next(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

TEST(io_bitmaps)
{
    static u8 maps[2][4096];
    struct exit_bitmaps m = {.io_a = maps[0], .io_b = maps[1]};
    struct vmcs12 v;
    set_all(&v, false);
    for (unsigned i = 0; i < 400; i++) {
        u64 port = next() & 0xffff;
        maps[port >> 15][(port & 0x7fff) / 8] |= (u8)(1u << port % 8);
    }
    maps[0][4095] = 0; // the border: 0x7ff8 to 0x7fff let through, 0x8000 not
    maps[1][0] = 1;
    for (unsigned bitmaps = 0; bitmaps < 2; bitmaps++)
        for (unsigned uncond = 0; uncond < 2; uncond++) {
            set_control(&v, CI_IO_BITMAPS, bitmaps);
            set_control(&v, CI_IO_EXITING, uncond);
            for (u64 port = 0; port < 0x10000; port++)
                for (unsigned size = 1; size <= 4; size *= 2) {
                    bool want = uncond;
                    if (bitmaps) {
                        want = port + size > 0x10000;
                        for (u64 p = port; p < port + size && p < 0x10000; p++)
                            want |= maps[p >= 0x8000][p % 0x8000 / 8] >> p % 8 & 1;
                    }
                    struct exit_event x = {.reason = 30, .qualification = port << 16 | (size - 1)};
                    CHECK_EQ(exit_owner(&v, &x, &m), want ? EXIT_TO_L1 : EXIT_EMULATE);
                }
        }
    set_control(&v, CI_IO_BITMAPS, true);
    struct exit_event x = {.reason = 30, .qualification = 0x5555ull << 16};
    CHECK_EQ(exit_owner(&v, &x, &no_maps), EXIT_TO_L1); // a bitmap that is not there
}

TEST(msr_bitmaps)
{
    static u8 page[4096];
    struct exit_bitmaps m = {.msr = page};
    struct vmcs12 v;
    set_all(&v, false);
    for (unsigned i = 0; i < 4096; i++)
        page[i] = (u8)next();
    static const u32 from[] = {0, 0x1ff0, 0xbffffff0, 0xc0000000, 0xc0001ff0, 0xfffffff0};
    set_control(&v, CI_MSR_BITMAPS, true);
    for (unsigned i = 0; i < ARRAY_SIZE(from); i++)
        for (unsigned k = 0; k < 0x2020 && from[i] + (u64)k <= 0xffffffff; k++)
            for (unsigned write = 0; write < 2; write++) {
                u32 msr = from[i] + k;
                bool want = true;
                if (msr <= 0x1fff)
                    want = page[write * 2048 + msr / 8] >> msr % 8 & 1;
                else if (msr >= 0xc0000000 && msr <= 0xc0001fff)
                    want = page[write * 2048 + 1024 + (msr & 0x1fff) / 8] >> msr % 8 & 1;
                struct exit_event x = {.reason = 31 + write, .rcx = msr};
                CHECK_EQ(exit_owner(&v, &x, &m), want ? EXIT_TO_L1 : EXIT_EMULATE);
                CHECK_EQ(exit_owner(&v, &x, &no_maps), EXIT_TO_L1);
            }
    set_control(&v, CI_MSR_BITMAPS, false);
    struct exit_event x = {.reason = 31};
    memset(page, 0, sizeof(page));
    CHECK_EQ(exit_owner(&v, &x, &m), EXIT_TO_L1);
}

TEST(vmread_and_vmwrite)
{
    static u8 read[4096], write[4096];
    struct exit_bitmaps m = {.vmread = read, .vmwrite = write};
    struct vmcs12 v;
    for (unsigned i = 0; i < 4096; i++) {
        read[i] = (u8)next();
        write[i] = (u8)next();
    }
    for (unsigned shadowing = 0; shadowing < 2; shadowing++) {
        set_all(&v, false);
        set_control(&v, CI_VMCS_SHADOWING, shadowing);
        for (u64 enc = 0; enc < 0x8000; enc++) {
            struct exit_event r = {.reason = 23, .value = enc}, w = {.reason = 25, .value = enc};
            bool r_want = !shadowing || read[enc / 8] >> enc % 8 & 1;
            bool w_want = !shadowing || write[enc / 8] >> enc % 8 & 1;
            CHECK_EQ(exit_owner(&v, &r, &m), r_want ? EXIT_TO_L1 : EXIT_EMULATE);
            CHECK_EQ(exit_owner(&v, &w, &m), w_want ? EXIT_TO_L1 : EXIT_EMULATE);
            CHECK_EQ(exit_owner(&v, &r, &no_maps), EXIT_TO_L1);
            for (unsigned bit = 15; bit < 64; bit += 7) {
                r.value = w.value = enc | BIT(bit);
                CHECK_EQ(exit_owner(&v, &r, &m), EXIT_TO_L1);
                CHECK_EQ(exit_owner(&v, &w, &m), EXIT_TO_L1);
            }
        }
    }
}

TEST(xsaves_and_xrstors)
{
    struct vmcs12 v;
    set_all(&v, false);
    v12_set(&v, F(XSS_EXITING_BITMAP), 0x100);
    for (u32 reason = 63; reason <= 64; reason++) {
        struct exit_event x = {.reason = reason, .value = 0x900};
        CHECK_EQ(exit_owner(&v, &x, &no_maps), EXIT_TO_L1);
        x.value = 0x800;
        CHECK_EQ(exit_owner(&v, &x, &no_maps), EXIT_EMULATE);
    }
}
