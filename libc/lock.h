#pragma once
// Ticket spinlock: fair, no recursion. L0 runs with interrupts off, so that no variant for
// interrupt context is needed.

#include "libc/types.h"

struct spinlock {
    u16 next;
    u16 serving;
};

static inline void spin_lock(struct spinlock *lock)
{
    u16 mine = __atomic_fetch_add(&lock->next, 1, __ATOMIC_RELAXED);
    while (__atomic_load_n(&lock->serving, __ATOMIC_ACQUIRE) != mine)
        __builtin_ia32_pause();
}

static inline void spin_unlock(struct spinlock *lock)
{
    __atomic_store_n(&lock->serving, (u16)(lock->serving + 1), __ATOMIC_RELEASE);
}
