#pragma once
// Local APIC in xAPIC and x2APIC mode. SDM volume 3, "Advanced Programmable Interrupt Controller
// (APIC)".
//
// The registers are a page in the layout of the virtual-APIC page, at the architecture's offsets,
// so that the processor's APIC virtualization works on the same page. Only the owner (the CPU that
// runs the vCPU) touches the page. Everyone else posts: a vector in the posted-interrupt
// descriptor, anything else as a bit of `attention`, then the owner is kicked; no lock is needed
// for that. "Owner" functions below are for the owner alone, the others for anyone.
//
// Who takes vectors from IRR to ISR is one decision, `by_processor`: the processor by
// virtual-interrupt delivery while the guest runs whose APIC this is, else the owner by
// vlapic_pending_vector() and vlapic_ack().

#include "drivers/model/vapic.h"
#include "drivers/model/vclock.h"
#include "libc/addr.h"

// Byte offsets in the page. The x2APIC MSR of a register is 800H + offset / 16.
enum vlapic_reg {
    VLAPIC_ID = 0x20,
    VLAPIC_VERSION = 0x30,
    VLAPIC_TPR = 0x80,
    VLAPIC_APR = 0x90,
    VLAPIC_PPR = 0xa0,
    VLAPIC_EOI = 0xb0,
    VLAPIC_RRD = 0xc0,
    VLAPIC_LDR = 0xd0,
    VLAPIC_DFR = 0xe0,
    VLAPIC_SVR = 0xf0,
    VLAPIC_ISR = 0x100,
    VLAPIC_TMR = 0x180,
    VLAPIC_IRR = 0x200,
    VLAPIC_ESR = 0x280,
    VLAPIC_ICR = 0x300, // in x2APIC mode 64 bits here
    VLAPIC_ICR_HIGH = 0x310,
    VLAPIC_LVT_TIMER = 0x320,
    VLAPIC_LVT_THERMAL = 0x330,
    VLAPIC_LVT_PERF = 0x340,
    VLAPIC_LVT_LINT0 = 0x350,
    VLAPIC_LVT_LINT1 = 0x360,
    VLAPIC_LVT_ERROR = 0x370,
    VLAPIC_TIMER_INITIAL = 0x380,
    VLAPIC_TIMER_CURRENT = 0x390,
    VLAPIC_TIMER_DIVIDE = 0x3e0,
    VLAPIC_SELF_IPI = 0x3f0,
};

#define VLAPIC_MSR_BASE         0x1bu // IA32_APIC_BASE
#define VLAPIC_MSR_TSC_DEADLINE 0x6e0u
#define VLAPIC_MSR_X2APIC       0x800u // 800H..8FFH

#define VLAPIC_BASE_BSP         BIT(8)
#define VLAPIC_BASE_X2APIC      BIT(10)
#define VLAPIC_BASE_ENABLE      BIT(11)

#define VLAPIC_SVR_ENABLE       0x100u
#define VLAPIC_LVT_MASKED       0x10000u

// Bits of vlapic.attention. Any of them is a reason to look before the next VM entry.
#define VLAPIC_NMI        BIT(0)
#define VLAPIC_INIT       BIT(1)
#define VLAPIC_SIPI       BIT(2) // its vector is in sipi_vector
#define VLAPIC_EXTINT     BIT(3) // LINT0 is asserted and its LVT entry says ExtINT (owner's bit)
#define VLAPIC_EXTINT_MSG BIT(4) // an ExtINT came as a message
#define VLAPIC_POSTED     BIT(5) // vectors wait in the posted-interrupt descriptor
#define VLAPIC_PINS       BIT(6) // LINT0 or LINT1 changed
#define VLAPIC_LINT0_ROSE BIT(7)
#define VLAPIC_LINT1_ROSE BIT(8)
#define VLAPIC_STATUS     BIT(9)  // the processor's guest interrupt status is not what it should be
#define VLAPIC_MODE       BIT(10) // the mode, the page's address or the software enable changed
#define VLAPIC_UNSEEN     (VLAPIC_POSTED | VLAPIC_PINS) // what vlapic_sync() is for

// Layout of SDM volume 3, "Posted-Interrupt Processing"; `control` bit 0 is outstanding
// notification.
struct posted_interrupts {
    u32 request[8];
    u32 control;
    u32 destination;
    u32 reserved[6];
} ALIGNED(64);

