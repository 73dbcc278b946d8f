// APIC virtualization for L2. SDM volume 3, chapter "APIC Virtualization and Virtual Interrupts".
// The processor does it on L1's own virtual-APIC page; posted interrupts are L0's, because the
// notification is an interrupt of L1's virtual local APIC.

#include "drivers/cpu.h"
#include "vmx/event.h"
#include "vmx/msr.h"
#include "vmx/nested/state.h"

#define MSR_X2APIC      0x800
#define MSR_X2APIC_TPR  0x808
#define MSR_X2APIC_EOI  0x80b
#define MSR_X2APIC_SELF 0x83f
#define WRITE_HALF      0x800

#define VTPR            0x80
#define VIRR            0x200

#define DESC_REQUESTS   32 // bytes of the posted-interrupt requests
#define DESC_ON         1u // outstanding notification, bit 0 behind them

void vapic_merge(struct nvmcs *nv)
{
    if (V12_HAS(&nv->v, VIRTUAL_INTR_DELIVERY)) {
        vmwrite(F(EOI_EXIT_BITMAP_0), v12(nv, F(EOI_EXIT_BITMAP_0)));
        vmwrite(F(EOI_EXIT_BITMAP_1), v12(nv, F(EOI_EXIT_BITMAP_1)));
        vmwrite(F(EOI_EXIT_BITMAP_2), v12(nv, F(EOI_EXIT_BITMAP_2)));
        vmwrite(F(EOI_EXIT_BITMAP_3), v12(nv, F(EOI_EXIT_BITMAP_3)));
    }
}

// Only what the processor virtualizes is open: the others would reach the APIC of the machine.
void vapic_open_msrs(struct nvmcs *nv)
{
    static const u32 writes[] = {MSR_X2APIC_TPR, MSR_X2APIC_EOI, MSR_X2APIC_SELF};
    bool delivery = V12_HAS(&nv->v, VIRTUAL_INTR_DELIVERY);
    bool registers = V12_HAS(&nv->v, APIC_REGISTERS);
    u8 *to = phys_ptr(nv->msr_bitmap);
    const u8 *l1 = nv->l1_maps.msr;
    for (unsigned i = 0; i < ARRAY_SIZE(x2apic_words); i++)
        ((u64 *)to)[x2apic_words[i]] = ~0ull;
    if (!l1 || !V12_HAS(&nv->v, VIRTUALIZE_X2APIC))
        return;
    for (unsigned i = 0; i < ARRAY_SIZE(x2apic_words) && registers; i++)
        if (x2apic_words[i] != MSR_WRITES(MSR_X2APIC))
            ((u64 *)to)[x2apic_words[i]] = ((const u64 *)l1)[x2apic_words[i]];
    bitmap_put(to, MSR_X2APIC_TPR, bitmap_get(l1, MSR_X2APIC_TPR));
    for (unsigned i = 0; i < (delivery ? ARRAY_SIZE(writes) : 1); i++)
        bitmap_put(to + WRITE_HALF, writes[i], bitmap_get(l1 + WRITE_HALF, writes[i]));
}

// The virtual-APIC page as L0 sees it. Where L1 has no memory, nothing is pending.
static u8 *apic_page(struct vcpu *vcpu, const struct nvmcs *nv)
{
    return guest_ptr(&vcpu->vm->mem, GPA(v12(nv, F(VIRTUAL_APIC_ADDR))), PAGE_SIZE);
}

// "Evaluation of Pending Virtual Interrupts" and whether it would be delivered now: for an L2 that
// halts in software.
bool vapic_pending(struct vcpu *vcpu, const struct nvmcs *nv)
{
    const u8 *page = apic_page(vcpu, nv);
    if (!V12_HAS(&nv->v, VIRTUAL_INTR_DELIVERY) || !page || !(vmread(F(GUEST_RFLAGS)) & RFLAGS_IF))
        return false;
    u64 status = vmread(F(GUEST_INTR_STATUS));
    u64 rvi = status & 0xff, svi = status >> 8 & 0xff, tpr = page[VTPR];
    return rvi >> 4 > MAX(tpr >> 4, svi >> 4);
}

bool vapic_below_threshold(struct vcpu *vcpu, const struct nvmcs *nv)
{
    const u8 *page = apic_page(vcpu, nv);
    return page && V12_HAS(&nv->v, TPR_SHADOW) && V12_HAS(&nv->v, VIRTUALIZE_APIC) &&
           !V12_HAS(&nv->v, VIRTUAL_INTR_DELIVERY) &&
           (v12(nv, F(TPR_THRESHOLD)) & 15) > page[VTPR] >> 4;
}

static void end_of_interrupt(struct vcpu *vcpu)
{
    bool lock = vlapic_eoi_is_level(vcpu->lapic);
    if (lock)
        spin_lock(&vcpu->vm->device_lock);
    vlapic_eoi(vcpu->lapic);
    if (lock)
        spin_unlock(&vcpu->vm->device_lock);
}

// "Posted-Interrupt Processing", from the descriptor on. L1's other CPUs post meanwhile.
static void take_requests(struct vcpu *vcpu, const struct nvmcs *nv)
{
    u32 *desc = guest_ptr(&vcpu->vm->mem, GPA(v12(nv, F(POSTED_INTR_DESC_ADDR))), 64);
    u8 *page = apic_page(vcpu, nv);
    int highest = -1;
    if (!desc || !page)
        return;
    __atomic_fetch_and(&desc[DESC_REQUESTS / 4], ~DESC_ON, __ATOMIC_SEQ_CST);
    for (int i = 0; i < DESC_REQUESTS / 4; i++) {
        u32 posted = __atomic_exchange_n(&desc[i], 0, __ATOMIC_SEQ_CST);
        if (!posted)
            continue;
        __atomic_fetch_or((u32 *)(page + VIRR + 16 * i), posted, __ATOMIC_SEQ_CST);
        highest = 32 * i + 31 - __builtin_clz(posted);
    }
    u64 status = vmread(F(GUEST_INTR_STATUS));
    if (highest > (int)(status & 0xff))
        vmwrite(F(GUEST_INTR_STATUS), (status & ~0xffull) | (u64)highest);
}

void vapic_take_posted(struct vcpu *vcpu, const struct nvmcs *nv)
{
    vcpu_take_interrupt(vcpu);
    end_of_interrupt(vcpu);
    take_requests(vcpu, nv);
}
