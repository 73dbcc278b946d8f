#include "tests/host/test.h"

#include "tests/host/model_apics.h"

static struct vlapic *const l = &lapics[0];

static u32 rd(unsigned reg)
{
    return (u32)vlapic_mmio_read(l, reg, 4);
}

static void wr(unsigned reg, u32 value)
{
    vlapic_mmio_write(l, reg, 4, value);
}

static u32 msr_of(unsigned reg)
{
    return VLAPIC_MSR_X2APIC + reg / 16;
}

static u64 rdx(unsigned reg)
{
    u64 value = 0xbad;
    CHECK(vlapic_read_msr(l, msr_of(reg), &value));
    return value;
}

static bool wrx(unsigned reg, u64 value)
{
    return vlapic_write_msr(l, msr_of(reg), value);
}

static void run(u64 until)
{
    world_run(&lapic_timers[0], until);
}

// Takes the pending vector as a processor does, -1 if there is none.
static int take(void)
{
    int vector = vlapic_pending_vector(l);
    if (vector >= 0)
        vlapic_ack(l, (u8)vector);
    return vector;
}

static bool post(u8 vector)
{
    return vlapic_post(l, &(struct vapic_msg){.mode = VAPIC_FIXED, .vector = vector});
}

// --- Registers ---

TEST(power_up_state)
{
    apics_setup(2, false);
    vlapic_reset(l);
    CHECK_EQ(l->base, 0xfee00900);
    CHECK_EQ(lapics[1].base, 0xfee00800);
    CHECK_EQ(rd(VLAPIC_VERSION), 0x00050014);
    CHECK_EQ(rd(VLAPIC_SVR), 0xff);
    CHECK_EQ(rd(VLAPIC_DFR), 0xffffffff);
    CHECK_EQ(rd(VLAPIC_LVT_LINT0), 0x10000);
    CHECK_EQ(rd(VLAPIC_LVT_ERROR), 0x10000);
    CHECK_EQ(vlapic_mmio_read(&lapics[1], VLAPIC_ID, 4), 1u << 24);
    CHECK(!vlapic_wants_attention(l));
}

TEST(xapic_access_sizes)
{
    apics_setup(1, false);
    wr(VLAPIC_TPR, 0x1234);
    CHECK_EQ(rd(VLAPIC_TPR), 0x34);
    CHECK_EQ(vlapic_mmio_read(l, VLAPIC_VERSION + 2, 1), 5);
    CHECK_EQ(vlapic_mmio_read(l, VLAPIC_VERSION, 2), 0x14);
    CHECK_EQ(vlapic_mmio_read(l, VLAPIC_VERSION, 8), 0);
    CHECK_EQ(vlapic_mmio_read(l, VLAPIC_VERSION + 3, 2), 0);
    vlapic_mmio_write(l, VLAPIC_TPR, 1, 0x55);
    vlapic_mmio_write(l, VLAPIC_TPR + 4, 4, 0x55);
    vlapic_mmio_write(l, VLAPIC_TPR, 8, 0x55);
    CHECK_EQ(rd(VLAPIC_TPR), 0x34);
    for (unsigned offset = 0; offset < 4096; offset++)
        for (unsigned size = 1; size <= 8; size *= 2)
            vlapic_mmio_read(l, offset, size);
}

TEST(illegal_register_sets_esr)
{
    apics_setup(1, false);
    wr(VLAPIC_LVT_ERROR, 0x40);
    rd(0x10);
    CHECK_EQ(rd(VLAPIC_ESR), 0); // latched by a write only
    wr(VLAPIC_ESR, 0);
    CHECK_EQ(rd(VLAPIC_ESR), 0x80);
    CHECK_EQ(take(), 0x40);
    wr(VLAPIC_ESR, 0);
    CHECK_EQ(rd(VLAPIC_ESR), 0);
    wr(VLAPIC_VERSION, 0); // read-only, but there
    wr(VLAPIC_ESR, 0);
    CHECK_EQ(rd(VLAPIC_ESR), 0);
    rd(0xff0);
    wr(VLAPIC_ESR, 0);
    CHECK_EQ(rd(VLAPIC_ESR), 0x80);
}

TEST(x2apic_msrs_need_x2apic_mode)
{
    u64 v;
    apics_setup(1, false);
    CHECK(!vlapic_read_msr(l, 0x802, &v));
    CHECK(!vlapic_write_msr(l, 0x808, 0));
    apics_setup(1, true);
    CHECK(vlapic_read_msr(l, 0x802, &v));
    CHECK(!vlapic_read_msr(l, 0x7ff, &v));
    CHECK(!vlapic_read_msr(l, 0x900, &v));
}

TEST(x2apic_register_set)
{
    // Which of 800H..8FFH can be read and written (with 0), by the table in the SDM.
    static const u16 readable[] = {0x802, 0x803, 0x808, 0x80a, 0x80d, 0x80f, 0x828, 0x830, 0x832,
                                   0x833, 0x834, 0x835, 0x836, 0x837, 0x838, 0x839, 0x83e};
    static const u16 writable[] = {0x808, 0x80b, 0x80f, 0x828, 0x830, 0x832, 0x833,
                                   0x834, 0x835, 0x836, 0x837, 0x838, 0x83e, 0x83f};
    for (u32 msr = 0x800; msr < 0x900; msr++) {
        bool r = msr >= 0x810 && msr <= 0x827, w = false;
        u64 v;
        for (unsigned i = 0; i < ARRAY_SIZE(readable); i++)
            r |= readable[i] == msr;
        for (unsigned i = 0; i < ARRAY_SIZE(writable); i++)
            w |= writable[i] == msr;
        apics_setup(1, true);
        if (vlapic_read_msr(l, msr, &v) != r || vlapic_write_msr(l, msr, 0) != w)
            printf("msr %x\n", msr);
        CHECK_EQ(vlapic_read_msr(l, msr, &v), r);
        CHECK_EQ(vlapic_write_msr(l, msr, 0), w);
        CHECK(!vlapic_write_msr(l, msr, 1ull << 32) || msr == 0x830);
    }
}

