// What the host tests give the pure code in place of the kernel: a log on standard error, a panic
// that aborts, and "physical memory".

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "libc/addr.h"
#include "libc/log.h"

u8 *phys_window;

void log_at(enum log_level level, const char *fmt, ...)
{
    va_list args;
    if (level > LOG_WARN || !getenv("NESTOR_TEST_LOG"))
        return;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

void panic(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("panic: ", stderr);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    abort();
}
