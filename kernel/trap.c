#include "kernel/trap.h"

#include "drivers/cpu.h"
#include "kernel/dump.h"
#include "libc/log.h"
#include "libc/x86.h"

struct gate {
    u16 offset0;
    u16 selector;
    u8 ist;
    u8 type;
    u16 offset1;
    u32 offset2;
    u32 reserved;
} PACKED;

struct fixup {
    u64 at, resume;
};

static struct gate idt[256] ALIGNED(16);
static struct {
    void (*handler)(void *);
    void *context;
} irq[256];

extern const u64 trap_stubs[256];
extern const struct fixup fixups_start[], fixups_end[];

void trap_handle(struct trap_frame *frame);

static u8 ist_of(unsigned vector)
{
    switch (vector) {
    case VEC_NMI:
        return IST_NMI;
    case VEC_DF:
        return IST_DF;
    case VEC_MC:
        return IST_MC;
    default:
        return 0;
    }
}

void trap_init(void)
{
    for (unsigned v = 0; v < 256; v++) {
        u64 a = trap_stubs[v];
        idt[v] = (struct gate){.offset0 = (u16)a,
                               .selector = SEL_CODE,
                               .ist = ist_of(v),
                               .type = 0x8e,
                               .offset1 = (u16)(a >> 16),
                               .offset2 = (u32)(a >> 32)};
    }
    trap_load();
}

void trap_load(void)
{
    struct table_ptr p = {sizeof(idt) - 1, (u64)idt};
    asm volatile("lidt %0" ::"m"(p));
}

u64 trap_idt_base(void)
{
    return (u64)idt;
}

void trap_set_irq(u8 vector, void (*handler)(void *), void *context)
{
    irq[vector].handler = handler;
    irq[vector].context = context;
}

void trap_dispatch_irq(u8 vector)
{
    this_cpu()->irqs++;
    if (irq[vector].handler)
        irq[vector].handler(irq[vector].context);
    else
        log_warn("unexpected interrupt, vector %u", vector);
}

// An instruction that was allowed to fault: continue behind it with CF set.
static bool fixed_up(struct trap_frame *f)
{
    for (const struct fixup *x = fixups_start; x < fixups_end; x++) {
        if (x->at == f->rip) {
            f->rip = x->resume;
            f->rflags |= RFLAGS_CF;
            return true;
        }
    }
    return false;
}

void trap_handle(struct trap_frame *frame)
{
    if (frame->vector >= 32) {
        trap_dispatch_irq((u8)frame->vector);
    } else if (frame->vector == VEC_NMI) {
        this_cpu()->nmis++;
    } else if (!fixed_up(frame)) {
        dump_trap(frame);
        panic("exception %llu in L0", (unsigned long long)frame->vector);
    }
}
