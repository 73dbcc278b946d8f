#include "tests/host/test.h"

#include "tests/host/model_apics.h"

// --- A processor with virtual-interrupt delivery: SDM, "Virtual-Interrupt Delivery" ---

static u16 status;   // its guest interrupt status
static u64 exits[4]; // and EOI-exit bitmap

static u32 *vector_word(unsigned reg, unsigned v)
{
    return &l->regs[(reg + v / 32 * 16) / 4];
}

static int top(unsigned reg)
{
    for (int v = 255; v >= 0; v--)
        if (*vector_word(reg, (unsigned)v) >> v % 32 & 1)
            return v;
    return -1;
}

static void update_ppr(void)
{
    u32 tpr = l->regs[VLAPIC_TPR / 4], svi = status >> 8;
    l->regs[VLAPIC_PPR / 4] = tpr >> 4 >= svi >> 4 ? tpr & 0xff : svi & 0xf0;
}

static void enter(void)
{
    if (vlapic_attention(l) & VLAPIC_STATUS)
        status = vlapic_status(l, status);
    for (unsigned i = 0; l->levels_changed && i < 4; i++)
        exits[i] = vlapic_eoi_exits(l, i);
    l->levels_changed = false;
    CHECK(!vlapic_wants_attention(l));
    update_ppr();
}

// The vector that the processor delivers to the guest now, or -1.
static int deliver(void)
{
    u8 v = (u8)status;
    if (v >> 4 <= l->regs[VLAPIC_PPR / 4] >> 4)
        return -1;
    *vector_word(VLAPIC_IRR, v) &= ~(1u << v % 32);
    *vector_word(VLAPIC_ISR, v) |= 1u << v % 32;
    status = (u16)(v << 8 | MAX(top(VLAPIC_IRR), 0));
    l->regs[VLAPIC_PPR / 4] = v & 0xf0u;
    return v;
}

static void end(void)
{
    u8 v = (u8)(status >> 8);
    *vector_word(VLAPIC_ISR, v) &= ~(1u << v % 32);
    status = (u16)(MAX(top(VLAPIC_ISR), 0) << 8 | (status & 0xff));
    update_ppr();
    if (exits[v / 64] >> v % 64 & 1)
        vlapic_ended(l, v);
}

static void setup(void)
{
    apics_setup(1, false);
    status = 0;
    vlapic_hand_over(l);
    enter();
}

// --- Tests ---

TEST(the_processor_delivers_what_is_posted)
{
    setup();
    post(0x51);
    CHECK(vlapic_wants_attention(l));
    CHECK_EQ(vlapic_pending_vector(l), -1); // it is not the owner's
    enter();
    CHECK_EQ(status, 0x51);
    post(0x42);
    enter();
    CHECK_EQ(status, 0x51);
    CHECK_EQ(deliver(), 0x51);
    CHECK_EQ(deliver(), -1);
    end();
    CHECK_EQ(deliver(), 0x42);
    end();
    CHECK_EQ(status, 0);
}

TEST(the_owner_goes_on_where_the_processor_was)
{
    setup();
    post(0x51);
    post(0x92);
    enter();
    CHECK_EQ(deliver(), 0x92);
    vlapic_take_back(l, status);
    CHECK_EQ(vlapic_pending_vector(l), -1); // 0x92 is in service
    post(0xa0);
    CHECK_EQ(take(), 0xa0);
    wr(VLAPIC_EOI, 0);
    wr(VLAPIC_EOI, 0);
    CHECK_EQ(take(), 0x51);
    vlapic_hand_over(l);
    enter();
    CHECK_EQ(status, 0x5100);
    end();
    CHECK_EQ(status, 0);
}

TEST(what_is_pending_shows_at_once_when_it_is_taken_back)
{
    setup();
    post(0x61);
    enter();
    vlapic_take_back(l, status); // the guest had interrupts off
    CHECK(vlapic_wants_attention(l));
    CHECK_EQ(vlapic_pending_vector(l), 0x61);
    vlapic_hand_over(l);
    CHECK(!vlapic_wants_attention(l)); // the processor knows
    wr(VLAPIC_ICR, 0x40071); // to itself
    vlapic_take_back(l, status); // before it was told
    CHECK_EQ(vlapic_pending_vector(l), 0x71);
}

