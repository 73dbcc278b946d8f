#include "tests/host/test.h"

#include "vmx/control.h"
#include "vmx/field.h"

static const struct vmx_offer everything;

// A processor with every control of the table.
static struct vmx_caps full_host(void)
{
    struct vmx_caps c = {
        .basic = 1 | BASIC_SIZE(1024) | BASIC_MEMTYPE_WB | BASIC_TRUE_CONTROLS |
                 BASIC_INS_OUTS_INFO | BASIC_DUAL_MONITOR,
        .misc = 5 | MISC_STORES_LMA | MISC_ACTIVITY_HLT | MISC_ACTIVITY_SHUTDOWN |
                MISC_ACTIVITY_WAIT_SIPI | MISC_CR3_TARGETS(4) | MISC_RDMSR_SMBASE | MISC_BLOCK_SMI |
                MISC_INJECT_LENGTH_0 | 0x1234ull << 32,
        .word = {[WORD_PIN] = {0x16, 0x16},
                 [WORD_PROC] = {0x04006172, 0x04006172},
                 [WORD_EXIT] = {0x36dfb, 0x36dfb},
                 [WORD_ENTRY] = {0x11fb, 0x11fb}},
        .cr0_fixed0 = 0x80000021,
        .cr0_fixed1 = 0xffffffff,
        .cr4_fixed0 = 0x2000,
        .cr4_fixed1 = 0x3767ff,
        .ept_vpid = ~0ull,
        .vmfunc = VMFUNC_EPTP_SWITCHING,
    };
    for (unsigned i = 0; i < CI_COUNT; i++)
        c.word[control_word(i)].may |= control_bit(i);
    c.vmcs_enum = field_vmcs_enum(&c);
    return c;
}

static u64 read_caps(u32 msr, void *ctx)
{
    bool exists;
    u64 v = vmx_caps_msr(ctx, msr, &exists);
    CHECK(exists); // only MSRs that the processor enumerates may be read
    return v;
}

TEST(reads_what_it_reports)
{
    struct vmx_caps host = full_host(), again;
    vmx_caps_from_msrs(read_caps, &host, &again);
    CHECK(!memcmp(&host, &again, sizeof(host)));

    struct vmx_caps l1;
    vmx_caps_for_l1(&host, &everything, &l1);
    vmx_caps_from_msrs(read_caps, &l1, &again);
    CHECK(!memcmp(&l1, &again, sizeof(l1)));
}

TEST(old_processor_without_true_and_secondary)
{
    struct vmx_caps old = full_host(), again;
    old.basic &= ~BASIC_TRUE_CONTROLS;
    old.word[WORD_PROC].may &= ~(CTL_SECONDARY | CTL_TERTIARY);
    old.word[WORD_EXIT].may &= ~CTL_EXIT_SECONDARY;
    vmx_caps_from_msrs(read_caps, &old, &again);
    CHECK_EQ(again.word[WORD_PROC].must, 0x0401e172); // CR3 exits are forced there
    CHECK_EQ(again.word[WORD_PROC2].may, 0);
    CHECK_EQ(again.ept_vpid, 0);
    CHECK_EQ(again.vmfunc, 0);
    bool exists;
    for (u32 msr = 0x48d; msr <= 0x493; msr++) {
        CHECK_EQ(vmx_caps_msr(&again, msr, &exists), 0);
        CHECK(!exists);
    }
    vmx_caps_msr(&again, 0x48b, &exists);
    CHECK(!exists);
    // L1 gets the TRUE MSRs all the same, L0 handles the CR3 exits that it did not ask for.
    struct vmx_caps l1;
    vmx_caps_for_l1(&again, &everything, &l1);
    CHECK(!(l1.word[WORD_PROC].must & CTL_CR3_LOAD_EXITING));
    CHECK(CAP_HAS(&l1, CR3_LOAD_EXITING));
}

