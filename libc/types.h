#pragma once
// Fixed-width integers and the few macros that every file wants.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n)        (1ull << (n))
#define MIN(a, b)     ((a) < (b) ? (a) : (b))
#define MAX(a, b)     ((a) > (b) ? (a) : (b))

#define PACKED        __attribute__((packed))
#define ALIGNED(n)    __attribute__((aligned(n)))
#define NORETURN      __attribute__((noreturn))
#define NOINLINE      __attribute__((noinline))
#define FORCE_INLINE  static inline __attribute__((always_inline))
#define PRINTF(f, a)  __attribute__((format(printf, f, a)))
#define UNLIKELY(x)   __builtin_expect(!!(x), 0)
#define LIKELY(x)     __builtin_expect(!!(x), 1)

#define PAGE_SIZE     4096ull
#define PAGE_SHIFT    12
#define KIB           1024ull
#define MIB           (1024 * KIB)
#define GIB           (1024 * MIB)

// The structure that holds `member` at address `ptr`.
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