TEST(x2apic_reserved_bits)
{
    apics_setup(1, true);
    CHECK(!wrx(VLAPIC_EOI, 1));
    CHECK(!wrx(VLAPIC_ESR, 1));
    CHECK(!wrx(VLAPIC_TPR, 0x100));
    CHECK(wrx(VLAPIC_TPR, 0xff));
    CHECK(!wrx(VLAPIC_SVR, 0x1000)); // EOI-broadcast suppression is not offered
    CHECK(!wrx(VLAPIC_LVT_TIMER, 0x100));
    CHECK(wrx(VLAPIC_LVT_TIMER, 0x10020 | 0x1000)); // delivery status is read-only, not reserved
    CHECK_EQ(rdx(VLAPIC_LVT_TIMER), 0x10020);
    CHECK(!wrx(VLAPIC_LVT_LINT0, 0x20000));
    CHECK(!wrx(VLAPIC_LVT_ERROR, 0x400));
    CHECK(!wrx(VLAPIC_TIMER_DIVIDE, 4));
    CHECK(!wrx(VLAPIC_SELF_IPI, 0x100));
    CHECK(!wrx(VLAPIC_ICR, BIT(13)));
    CHECK(!wrx(VLAPIC_ICR, BIT(16)));
    CHECK(!wrx(VLAPIC_ICR, BIT(20)));
    CHECK(wrx(VLAPIC_ICR, 0x0000000200004530)); // nobody there
    CHECK_EQ(rdx(VLAPIC_ICR), 0x0000000200004530);
}

TEST(x2apic_identity)
{
    apics_setup(4, true);
    u64 v;
    CHECK(vlapic_read_msr(&lapics[3], 0x802, &v));
    CHECK_EQ(v, 3);
    CHECK(vlapic_read_msr(&lapics[3], 0x80d, &v));
    CHECK_EQ(v, 8);
    post(0x50);
    CHECK_EQ(rdx(VLAPIC_IRR + 0x20), 1u << 16); // what was posted shows
}

TEST(apic_base_transitions)
{
    u64 base = 0xfee00000 | VLAPIC_BASE_BSP, en = BIT(11), ext = BIT(10);
    static const bool legal[3][4] = {
        // to: disabled, xAPIC, x2APIC, EXTD alone
        {true, true, false, false}, // from disabled
        {true, true, true, false},  // from xAPIC
        {true, false, true, false}, // from x2APIC
    };
    u64 to[4] = {base, base | en, base | en | ext, base | ext};
    for (unsigned from = 0; from < 3; from++)
        for (unsigned i = 0; i < 4; i++) {
            apics_setup(1, from == 2);
            if (from == 0)
                CHECK(vlapic_write_msr(l, VLAPIC_MSR_BASE, base));
            CHECK_EQ(vlapic_write_msr(l, VLAPIC_MSR_BASE, to[i]), legal[from][i]);
            u64 v;
            CHECK(vlapic_read_msr(l, VLAPIC_MSR_BASE, &v));
            CHECK_EQ(v, legal[from][i] ? to[i] : to[from]);
        }
}

TEST(apic_base_reserved_bits)
{
    apics_setup(1, false);
    CHECK(!vlapic_write_msr(l, VLAPIC_MSR_BASE, l->base | 1));
    CHECK(!vlapic_write_msr(l, VLAPIC_MSR_BASE, l->base | BIT(9)));
    CHECK(!vlapic_write_msr(l, VLAPIC_MSR_BASE, l->base | BIT(40)));
    CHECK(vlapic_write_msr(l, VLAPIC_MSR_BASE, 0xff00000000 | BIT(11)));
    CHECK_EQ(vlapic_page_address(l).v, 0xff00000000);
    CHECK(l->base & VLAPIC_BASE_BSP);
    l->base_reserved |= VLAPIC_BASE_X2APIC; // a VM without x2APIC
    CHECK(!vlapic_write_msr(l, VLAPIC_MSR_BASE, l->base | BIT(10)));
}

TEST(switch_to_x2apic_keeps_registers_and_disable_resets)
{
    apics_setup(1, false);
    wr(VLAPIC_LDR, 0x08000000);
    wr(VLAPIC_ICR_HIGH, 0x05000000);
    wr(VLAPIC_LVT_PERF, 0x400);
    post(0x50);
    CHECK(vlapic_write_msr(l, VLAPIC_MSR_BASE, l->base | BIT(10)));
    CHECK_EQ(rdx(VLAPIC_LDR), 1);
    CHECK_EQ(rdx(VLAPIC_SVR), 0x1ff);
    CHECK_EQ(rdx(VLAPIC_LVT_PERF), 0x400);
    CHECK_EQ(rdx(VLAPIC_ICR), 0);
    CHECK_EQ(vlapic_pending_vector(l), 0x50);
    CHECK(vlapic_write_msr(l, VLAPIC_MSR_BASE, 0xfee00900 & ~BIT(11)));
    CHECK(!vlapic_enabled(l));
    CHECK_EQ(vlapic_pending_vector(l), -1);
    CHECK(!post(0x50));
    CHECK(vlapic_write_msr(l, VLAPIC_MSR_BASE, 0xfee00900));
    CHECK_EQ(rd(VLAPIC_SVR), 0xff);
    CHECK_EQ(rd(VLAPIC_ID), 0);
    CHECK_EQ(rd(VLAPIC_LDR), 0);
}

