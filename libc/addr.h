#pragma once
// The three address spaces of nested virtualization as distinct types, so that mixing them up does
// not compile, and L0's window on physical memory.

#include "libc/types.h"

typedef struct {
    u64 v;
} hpa_t; // host-physical: what L0 and the processor see
typedef struct {
    u64 v;
} gpa_t; // guest-physical: what L1 takes for physical
typedef struct {
    u64 v;
} ngpa_t; // nested guest-physical: what L2 takes for physical

#define HPA(x)  ((hpa_t){(x)})
#define GPA(x)  ((gpa_t){(x)})
#define NGPA(x) ((ngpa_t){(x)})

#ifdef NESTOR_HOST
// Unit tests let "physical memory" be a buffer: hpa 0 is phys_window[0].
extern u8 *phys_window;
#define PHYS_WINDOW ((u64)phys_window)
#else
// All physical memory is mapped here, writable and not executable (kernel/paging.c).
#define PHYS_WINDOW 0xffff800000000000ull
#endif

// L0's pointer to physical memory. The address must lie in RAM or in a mapped device.
static inline void *phys_ptr(hpa_t a)
{
    return (void *)(PHYS_WINDOW + a.v);
}

// The inverse of phys_ptr: `p` must point into the window (not at L0's own image or stacks).
static inline hpa_t ptr_phys(const void *p)
{
    return HPA((u64)p - PHYS_WINDOW);
}

static inline u64 align_down(u64 v, u64 to)
{
    return v & ~(to - 1);
}

static inline u64 align_up(u64 v, u64 to)
{
    return (v + to - 1) & ~(to - 1);
}