// The controls that need another one which is missing, too, are not offered to that L1.
static bool offered_alone(unsigned i)
{
    struct vmx_caps host = full_host(), l1;
    for (unsigned w = 0; w < WORD_COUNT; w++)
        host.word[w].may = host.word[w].must;
    host.word[control_word(i)].may |= control_bit(i);
    host.word[WORD_PROC].may |= CTL_SECONDARY | CTL_TPR_SHADOW;
    host.word[WORD_PIN].may |= CTL_NMI_EXITING | CTL_VIRTUAL_NMIS | CTL_PREEMPTION_TIMER;
    host.word[WORD_PROC2].may |= CTL_EPT | CTL_VIRTUAL_INTR_DELIVERY;
    vmx_caps_for_l1(&host, &everything, &l1);
    return l1.word[control_word(i)].may & control_bit(i);
}

TEST(a_control_is_offered_as_its_row_says)
{
    for (unsigned i = 0; i < CI_COUNT; i++) {
        struct vmx_caps host = full_host(), with, without;
        vmx_caps_for_l1(&host, &everything, &with);
        host.word[control_word(i)].may &= ~control_bit(i);
        vmx_caps_for_l1(&host, &everything, &without);
        bool has = with.word[control_word(i)].may & control_bit(i);
        bool has_not = without.word[control_word(i)].may & control_bit(i);
        bool hw = control_offer(i) == OFFER_HW, soft = control_offer(i) == OFFER_SOFT;
        CHECK_EQ(has, hw || soft);
        CHECK_EQ(has_not, soft);
        CHECK_EQ(offered_alone(i), hw || soft);
    }
}

TEST(hidden_controls)
{
    struct vmx_caps host = full_host(), l1;
    struct vmx_offer offer = {.hide_ept_vpid = EPT_CAP_1G};
    offer.hide[WORD_PROC2] = CTL_VPID;
    vmx_caps_for_l1(&host, &offer, &l1);
    CHECK(!CAP_HAS(&l1, VPID) && CAP_HAS(&l1, EPT) && CAP_HAS(&l1, UNRESTRICTED));
    CHECK(!(l1.ept_vpid >> 32) && !(l1.ept_vpid & EPT_CAP_1G) && l1.ept_vpid & EPT_CAP_2M);
    offer.hide[WORD_PROC2] = CTL_EPT | CTL_VPID;
    vmx_caps_for_l1(&host, &offer, &l1);
    CHECK(!CAP_HAS(&l1, UNRESTRICTED)); // needs EPT
    CHECK(!(l1.misc & MISC_STORES_LMA));
    bool exists;
    CHECK_EQ(vmx_caps_msr(&l1, 0x48c, &exists), 0);
    CHECK(!exists);
    offer.hide[WORD_PROC] = CTL_SECONDARY;
    vmx_caps_for_l1(&host, &offer, &l1);
    vmx_caps_msr(&l1, 0x48b, &exists);
    CHECK(!exists);
    CHECK_EQ(l1.word[WORD_PROC2].may, 0);
}

// What L1 sees of the host when one control is missing there.
static struct vmx_caps without(enum control_index c)
{
    struct vmx_caps host = full_host(), l1;
    host.word[control_word(c)].may &= ~control_bit(c);
    vmx_caps_for_l1(&host, &everything, &l1);
    return l1;
}

