#include "tests/host/test.h"

#include "tests/host/model_apics.h"

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
    CHECK_EQ(vlapic_mmio_read(l, VLAPIC_ICR, 4), 0x40f5); // idle
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
    vlapic_set_tpr(&lapics[0], 0);
    icr(0xff, 0x49f1);
    CHECK_EQ(receivers(0xf1), 1);
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