// --- Priority ---

TEST(fixed_interrupt_life)
{
    apics_setup(1, false);
    CHECK(post(0x51));
    CHECK_EQ(kicks[0], 1);
    CHECK(post(0x52));
    CHECK_EQ(kicks[0], 1); // it has not looked yet: one kick serves
    CHECK(vlapic_wants_attention(l));
    CHECK_EQ(vlapic_pending_vector(l), 0x52);
    CHECK_EQ(rd(VLAPIC_IRR + 0x20), 0x00060000);
    vlapic_ack(l, 0x52);
    CHECK_EQ(rd(VLAPIC_IRR + 0x20), 0x00020000);
    CHECK_EQ(rd(VLAPIC_ISR + 0x20), 0x00040000);
    CHECK_EQ(rd(VLAPIC_PPR), 0x50);
    CHECK_EQ(vlapic_pending_vector(l), -1); // same class
    CHECK(!vlapic_wants_attention(l));
    wr(VLAPIC_EOI, 0);
    CHECK_EQ(rd(VLAPIC_PPR), 0);
    CHECK_EQ(take(), 0x51);
    wr(VLAPIC_EOI, 0);
    CHECK_EQ(take(), -1);
    wr(VLAPIC_EOI, 0); // nothing in service
    CHECK_EQ(last_eoi, -1);
}

TEST(nested_interrupts)
{
    apics_setup(1, false);
    post(0x31);
    CHECK_EQ(take(), 0x31);
    post(0x3f);
    CHECK_EQ(take(), -1);
    post(0x40);
    CHECK_EQ(take(), 0x40);
    post(0xff);
    CHECK_EQ(take(), 0xff);
    CHECK_EQ(rd(VLAPIC_PPR), 0xf0);
    wr(VLAPIC_EOI, 0);
    CHECK_EQ(rd(VLAPIC_PPR), 0x40);
    wr(VLAPIC_EOI, 0);
    CHECK_EQ(rd(VLAPIC_PPR), 0x30);
    CHECK_EQ(take(), -1);
    wr(VLAPIC_EOI, 0);
    CHECK_EQ(take(), 0x3f);
}

TEST(task_priority)
{
    apics_setup(1, false);
    wr(VLAPIC_TPR, 0x5a);
    CHECK_EQ(rd(VLAPIC_PPR), 0x5a);
    post(0x5f);
    CHECK_EQ(vlapic_pending_vector(l), -1);
    post(0x60);
    CHECK_EQ(take(), 0x60);
    CHECK_EQ(rd(VLAPIC_PPR), 0x60);
    wr(VLAPIC_EOI, 0);
    vlapic_set_tpr(l, 0x40); // CR8 = 4
    CHECK_EQ(take(), 0x5f);
    CHECK_EQ(vlapic_tpr(l), 0x40);
    CHECK_EQ(rd(VLAPIC_PPR), 0x50);
}

TEST(random_priorities_agree_with_the_definition)
{
    apics_setup(1, false);
    bool irr[256] = {0}, isr[256] = {0};
    u32 seed = 7;
    unsigned tpr = 0;
    for (unsigned step = 0; step < 100000; step++) {
        seed = seed * 1664525 + 1013904223;
        unsigned arg = seed >> 16 & 0xff;
        switch (seed >> 28) {
        case 0 ... 5:
            if (arg < 16)
                break;
            post((u8)arg);
            irr[arg] = true;
            break;
        case 6:
            vlapic_set_tpr(l, (u8)arg);
            tpr = arg;
            break;
        case 7 ... 10: {
            int v = vlapic_pending_vector(l);
            if (v < 0)
                break;
            vlapic_ack(l, (u8)v);
            irr[v] = false;
            isr[v] = true;
            break;
        }
        default:
            wr(VLAPIC_EOI, 0);
            for (int v = 255; v >= 0; v--)
                if (isr[v]) {
                    isr[v] = false;
                    break;
                }
        }
        int top_irr = -1, top_isr = -1;
        for (int v = 0; v < 256; v++) {
            top_irr = irr[v] ? v : top_irr;
            top_isr = isr[v] ? v : top_isr;
        }
        unsigned isrv = top_isr < 0 ? 0 : (unsigned)top_isr & 0xf0;
        unsigned ppr = (tpr & 0xf0) >= isrv ? tpr : isrv;
        int want = top_irr >= 0 && (unsigned)top_irr >> 4 > ppr >> 4 ? top_irr : -1;
        CHECK_EQ(vlapic_pending_vector(l), want);
        CHECK_EQ(rd(VLAPIC_PPR), ppr);
    }
}

