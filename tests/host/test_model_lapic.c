#include "tests/host/test.h"

#include "tests/host/model_apics.h"

// --- Registers ---

TEST(power_up_state)
{
    apics_setup(2, false);
    vlapic_reset(l);
    CHECK(vlapic_take(l, VLAPIC_MODE)); // it is off now
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
