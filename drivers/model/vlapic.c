// Local APIC: registers by MMIO and MSR, modes.

#include "drivers/model/vlapic_internal.h"
#include "libc/string.h"

#define VERSION          0x00050014u // integrated, LVT entries 0..5, no EOI-broadcast suppression
#define DFR_FIXED        0x0fffffffu
#define LVT_RESET        VLAPIC_LVT_MASKED
#define LVT_TSC_DEADLINE 0x40000u
#define LVT_STATUS       0x1000u // delivery status, reads 0
#define LVT_LINT_RO      (LVT_STATUS | 0x4000u)
#define BASE_RESERVED    0x2ffull // bits 7:0 and 9

// --- What registers there are ---

enum access {
    RX = 1, // readable in xAPIC mode
    WX = 2,
    R2 = 4, // in x2APIC mode
    W2 = 8,
    READ = RX | R2,
    WRITE = WX | W2,
};

struct reg_info {
    u8 access;
    u32 bits;     // those that a write sets
    u32 readonly; // those that a write may have set without effect; the rest are reserved
};

#define EIGHT(reg) [(reg) >> 4 ...((reg) >> 4) + 7] = {READ, 0, 0}

static const struct reg_info registers[0x40] = {
    [VLAPIC_ID >> 4] = {READ, 0, 0},
    [VLAPIC_VERSION >> 4] = {READ, 0, 0},
    [VLAPIC_TPR >> 4] = {READ | WRITE, 0xff, 0},
    [VLAPIC_APR >> 4] = {RX, 0, 0},
    [VLAPIC_PPR >> 4] = {READ, 0, 0},
    [VLAPIC_EOI >> 4] = {WRITE, 0, 0},
    [VLAPIC_RRD >> 4] = {RX, 0, 0},
    [VLAPIC_LDR >> 4] = {READ | WX, 0xff000000, 0},
    [VLAPIC_DFR >> 4] = {RX | WX, 0xf0000000, 0},
    [VLAPIC_SVR >> 4] = {READ | WRITE, 0x3ff, 0},
    EIGHT(VLAPIC_ISR),
    EIGHT(VLAPIC_TMR),
    EIGHT(VLAPIC_IRR),
    [VLAPIC_ESR >> 4] = {READ | WRITE, 0, 0},
    // x2APIC mode allows the delivery status, which is not there, to be written.
    [VLAPIC_ICR >> 4] = {READ | WRITE, 0x000ccfff, 0x1000},
    [VLAPIC_ICR_HIGH >> 4] = {RX | WX, 0xff000000, 0},
    [VLAPIC_LVT_TIMER >> 4] = {READ | WRITE, 0x700ff, LVT_STATUS},
    [VLAPIC_LVT_THERMAL >> 4] = {READ | WRITE, 0x107ff, LVT_STATUS},
    [VLAPIC_LVT_PERF >> 4] = {READ | WRITE, 0x107ff, LVT_STATUS},
    [VLAPIC_LVT_LINT0 >> 4] = {READ | WRITE, 0x1a7ff, LVT_LINT_RO},
    [VLAPIC_LVT_LINT1 >> 4] = {READ | WRITE, 0x1a7ff, LVT_LINT_RO},
    [VLAPIC_LVT_ERROR >> 4] = {READ | WRITE, 0x100ff, LVT_STATUS},
    [VLAPIC_TIMER_INITIAL >> 4] = {READ | WRITE, 0xffffffff, 0},
    [VLAPIC_TIMER_CURRENT >> 4] = {READ, 0, 0},
    [VLAPIC_TIMER_DIVIDE >> 4] = {READ | WRITE, 0xb, 0},
    [VLAPIC_SELF_IPI >> 4] = {W2, 0xff, 0},
};

// The bits that a write of the register sets.
static u32 writable(const struct vlapic *l, unsigned reg)
{
    u32 bits = registers[reg >> 4].bits;
    if (reg == VLAPIC_LVT_TIMER && !l->has_tsc_deadline)
        bits &= ~LVT_TSC_DEADLINE;
    return bits;
}