TEST(page_changed_by_the_processor)
{
    apics_setup(1, false);
    l->regs[(VLAPIC_IRR + 0x30) / 4] = 1u << 4; // 0x64
    l->regs[(VLAPIC_ISR + 0x10) / 4] = 1u << 1; // 0x21
    vlapic_page_changed(l);
    CHECK_EQ(rd(VLAPIC_PPR), 0x20);
    CHECK_EQ(take(), 0x64);
    wr(VLAPIC_EOI, 0);
    wr(VLAPIC_EOI, 0);
    CHECK_EQ(rd(VLAPIC_PPR), 0);
}

TEST(level_triggered_eoi_is_broadcast)
{
    apics_setup(1, false);
    struct vapic_msg msg = {.mode = VAPIC_FIXED, .vector = 0x61, .level = true};
    CHECK(vlapic_post(l, &msg));
    CHECK_EQ(take(), 0x61);
    CHECK_EQ(rd(VLAPIC_TMR + 0x30), 2);
    CHECK(vlapic_eoi_is_level(l));
    wr(VLAPIC_EOI, 0);
    CHECK_EQ(last_eoi, 0x61);
    last_eoi = -1;
    post(0x61); // edge now
    CHECK_EQ(take(), 0x61);
    CHECK_EQ(rd(VLAPIC_TMR + 0x30), 0);
    CHECK(!vlapic_eoi_is_level(l));
    wr(VLAPIC_EOI, 0);
    CHECK_EQ(last_eoi, -1);
}

TEST(illegal_vectors)
{
    apics_setup(1, false);
    wr(VLAPIC_LVT_ERROR, 0x45);
    post(0x0f);
    CHECK_EQ(take(), 0x45);
    wr(VLAPIC_ESR, 0);
    CHECK_EQ(rd(VLAPIC_ESR), 0x40);
    wr(VLAPIC_EOI, 0);
    wr(VLAPIC_ICR_HIGH, 0);
    wr(VLAPIC_ICR, 0x4003);
    CHECK_EQ(take(), 0x45);
    wr(VLAPIC_ESR, 0);
    CHECK_EQ(rd(VLAPIC_ESR), 0x20);
    wr(VLAPIC_EOI, 0);
    wr(VLAPIC_LVT_ERROR, 0x05); // the error interrupt's own vector is illegal
    post(0x01);
    CHECK_EQ(take(), -1);
    wr(VLAPIC_ESR, 0);
    CHECK_EQ(rd(VLAPIC_ESR), 0x40);
}

TEST(software_disable)
{
    apics_setup(1, false);
    post(0x70);
    wr(VLAPIC_LVT_LINT0, 0x700);
    wr(VLAPIC_LVT_ERROR, 0x32);
    wr(VLAPIC_LVT_TIMER, 0x31);
    wr(VLAPIC_TIMER_INITIAL, 1000);
    wr(VLAPIC_SVR, 0xff);
    CHECK_EQ(rd(VLAPIC_LVT_LINT0), 0x10700);
    wr(VLAPIC_LVT_LINT0, 0x700);
    CHECK_EQ(rd(VLAPIC_LVT_LINT0), 0x10700); // stays masked
    CHECK_EQ(rd(VLAPIC_LVT_TIMER), 0x10031);
    CHECK_EQ(rd(VLAPIC_LVT_ERROR), 0x10032);
    CHECK_EQ(timers_next(&lapic_timers[0]), TIMER_NEVER);
    CHECK(!post(0x80));
    CHECK_EQ(take(), 0x70); // what was accepted before stays
    CHECK(vlapic_post(l, &(struct vapic_msg){.mode = VAPIC_NMI}));
    CHECK_EQ(vlapic_events(l), VLAPIC_NMI);
}

// --- Timer ---

TEST(timer_one_shot)
{
    apics_setup(1, false);
    wr(VLAPIC_LVT_TIMER, 0x30);
    wr(VLAPIC_TIMER_DIVIDE, 0xb); // by 1
    world_now = 500;
    wr(VLAPIC_TIMER_INITIAL, 500);
    world_now = 1000;
    wr(VLAPIC_TIMER_INITIAL, 1000); // starts anew
    run(1000 + 400);
    CHECK_EQ(rd(VLAPIC_TIMER_CURRENT), 600);
    run(1000 + 999);
    CHECK_EQ(take(), -1);
    run(1000 + 1000);
    CHECK_EQ(take(), 0x30);
    wr(VLAPIC_EOI, 0);
    CHECK_EQ(last_eoi, -1);
    CHECK_EQ(rd(VLAPIC_TIMER_CURRENT), 0);
    CHECK_EQ(timers_next(&lapic_timers[0]), TIMER_NEVER);
    wr(VLAPIC_TIMER_INITIAL, 1000);
    wr(VLAPIC_TIMER_INITIAL, 0); // stops
    CHECK_EQ(timers_next(&lapic_timers[0]), TIMER_NEVER);
    CHECK_EQ(kicks[0], 0);
}

TEST(timer_periodic)
{
    apics_setup(1, false);
    wr(VLAPIC_LVT_TIMER, 0x20030);
    wr(VLAPIC_TIMER_DIVIDE, 0x3); // by 16
    wr(VLAPIC_TIMER_INITIAL, 100);
    for (unsigned i = 1; i <= 5; i++) {
        run(1000 + 1600 * i - 1);
        CHECK_EQ(take(), -1);
        run(1000 + 1600 * i);
        CHECK_EQ(take(), 0x30);
        wr(VLAPIC_EOI, 0);
    }
    CHECK_EQ(rd(VLAPIC_TIMER_CURRENT), 100);
    run(world_now + 160);
    CHECK_EQ(rd(VLAPIC_TIMER_CURRENT), 90);
    world_now += 1000 * S; // far behind: one interrupt, and the phase is kept
    timers_run(&lapic_timers[0], world_now);
    CHECK_EQ(take(), 0x30);
    CHECK(timers_next(&lapic_timers[0]) > world_now);
    CHECK_EQ((timers_next(&lapic_timers[0]) - 1000) % 1600, 0);
}

