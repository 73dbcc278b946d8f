#include "drivers/cpu.h"

#include "libc/x86.h"

#define MSR_GS_BASE 0xc0000101

static void fill_gdt(struct cpu *cpu)
{
    u64 base = (u64)&cpu->tss, limit = sizeof(cpu->tss) - 1;
    cpu->gdt[0] = 0;
    cpu->gdt[SEL_CODE / 8] = 0x00af9b000000ffff;
    cpu->gdt[SEL_DATA / 8] = 0x00cf93000000ffff;
    cpu->gdt[SEL_TSS / 8] =
        limit | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    cpu->gdt[SEL_TSS / 8 + 1] = base >> 32;
}

void cpu_load(struct cpu *cpu)
{
    fill_gdt(cpu);
    cpu->self = cpu;
    cpu->tss.rsp[0] = cpu->stack_top;
    cpu->tss.iomap = sizeof(cpu->tss);
    struct table_ptr gdtr = {sizeof(cpu->gdt) - 1, (u64)cpu->gdt};
    asm volatile("lgdt %0\n"
                 "pushq %1\n"
                 "lea 1f(%%rip), %%rax\n"
                 "pushq %%rax\n"
                 "lretq\n"
                 "1: mov %2, %%eax\n"
                 "mov %%ax, %%ds\n mov %%ax, %%es\n mov %%ax, %%ss\n"
                 "xor %%eax, %%eax\n mov %%ax, %%fs\n mov %%ax, %%gs\n"
                 "ltr %w3\n" ::"m"(gdtr),
                 "i"(SEL_CODE), "i"(SEL_DATA), "r"(SEL_TSS)
                 : "rax", "memory");
    wrmsr(MSR_GS_BASE, (u64)cpu);
}