TEST(controls_that_need_others)
{
    struct vmx_caps all = without(CI_TERTIARY); // not offered anyway
    struct vmx_caps l1 = without(CI_PREEMPTION_TIMER);
    CHECK_EQ(l1.word[WORD_EXIT].may, all.word[WORD_EXIT].may & ~CTL_EXIT_SAVE_TIMER);
    l1 = without(CI_NMI_EXITING);
    CHECK_EQ(l1.word[WORD_PIN].may, all.word[WORD_PIN].may & ~(CTL_NMI_EXITING | CTL_VIRTUAL_NMIS));
    CHECK_EQ(l1.word[WORD_PROC].may, all.word[WORD_PROC].may & ~CTL_NMI_WINDOW);
    l1 = without(CI_VIRTUAL_NMIS);
    CHECK_EQ(l1.word[WORD_PROC].may, all.word[WORD_PROC].may & ~CTL_NMI_WINDOW);
    l1 = without(CI_EPT);
    CHECK_EQ(l1.word[WORD_PROC2].may,
             all.word[WORD_PROC2].may &
                 ~(CTL_EPT | CTL_UNRESTRICTED | CTL_PML | CTL_EPT_VIOLATION_VE));
    l1 = without(CI_TPR_SHADOW);
    CHECK_EQ(l1.word[WORD_PROC2].may,
             all.word[WORD_PROC2].may &
                 ~(CTL_VIRTUALIZE_X2APIC | CTL_APIC_REGISTERS | CTL_VIRTUAL_INTR_DELIVERY));
    CHECK_EQ(l1.word[WORD_PIN].may, all.word[WORD_PIN].may & ~CTL_POSTED_INTERRUPTS);
}

TEST(ept_and_vpid_capabilities)
{
    const u64 vpid = BIT(32) | BIT(40) | BIT(41) | BIT(42) | BIT(43);
    const u64 ept = BIT(6) | BIT(14) | BIT(16) | BIT(17) | BIT(20) | BIT(25) | BIT(26);
    const u64 rights = BIT(0) | BIT(8) | BIT(21); // as the host has them
    struct vmx_caps host = full_host(), l1, again;
    bool exists;
    vmx_caps_for_l1(&host, &everything, &l1);
    CHECK_EQ(l1.ept_vpid, ept | vpid | rights);
    host.ept_vpid = 0;
    vmx_caps_for_l1(&host, &everything, &l1);
    CHECK_EQ(l1.ept_vpid, ept | vpid);
    for (unsigned i = 0; i < 2; i++) { // one of the two is enough for the MSR
        l1 = without(i ? CI_EPT : CI_VPID);
        CHECK_EQ(l1.ept_vpid, i ? vpid : ept | rights);
        CHECK_EQ(vmx_caps_msr(&l1, 0x48c, &exists), l1.ept_vpid);
        CHECK(exists);
        vmx_caps_from_msrs(read_caps, &l1, &again);
        CHECK_EQ(again.ept_vpid, l1.ept_vpid);
    }
}

TEST(hidden_cr4_bits)
{
    struct vmx_caps host = full_host(), l1;
    struct vmx_offer offer = {.hide_cr4 = 1u << 20};
    vmx_caps_for_l1(&host, &offer, &l1);
    CHECK_EQ(l1.cr4_fixed1, host.cr4_fixed1 & ~(1u << 20));
}

