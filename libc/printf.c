#include "libc/printf.h"

#include "libc/string.h"

struct sink {
    char *buf;
    size_t size;
    size_t len; // as if there were room for all of it
};

struct spec {
    bool left, zero, plus, space, alt;
    int width;
    int precision; // negative: none given
};

static void put(struct sink *s, char c)
{
    if (s->len + 1 < s->size)
        s->buf[s->len] = c;
    s->len++;
}

static void put_bytes(struct sink *s, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        put(s, text[i]);
}

static void pad(struct sink *s, char c, int n)
{
    for (; n > 0; n--)
        put(s, c);
}

static void put_text(struct sink *s, const struct spec *f, const char *text, size_t n)
{
    if (!f->left)
        pad(s, ' ', f->width - (int)n);
    put_bytes(s, text, n);
    if (f->left)
        pad(s, ' ', f->width - (int)n);
}

static int digits_of(u64 v, unsigned base, bool upper, char out[static 20])
{
    const char *alphabet = upper ? "0123456789ABCDEF" : "0123456789abcdef";
    char reversed[20];
    int n = 0, i = 0;
    for (; v; v /= base)
        reversed[n++] = alphabet[v % base];
    for (; i < n; i++)
        out[i] = reversed[n - 1 - i];
    return n;
}

// `prefix` is a sign or 0x; it goes before the zeros that fill up to the precision or the width.
static void put_number(struct sink *s, const struct spec *f, const char *prefix, u64 v,
                       unsigned base, bool upper)
{
    char digits[20];
    int n = digits_of(v, base, upper, digits), zeros;
    int used = (int)strlen(prefix);
    if (f->precision >= 0)
        zeros = f->precision - n;
    else if (f->zero && !f->left)
        zeros = MAX(f->width - used, 1) - n;
    else
        zeros = 1 - n;
    zeros = MAX(zeros, 0);
    used += n + zeros;
    if (!f->left)
        pad(s, ' ', f->width - used);
    put_bytes(s, prefix, strlen(prefix));
    pad(s, '0', zeros);
    put_bytes(s, digits, (size_t)n);
    if (f->left)
        pad(s, ' ', f->width - used);
}

static void put_signed(struct sink *s, const struct spec *f, s64 v)
{
    const char *sign = v < 0 ? "-" : f->plus ? "+" : f->space ? " " : "";
    put_number(s, f, sign, v < 0 ? 0 - (u64)v : (u64)v, 10, false);
}

static void put_hex(struct sink *s, const struct spec *f, u64 v, bool upper)
{
    put_number(s, f, f->alt && v ? (upper ? "0X" : "0x") : "", v, 16, upper);
}

static void put_pointer(struct sink *s, const struct spec *f, const void *p)
{
    struct spec with_prefix = *f;
    with_prefix.alt = true;
    if (p)
        put_hex(s, &with_prefix, (u64)p, false);
    else
        put_text(s, f, "(nil)", 5);
}

static void put_string(struct sink *s, const struct spec *f, const char *text)
{
    if (!text)
        text = f->precision < 0 || f->precision >= 6 ? "(null)" : "";
    put_text(s, f, text, f->precision < 0 ? strlen(text) : strnlen(text, (size_t)f->precision));
}

static bool flag(struct spec *f, char c)
{
    switch (c) {
    case '-':
        return f->left = true;
    case '0':
        return f->zero = true;
    case '+':
        return f->plus = true;
    case ' ':
        return f->space = true;
    case '#':
        return f->alt = true;
    default:
        return false;
    }
}

// A number in the format, or '*'. Bounded so that sums with it cannot overflow.
static int number(const char **fmt, va_list *args)
{
    int n = 0;
    if (**fmt == '*') {
        (*fmt)++;
        n = va_arg(*args, int);
        return MIN(MAX(n, -(1 << 24)), 1 << 24);
    }
    for (; **fmt >= '0' && **fmt <= '9'; (*fmt)++)
        n = MIN(n * 10 + (**fmt - '0'), 1 << 24);
    return n;
}

static struct spec parse_spec(const char **fmt, va_list *args)
{
    struct spec f = {.precision = -1};
    while (flag(&f, **fmt))
        (*fmt)++;
    f.width = number(fmt, args);
    if (f.width < 0) {
        f.left = true;
        f.width = -f.width;
    }
    if (**fmt == '.') {
        (*fmt)++;
        f.precision = number(fmt, args);
    }
    return f;
}

// Size of the integer argument in bytes, by the length modifiers.
static unsigned parse_length(const char **fmt)
{
    unsigned size = sizeof(int);
    for (;; (*fmt)++) {
        if (**fmt == 'l' || **fmt == 'z')
            size = sizeof(long);
        else if (**fmt == 'h')
            size = size == sizeof(short) ? 1 : sizeof(short);
        else
            return size;
    }
}

static u64 take_unsigned(va_list *args, unsigned size)
{
    if (size == sizeof(long))
        return va_arg(*args, unsigned long);
    return va_arg(*args, unsigned) & (~0ull >> (64 - 8 * size));
}

static s64 take_signed(va_list *args, unsigned size)
{
    unsigned unused = 64 - 8 * size;
    return (s64)(take_unsigned(args, size) << unused) >> unused;
}

// False for a conversion that is not known: it is shown as it stands.
static bool convert(struct sink *s, const struct spec *f, char conversion, unsigned size,
                    va_list *args)
{
    char c;
    switch (conversion) {
    case 'd':
    case 'i':
        put_signed(s, f, take_signed(args, size));
        return true;
    case 'u':
        put_number(s, f, "", take_unsigned(args, size), 10, false);
        return true;
    case 'x':
    case 'X':
        put_hex(s, f, take_unsigned(args, size), conversion == 'X');
        return true;
    case 'p':
        put_pointer(s, f, va_arg(*args, void *));
        return true;
    case 'c':
        c = (char)va_arg(*args, int);
        put_text(s, f, &c, 1);
        return true;
    case 's':
        put_string(s, f, va_arg(*args, const char *));
        return true;
    case '%':
        put(s, '%');
        return true;
    default:
        return false;
    }
}

int vsnprintf(char *buf, size_t size, const char *fmt, va_list args)
{
    struct sink s = {.buf = buf, .size = size};
    va_list rest;
    va_copy(rest, args);
    while (*fmt) {
        const char *start = fmt;
        if (*fmt++ != '%') {
            put(&s, *start);
            continue;
        }
        struct spec f = parse_spec(&fmt, &rest);
        unsigned length = parse_length(&fmt);
        char conversion = *fmt;
        if (conversion)
            fmt++;
        if (!convert(&s, &f, conversion, length, &rest))
            put_bytes(&s, start, (size_t)(fmt - start));
    }
    va_end(rest);
    if (size)
        buf[MIN(s.len, size - 1)] = 0;
    return (int)s.len;
}

int snprintf(char *buf, size_t size, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(buf, size, fmt, args);
    va_end(args);
    return n;
}
