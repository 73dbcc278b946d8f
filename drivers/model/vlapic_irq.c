// Local APIC: requests, priorities, pins and local interrupts.

#include "drivers/model/vlapic_internal.h"
#include "libc/bits.h"
#include "libc/string.h"

#define LVT_REMOTE_IRR 0x4000u
#define LVT_LEVEL      0x8000u

// --- The 256-bit registers ISR, TMR and IRR: eight words, 16 bytes apart ---

FORCE_INLINE u32 *word(struct vlapic *l, unsigned reg, unsigned vector)
{
    return &l->regs[reg / 4 + vector / 32 * 4];
}

FORCE_INLINE void put_bit(struct vlapic *l, unsigned reg, unsigned vector, bool on)
{
    u32 bit = 1u << vector % 32, *w = word(l, reg, vector);
    *w = on ? *w | bit : *w & ~bit;
}

FORCE_INLINE bool get_bit(struct vlapic *l, unsigned reg, unsigned vector)
{
    return *word(l, reg, vector) >> vector % 32 & 1;
}

// Clears a bit of IRR or ISR; `words` is the register's summary.
FORCE_INLINE void clear_bit(struct vlapic *l, unsigned reg, u8 *words, unsigned vector)
{
    put_bit(l, reg, vector, false);
    if (!*word(l, reg, vector))
        *words &= (u8) ~(1u << vector / 32);
}

FORCE_INLINE void set_bit(struct vlapic *l, unsigned reg, u8 *words, unsigned vector)
{
    put_bit(l, reg, vector, true);
    *words |= (u8)(1u << vector / 32);
}

// The highest vector of IRR or ISR, or -1.
static int highest(struct vlapic *l, unsigned reg, u8 words)
{
    if (!words)
        return -1;
    unsigned top = bit_highest(words) * 32;
    return (int)(top + bit_highest(*word(l, reg, top)));
}

// --- Priority ---

static u8 summary(struct vlapic *l, unsigned reg)
{
    u8 words = 0;
    for (unsigned i = 0; i < 8; i++)
        words |= (u8)((*word(l, reg, 32 * i) != 0) << i);
    return words;
}

// Makes irr_words and isr_words true, for as long as the processor does not run the guest.
static void settle(struct vlapic *l)
{
    if (LIKELY(!l->stale))
        return;
    l->irr_words = summary(l, VLAPIC_IRR);
    l->isr_words = summary(l, VLAPIC_ISR);
    l->stale = l->by_processor;
}

// IRR and ISR changed: the processor's RVI and SVI have to follow.
static void note_moved(struct vlapic *l)
{
    l->moved = true;
    if (UNLIKELY(l->by_processor))
        vlapic_raise_attention(l, VLAPIC_STATUS);
}

// `vector`, which is not in service, if the processor may take it now; else 0.
static inline u32 if_above_ppr(const struct vlapic *l, u32 vector)
{
    return vector >> 4 > vlapic_get(l, VLAPIC_PPR) >> 4 ? vector : 0;
}

static void update_pending(struct vlapic *l)
{
    if (UNLIKELY(l->by_processor))
        return;
    l->pending = if_above_ppr(l, (u32)MAX(highest(l, VLAPIC_IRR, l->irr_words), 0));
}

static void update_priority(struct vlapic *l)
{
    int isr = highest(l, VLAPIC_ISR, l->isr_words);
    u32 tpr = vlapic_get(l, VLAPIC_TPR), in_service = isr < 0 ? 0 : (u32)isr & 0xf0;
    vlapic_put(l, VLAPIC_PPR, (tpr & 0xf0) >= in_service ? tpr : in_service);
    update_pending(l);
}

void vlapic_set_tpr(struct vlapic *l, u8 tpr)
{
    settle(l);
    vlapic_put(l, VLAPIC_TPR, tpr);
    update_priority(l);
}

static void set_level(struct vlapic *l, u8 vector, bool level)
{
    if (UNLIKELY(get_bit(l, VLAPIC_TMR, vector) != level)) {
        put_bit(l, VLAPIC_TMR, vector, level);
        l->levels_changed = true;
    }
}

