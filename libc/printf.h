#pragma once
// Formatted output into a buffer: %d %i %u %x %X %c %s %p %% with the flags "-0 +#", width and
// precision (also '*'), and the lengths hh h l ll z. No floating point. Same prototypes and results
// as the standard functions, so that host tests use the C library's own.

#include <stdarg.h>

#include "libc/types.h"

int snprintf(char *buf, size_t size, const char *fmt, ...) PRINTF(3, 4);
int vsnprintf(char *buf, size_t size, const char *fmt, va_list args) PRINTF(3, 0);
