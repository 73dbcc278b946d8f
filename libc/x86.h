#pragma once
// Privileged and special instructions as inline functions. VMX instructions are in vmx/vmxop.h.
// Nothing that is compiled for the host tests may call these.

#include "libc/types.h"

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)

#define CR4_PAE     BIT(5)
#define CR4_PGE     BIT(7)
#define CR4_VMXE    BIT(13)
#define CR4_PCIDE   BIT(17)
#define CR4_OSXSAVE BIT(18)
#define CR4_SMEP    BIT(20)
#define CR4_SMAP    BIT(21)

#define RFLAGS_CF BIT(0)
#define RFLAGS_FIXED BIT(1)
#define RFLAGS_PF BIT(2)
#define RFLAGS_AF BIT(4)
#define RFLAGS_ZF BIT(6)
#define RFLAGS_SF BIT(7)
#define RFLAGS_TF BIT(8)
#define RFLAGS_IF BIT(9)
#define RFLAGS_OF BIT(11)
#define RFLAGS_RF BIT(16)
#define RFLAGS_VM BIT(17)
#define RFLAGS_ARITH (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)

#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NXE BIT(11)

enum x86_vector {
    VEC_DE, VEC_DB, VEC_NMI, VEC_BP, VEC_OF, VEC_BR, VEC_UD, VEC_NM, VEC_DF,
    VEC_TS = 10, VEC_NP, VEC_SS, VEC_GP, VEC_PF, VEC_MF = 16, VEC_AC, VEC_MC, VEC_XM, VEC_VE,
};

struct cpuid {
    u32 eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(u32 leaf, u32 subleaf)
{
    struct cpuid r;
    asm volatile("cpuid"
                 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                 : "a"(leaf), "c"(subleaf));
    return r;
}

static inline u64 rdmsr(u32 msr)
{
    u32 lo, hi;
    asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return (u64)hi << 32 | lo;
}

static inline void wrmsr(u32 msr, u64 v)
{
    asm volatile("wrmsr" ::"c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

// An instruction that may fault on purpose: kernel/trap.c continues after it with the carry flag
// set if it does.
#define FIXUP_ENTRY                                                                                \
    ".pushsection .fixups, \"a\"\n"                                                                \
    ".quad 1b, 2b\n"                                                                               \
    ".popsection\n"

// False if the MSR does not exist (#GP).
static inline bool rdmsr_safe(u32 msr, u64 *v)
{
    u32 lo = 0, hi = 0;
    bool fault;
    asm volatile("clc\n1: rdmsr\n2:\n" FIXUP_ENTRY
                 : "+a"(lo), "+d"(hi), "=@ccc"(fault)
                 : "c"(msr));
    *v = (u64)hi << 32 | lo;
    return !fault;
}

// False if the processor refuses the MSR or the value (#GP).
static inline bool wrmsr_safe(u32 msr, u64 v)
{
    bool fault;
    asm volatile("clc\n1: wrmsr\n2:\n" FIXUP_ENTRY
                 : "=@ccc"(fault)
                 : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32))
                 : "memory");
    return !fault;
}

#define X86_CR(n)                                                                                  \
    static inline u64 read_cr##n(void)                                                             \
    {                                                                                              \
        u64 v;                                                                                     \
        asm volatile("mov %%cr" #n ", %0" : "=r"(v)::"memory");                                    \
        return v;                                                                                  \
    }                                                                                              \
    static inline void write_cr##n(u64 v)                                                          \
    {                                                                                              \
        asm volatile("mov %0, %%cr" #n ::"r"(v) : "memory");                                       \
    }
X86_CR(0)
X86_CR(2)
X86_CR(3)
X86_CR(4)
X86_CR(8)
#undef X86_CR

static inline u64 rdtsc(void)
{
    u64 lo, hi; // the processor clears the upper halves
    asm volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return hi << 32 | lo;
}

static inline void xsetbv(u32 reg, u64 v)
{
    asm volatile("xsetbv" ::"c"(reg), "a"((u32)v), "d"((u32)(v >> 32)));
}

static inline u64 xgetbv(u32 reg)
{
    u32 lo, hi;
    asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(reg));
    return (u64)hi << 32 | lo;
}

static inline u8 inb(u16 port)
{
    u8 v;
    asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline u16 inw(u16 port)
{
    u16 v;
    asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline u32 inl(u16 port)
{
    u32 v;
    asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline void outb(u16 port, u8 v)
{
    asm volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}

static inline void outw(u16 port, u16 v)
{
    asm volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}

static inline void outl(u16 port, u32 v)
{
    asm volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}

static inline void invlpg(const void *p)
{
    asm volatile("invlpg (%0)" ::"r"(p) : "memory");
}

static inline void irq_disable(void)
{
    asm volatile("cli" ::: "memory");
}

// Waits for an interrupt with interrupts on, and turns them off again. An interrupt that is already
// pending is taken before the processor halts.
static inline void irq_wait(void)
{
    asm volatile("sti; hlt; cli" ::: "memory");
}

// Takes the interrupts that are pending now.
static inline void irq_window(void)
{
    asm volatile("sti; nop; cli" ::: "memory");
}

struct table_ptr {
    u16 limit;
    u64 base;
} PACKED;