// --- Reset ---

static void put_identity(struct vlapic *l)
{
    bool x2 = vlapic_x2apic(l);
    vlapic_put(l, VLAPIC_ID, x2 ? l->id : l->id << 24);
    if (x2)
        vlapic_put(l, VLAPIC_LDR, (l->id & ~15u) << 12 | 1u << (l->id & 15));
}

void vlapic_reset(struct vlapic *l)
{
    memset(l->regs, 0, PAGE_SIZE);
    memset(l->kept, 0, sizeof(l->kept));
    vlapic_put(l, VLAPIC_VERSION, VERSION);
    vlapic_put(l, VLAPIC_DFR, 0xffffffff);
    vlapic_put(l, VLAPIC_SVR, 0xff);
    for (unsigned lvt = VLAPIC_LVT_TIMER; lvt <= VLAPIC_LVT_ERROR; lvt += 0x10)
        vlapic_put(l, lvt, LVT_RESET);
    put_identity(l);
    l->esr = 0;
    vlapic_timer_reset(l);
    vlapic_clear_vectors(l);
    vlapic_clear_attention(l, VLAPIC_EXTINT_MSG);
    vlapic_look_at_pins(l);
    vlapic_raise_attention(l, VLAPIC_MODE);
}

void vlapic_init(struct vlapic *l, const struct vlapic_params *params, struct vapic_bus *bus)
{
    *l = (struct vlapic){
        .regs = params->page,
        .id = params->id,
        .has_x2apic = params->x2apic,
        .has_tsc_deadline = params->tsc_deadline,
        .raised = -1,
        .clock = params->clock,
        .bus = bus,
        .kick = params->kick,
        .ctx = params->ctx,
    };
    l->base = LAYOUT_LAPIC_BASE | VLAPIC_BASE_ENABLE | (params->id == 0 ? VLAPIC_BASE_BSP : 0);
    l->base_reserved = BASE_RESERVED | ~0ull << params->phys_bits;
    if (!l->has_x2apic)
        l->base_reserved |= VLAPIC_BASE_X2APIC;
    bus->cpu[l->id] = l;
    vlapic_timer_init(l, params->timers);
    vlapic_reset(l);
}

void vlapic_virtual_wire(struct vlapic *l)
{
    vlapic_put(l, VLAPIC_SVR, VLAPIC_SVR_ENABLE | 0xff);
    vlapic_put(l, VLAPIC_LVT_LINT0, VAPIC_EXTINT << 8);
    vlapic_put(l, VLAPIC_LVT_LINT1, VAPIC_NMI << 8);
    vlapic_look_at_pins(l);
}

// --- Interprocessor interrupts ---

static void send_ipi(struct vlapic *l, u32 icr, u32 dest)
{
    struct vapic_msg msg = {
        .dest = dest,
        .mode = (enum vapic_mode)(icr >> 8 & 7),
        .vector = (u8)icr,
        .logical = icr & 0x800,
    };
    bool fixed = msg.mode == VAPIC_FIXED || msg.mode == VAPIC_LOWEST;
    bool deassert = msg.mode == VAPIC_INIT && (icr & 0xc000) == 0x8000;
    if (msg.mode == VAPIC_EXTINT || deassert) // reserved; no effect since the Pentium
        return;
    if (fixed && msg.vector < 16) {
        vlapic_error(l, VLAPIC_SEND_ILLEGAL_VECTOR);
        return;
    }
    switch (icr >> 18 & 3) {
    case 0:
        vapic_deliver(l->bus, &msg);
        break;
    case 1:
        if (fixed && (vlapic_get(l, VLAPIC_SVR) & VLAPIC_SVR_ENABLE))
            vlapic_accept(l, msg.vector, false);
        break;
    case 2:
        vapic_broadcast(l->bus, &msg, NULL);
        break;
    default:
        vapic_broadcast(l->bus, &msg, l);
    }
}

