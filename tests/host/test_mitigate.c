#include "tests/host/test.h"

#include <string.h>

#include "vmx/mitigate.h"

#define IBRS     BIT(26)
#define MD_CLEAR BIT(10)
#define L1D      BIT(28)
#define CAPS     BIT(29)
#define RTM      BIT(11)

static struct mitigations of(u32 ebx, u32 edx, u64 caps)
{
    const struct speculation s = {ebx, edx, caps};
    return mitigate_select(&s);
}

static unsigned all(const struct mitigations *m)
{
    unsigned used = 0;
    for (unsigned b = 0; b < BOUNDARY_COUNT; b++)
        used |= m->at[b];
    return used;
}

TEST(a_processor_without_the_features_costs_nothing)
{
    struct mitigations m = of(~0u & ~(u32)RTM, 0, 0);
    CHECK_EQ(all(&m), 0);
    CHECK(!m.ibrs);
}

TEST(an_affected_processor_gets_all)
{
    struct mitigations m = of(0, IBRS | MD_CLEAR | L1D, 0);
    CHECK_EQ(m.at[BOUNDARY_VM], BARRIER_IBPB | BARRIER_L1D_FLUSH | BARRIER_VERW);
    CHECK_EQ(m.at[BOUNDARY_EXIT], BARRIER_IBPB);
    CHECK_EQ(m.at[BOUNDARY_ENTRY], BARRIER_L1D_FLUSH | BARRIER_VERW);
    CHECK_EQ(m.at[BOUNDARY_INTERRUPT], BARRIER_L1D_FLUSH | BARRIER_VERW);
    CHECK(!m.ibrs);
}

TEST(what_the_processor_says_not_to_need)
{
    const u64 no_device_data = BIT(13) | BIT(14) | BIT(15);
    struct mitigations m = of(0, IBRS | MD_CLEAR | L1D | CAPS, BIT(0) | BIT(1) | BIT(5));
    CHECK_EQ(all(&m), BARRIER_IBPB); // RDCL_NO, MDS_NO
    CHECK(m.ibrs);
    m = of(0, L1D | CAPS, BIT(3)); // SKIP_L1DFL_VMENTRY
    CHECK_EQ(all(&m), 0);
    m = of((u32)RTM, MD_CLEAR | CAPS, BIT(5)); // TAA with TSX
    CHECK_EQ(all(&m), BARRIER_VERW);
    m = of((u32)RTM, MD_CLEAR | CAPS, BIT(5) | BIT(8));
    CHECK_EQ(all(&m), 0);
    m = of(0, CAPS, BIT(17)); // FB_CLEAR
    CHECK_EQ(all(&m), BARRIER_VERW);
    m = of(0, CAPS, BIT(17) | no_device_data);
    CHECK_EQ(all(&m), 0);
    m = of(0, CAPS, BIT(28)); // RFDS_CLEAR
    CHECK_EQ(all(&m), BARRIER_VERW);
    m = of(0, CAPS, BIT(28) | BIT(27));
    CHECK_EQ(all(&m), 0);
}

TEST(names)
{
    char text[64];
    struct mitigations m = of(0, IBRS | MD_CLEAR | L1D, BIT(1));
    CHECK(!strcmp(mitigate_names(&m, text, sizeof(text)), "IBPB, L1D flush, VERW, enhanced IBRS"));
    m = (struct mitigations){0};
    CHECK(!strcmp(mitigate_names(&m, text, sizeof(text)), "none"));
    m = of(0, IBRS | MD_CLEAR | L1D, 0);
    CHECK(!strcmp(mitigate_names(&m, text, 8), "IBPB, L"));
}
