#include "tests/host/test.h"

#include "tests/host/model_apics.h"

// --- Timer ---

TEST(timer_one_shot)
{
    apics_setup(1, false);
    wr(VLAPIC_LVT_TIMER, 0x30);
    wr(VLAPIC_TIMER_DIVIDE, 0xb); // by 1
    world_now = 500;
    wr(VLAPIC_TIMER_DIVIDE, 0xb);
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
    rd(0x10); // an error
    vlapic_virtual_wire(l);
    vlapic_set_lint(l, 0, true);
    CHECK(vlapic_accepts_extint(l));
    CHECK(vlapic_post(l, &(struct vapic_msg){.mode = VAPIC_EXTINT}));
    post(0x45);
    vlapic_reset(l);
    CHECK(vlapic_take(l, VLAPIC_MODE)); // it is off now
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
    CHECK_EQ(rd(VLAPIC_IRR + 0x20), 0);     // and no second request
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