TEST(what_came_since_the_status_was_0)
{
    setup();
    post(0x61);
    post(0xe3);
    vlapic_attention(l);
    vlapic_take_new(l);
    CHECK_EQ(take(), 0xe3);
    CHECK_EQ(vlapic_pending_vector(l), -1);
    wr(VLAPIC_EOI, 0);
    CHECK_EQ(take(), 0x61);
    wr(VLAPIC_EOI, 0);
    vlapic_hand_over(l);
    enter();
    CHECK_EQ(status, 0);
    wr(VLAPIC_TPR, 0x70);
    post(0x71);
    vlapic_attention(l);
    vlapic_take_new(l);
    CHECK_EQ(vlapic_pending_vector(l), -1);
    wr(VLAPIC_TPR, 0x60);
    CHECK_EQ(vlapic_pending_vector(l), 0x71);
}

TEST(level_triggered_interrupts_end_with_an_exit)
{
    setup();
    CHECK(vlapic_post(l, &(struct vapic_msg){.mode = VAPIC_FIXED, .vector = 0x61, .level = true}));
    enter();
    CHECK_EQ(exits[0], 0);
    CHECK_EQ(exits[1], BIT(0x21));
    CHECK_EQ(deliver(), 0x61);
    end();
    CHECK_EQ(last_eoi, 0x61);
    last_eoi = -1;
    post(0x61);
    enter();
    CHECK_EQ(exits[1], 0);
    CHECK_EQ(deliver(), 0x61);
    end();
    CHECK_EQ(last_eoi, -1);
}

// The processor stores the write in the page before L0 sees it.
static void store(unsigned reg, u32 value)
{
    l->regs[reg / 4] = value;
    vlapic_page_written(l, reg);
}

TEST(writes_that_the_processor_stored)
{
    setup();
    store(VLAPIC_ID, 0x77000000);
    CHECK_EQ(rd(VLAPIC_ID), 0);
    store(VLAPIC_SVR, 0xfffff1ff);
    CHECK_EQ(rd(VLAPIC_SVR), 0x1ff);
    store(VLAPIC_DFR, 0);
    CHECK_EQ(rd(VLAPIC_DFR), 0x0fffffff);
    store(VLAPIC_LVT_ERROR, 0xffffffff);
    CHECK_EQ(rd(VLAPIC_LVT_ERROR), 0x100ff);
    rd(0x10); // an error
    store(VLAPIC_ESR, 0x12345678);
    CHECK_EQ(rd(VLAPIC_ESR), 0x80);
    store(VLAPIC_LVT_TIMER, 0x40041); // TSC deadline: there is no count
    store(VLAPIC_TIMER_INITIAL, 1000);
    CHECK_EQ(rd(VLAPIC_TIMER_INITIAL), 0);
    store(VLAPIC_LVT_TIMER, 0x41);
    store(VLAPIC_TIMER_DIVIDE, 0xb);
    store(VLAPIC_TIMER_INITIAL, 1000);
    run(world_now + 1000);
    enter();
    CHECK_EQ(deliver(), 0x41);
}

TEST(a_stored_write_leaves_remote_irr)
{
    setup();
    store(VLAPIC_LVT_LINT0, 0x8061); // level-triggered
    vlapic_set_lint(l, 0, true);
    enter();
    CHECK_EQ(rd(VLAPIC_LVT_LINT0), 0xc061);
    store(VLAPIC_LVT_LINT0, 0x18061);
    CHECK_EQ(rd(VLAPIC_LVT_LINT0), 0x1c061);
    CHECK_EQ(deliver(), 0x61);
    end();
    CHECK_EQ(rd(VLAPIC_LVT_LINT0), 0x18061);
}