TEST(what_l1_sees)
{
    struct vmx_caps host = full_host(), l1;
    bool exists;
    vmx_caps_for_l1(&host, &everything, &l1);
    CHECK_EQ(l1.basic & BASIC_REVISION, NESTED_VMCS_REVISION);
    CHECK_EQ(l1.basic >> 32 & 0x1fff, 4096);
    CHECK_EQ(l1.basic >> 50 & 15, 6);
    CHECK(!(l1.basic & (BASIC_DUAL_MONITOR | BASIC_PHYS_32 | BIT(31))));
    CHECK_EQ(l1.misc, 5 | 0xfu << 5 | 4 << 16 | 1u << 29 | 1u << 30);
    CHECK_EQ(vmx_cr3_targets(&l1), 4);
    CHECK_EQ(vmx_msr_list_max(&l1), 512);
    CHECK(!(l1.misc >> 32) && !(l1.misc & (MISC_RDMSR_SMBASE | MISC_BLOCK_SMI)));
    CHECK(l1.misc & MISC_VMWRITE_ANY);
    CHECK_EQ((u32)vmx_caps_msr(&l1, 0x481, &exists), 0x16);
    CHECK_EQ((u32)vmx_caps_msr(&l1, 0x482, &exists), 0x0401e172);
    CHECK_EQ((u32)vmx_caps_msr(&l1, 0x483, &exists), 0x36dff);
    CHECK_EQ((u32)vmx_caps_msr(&l1, 0x484, &exists), 0x11ff);
    CHECK_EQ((u32)vmx_caps_msr(&l1, 0x48d, &exists), 0x16);
    CHECK_EQ((u32)vmx_caps_msr(&l1, 0x48e, &exists), 0x04006172);
    CHECK_EQ((u32)vmx_caps_msr(&l1, 0x48f, &exists), 0x36dfb);
    CHECK_EQ((u32)vmx_caps_msr(&l1, 0x490, &exists), 0x11fb);
    CHECK_EQ(l1.vmcs_enum, field_vmcs_enum(&l1));
    CHECK_EQ(vmx_caps_msr(&l1, 0x491, &exists), VMFUNC_EPTP_SWITCHING);
    for (u32 msr = 0x480; msr <= 0x493; msr++) {
        u64 v = vmx_caps_msr(&l1, msr, &exists);
        CHECK_EQ(exists, msr <= 0x491);
        bool limits = (msr >= 0x481 && msr <= 0x484) || msr == 0x48b ||
                      (msr >= 0x48d && msr <= 0x490);
        if (exists && limits)
            CHECK_EQ((u32)v & ~(v >> 32), 0); // what must be 1 may be 1
    }
    vmx_caps_msr(&l1, 0x47f, &exists);
    CHECK(!exists);
    vmx_caps_msr(&l1, 0x494, &exists);
    CHECK(!exists);
}

TEST(fields_of_l1_follow_its_controls)
{
    struct vmx_caps host = full_host(), l1;
    vmx_caps_for_l1(&host, &everything, &l1);
    CHECK(field_exists(F(EPTP), &l1) && field_exists(F(TSC_MULTIPLIER), &l1));
    CHECK(!field_exists(F(PROC3_CTRL), &l1) && !field_exists(F(GUEST_S_CET), &l1));
    CHECK(!field_exists(F(GUEST_FRED_CONFIG), &l1) && !field_exists(F(HOST_PKRS), &l1));
}

TEST(merge_of_a_word)
{
    struct vmx_caps host = full_host();
    for (unsigned w = 0; w < WORD_COUNT; w++) {
        u64 named = 0;
        for (unsigned m = CTL_PASS; m <= CTL_OWN; m++) {
            CHECK_EQ(named & control_merge_mask(w, m), 0);
            named |= control_merge_mask(w, m);
        }
        u64 none = control_merge_word(w, 0, &host), all = control_merge_word(w, ~0ull, &host);
        CHECK_EQ(none, control_merge_mask(w, CTL_ON) | host.word[w].must);
        CHECK_EQ(all & ~none, control_merge_mask(w, CTL_PASS) & ~host.word[w].must);
    }
    CHECK(control_merge_word(WORD_PIN, 0, &host) & CTL_EXT_INTR_EXITING);
    CHECK(!(control_merge_word(WORD_PROC, ~0ull, &host) & CTL_IO_BITMAPS));
    host.word[WORD_PROC2].may &= ~CTL_VPID;
    CHECK(!(control_merge_word(WORD_PROC2, 0, &host) & CTL_VPID)); // not there, not set
}

TEST(names)
{
    CHECK(!strcmp(control_name(CI_EPT), "EPT"));
    CHECK(!strcmp(control_word_name(WORD_ENTRY), "entry"));
    for (unsigned i = 0; i < CI_COUNT; i++)
        for (unsigned j = 0; j < i; j++)
            CHECK(control_word(i) != control_word(j) || control_bit(i) != control_bit(j));
}
