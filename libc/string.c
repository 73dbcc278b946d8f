#include "libc/string.h"

// gcc would turn these loops into calls of the very functions they implement. clang does not under
// -ffreestanding.
#ifndef __clang__
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#endif

// Bulk goes in plain 8-byte moves: string instructions are slow under emulators, which leave the
// instruction after each element.
typedef u64 __attribute__((may_alias, aligned(1))) word;

#define WORD sizeof(word)

static void copy_up(u8 *to, const u8 *from, size_t n)
{
    for (; n >= 4 * WORD; n -= 4 * WORD, to += 4 * WORD, from += 4 * WORD) {
        const word *f = (const word *)from;
        word a = f[0], b = f[1], c = f[2], d = f[3];
        word *t = (word *)to;
        t[0] = a;
        t[1] = b;
        t[2] = c;
        t[3] = d;
    }
    for (; n >= WORD; n -= WORD, to += WORD, from += WORD)
        *(word *)to = *(const word *)from;
    while (n--)
        *to++ = *from++;
}

static void copy_down(u8 *to, const u8 *from, size_t n)
{
    for (; n >= WORD; n -= WORD)
        *(word *)(to + n - WORD) = *(const word *)(from + n - WORD);
    while (n--)
        to[n] = from[n];
}

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    copy_up(to, from, n);
    return to;
}

void *memmove(void *to, const void *from, size_t n)
{
    if ((uintptr_t)to - (uintptr_t)from < n)
        copy_down(to, from, n);
    else
        copy_up(to, from, n);
    return to;
}

void *memset(void *to, int byte, size_t n)
{
    u8 *p = to;
    word v = (u8)byte * 0x0101010101010101ull;
    for (; n >= 4 * WORD; n -= 4 * WORD, p += 4 * WORD) {
        word *t = (word *)p;
        t[0] = v;
        t[1] = v;
        t[2] = v;
        t[3] = v;
    }
    for (; n >= WORD; n -= WORD, p += WORD)
        *(word *)p = v;
    while (n--)
        *p++ = (u8)byte;
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const u8 *p = a, *q = b;
    for (; n >= WORD && *(const word *)p == *(const word *)q; n -= WORD, p += WORD, q += WORD)
        ;
    for (; n; n--, p++, q++)
        if (*p != *q)
            return *p < *q ? -1 : 1;
    return 0;
}

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}

size_t strnlen(const char *s, size_t max)
{
    size_t n = 0;
    while (n < max && s[n])
        n++;
    return n;
}

int strcmp(const char *a, const char *b)
{
    return strncmp(a, b, ~(size_t)0);
}

int strncmp(const char *a, const char *b, size_t n)
{
    for (; n; n--, a++, b++) {
        if (*a != *b)
            return (u8)*a < (u8)*b ? -1 : 1;
        if (!*a)
            break;
    }
    return 0;
}

char *strchr(const char *s, int c)
{
    for (;; s++) {
        if (*s == (char)c)
            return (char *)s;
        if (!*s)
            return NULL;
    }
}