// xAPIC mode: the destination is the high byte of the high half.
static void send_xapic(struct vlapic *l, u32 icr)
{
    u32 dest = vlapic_get(l, VLAPIC_ICR_HIGH) >> 24;
    send_ipi(l, icr, dest == VAPIC_BROADCAST8 ? VAPIC_BROADCAST : dest);
}

// --- Writes ---

static void write_svr(struct vlapic *l, u32 value)
{
    if ((vlapic_get(l, VLAPIC_SVR) ^ value) & VLAPIC_SVR_ENABLE)
        vlapic_raise_attention(l, VLAPIC_MODE);
    vlapic_put(l, VLAPIC_SVR, value);
    if (value & VLAPIC_SVR_ENABLE)
        return;
    for (unsigned lvt = VLAPIC_LVT_TIMER; lvt <= VLAPIC_LVT_ERROR; lvt += 0x10)
        vlapic_put(l, lvt, vlapic_get(l, lvt) | VLAPIC_LVT_MASKED);
    vlapic_timer_set_lvt(l, vlapic_get(l, VLAPIC_LVT_TIMER));
    vlapic_look_at_pins(l);
}

static void write_lvt(struct vlapic *l, unsigned reg, u32 value, u32 readonly)
{
    value |= vlapic_get(l, reg) & readonly;
    if (!(vlapic_get(l, VLAPIC_SVR) & VLAPIC_SVR_ENABLE))
        value |= VLAPIC_LVT_MASKED;
    if (reg == VLAPIC_LVT_TIMER) {
        vlapic_timer_set_lvt(l, value);
        return;
    }
    vlapic_put(l, reg, value);
    if (reg == VLAPIC_LVT_LINT0)
        vlapic_look_at_pins(l);
}

// A write that the mode allows; `value` has only bits that the register has.
static void write_reg(struct vlapic *l, unsigned reg, u32 value)
{
    switch (reg) {
    case VLAPIC_EOI:
        vlapic_eoi(l);
        break;
    case VLAPIC_TPR:
        vlapic_set_tpr(l, (u8)value);
        break;
    case VLAPIC_DFR:
        vlapic_put(l, reg, value | DFR_FIXED);
        break;
    case VLAPIC_SVR:
        write_svr(l, value);
        break;
    case VLAPIC_ESR:
        vlapic_put(l, reg, l->esr);
        l->esr = 0;
        break;
    case VLAPIC_ICR:
        vlapic_put(l, reg, value);
        send_xapic(l, value);
        break;
    case VLAPIC_LVT_TIMER ... VLAPIC_LVT_ERROR:
        write_lvt(l, reg, value, registers[reg >> 4].readonly);
        break;
    case VLAPIC_TIMER_INITIAL:
        vlapic_timer_set_initial(l, value);
        break;
    case VLAPIC_TIMER_DIVIDE:
        vlapic_timer_set_divide(l, value);
        break;
    case VLAPIC_SELF_IPI:
        send_ipi(l, value | 1u << 18, 0);
        break;
    default: // plain storage: LDR, ICR_HIGH
        vlapic_put(l, reg, value);
    }
}

static u32 read_reg(const struct vlapic *l, unsigned reg)
{
    return reg == VLAPIC_TIMER_CURRENT ? vlapic_timer_current(l) : vlapic_get(l, reg);
}

// --- MMIO (xAPIC mode) ---

// The register at `offset`, or NULL, and the error, if there is none.
static const struct reg_info *mmio_register(struct vlapic *l, unsigned offset)
{
    const struct reg_info *info = offset < 0x400 ? &registers[offset >> 4] : NULL;
    if (info && (info->access & (RX | WX)))
        return info;
    vlapic_error(l, VLAPIC_ILLEGAL_REGISTER);
    return NULL;
}

u64 vlapic_mmio_read(struct vlapic *l, unsigned offset, unsigned size)
{
    const struct reg_info *info = mmio_register(l, offset);
    vlapic_attention(l); // what was posted shows in IRR
    if (!info || !(info->access & RX) || offset % 16 + size > 4)
        return 0;
    return read_reg(l, offset & ~15u) >> 8 * (offset % 16) & (~0ull >> (64 - 8 * size));
}

