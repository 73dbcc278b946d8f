// L0's formatted output against the C library's.

#include <limits.h>
#include <stdarg.h>

#include "tests/host/test.h"

#define snprintf  nestor_snprintf
#define vsnprintf nestor_vsnprintf
#include "libc/printf.c"
#undef snprintf
#undef vsnprintf

// Formats are put together at run time here, so the compiler cannot check them.
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wsuggest-attribute=format"
#endif

static void same(size_t room, const char *fmt, ...)
{
    char want[300], got[300];
    va_list a, b;
    memset(want, '~', sizeof(want));
    memset(got, '~', sizeof(got));
    va_start(a, fmt);
    va_copy(b, a);
    int n = vsnprintf(want, room, fmt, a), m = nestor_vsnprintf(got, room, fmt, b);
    va_end(a);
    va_end(b);
    if (n != m || memcmp(want, got, sizeof(got))) {
        printf("format \"%s\" room %zu: want %d \"%.*s\", got %d \"%.*s\"\n", fmt, room, n, 80,
               want, m, 80, got);
        CHECK(!"same result");
    }
}

static const char *const flags[] = {"",   "-",  "0",  "+",  " ",  "#",  "-0",
                                    "+ ", "0#", "-#", "0+", "0 ", "-+#"};
static const char *const widths[] = {"", "1", "3", "12", "30"};
static const char *const precisions[] = {"", ".", ".0", ".1", ".5", ".25"};

// Calls `one` with every "%flags width precision length conversion" that the standard defines.
static void each_format(const char *lengths, const char *conversions, void (*one)(const char *fmt))
{
    char fmt[32], length[3];
    for (size_t f = 0; f < ARRAY_SIZE(flags); f++)
        for (size_t w = 0; w < ARRAY_SIZE(widths); w++)
            for (size_t p = 0; p < ARRAY_SIZE(precisions); p++)
                for (const char *l = lengths; *l; l++)
                    for (const char *c = conversions; *c; c++) {
                        strcpy(length, *l == 'H' ? "hh" : *l == 'L' ? "ll" : (char[]){*l, 0});
                        snprintf(fmt, sizeof(fmt), "<%%%s%s%s%s%c>", flags[f], widths[w],
                                 precisions[p], *l == '.' ? "" : length, *c);
                        one(fmt);
                    }
}

static void ints(const char *fmt)
{
    static const int v[] = {0, 1, -1, 9, 255, -128, 65535, 123456789, INT_MIN, INT_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(v); i++)
        same(100, fmt, v[i]);
}

static void longs(const char *fmt)
{
    static const long v[] = {0, 1, -1, 0xffffffffl, 0x123456789abcdefl, LONG_MIN, LONG_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(v); i++)
        same(100, fmt, v[i]);
}

static void strings(const char *fmt)
{
    static const char *const v[] = {"", "x", "hello", "a text of more than thirty characters",
                                    NULL};
    for (size_t i = 0; i < ARRAY_SIZE(v); i++)
        same(100, fmt, v[i]);
}

static void chars(const char *fmt)
{
    for (int c = 1; c < 256; c += 17)
        same(100, fmt, c);
}

TEST(integers)
{
    each_format(".hH", "diuxX", ints);
    each_format("lLz", "diuxX", longs);
}

TEST(text)
{
    each_format(".", "s", strings);
    each_format(".", "c", chars);
}

TEST(pointers)
{
    static const char *const fmt[] = {"%p", "<%20p>", "<%-20p>"};
    for (size_t i = 0; i < ARRAY_SIZE(fmt); i++) {
        same(100, fmt[i], (void *)0x1234abcdul);
        same(100, fmt[i], NULL);
        same(100, fmt[i], (void *)~0ul);
    }
}

TEST(width_and_precision_as_arguments)
{
    for (int w = -12; w <= 12; w += 3)
        for (int p = -3; p <= 8; p++) {
            same(100, "<%*.*d>", w, p, 1234);
            same(100, "<%*.*s>", w, p, "nestor");
            same(100, "<%-*x>", w, 0xbeef);
        }
}

TEST(no_byte_beyond_the_buffer)
{
    for (size_t room = 0; room < 20; room++) {
        same(room, "%s-%d%%", "abcdef", 12345);
        same(room, "%15u", 7u);
    }
    CHECK_EQ(nestor_snprintf(NULL, 0, "%d", 12345), 5);
}

TEST(mixed)
{
    same(200, "100%% of %zu in %s at %#018llx, %c%c", (size_t)42, "x", 0xfeed00ull, 'o', 'k');
    same(200, "%d %ld %hhd %hd %lld", -5, -6l, 0x1ff, 0x1ffff, -7ll);
}

TEST(unknown_or_cut_conversions_are_shown)
{
    static const char *const fmt[] = {"a%yb", "a%5", "%", "%-08.3lly"};
    char got[40];
    for (size_t i = 0; i < ARRAY_SIZE(fmt); i++) {
        CHECK_EQ(nestor_snprintf(got, sizeof(got), fmt[i]), strlen(fmt[i]));
        CHECK(!strcmp(got, fmt[i]));
    }
}