TEST(timer_divisors)
{
    static const u8 code[] = {0xb, 0, 1, 2, 3, 8, 9, 0xa};
    for (unsigned i = 0; i < 8; i++) {
        apics_setup(1, false);
        wr(VLAPIC_LVT_TIMER, 0x30);
        wr(VLAPIC_TIMER_DIVIDE, code[i]);
        wr(VLAPIC_TIMER_INITIAL, 10);
        CHECK_EQ(timers_next(&lapic_timers[0]), world_now + (10u << i));
    }
}

TEST(timer_divide_changed_while_counting)
{
    apics_setup(1, false);
    wr(VLAPIC_LVT_TIMER, 0x30);
    wr(VLAPIC_TIMER_DIVIDE, 0xb);
    wr(VLAPIC_TIMER_INITIAL, 1000);
    run(world_now + 500);
    wr(VLAPIC_TIMER_DIVIDE, 0);
    CHECK_EQ(rd(VLAPIC_TIMER_CURRENT), 500);
    CHECK_EQ(timers_next(&lapic_timers[0]), world_now + 1000);
}

TEST(timer_masked_counts_without_interrupt)
{
    apics_setup(1, false);
    wr(VLAPIC_LVT_TIMER, 0x30030); // periodic, masked
    wr(VLAPIC_TIMER_DIVIDE, 0xb);
    wr(VLAPIC_TIMER_INITIAL, 1000);
    CHECK_EQ(timers_next(&lapic_timers[0]), TIMER_NEVER);
    run(world_now + 2300);
    CHECK_EQ(rd(VLAPIC_TIMER_CURRENT), 700);
    wr(VLAPIC_LVT_TIMER, 0x20030);
    CHECK_EQ(timers_next(&lapic_timers[0]), world_now + 700);
    // A one-shot that ended while masked stays ended.
    apics_setup(1, false);
    wr(VLAPIC_LVT_TIMER, 0x10030);
    wr(VLAPIC_TIMER_INITIAL, 10);
    run(world_now + 10000);
    wr(VLAPIC_LVT_TIMER, 0x30);
    CHECK_EQ(timers_next(&lapic_timers[0]), TIMER_NEVER);
}

TEST(timer_tsc_deadline)
{
    u64 v;
    apics_setup(1, true);
    CHECK(vlapic_write_msr(l, VLAPIC_MSR_TSC_DEADLINE, 500)); // other mode: no effect
    CHECK(vlapic_read_msr(l, VLAPIC_MSR_TSC_DEADLINE, &v));
    CHECK_EQ(v, 0);
    CHECK(wrx(VLAPIC_TIMER_INITIAL, 77));
    CHECK(wrx(VLAPIC_LVT_TIMER, 0x40031));
    CHECK_EQ(rdx(VLAPIC_TIMER_INITIAL), 0); // the other modes' count is gone
    CHECK(vlapic_write_msr(l, VLAPIC_MSR_TSC_DEADLINE, 500));
    CHECK(vlapic_read_msr(l, VLAPIC_MSR_TSC_DEADLINE, &v));
    CHECK_EQ(v, 500);
    CHECK_EQ(timers_next(&lapic_timers[0]), 500 * 100); // 10 MHz
    CHECK(wrx(VLAPIC_TIMER_INITIAL, 1000));             // ignored in this mode
    CHECK_EQ(rdx(VLAPIC_TIMER_CURRENT), 0);
    run(49999);
    CHECK_EQ(take(), -1);
    run(50000);
    CHECK_EQ(take(), 0x31);
    CHECK(wrx(VLAPIC_EOI, 0));
    CHECK(vlapic_read_msr(l, VLAPIC_MSR_TSC_DEADLINE, &v));
    CHECK_EQ(v, 0);
    CHECK(vlapic_write_msr(l, VLAPIC_MSR_TSC_DEADLINE, 1)); // past: at once
    CHECK(timers_next(&lapic_timers[0]) <= world_now);
    timers_run(&lapic_timers[0], world_now);
    CHECK_EQ(take(), 0x31);
    CHECK(vlapic_write_msr(l, VLAPIC_MSR_TSC_DEADLINE, ~0ull));
    CHECK_EQ(timers_next(&lapic_timers[0]), TIMER_NEVER);
    CHECK(vlapic_write_msr(l, VLAPIC_MSR_TSC_DEADLINE, 10000));
    world_tsc_hz = 1000000; // as if the TSC were set
    vlapic_tsc_changed(l);
    CHECK_EQ(timers_next(&lapic_timers[0]), 10000 * 1000);
    world_tsc_hz = 10000000;
    CHECK(wrx(VLAPIC_LVT_TIMER, 0x31)); // leaving the mode disarms
    CHECK(vlapic_read_msr(l, VLAPIC_MSR_TSC_DEADLINE, &v));
    CHECK_EQ(v, 0);
    CHECK_EQ(timers_next(&lapic_timers[0]), TIMER_NEVER);
}

