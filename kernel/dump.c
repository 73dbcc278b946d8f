#include "kernel/dump.h"

#include "libc/log.h"
#include "libc/x86.h"

#define MAX_DEPTH 24

struct symbol {
    u64 address;
    const char *name;
};

// Made by scripts/symbols from the first link; sorted, ends with address 0.
extern const struct symbol symbol_table[] __attribute__((weak));
extern const u8 image_start[], rodata_start[], image_end[];

typedef unsigned long long ull;

static const struct symbol *symbol_of(u64 address)
{
    const struct symbol *best = NULL;
    if (!symbol_table || address < (u64)image_start || address >= (u64)rodata_start)
        return NULL;
    for (const struct symbol *s = symbol_table; s->address && s->address <= address; s++)
        best = s;
    return best;
}

static void print_frame(u64 address)
{
    const struct symbol *s = symbol_of(address);
    if (s)
        log_error("  %016llx %s+0x%llx", (ull)address, s->name, (ull)(address - s->address));
    else
        log_error("  %016llx", (ull)address);
}

// Frame pointers of L0's stacks only: 16-byte steps upwards in the kernel half.
static bool plausible(u64 rbp, u64 last)
{
    return rbp > last && rbp % 8 == 0 && rbp >= 0xffff800000000000ull && rbp - last < 0x10000;
}

static void backtrace(u64 rbp)
{
    u64 last = rbp - 1;
    for (int i = 0; i < MAX_DEPTH && plausible(rbp, last); i++) {
        const u64 *frame = (const u64 *)rbp;
        if (!frame[1])
            break;
        print_frame(frame[1]);
        last = rbp;
        rbp = frame[0];
    }
}

void dump_trap(const struct trap_frame *f)
{
    log_error("L0 exception %llu, error code %llx, cr2 %016llx, cr3 %016llx", (ull)f->vector,
              (ull)f->error, (ull)read_cr2(), (ull)read_cr3());
    log_error("rip %04llx:%016llx rflags %08llx rsp %04llx:%016llx", (ull)f->cs, (ull)f->rip,
              (ull)f->rflags, (ull)f->ss, (ull)f->rsp);
    log_error("rax %016llx rcx %016llx rdx %016llx rbx %016llx", (ull)f->rax, (ull)f->rcx,
              (ull)f->rdx, (ull)f->rbx);
    log_error("rbp %016llx rsi %016llx rdi %016llx r8  %016llx", (ull)f->rbp, (ull)f->rsi,
              (ull)f->rdi, (ull)f->r8);
    log_error("r9  %016llx r10 %016llx r11 %016llx r12 %016llx", (ull)f->r9, (ull)f->r10,
              (ull)f->r11, (ull)f->r12);
    log_error("r13 %016llx r14 %016llx r15 %016llx", (ull)f->r13, (ull)f->r14, (ull)f->r15);
    print_frame(f->rip);
    backtrace(f->rbp);
}

void dump_backtrace(void)
{
    backtrace((u64)__builtin_frame_address(0));
}
