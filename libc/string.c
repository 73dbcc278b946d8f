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

#define BULK 8 // words at once

static void copy_up(u8 *to, const u8 *from, size_t n)
{
    for (; n >= BULK * WORD; n -= BULK * WORD, to += BULK * WORD, from += BULK * WORD) {
        const word *f = (const word *)from;
        word *t = (word *)to;
#pragma GCC unroll 8
        for (unsigned i = 0; i < BULK; i++)
            t[i] = f[i];
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
    for (; n >= BULK * WORD; n -= BULK * WORD, p += BULK * WORD) {
        word *t = (word *)p;
#pragma GCC unroll 8
        for (unsigned i = 0; i < BULK; i++)
            t[i] = v;
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