struct vlapic {
    u32 *regs;
    u32 kept[0x40]; // registers as they were last put: the processor overwrites those in the page
    union {
        struct {
            u32 attention; // atomic
            u32 pending;   // highest vector in IRR above PPR, or 0; 0 if by_processor
        };
        u64 waiting; // both: whether anything at all waits
    };
    u8 irr_words; // bit i: the i-th 32 vectors of IRR are not all 0
    u8 isr_words;
    bool by_processor;   // virtual-interrupt delivery is at work
    bool stale;          // irr_words and isr_words are not what the page says
    bool moved;          // IRR and ISR changed otherwise than by `raised`
    bool levels_changed; // TMR did, and so vlapic_eoi_exits()
    u8 raised_words;     // as irr_words, of the vectors that `raised` stands for
    int raised;          // highest vector put into IRR that the processor does not know of, or -1
    u8 esr;              // errors since the last write of ESR
    u8 sipi_vector;
    u8 pins;  // levels of LINT0 and LINT1, atomic
    u64 base; // IA32_APIC_BASE
    struct posted_interrupts posted;
    u32 posted_level[8]; // trigger mode of each posted vector
    struct vtimer timer;
    u64 tsc_deadline;  // IA32_TSC_DEADLINE, 0 when not armed
    u64 timer_started; // VM time at which the current count was loaded
    unsigned id;
    bool has_x2apic, has_tsc_deadline;
    u64 base_reserved; // bits of IA32_APIC_BASE that must be 0
    const struct vclock *clock;
    struct vapic_bus *bus;
    void (*kick)(void *ctx, unsigned id);
    void *ctx;
};

struct vlapic_params {
    unsigned id; // APIC ID; the BSP has 0
    u32 *page;   // 4096 bytes, page-aligned
    unsigned phys_bits;
    bool x2apic, tsc_deadline; // what the VM's CPUID says
    const struct vclock *clock;
    struct timer_set *timers; // of the vCPU
    // Makes the vCPU leave guest mode or HLT and look at its local APIC. Called by whoever posts;
    // the owner's own doings (timer, self IPI) do not kick.
    void (*kick)(void *ctx, unsigned id);
    void *ctx;
};

// Power-up state, xAPIC mode, and a place on `bus`.
void vlapic_init(struct vlapic *l, const struct vlapic_params *params, struct vapic_bus *bus);

// What firmware leaves on the BSP: enabled, LINT0 takes the PIC, LINT1 is NMI (virtual wire mode).
void vlapic_virtual_wire(struct vlapic *l);

// Owner: what an INIT does to the local APIC. Mode and APIC ID stay.
void vlapic_reset(struct vlapic *l);

// --- Owner: before every VM entry ---

// Owner: 0 if nothing at all waits (no vector, NMI, INIT, SIPI, ExtINT): one load.
static inline u64 vlapic_wants_attention(const struct vlapic *l)
{
    return __atomic_load_n(&l->waiting, __ATOMIC_ACQUIRE);
}

// Owner: takes in what others posted. The queries below do it when there is something.
void vlapic_sync(struct vlapic *l);

static inline u32 vlapic_attention(struct vlapic *l)
{
    if (UNLIKELY(__atomic_load_n(&l->attention, __ATOMIC_ACQUIRE) & VLAPIC_UNSEEN))
        vlapic_sync(l);
    return __atomic_load_n(&l->attention, __ATOMIC_ACQUIRE);
}

// Owner: the vector that the processor may take now (by priority; RFLAGS.IF is the caller's), or
// -1.
static inline int vlapic_pending_vector(struct vlapic *l)
{
    vlapic_attention(l);
    return l->pending ? (int)l->pending : -1;
}

// Owner: whether there is such a vector, or an ExtINT that waits.
static inline bool vlapic_has_interrupt(struct vlapic *l)
{
    return vlapic_attention(l) & (VLAPIC_EXTINT | VLAPIC_EXTINT_MSG) || l->pending;
}

// Owner: the processor takes `vector`, as returned by vlapic_pending_vector(): from IRR to ISR.
void vlapic_ack(struct vlapic *l, u8 vector);

// Owner: true while an ExtINT waits: the caller gets the vector from the PIC (machine_extint()).
static inline bool vlapic_accepts_extint(struct vlapic *l)
{
    return vlapic_attention(l) & (VLAPIC_EXTINT | VLAPIC_EXTINT_MSG);
}

// Owner: the processor took the ExtINT.
void vlapic_ack_extint(struct vlapic *l);

// Owner: VLAPIC_NMI, VLAPIC_INIT and VLAPIC_SIPI that wait; handle INIT before SIPI.
static inline u32 vlapic_events(struct vlapic *l)
{
    return vlapic_attention(l) & (VLAPIC_NMI | VLAPIC_INIT | VLAPIC_SIPI);
}

// Owner: takes one of these events; false if it was not there.
bool vlapic_take(struct vlapic *l, u32 event);

// --- Owner: registers ---