void vlapic_mmio_write(struct vlapic *l, unsigned offset, unsigned size, u64 value)
{
    const struct reg_info *info = mmio_register(l, offset);
    vlapic_attention(l);
    if (info && (info->access & WX) && size == 4 && offset % 16 == 0)
        write_reg(l, offset, (u32)value & writable(l, offset));
}

void vlapic_page_written(struct vlapic *l, unsigned offset)
{
    unsigned reg = offset & 0x3f0;
    u32 value = vlapic_get(l, reg);
    vlapic_put(l, reg, l->kept[reg / 16]);
    vlapic_mmio_write(l, reg, 4, value);
}

// --- MSRs ---

bool vlapic_is_plain(unsigned offset)
{
    return offset < 0x400 && registers[offset >> 4].access & R2 && offset != VLAPIC_TIMER_CURRENT;
}

static bool read_x2apic(struct vlapic *l, unsigned reg, u64 *value)
{
    if (reg >= 0x400 || !(registers[reg >> 4].access & R2))
        return false;
    *value = read_reg(l, reg);
    if (reg == VLAPIC_ICR)
        *value |= (u64)vlapic_get(l, VLAPIC_ICR + 4) << 32;
    return true;
}

static bool write_x2apic(struct vlapic *l, unsigned reg, u64 value)
{
    if (reg >= 0x400)
        return false;
    const struct reg_info *info = &registers[reg >> 4];
    u32 bits = writable(l, reg), high = (u32)(value >> 32);
    if (!(info->access & W2) || ((u32)value & ~(bits | info->readonly)))
        return false;
    if (reg == VLAPIC_ICR) {
        vlapic_put(l, reg, (u32)value & bits);
        l->regs[reg / 4 + 1] = high;
        send_ipi(l, (u32)value, high);
        return true;
    }
    if (high)
        return false;
    write_reg(l, reg, (u32)value & bits);
    return true;
}

// Changes of mode: SDM volume 3, "x2APIC State Transitions".
static bool legal_transition(u64 from, u64 to)
{
    u64 both = VLAPIC_BASE_ENABLE | VLAPIC_BASE_X2APIC;
    from &= both;
    to &= both;
    if (from == to || !to)
        return true;
    return to == VLAPIC_BASE_ENABLE ? from == 0 : to == both && from == VLAPIC_BASE_ENABLE;
}

static bool write_base(struct vlapic *l, u64 value)
{
    if ((value & l->base_reserved) || !legal_transition(l->base, value))
        return false;
    u64 changed = l->base ^ value;
    l->base = (value & ~VLAPIC_BASE_BSP) | (l->base & VLAPIC_BASE_BSP);
    if (changed)
        vlapic_raise_attention(l, VLAPIC_MODE);
    if (changed & VLAPIC_BASE_ENABLE)
        vlapic_reset(l);
    else if (changed & VLAPIC_BASE_X2APIC)
        put_identity(l);
    return true;
}

bool vlapic_read_msr(struct vlapic *l, u32 msr, u64 *value)
{
    if (msr - VLAPIC_MSR_X2APIC < 0x100) {
        vlapic_attention(l);
        return vlapic_x2apic(l) && read_x2apic(l, (msr - VLAPIC_MSR_X2APIC) << 4, value);
    }
    if (msr == VLAPIC_MSR_TSC_DEADLINE && l->has_tsc_deadline)
        *value = l->tsc_deadline;
    else if (msr == VLAPIC_MSR_BASE)
        *value = l->base;
    else
        return false;
    return true;
}

bool vlapic_write_msr(struct vlapic *l, u32 msr, u64 value)
{
    if (msr - VLAPIC_MSR_X2APIC < 0x100)
        return vlapic_x2apic(l) && write_x2apic(l, (msr - VLAPIC_MSR_X2APIC) << 4, value);
    if (msr == VLAPIC_MSR_TSC_DEADLINE && l->has_tsc_deadline) {
        vlapic_timer_set_deadline(l, value);
        return true;
    }
    return msr == VLAPIC_MSR_BASE && write_base(l, value);
}