TEST(without_tsc_deadline)
{
    u64 v;
    apics_setup(1, true);
    l->has_tsc_deadline = false;
    CHECK(!vlapic_read_msr(l, VLAPIC_MSR_TSC_DEADLINE, &v));
    CHECK(!vlapic_write_msr(l, VLAPIC_MSR_TSC_DEADLINE, 0));
    CHECK(!wrx(VLAPIC_LVT_TIMER, 0x40031));
}

TEST(reset_stops_the_timer_and_forgets)
{
    apics_setup(1, false);
    wr(VLAPIC_LVT_TIMER, 0x20030);
    wr(VLAPIC_TIMER_INITIAL, 100);
    post(0x44);
    vlapic_pending_vector(l);
    post(0x45);
    rd(0x10); // an error
    vlapic_virtual_wire(l);
    vlapic_set_lint(l, 0, true);
    CHECK(vlapic_accepts_extint(l));
    vlapic_reset(l);
    CHECK(!vlapic_wants_attention(l));
    wr(VLAPIC_ESR, 0);
    CHECK_EQ(rd(VLAPIC_ESR), 0);
    CHECK_EQ(timers_next(&lapic_timers[0]), TIMER_NEVER);
    CHECK_EQ(vlapic_pending_vector(l), -1);
    CHECK_EQ(rd(VLAPIC_IRR + 0x20), 0);
    wr(VLAPIC_SVR, 0x1ff);
    post(0x41);
    CHECK_EQ(take(), 0x41); // and nothing of before
}

// --- Pins ---

TEST(lint0_extint)
{
    apics_setup(1, false);
    vlapic_set_lint(l, 0, true);
    CHECK(!vlapic_accepts_extint(l)); // masked
    CHECK(!vlapic_wants_attention(l));
    vlapic_set_lint(l, 0, false);
    vlapic_virtual_wire(l);
    vlapic_set_lint(l, 0, true);
    CHECK(vlapic_wants_attention(l));
    CHECK(vlapic_accepts_extint(l));
    CHECK_EQ(vlapic_pending_vector(l), -1);
    vlapic_set_lint(l, 0, false);
    CHECK(!vlapic_accepts_extint(l));
    CHECK(!vlapic_wants_attention(l));
    vlapic_set_lint(l, 0, true);
    wr(VLAPIC_LVT_LINT0, 0x10700);
    CHECK(!vlapic_accepts_extint(l));
    wr(VLAPIC_LVT_LINT0, 0x700);
    CHECK(vlapic_accepts_extint(l));
    wr(VLAPIC_SVR, 0xff);
    CHECK(!vlapic_accepts_extint(l));
}

TEST(disabled_apic_passes_the_pins)
{
    apics_setup(1, false);
    CHECK(vlapic_write_msr(l, VLAPIC_MSR_BASE, 0xfee00100));
    vlapic_set_lint(l, 0, true);
    CHECK(vlapic_accepts_extint(l));
    vlapic_set_lint(l, 1, true);
    CHECK_EQ(vlapic_events(l), VLAPIC_NMI);
}

TEST(lint_fixed_edge_and_nmi)
{
    apics_setup(1, false);
    wr(VLAPIC_LVT_LINT0, 0x31); // Linux's "virtual wire" test of the timer
    wr(VLAPIC_LVT_LINT1, 0x400);
    vlapic_set_lint(l, 0, true);
    CHECK_EQ(take(), 0x31);
    wr(VLAPIC_EOI, 0);
    vlapic_set_lint(l, 0, true);
    CHECK_EQ(take(), -1);
    vlapic_set_lint(l, 0, false);
    vlapic_set_lint(l, 0, true);
    vlapic_set_lint(l, 0, false); // an edge is kept
    CHECK_EQ(take(), 0x31);
    vlapic_set_lint(l, 1, true);
    CHECK_EQ(vlapic_events(l), VLAPIC_NMI);
    CHECK(vlapic_take(l, VLAPIC_NMI));
    CHECK(!vlapic_take(l, VLAPIC_NMI));
    CHECK_EQ(vlapic_events(l), 0);
}

TEST(lint0_fixed_level)
{
    apics_setup(1, false);
    wr(VLAPIC_LVT_LINT0, 0x8041);
    vlapic_set_lint(l, 0, true);
    CHECK_EQ(take(), 0x41);
    CHECK_EQ(rd(VLAPIC_LVT_LINT0), 0xc041); // remote IRR
    wr(VLAPIC_LVT_LINT0, 0x8041);
    CHECK_EQ(rd(VLAPIC_LVT_LINT0), 0xc041); // read-only
    wr(VLAPIC_EOI, 0);
    CHECK_EQ(take(), 0x41); // still asserted
    vlapic_set_lint(l, 0, false);
    wr(VLAPIC_EOI, 0);
    CHECK_EQ(take(), -1);
    CHECK_EQ(rd(VLAPIC_LVT_LINT0), 0x8041);
}

TEST(lint1_init_and_smi)
{
    apics_setup(1, false);
    wr(VLAPIC_LVT_LINT1, 0x200); // there is no SMM
    vlapic_set_lint(l, 1, true);
    CHECK_EQ(vlapic_events(l), 0);
    wr(VLAPIC_LVT_LINT1, 0x500);
    vlapic_set_lint(l, 1, false);
    vlapic_set_lint(l, 1, true);
    CHECK_EQ(vlapic_events(l), VLAPIC_INIT);
}