void vlapic_accept(struct vlapic *l, u8 vector, bool level)
{
    if (UNLIKELY(vector < 16)) {
        vlapic_error(l, VLAPIC_RECEIVE_ILLEGAL_VECTOR);
        return;
    }
    set_bit(l, VLAPIC_IRR, &l->irr_words, vector);
    set_level(l, vector, level);
    if (l->by_processor) {
        l->raised_words = (u8)((l->raised < 0 ? 0 : l->raised_words) | 1u << vector / 32);
        l->raised = MAX(l->raised, vector);
        vlapic_raise_attention(l, VLAPIC_STATUS);
        return;
    }
    l->moved = true;
    if (vector > l->pending && if_above_ppr(l, vector))
        l->pending = vector;
}

void vlapic_ack(struct vlapic *l, u8 vector)
{
    clear_bit(l, VLAPIC_IRR, &l->irr_words, vector);
    set_bit(l, VLAPIC_ISR, &l->isr_words, vector);
    vlapic_put(l, VLAPIC_PPR, vector & 0xf0u);
    l->pending = 0; // it was the highest, and now its class is the limit
    l->moved = true;
}

bool vlapic_eoi_is_level(struct vlapic *l)
{
    settle(l);
    int vector = highest(l, VLAPIC_ISR, l->isr_words);
    return vector >= 0 && get_bit(l, VLAPIC_TMR, (unsigned)vector);
}

void vlapic_ended(struct vlapic *l, u8 vector)
{
    if (LIKELY(!get_bit(l, VLAPIC_TMR, vector)))
        return;
    u32 lvt = vlapic_get(l, VLAPIC_LVT_LINT0);
    if ((lvt & LVT_REMOTE_IRR) && (lvt & 0xff) == vector) {
        vlapic_put(l, VLAPIC_LVT_LINT0, lvt & ~LVT_REMOTE_IRR);
        vlapic_look_at_pins(l);
    }
    l->bus->eoi(l->bus->ctx, vector);
}

void vlapic_eoi(struct vlapic *l)
{
    settle(l);
    int vector = highest(l, VLAPIC_ISR, l->isr_words);
    if (vector < 0)
        return;
    clear_bit(l, VLAPIC_ISR, &l->isr_words, (unsigned)vector);
    note_moved(l);
    update_priority(l);
    vlapic_ended(l, (u8)vector);
}

void vlapic_clear_vectors(struct vlapic *l)
{
    vlapic_clear_attention(l, VLAPIC_POSTED);
    for (unsigned i = 0; i < 8; i++) {
        __atomic_store_n(&l->posted.request[i], 0, __ATOMIC_RELAXED);
        *word(l, VLAPIC_IRR, 32 * i) = *word(l, VLAPIC_ISR, 32 * i) = 0;
        *word(l, VLAPIC_TMR, 32 * i) = 0;
    }
    l->irr_words = l->isr_words = 0;
    l->levels_changed = true;
    note_moved(l);
    update_priority(l);
}

// --- Virtual-interrupt delivery ---

void vlapic_take_back(struct vlapic *l, u16 status)
{
    if (!l->by_processor)
        return;
    l->by_processor = false;
    if (LIKELY(!(__atomic_load_n(&l->attention, __ATOMIC_ACQUIRE) & VLAPIC_STATUS))) {
        l->pending = if_above_ppr(l, status & 0xff);
        return;
    }
    vlapic_clear_attention(l, VLAPIC_STATUS);
    l->moved = true; // `status` does not say all
    l->raised = -1;
    settle(l);
    update_priority(l);
}

void vlapic_take_new(struct vlapic *l)
{
    if (UNLIKELY(l->moved || l->raised < 0)) {
        vlapic_take_back(l, 0);
        return;
    }
    l->by_processor = false;
    vlapic_clear_attention(l, VLAPIC_STATUS);
    l->irr_words = l->raised_words;
    l->isr_words = 0;
    l->stale = false;
    l->pending = if_above_ppr(l, (u32)l->raised);
    l->raised = -1;
    l->moved = true;
}

