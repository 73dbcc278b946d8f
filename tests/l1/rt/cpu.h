#pragma once
// Single instructions. Those named try_... may fault: they return the vector of the fault, or
// NO_FAULT, and leave its details in `fault`.

#include "libc/types.h"

#define NO_FAULT 0xffffu

enum {
    VEC_DE = 0,
    VEC_DB = 1,
    VEC_NMI = 2,
    VEC_BP = 3,
    VEC_OF = 4,
    VEC_BR = 5,
    VEC_UD = 6,
    VEC_NM = 7,
    VEC_DF = 8,
    VEC_TS = 10,
    VEC_NP = 11,
    VEC_SS = 12,
    VEC_GP = 13,
    VEC_PF = 14,
    VEC_MF = 16,
    VEC_AC = 17,
    VEC_MC = 18,
};

struct fault {
    u32 vector, error;
    u64 cr2, rip;
};
extern struct fault fault; // the latest one that was caught

// An instruction that may fault: when it does, execution continues right after it.
#define TRY(insn)                                                                                  \
    "771: " insn "\n772:\n.pushsection .extable,\"a\"\n.quad 771b, 772b\n.popsection\n"

static inline void fault_clear(void)
{
    fault = (struct fault){.vector = NO_FAULT};
}

static inline u8 inb(u16 port)
{
    u8 v;
    asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline u16 inw(u16 port)
{
    u16 v;
    asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline u32 inl(u16 port)
{
    u32 v;
    asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline void outb(u16 port, u8 v)
{
    asm volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void outw(u16 port, u16 v)
{
    asm volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void outl(u16 port, u32 v)
{
    asm volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

struct cpuid {
    u32 a, b, c, d;
};

static inline struct cpuid cpuid(u32 leaf, u32 sub)
{
    struct cpuid r;
    asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "0"(leaf), "2"(sub));
    return r;
}

static inline u64 rdmsr(u32 msr)
{
    u32 lo, hi;
    asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");
    return (u64)hi << 32 | lo;
}

static inline void wrmsr(u32 msr, u64 v)
{
    asm volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

static inline u32 try_rdmsr(u32 msr, u64 *v)
{
    u32 lo = 0, hi = 0;
    fault_clear();
    asm volatile(TRY("rdmsr") : "+a"(lo), "+d"(hi) : "c"(msr) : "memory");
    *v = (u64)hi << 32 | lo;
    return fault.vector;
}

static inline u32 try_wrmsr(u32 msr, u64 v)
{
    fault_clear();
    asm volatile(TRY("wrmsr") : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
    return fault.vector;
}

#define CR_ACCESS(n)                                                                               \
    static inline u64 read_cr##n(void)                                                             \
    {                                                                                              \
        u64 v;                                                                                     \
        asm volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                                 \
        return v;                                                                                  \
    }                                                                                              \
    static inline void write_cr##n(u64 v)                                                          \
    {                                                                                              \
        asm volatile("mov %0, %%cr" #n : : "r"(v) : "memory");                                     \
    }                                                                                              \
    static inline u32 try_write_cr##n(u64 v)                                                       \
    {                                                                                              \
        fault_clear();                                                                             \
        asm volatile(TRY("mov %0, %%cr" #n) : : "r"(v) : "memory");                                \
        return fault.vector;                                                                       \
    }
CR_ACCESS(0)
CR_ACCESS(2)
CR_ACCESS(3)
CR_ACCESS(4)
CR_ACCESS(8)

#define DR_ACCESS(n)                                                                               \
    static inline u64 read_dr##n(void)                                                             \
    {                                                                                              \
        u64 v;                                                                                     \
        asm volatile("mov %%dr" #n ", %0" : "=r"(v) : : "memory");                                 \
        return v;                                                                                  \
    }                                                                                              \
    static inline u32 try_write_dr##n(u64 v)                                                       \
    {                                                                                              \
        fault_clear();                                                                             \
        asm volatile(TRY("mov %0, %%dr" #n) : : "r"(v) : "memory");                                \
        return fault.vector;                                                                       \
    }
DR_ACCESS(0)
DR_ACCESS(1)
DR_ACCESS(2)
DR_ACCESS(3)
DR_ACCESS(6)
DR_ACCESS(7)

static inline u64 rdtsc(void)
{
    u32 lo, hi;
    asm volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
    return (u64)hi << 32 | lo;
}

static inline u64 read_flags(void)
{
    u64 v;
    asm volatile("pushfq; pop %0" : "=r"(v) : : "memory");
    return v;
}

static inline u32 try_xsetbv(u32 index, u64 v)
{
    fault_clear();
    asm volatile(TRY("xsetbv") : : "c"(index), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
    return fault.vector;
}

static inline u64 xgetbv(u32 index)
{
    u32 lo, hi;
    asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(index));
    return (u64)hi << 32 | lo;
}

static inline void invlpg(const void *p)
{
    asm volatile("invlpg (%0)" : : "r"(p) : "memory");
}

static inline void sti(void)
{
    asm volatile("sti" : : : "memory");
}

static inline void cli(void)
{
    asm volatile("cli" : : : "memory");
}

// Lets pending interrupts in for the length of two instructions.
static inline void irq_window(void)
{
    asm volatile("sti; nop; nop; cli" : : : "memory");
}

static inline void sti_hlt_cli(void)
{
    asm volatile("sti; hlt; cli" : : : "memory");
}

static inline u32 read32(u64 a)
{
    return *(volatile u32 *)a;
}

static inline void write32(u64 a, u32 v)
{
    *(volatile u32 *)a = v;
}

static inline u64 read64(u64 a)
{
    return *(volatile u64 *)a;
}

static inline void write64(u64 a, u64 v)
{
    *(volatile u64 *)a = v;
}

// Memory accesses that may fault.
static inline u32 try_read(u64 a)
{
    u64 v;
    fault_clear();
    asm volatile(TRY("mov (%1), %0") : "=r"(v) : "r"(a) : "memory");
    return fault.vector;
}

static inline u32 try_write(u64 a, u64 v)
{
    fault_clear();
    asm volatile(TRY("mov %0, (%1)") : : "r"(v), "r"(a) : "memory");
    return fault.vector;
}
