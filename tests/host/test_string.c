// L0's string functions against the C library's.

#include "tests/host/test.h"

#define memcpy  nestor_memcpy
#define memmove nestor_memmove
#define memset  nestor_memset
#define memcmp  nestor_memcmp
#define strlen  nestor_strlen
#define strnlen nestor_strnlen
#define strcmp  nestor_strcmp
#define strncmp nestor_strncmp
#define strchr  nestor_strchr
#include "libc/string.c"
#undef memcpy
#undef memmove
#undef memset
#undef memcmp
#undef strlen
#undef strnlen
#undef strcmp
#undef strncmp
#undef strchr

#define SPAN 160

static void fill(u8 *p, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (u8)((seed = seed * 1103515245 + 12345) >> 16);
}

static int sign(int v)
{
    return (v > 0) - (v < 0);
}

TEST(copies_of_all_small_sizes_and_alignments)
{
    u8 from[SPAN], want[SPAN], got[SPAN];
    fill(from, SPAN, 1);
    for (size_t n = 0; n <= 100; n++)
        for (size_t a = 0; a < 9; a++)
            for (size_t b = 0; b < 9; b++) {
                memset(want, 0xee, SPAN);
                memset(got, 0xee, SPAN);
                memcpy(want + a, from + b, n);
                CHECK(nestor_memcpy(got + a, from + b, n) == got + a);
                CHECK(!memcmp(want, got, SPAN));
            }
}

TEST(moves_with_every_overlap)
{
    u8 want[SPAN], got[SPAN];
    for (size_t n = 0; n <= 70; n++)
        for (size_t a = 0; a < 80; a += 3)
            for (size_t b = 0; b < 80; b++) {
                fill(want, SPAN, 7);
                fill(got, SPAN, 7);
                memmove(want + a, want + b, n);
                CHECK(nestor_memmove(got + a, got + b, n) == got + a);
                CHECK(!memcmp(want, got, SPAN));
            }
}

TEST(sets_all_small_sizes)
{
    u8 want[SPAN], got[SPAN];
    for (size_t n = 0; n <= 100; n++)
        for (size_t a = 0; a < 9; a++) {
            fill(want, SPAN, 3);
            fill(got, SPAN, 3);
            memset(want + a, 0x1a5, n);
            CHECK(nestor_memset(got + a, 0x1a5, n) == got + a);
            CHECK(!memcmp(want, got, SPAN));
        }
}

TEST(compares_find_the_first_difference)
{
    u8 a[SPAN], b[SPAN];
    for (size_t n = 0; n <= 40; n++)
        for (size_t at = 0; at <= n; at++)
            for (int delta = -200; delta <= 200; delta += 57) {
                fill(a, SPAN, 5);
                memcpy(b, a, SPAN);
                b[at] = (u8)(b[at] + delta);
                b[at + 1] ^= 0x80;
                CHECK_EQ(sign(nestor_memcmp(a, b, n)), sign(memcmp(a, b, n)));
            }
}

TEST(strings)
{
    static const char *const s[] = {"",    "a",    "b",     "ab",        "abc",
                                    "abd", "\xff", "a\xff", "abcdefghij"};
    for (size_t i = 0; i < ARRAY_SIZE(s); i++) {
        CHECK_EQ(nestor_strlen(s[i]), strlen(s[i]));
        for (size_t n = 0; n < 12; n++)
            CHECK_EQ(nestor_strnlen(s[i], n), strnlen(s[i], n));
        for (int c = -1; c < 256; c++)
            CHECK(nestor_strchr(s[i], c) == strchr(s[i], c));
        for (size_t j = 0; j < ARRAY_SIZE(s); j++) {
            CHECK_EQ(sign(nestor_strcmp(s[i], s[j])), sign(strcmp(s[i], s[j])));
            for (size_t n = 0; n < 12; n++)
                CHECK_EQ(sign(nestor_strncmp(s[i], s[j], n)), sign(strncmp(s[i], s[j], n)));
        }
    }
}