u16 vlapic_status(struct vlapic *l, u16 status)
{
    u16 rvi = status & 0xff, svi = status & 0xff00;
    vlapic_clear_attention(l, VLAPIC_STATUS);
    if (l->moved) {
        settle(l);
        int irr = highest(l, VLAPIC_IRR, l->irr_words), isr = highest(l, VLAPIC_ISR, l->isr_words);
        rvi = (u16)MAX(irr, 0);
        svi = (u16)(MAX(isr, 0) << 8);
    } else if (l->raised > rvi) {
        rvi = (u16)l->raised;
    }
    l->moved = false;
    l->stale = true; // from the VM entry on
    l->raised = -1;
    return rvi | svi;
}

u64 vlapic_eoi_exits(const struct vlapic *l, unsigned n)
{
    const u32 *tmr = &l->regs[VLAPIC_TMR / 4];
    return tmr[8 * n] | (u64)tmr[8 * n + 4] << 32;
}

// --- Local interrupts ---

void vlapic_local_interrupt(struct vlapic *l, enum vlapic_reg reg)
{
    u32 lvt = vlapic_get(l, reg);
    if (lvt & VLAPIC_LVT_MASKED)
        return;
    if (reg == VLAPIC_LVT_PERF) // masks itself
        vlapic_put(l, reg, lvt | VLAPIC_LVT_MASKED);
    switch (lvt >> 8 & 7) {
    case VAPIC_FIXED:
        if (UNLIKELY((lvt & 0xff) < 16 && reg == VLAPIC_LVT_ERROR))
            l->esr |= VLAPIC_RECEIVE_ILLEGAL_VECTOR;
        else
            vlapic_accept(l, (u8)lvt, false);
        break;
    case VAPIC_NMI:
        vlapic_raise_attention(l, VLAPIC_NMI);
        break;
    case VAPIC_INIT:
        vlapic_raise_attention(l, VLAPIC_INIT);
        break;
    default: // ExtINT follows the pin's level; there is no SMM
        break;
    }
}

void vlapic_error(struct vlapic *l, enum vlapic_error error)
{
    l->esr |= error;
    vlapic_local_interrupt(l, VLAPIC_LVT_ERROR);
}

// --- Pins ---

static bool lint0_is_extint(const struct vlapic *l)
{
    u32 lvt = vlapic_get(l, VLAPIC_LVT_LINT0);
    return !vlapic_enabled(l) || (!(lvt & VLAPIC_LVT_MASKED) && (lvt >> 8 & 7) == VAPIC_EXTINT);
}

// LINT0 as a level-triggered fixed interrupt: again after each EOI while it is asserted.
static bool lint0_by_level(struct vlapic *l, bool asserted)
{
    u32 lvt = vlapic_get(l, VLAPIC_LVT_LINT0);
    if ((lvt >> 8 & 7) != VAPIC_FIXED || !(lvt & LVT_LEVEL))
        return false;
    if (asserted && !(lvt & (VLAPIC_LVT_MASKED | LVT_REMOTE_IRR)) && (lvt & 0xff) >= 16) {
        vlapic_put(l, VLAPIC_LVT_LINT0, lvt | LVT_REMOTE_IRR);
        vlapic_accept(l, (u8)lvt, true);
    }
    return true;
}

static void take_pins(struct vlapic *l, u32 rose)
{
    bool lint0 = __atomic_load_n(&l->pins, __ATOMIC_ACQUIRE) & 1;
    if (lint0 && lint0_is_extint(l))
        vlapic_raise_attention(l, VLAPIC_EXTINT);
    else
        vlapic_clear_attention(l, VLAPIC_EXTINT);
    if (!vlapic_enabled(l)) {
        if (rose & VLAPIC_LINT1_ROSE) // the pins are the processor's INTR and NMI
            vlapic_raise_attention(l, VLAPIC_NMI);
        return;
    }
    if (!lint0_by_level(l, lint0) && (rose & VLAPIC_LINT0_ROSE))
        vlapic_local_interrupt(l, VLAPIC_LVT_LINT0);
    if (rose & VLAPIC_LINT1_ROSE)
        vlapic_local_interrupt(l, VLAPIC_LVT_LINT1);
}