TEST(the_divider_of_a_running_count_is_known)
{
    setup();
    store(VLAPIC_TIMER_DIVIDE, 0xb);
    store(VLAPIC_TIMER_INITIAL, 1000);
    world_now += 400;
    store(VLAPIC_TIMER_DIVIDE, 0);
    CHECK_EQ(rd(VLAPIC_TIMER_CURRENT), 600);
}

TEST(changes_of_mode_are_announced)
{
    setup();
    store(VLAPIC_SVR, 0xff);
    CHECK(vlapic_take(l, VLAPIC_MODE));
    store(VLAPIC_SVR, 0xfe);
    CHECK(!vlapic_take(l, VLAPIC_MODE));
    CHECK(vlapic_write_msr(l, VLAPIC_MSR_BASE, l->base + 0x1000));
    CHECK(vlapic_take(l, VLAPIC_MODE));
    CHECK(vlapic_write_msr(l, VLAPIC_MSR_BASE, l->base));
    CHECK(!vlapic_take(l, VLAPIC_MODE));
    CHECK(vlapic_write_msr(l, VLAPIC_MSR_BASE, l->base | VLAPIC_BASE_X2APIC));
    CHECK(vlapic_take(l, VLAPIC_MODE));
}

TEST(a_reset_is_told)
{
    setup();
    post(0x51);
    post(0x92);
    enter();
    CHECK_EQ(deliver(), 0x92);
    vlapic_reset(l);
    vlapic_take(l, VLAPIC_MODE);
    enter();
    CHECK_EQ(status, 0);
}

// Whoever delivers and ends, the result is that of the definition.
TEST(random_histories_agree_with_the_definition)
{
    bool irr[256] = {0}, isr[256] = {0}, level[256] = {0};
    u32 seed = 11;
    unsigned tpr = 0;
    setup();
    for (unsigned step = 0; step < 200000; step++) {
        seed = seed * 1664525 + 1013904223;
        u8 arg = (u8)(seed >> 16);
        int got = -1, ended = -1;
        last_eoi = -1;
        if (l->by_processor)
            enter();
        int top_irr = top(VLAPIC_IRR), top_isr = top(VLAPIC_ISR);
        unsigned class = MAX(tpr >> 4, (unsigned)MAX(top_isr, 0) >> 4);
        switch (seed >> 28) {
        case 0 ... 3:
            if (arg < 16)
                break;
            level[arg] = seed >> 8 & 1;
            irr[arg] = true;
            vlapic_post(
                l, &(struct vapic_msg){.mode = VAPIC_FIXED, .vector = arg, .level = level[arg]});
            vlapic_attention(l);
            if (l->by_processor && !status && seed & 0x200)
                vlapic_take_new(l);
            break;
        case 4:
            tpr = arg;
            if (l->by_processor && seed & 0x100) { // without an exit
                l->regs[VLAPIC_TPR / 4] = arg;
                update_ppr();
            } else {
                vlapic_set_tpr(l, arg);
            }
            break;
        case 5 ... 8:
            got = l->by_processor ? deliver() : take();
            CHECK_EQ(got, top_irr >= 0 && (unsigned)top_irr >> 4 > class ? top_irr : -1);
            break;
        case 9 ... 12:
            ended = top_isr;
            if (ended < 0)
                break;
            if (l->by_processor && seed & 0x100)
                end();
            else
                wr(VLAPIC_EOI, 0);
            isr[ended] = false;
            CHECK_EQ(last_eoi, level[ended] ? ended : -1);
            break;
        case 13:
            vlapic_take_back(l, status);
            break;
        default:
            vlapic_hand_over(l);
        }
        if (got >= 0) {
            irr[got] = false;
            isr[got] = true;
        }
        for (unsigned v = 0; v < 256; v++) {
            CHECK_EQ(*vector_word(VLAPIC_IRR, v) >> v % 32 & 1, irr[v]);
            CHECK_EQ(*vector_word(VLAPIC_ISR, v) >> v % 32 & 1, isr[v]);
        }
    }
}