// Owner: access to the page in xAPIC mode. `offset` below 4096; size 1..8 is taken as hardware
// takes it: 4 bytes, aligned to 16; other reads give the bytes of the register, other writes are
// lost.
u64 vlapic_mmio_read(struct vlapic *l, unsigned offset, unsigned size);
void vlapic_mmio_write(struct vlapic *l, unsigned offset, unsigned size, u64 value);

// Owner: RDMSR and WRMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE and 800H..8FFH. False: #GP(0).
bool vlapic_read_msr(struct vlapic *l, u32 msr, u64 *value);
bool vlapic_write_msr(struct vlapic *l, u32 msr, u64 value);

// Owner: the guest's TSC was set or its offset changed; an armed deadline moves accordingly.
void vlapic_tsc_changed(struct vlapic *l);

// Owner: MOV to CR8 (`tpr` = CR8 << 4), or the processor changed TPR in the page (pass its value).
void vlapic_set_tpr(struct vlapic *l, u8 tpr);

static inline u8 vlapic_tpr(const struct vlapic *l)
{
    return (u8)l->regs[VLAPIC_TPR / 4];
}

// Owner: would an EOI now go to the I/O APIC (through vapic_bus.eoi, under the machine's lock)?
bool vlapic_eoi_is_level(struct vlapic *l);

// Owner: the end of the interrupt in service, as a write of the EOI register.
void vlapic_eoi(struct vlapic *l);

// --- Owner: APIC virtualization by the processor ---
//
// SDM volume 3, chapter "APIC Virtualization and Virtual Interrupts". A guest interrupt status has
// RVI in bits 7:0 and SVI in bits 15:8.

// Owner: the processor delivers interrupts from the next VM entry on. VLAPIC_STATUS is set if it
// has to be told something before, by vlapic_status().
static inline void vlapic_hand_over(struct vlapic *l)
{
    if (UNLIKELY(l->by_processor))
        return;
    l->by_processor = true;
    l->pending = 0;
    if (UNLIKELY(l->moved || l->levels_changed))
        __atomic_fetch_or(&l->attention, VLAPIC_STATUS, __ATOMIC_ACQ_REL);
    else
        l->stale = true;
}

// Owner: it does so no longer; `status` is what it left.
void vlapic_take_back(struct vlapic *l, u16 status);

// Owner: the processor delivers no longer since a moment when the status was 0, and what came then
// is the owner's now: VLAPIC_STATUS is set.
void vlapic_take_new(struct vlapic *l);

// Owner: what the status has to be at the next VM entry, now that it is `status`; clears
// VLAPIC_STATUS.
u16 vlapic_status(struct vlapic *l, u16 status);

// Owner: word n (0 to 3) of the EOI-exit bitmap: the vectors whose end goes to the I/O APIC.
u64 vlapic_eoi_exits(const struct vlapic *l, unsigned n);

// Owner: the processor ended the interrupt `vector` in the page; the rest of vlapic_eoi().
void vlapic_ended(struct vlapic *l, u8 vector);

// Owner: the processor stored a write of the guest to `offset` (xAPIC mode) in the page.
void vlapic_page_written(struct vlapic *l, unsigned offset);

// Whether the register at `offset` can be read in x2APIC mode and is just what the page says.
bool vlapic_is_plain(unsigned offset);

// Owner: raises a local interrupt (VLAPIC_LVT_PERF, VLAPIC_LVT_THERMAL) as its LVT entry says.
void vlapic_local_interrupt(struct vlapic *l, enum vlapic_reg lvt);

// IA32_APIC_BASE.EN: also CPUID.01H:EDX.APIC.
static inline bool vlapic_enabled(const struct vlapic *l)
{
    return l->base & VLAPIC_BASE_ENABLE;
}

static inline bool vlapic_x2apic(const struct vlapic *l)
{
    return l->base & VLAPIC_BASE_X2APIC;
}

// The software enable of SVR; without it no interrupt is accepted.
static inline bool vlapic_software_enabled(const struct vlapic *l)
{
    return l->regs[VLAPIC_SVR / 4] & VLAPIC_SVR_ENABLE;
}

// Where the page is for this vCPU.
static inline gpa_t vlapic_page_address(const struct vlapic *l)
{
    return GPA(l->base & ~0xfffull);
}

// --- Anyone ---

// Accepts a message that was found to be for this APIC. False if it does not take it.
bool vlapic_post(struct vlapic *l, const struct vapic_msg *msg);

// Does `msg` address this APIC?
bool vlapic_matches(const struct vlapic *l, const struct vapic_msg *msg);

// Level of pin LINT0 or LINT1 (n = 0 or 1).
void vlapic_set_lint(struct vlapic *l, unsigned n, bool level);