void vlapic_look_at_pins(struct vlapic *l)
{
    take_pins(l, 0);
}

void vlapic_set_lint(struct vlapic *l, unsigned n, bool level)
{
    u8 bit = (u8)(1u << n), was;
    if (level)
        was = __atomic_fetch_or(&l->pins, bit, __ATOMIC_ACQ_REL);
    else
        was = __atomic_fetch_and(&l->pins, (u8)~bit, __ATOMIC_ACQ_REL);
    if (level == !!(was & bit))
        return;
    vlapic_raise_attention(l, VLAPIC_PINS | (level ? VLAPIC_LINT0_ROSE << n : 0));
    if (level)
        l->kick(l->ctx, l->id);
}

void vlapic_ack_extint(struct vlapic *l)
{
    vlapic_clear_attention(l, VLAPIC_EXTINT_MSG);
}

// --- Posting, by anyone, and its owner's side ---

// Leaves a word for the owner, who needs one kick for it.
static void signal(struct vlapic *l, u32 bit)
{
    if (!(__atomic_fetch_or(&l->attention, bit, __ATOMIC_ACQ_REL) & bit))
        l->kick(l->ctx, l->id);
}

static void post_vector(struct vlapic *l, u8 vector, bool level)
{
    u32 bit = 1u << vector % 32;
    if (level)
        __atomic_fetch_or(&l->posted_level[vector / 32], bit, __ATOMIC_RELAXED);
    else
        __atomic_fetch_and(&l->posted_level[vector / 32], ~bit, __ATOMIC_RELAXED);
    __atomic_fetch_or(&l->posted.request[vector / 32], bit, __ATOMIC_RELEASE);
    signal(l, VLAPIC_POSTED);
}

bool vlapic_post(struct vlapic *l, const struct vapic_msg *msg)
{
    if (!vlapic_enabled(l))
        return false;
    switch (msg->mode) {
    case VAPIC_FIXED:
    case VAPIC_LOWEST:
        if (!(vlapic_get(l, VLAPIC_SVR) & VLAPIC_SVR_ENABLE))
            return false;
        post_vector(l, msg->vector, msg->level);
        return true;
    case VAPIC_NMI:
        signal(l, VLAPIC_NMI);
        return true;
    case VAPIC_INIT:
        vlapic_clear_attention(l, VLAPIC_SIPI);
        signal(l, VLAPIC_INIT);
        return true;
    case VAPIC_STARTUP:
        __atomic_store_n(&l->sipi_vector, msg->vector, __ATOMIC_RELEASE);
        signal(l, VLAPIC_SIPI);
        return true;
    case VAPIC_EXTINT:
        signal(l, VLAPIC_EXTINT_MSG);
        return true;
    default: // there is no SMM
        return false;
    }
}

static void accept_posted(struct vlapic *l)
{
    for (unsigned i = 0; i < 8; i++) {
        if (!__atomic_load_n(&l->posted.request[i], __ATOMIC_RELAXED))
            continue;
        u32 request = __atomic_exchange_n(&l->posted.request[i], 0, __ATOMIC_ACQUIRE);
        u32 level = __atomic_load_n(&l->posted_level[i], __ATOMIC_RELAXED);
        for (; request; request &= request - 1) {
            unsigned bit = bit_lowest(request);
            vlapic_accept(l, (u8)(32 * i + bit), level >> bit & 1);
        }
    }
}

void vlapic_sync(struct vlapic *l)
{
    u32 taken = VLAPIC_UNSEEN | VLAPIC_LINT0_ROSE | VLAPIC_LINT1_ROSE;
    u32 seen = __atomic_fetch_and(&l->attention, ~taken, __ATOMIC_ACQ_REL);
    if (seen & VLAPIC_POSTED)
        accept_posted(l);
    if (seen & VLAPIC_PINS)
        take_pins(l, seen);
}

bool vlapic_take(struct vlapic *l, u32 event)
{
    return __atomic_fetch_and(&l->attention, ~event, __ATOMIC_ACQ_REL) & event;
}
