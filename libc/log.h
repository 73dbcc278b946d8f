#pragma once
// Messages of L0. Every layer may log; kernel/console.c decides where the text goes.

#include "libc/types.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

// One message (a line break is added). Shown on every console if `level` is at most the level that
// the configuration asks for, and kept in the ring buffer in any case.
void log_at(enum log_level level, const char *fmt, ...) PRINTF(2, 3);

#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)

// A bug of L0: says so on every console with registers and a backtrace, and ends. Nothing that a
// VM, a configuration, a module or a device does may lead here.
void panic(const char *fmt, ...) NORETURN PRINTF(1, 2);

#define ASSERT(x)                                                                                  \
    do {                                                                                           \
        if (UNLIKELY(!(x)))                                                                        \
            panic("%s:%d: assertion failed: %s", __FILE__, __LINE__, #x);                          \
    } while (0)