TEST(performance_interrupt_masks_itself)
{
    apics_setup(1, false);
    wr(VLAPIC_LVT_PERF, 0x400);
    vlapic_local_interrupt(l, VLAPIC_LVT_PERF);
    CHECK_EQ(vlapic_events(l), VLAPIC_NMI);
    CHECK_EQ(rd(VLAPIC_LVT_PERF), 0x10400);
    vlapic_take(l, VLAPIC_NMI);
    vlapic_local_interrupt(l, VLAPIC_LVT_PERF);
    CHECK_EQ(vlapic_events(l), 0);
}

// --- Interprocessor interrupts ---

static void icr(u32 dest, u32 low)
{
    wr(VLAPIC_ICR_HIGH, dest << 24);
    wr(VLAPIC_ICR, low);
}

// Which CPUs have `vector` pending; it is acknowledged there.
static unsigned receivers(u8 vector)
{
    unsigned set = 0;
    for (unsigned i = 0; i < apics.count; i++)
        if (vlapic_pending_vector(&lapics[i]) == vector) {
            set |= 1u << i;
            vlapic_ack(&lapics[i], vector);
            CHECK(vlapic_x2apic(&lapics[i]) ? vlapic_write_msr(&lapics[i], 0x80b, 0) : true);
            if (!vlapic_x2apic(&lapics[i]))
                vlapic_mmio_write(&lapics[i], VLAPIC_EOI, 4, 0);
        }
    return set;
}

TEST(ipi_physical_and_shorthands)
{
    apics_setup(4, false);
    icr(2, 0x40f1);
    CHECK_EQ(kicks[2], 1);
    CHECK_EQ(receivers(0xf1), 4);
    icr(0xff, 0x40f1);
    CHECK_EQ(receivers(0xf1), 0xf);
    icr(4, 0x40f2); // the first that is not there
    CHECK_EQ(receivers(0xf2), 0);
    icr(0, 0x440f2); // self
    CHECK_EQ(receivers(0xf2), 1);
    CHECK_EQ(last_eoi, -1);
    icr(0, 0x840f3); // all
    CHECK_EQ(receivers(0xf3), 0xf);
    icr(0, 0xc40f4); // all but self
    CHECK_EQ(receivers(0xf4), 0xe);
    icr(9, 0x40f5); // nobody
    CHECK_EQ(receivers(0xf5), 0);
    CHECK_EQ(rd(VLAPIC_ICR), 0x40f5); // idle
}

TEST(ipi_logical_flat)
{
    apics_setup(4, false);
    for (unsigned i = 0; i < 4; i++)
        vlapic_mmio_write(&lapics[i], VLAPIC_LDR, 4, 1u << (24 + i));
    icr(0x0a, 0x48f1);
    CHECK_EQ(receivers(0xf1), 0xa);
    icr(0xff, 0x48f1);
    CHECK_EQ(receivers(0xf1), 0xf);
    icr(0xf0, 0x48f1);
    CHECK_EQ(receivers(0xf1), 0);
}

TEST(ipi_logical_cluster)
{
    apics_setup(4, false);
    for (unsigned i = 0; i < 4; i++) {
        vlapic_mmio_write(&lapics[i], VLAPIC_DFR, 4, 0x0fffffff);
        vlapic_mmio_write(&lapics[i], VLAPIC_LDR, 4, (i / 2 << 4 | 1u << i % 2) << 24);
    }
    icr(0x13, 0x48f1);
    CHECK_EQ(receivers(0xf1), 0xc);
    icr(0x02, 0x48f1);
    CHECK_EQ(receivers(0xf1), 0x2);
    icr(0xf1, 0x48f1); // the first of every cluster
    CHECK_EQ(receivers(0xf1), 0x5);
}

TEST(ipi_x2apic)
{
    apics_setup(4, true);
    CHECK(wrx(VLAPIC_ICR, 3ull << 32 | 0x40f1));
    CHECK_EQ(receivers(0xf1), 8);
    CHECK(wrx(VLAPIC_ICR, 0xaull << 32 | 0x48f1)); // cluster 0, members 1 and 3
    CHECK_EQ(receivers(0xf1), 0xa);
    CHECK(wrx(VLAPIC_ICR, 0x1000aull << 32 | 0x48f1)); // cluster 1
    CHECK_EQ(receivers(0xf1), 0);
    CHECK(wrx(VLAPIC_ICR, 0xffffffffull << 32 | 0x40f1));
    CHECK_EQ(receivers(0xf1), 0xf);
    CHECK(wrx(VLAPIC_ICR, 0xffull << 32 | 0x40f1)); // no broadcast in x2APIC mode
    CHECK_EQ(receivers(0xf1), 0);
    kicks[0] = 0;
    CHECK(wrx(VLAPIC_SELF_IPI, 0xf6));
    CHECK_EQ(receivers(0xf6), 1);
    CHECK_EQ(kicks[0], 0);
}

TEST(ipi_lowest_priority)
{
    apics_setup(4, false);
    for (unsigned i = 0; i < 4; i++) {
        vlapic_mmio_write(&lapics[i], VLAPIC_LDR, 4, 1u << (24 + i));
        vlapic_set_tpr(&lapics[i], i == 2 ? 0x10 : 0x20);
    }
    icr(0xff, 0x49f1);
    CHECK_EQ(receivers(0xf1), 4);
    vlapic_mmio_write(&lapics[2], VLAPIC_SVR, 4, 0xff); // takes none
    icr(0x0c, 0x49f1);
    CHECK_EQ(receivers(0xf1), 8);
    CHECK(!vapic_deliver(
        &apics,
        &(struct vapic_msg){.dest = 0x40, .logical = true, .mode = VAPIC_LOWEST, .vector = 0x50}));
}

