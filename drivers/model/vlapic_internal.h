#pragma once
// Between the files of the local APIC: registers (vlapic.c), priorities and sources (vlapic_irq.c),
// timer (vlapic_timer.c). All for the owner.

#include "drivers/model/vlapic.h"

enum vlapic_error {
    VLAPIC_SEND_ILLEGAL_VECTOR = 0x20,
    VLAPIC_RECEIVE_ILLEGAL_VECTOR = 0x40,
    VLAPIC_ILLEGAL_REGISTER = 0x80,
};

static inline u32 vlapic_get(const struct vlapic *l, unsigned reg)
{
    return l->regs[reg / 4];
}

static inline void vlapic_put(struct vlapic *l, unsigned reg, u32 value)
{
    l->regs[reg / 4] = value;
    l->kept[reg / 16] = value;
}

// Changes bits of `attention`.
static inline void vlapic_raise_attention(struct vlapic *l, u32 bits)
{
    __atomic_fetch_or(&l->attention, bits, __ATOMIC_ACQ_REL);
}

static inline void vlapic_clear_attention(struct vlapic *l, u32 bits)
{
    __atomic_fetch_and(&l->attention, ~bits, __ATOMIC_ACQ_REL);
}

// vlapic_irq.c: puts a vector into IRR; the error if it is below 16.
void vlapic_accept(struct vlapic *l, u8 vector, bool level);
// Takes an error into ESR and raises the error interrupt.
void vlapic_error(struct vlapic *l, enum vlapic_error error);
// The pins' LVT entries or the APIC's mode changed.
void vlapic_look_at_pins(struct vlapic *l);
// Forgets all vectors, in the page and posted.
void vlapic_clear_vectors(struct vlapic *l);

// vlapic_timer.c.
void vlapic_timer_init(struct vlapic *l, struct timer_set *timers);
void vlapic_timer_reset(struct vlapic *l);
void vlapic_timer_set_lvt(struct vlapic *l, u32 value);
void vlapic_timer_set_initial(struct vlapic *l, u32 value);
void vlapic_timer_set_divide(struct vlapic *l, u32 value);
u32 vlapic_timer_current(const struct vlapic *l);
void vlapic_timer_set_deadline(struct vlapic *l, u64 tsc);
