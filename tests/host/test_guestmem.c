#include "tests/host/test.h"

#include "ept/guestmem.h"

#define WINDOW (64 * PAGE_SIZE)

// Two adjacent ranges of guest memory that are apart in host memory, a hole, and a third.
static const struct guest_mem mem = {
    .count = 3,
    .range = {{GPA(0), HPA(16 * PAGE_SIZE), 4 * PAGE_SIZE},
              {GPA(4 * PAGE_SIZE), HPA(40 * PAGE_SIZE), 2 * PAGE_SIZE},
              {GPA(GIB), HPA(8 * PAGE_SIZE), PAGE_SIZE}},
};

static void fresh(void)
{
    if (!phys_window)
        phys_window = malloc(WINDOW);
    for (u64 i = 0; i < WINDOW; i++)
        phys_window[i] = (u8)(i * 7 + i / 4096);
}

// Where one guest byte lies, or -1.
static s64 home(u64 gpa)
{
    if (gpa < 0x4000)
        return (s64)(gpa + 0x10000);
    if (gpa < 0x6000)
        return (s64)(gpa - 0x4000 + 0x28000);
    if (gpa >= GIB && gpa < GIB + 0x1000)
        return (s64)(gpa - GIB + 0x8000);
    return -1;
}

static const u64 start[] = {0,         1,      0xfff,   0x3ffe, 0x3fff,      0x4000,       0x5ffe,
                            0x5fff,    0x6000, GIB - 1, GIB,    GIB + 0xffe, GIB + 0x1000, ~0ull,
                            ~0ull - 1, BIT(63)};
static const u64 length[] = {0, 1, 2, 3, 0x1000, 0x1001, 0x6000, ~0ull, BIT(63)};

static bool all_there(u64 gpa, u64 len)
{
    for (u64 i = 0; i < len; i++)
        if (gpa + i < gpa || home(gpa + i) < 0)
            return false;
    return true;
}

TEST(translate)
{
    fresh();
    for (unsigned i = 0; i < ARRAY_SIZE(start); i++) {
        hpa_t hpa = HPA(0);
        u64 left = 0;
        CHECK_EQ(guest_to_host(&mem, GPA(start[i]), &hpa, &left), home(start[i]) >= 0);
        if (home(start[i]) < 0)
            continue;
        CHECK_EQ(hpa.v, home(start[i]));
        CHECK_EQ(home(start[i] + left - 1), home(start[i]) + (s64)left - 1);
        CHECK(home(start[i] + left) != home(start[i]) + (s64)left);
    }
}

TEST(pointer_stays_in_one_range)
{
    fresh();
    CHECK(guest_ptr(&mem, GPA(0x3ff0), 0x10) == phys_window + 0x13ff0);
    CHECK(!guest_ptr(&mem, GPA(0x3ff0), 0x11));
    CHECK(!guest_ptr(&mem, GPA(0x3ff0), ~0ull));
    CHECK(!guest_ptr(&mem, GPA(0x6000), 1));
    CHECK(!guest_ptr(&mem, GPA(~0ull), 2));
    CHECK(guest_ptr(&mem, GPA(GIB), PAGE_SIZE) == phys_window + 0x8000);
}

TEST(read_and_write_all_or_nothing)
{
    static u8 buf[0x8000], before[WINDOW];
    for (unsigned i = 0; i < ARRAY_SIZE(start); i++) {
        for (unsigned j = 0; j < ARRAY_SIZE(length); j++) {
            bool there = all_there(start[i], MIN(length[j], 0x7000)) && length[j] <= 0x7000;
            fresh();
            memset(buf, 0xcc, sizeof(buf));
            CHECK_EQ(guest_read(&mem, buf, GPA(start[i]), length[j]), there);
            for (u64 n = 0; n < sizeof(buf); n++)
                CHECK_EQ(buf[n], there && n < length[j] ? phys_window[home(start[i] + n)] : 0xcc);
            memcpy(before, phys_window, WINDOW);
            memset(buf, 0x33, sizeof(buf));
            CHECK_EQ(guest_write(&mem, GPA(start[i]), buf, length[j]), there);
            for (u64 n = 0; there && n < length[j]; n++)
                before[home(start[i] + n)] = 0x33;
            CHECK(!memcmp(before, phys_window, WINDOW));
            CHECK_EQ(guest_fill(&mem, GPA(start[i]), 0x44, length[j]), there);
            for (u64 n = 0; there && n < length[j]; n++)
                before[home(start[i] + n)] = 0x44;
            CHECK(!memcmp(before, phys_window, WINDOW));
        }
    }
}