TEST(init_and_startup)
{
    apics_setup(2, false);
    struct vlapic *ap = &lapics[1];
    icr(1, 0xc500); // INIT, assert
    CHECK_EQ(vlapic_events(ap), VLAPIC_INIT);
    icr(1, 0x8500); // de-assert: nothing
    CHECK(vlapic_take(ap, VLAPIC_INIT));
    vlapic_reset(ap);
    icr(1, 0x4608); // twice, as the protocol says
    icr(1, 0x4609);
    CHECK_EQ(kicks[1], 2);
    CHECK_EQ(vlapic_events(ap), VLAPIC_SIPI);
    CHECK_EQ(ap->sipi_vector, 9);
    icr(1, 0xc500); // an INIT withdraws a SIPI that waits
    CHECK_EQ(vlapic_events(ap), VLAPIC_INIT);
    icr(1, 0x4400);
    CHECK_EQ(vlapic_events(ap), VLAPIC_INIT | VLAPIC_NMI);
}

TEST(init_keeps_x2apic_mode)
{
    apics_setup(2, true);
    vlapic_reset(&lapics[1]);
    u64 v;
    CHECK(vlapic_read_msr(&lapics[1], 0x80d, &v));
    CHECK_EQ(v, 2);
    CHECK(vlapic_read_msr(&lapics[1], 0x80f, &v));
    CHECK_EQ(v, 0xff);
}

// --- Messages ---

TEST(msi)
{
    apics_setup(4, false);
    CHECK(vapic_msi(&apics, 0xfee02000, 0x41));
    CHECK_EQ(receivers(0x41), 4);
    CHECK(vapic_msi(&apics, 0xfeeff000, 0x41));
    CHECK_EQ(receivers(0x41), 0xf);
    vlapic_mmio_write(&lapics[3], VLAPIC_LDR, 4, 0x10u << 24);
    CHECK(vapic_msi(&apics, 0xfee1000c, 0x0142)); // logical, lowest priority
    CHECK_EQ(receivers(0x42), 8);
    CHECK(!vapic_msi(&apics, 0xfee09000, 0x41));
    CHECK(!vapic_msi(&apics, 0xfef00000, 0x41));
    CHECK(!vapic_msi(&apics, 0x1fee00000, 0x41));
    CHECK(!vapic_msi(&apics, 0xfee00010, 0x41));  // remappable format
    CHECK(!vapic_msi(&apics, 0xfee00000, 0x641)); // a start-up cannot come so
    CHECK(vapic_msi(&apics, 0xfee01000, 0x400));
    CHECK_EQ(vlapic_events(&lapics[1]), VLAPIC_NMI);
}

TEST(msi_reaches_x2apic_mode)
{
    apics_setup(4, true);
    CHECK(vapic_msi(&apics, 0xfee03000, 0x41));
    CHECK_EQ(receivers(0x41), 8);
    CHECK(vapic_msi(&apics, 0xfee06004, 0x41)); // logical ids 2 and 4 of cluster 0
    CHECK_EQ(receivers(0x41), 6);
    CHECK(vapic_msi(&apics, 0xfeeff000, 0x41));
    CHECK_EQ(receivers(0x41), 0xf);
}

TEST(extint_message)
{
    apics_setup(1, false);
    CHECK(vlapic_post(l, &(struct vapic_msg){.mode = VAPIC_INIT}));
    CHECK(vlapic_post(l, &(struct vapic_msg){.mode = VAPIC_STARTUP}));
    CHECK(vlapic_post(l, &(struct vapic_msg){.mode = VAPIC_EXTINT}));
    CHECK(vlapic_accepts_extint(l));
    vlapic_ack_extint(l);
    CHECK(!vlapic_accepts_extint(l));
    CHECK(!vlapic_post(l, &(struct vapic_msg){.mode = VAPIC_SMI}));
}

TEST(random_writes_are_harmless)
{
    apics_setup(4, false);
    u32 seed = 3;
    for (unsigned i = 0; i < 300000; i++) {
        seed = seed * 1664525 + 1013904223;
        u32 arg = seed * 2654435761u, cpu = seed >> 30;
        u64 v;
        if (seed & 0x1000)
            vlapic_write_msr(&lapics[cpu], 0x800 + (seed >> 20 & 0x3f), arg & (seed | 0xfff));
        else if (seed & 0x2000)
            vlapic_mmio_write(&lapics[cpu], seed >> 18 & 0x3f0, 4, arg);
        else if (!(seed & 0xf0000))
            vlapic_write_msr(&lapics[cpu], VLAPIC_MSR_BASE, 0xfee00000 | (arg & 0xc00));
        else
            vlapic_read_msr(&lapics[cpu], 0x800 + (seed >> 20 & 0x3f), &v);
        int p = vlapic_pending_vector(&lapics[cpu]);
        CHECK(p == -1 || (p >= 16 && p < 256));
        if (p >= 0)
            vlapic_ack(&lapics[cpu], (u8)p);
        world_now += arg & 0xfff;
        timers_run(&lapic_timers[cpu], world_now);
    }
}
