#include "vmx/apicv.h"

#include "drivers/cpu.h"
#include "libc/string.h"
#include "vmx/cpu.h"
#include "vmx/event.h"
#include "vmx/msr.h"

#define PROC_CR8       (CTL_CR8_LOAD_EXITING | CTL_CR8_STORE_EXITING)
#define PROC2_DELIVERY (CTL_VIRTUAL_INTR_DELIVERY | CTL_APIC_REGISTERS)
#define PROC2_ALL      (PROC2_DELIVERY | CTL_VIRTUALIZE_APIC | CTL_VIRTUALIZE_X2APIC)

// Exit qualification of an APIC access.
#define ACCESS_OFFSET(q) ((q)&0xfff)
#define ACCESS_TYPE(q)   ((q) >> 12 & 0xf)
#define ACCESS_FETCH     2

// The reads that are just what the page says and the writes that the processor virtualizes need no
// exit in x2APIC mode.
static void open_x2apic(u8 *bitmap)
{
    static const u16 writes[] = {VLAPIC_TPR, VLAPIC_EOI, VLAPIC_SELF_IPI};
    for (unsigned reg = 0; reg < 0x400; reg += 0x10)
        if (vlapic_is_plain(reg))
            msr_bitmap_open(bitmap, VLAPIC_MSR_X2APIC + reg / 16, false);
    for (unsigned i = 0; i < ARRAY_SIZE(writes); i++)
        msr_bitmap_open_write(bitmap, VLAPIC_MSR_X2APIC + writes[i] / 16);
}

bool apicv_init_vm(struct vm *vm)
{
    if (!vmx.apicv)
        return true;
    u8 *bitmap = pool_page(&vm->pool);
    void *access = pool_page(&vm->pool);
    if (!bitmap || !access || !vm_map_memory(vm, &vm->ept01_apic) ||
        ept_map_apic_access(&vm->ept01_apic, GPA(LAYOUT_LAPIC_BASE), ptr_phys(access)))
        return false;
    memcpy(bitmap, phys_ptr(vm->msr_bitmap), PAGE_SIZE);
    open_x2apic(bitmap);
    vm->msr_bitmap_x2apic = ptr_phys(bitmap);
    vm->apic_access = ptr_phys(access);
    return true;
}

void apicv_init_vmcs01(struct vcpu *vcpu)
{
    if (!vmx.apicv)
        return;
    vmwrite(F(VIRTUAL_APIC_ADDR), vcpu->apic_page.v);
    vmwrite(F(APIC_ACCESS_ADDR), vcpu->vm->apic_access.v);
    vmwrite(F(TPR_THRESHOLD), 0);
    vmwrite(F(GUEST_INTR_STATUS), 0);
}

static enum apicv_mode wanted(const struct vlapic *l)
{
    if (!vmx.apicv || !vlapic_enabled(l) || !vlapic_software_enabled(l))
        return APICV_OFF;
    if (vlapic_x2apic(l))
        return APICV_X2APIC;
    return vlapic_page_address(l).v == LAYOUT_LAPIC_BASE ? APICV_XAPIC : APICV_DELIVERY;
}

// No flush is due: only ept01_apic maps the access page, and it is in use only while the processor
// virtualizes accesses to it.
static void set_mode(struct vcpu *vcpu, enum apicv_mode mode)
{
    static const u64 proc2[] = {[APICV_OFF] = 0,
                                [APICV_DELIVERY] = PROC2_DELIVERY,
                                [APICV_XAPIC] = PROC2_DELIVERY | CTL_VIRTUALIZE_APIC,
                                [APICV_X2APIC] = PROC2_DELIVERY | CTL_VIRTUALIZE_X2APIC};
    struct vm *vm = vcpu->vm;
    u64 off = mode == APICV_OFF ? CTL_TPR_SHADOW : PROC_CR8;
    u64 on = mode == APICV_OFF ? PROC_CR8 : CTL_TPR_SHADOW;
    if (vcpu->lapic->by_processor)
        vlapic_take_back(vcpu->lapic, apicv_status(vcpu));
    vcpu->apicv = mode;
    vcpu->vmcs->proc = (u32)((vcpu->vmcs->proc & ~off) | on);
    vmwrite(F(PROC_CTRL), vcpu->vmcs->proc);
    vmwrite(F(PROC2_CTRL), (vmread(F(PROC2_CTRL)) & ~(u64)PROC2_ALL) | proc2[mode]);
    vmwrite(F(EPTP), ept_eptp(mode == APICV_XAPIC ? &vm->ept01_apic : &vm->ept01));
    vmwrite(F(MSR_BITMAP), mode == APICV_X2APIC ? vm->msr_bitmap_x2apic.v : vm->msr_bitmap.v);
    apicv_become_l1(vcpu);
}

static NOINLINE void change_mode(struct vcpu *vcpu)
{
    vlapic_take(vcpu->lapic, VLAPIC_MODE);
    if (wanted(vcpu->lapic) != vcpu->apicv)
        set_mode(vcpu, wanted(vcpu->lapic));
}

static NOINLINE void write_eoi_exits(struct vlapic *l)
{
    l->levels_changed = false;
    vmwrite(F(EOI_EXIT_BITMAP_0), vlapic_eoi_exits(l, 0));
    vmwrite(F(EOI_EXIT_BITMAP_1), vlapic_eoi_exits(l, 1));
    vmwrite(F(EOI_EXIT_BITMAP_2), vlapic_eoi_exits(l, 2));
    vmwrite(F(EOI_EXIT_BITMAP_3), vlapic_eoi_exits(l, 3));
}

static void tell(struct vcpu *vcpu)
{
    struct vlapic *l = vcpu->lapic;
    u16 old = (u16)vmread(F(GUEST_INTR_STATUS)), status = vlapic_status(l, old);
    if (status != old)
        vmwrite(F(GUEST_INTR_STATUS), status);
    if (UNLIKELY(l->levels_changed))
        write_eoi_exits(l);
}

// "Evaluation of Pending Virtual Interrupts", as the VM entry will do it.
static bool delivers(const struct vlapic *l)
{
    u64 rvi = vmread(F(GUEST_INTR_STATUS)) & 0xff;
    return rvi >> 4 > l->regs[VLAPIC_PPR / 4] >> 4 && vmread(F(GUEST_RFLAGS)) & RFLAGS_IF;
}

void apicv_prepare(struct vcpu *vcpu)
{
    struct vlapic *l = vcpu->lapic;
    if (UNLIKELY(vlapic_attention(l) & VLAPIC_MODE))
        change_mode(vcpu);
    if (!l->by_processor)
        return;
    if (__atomic_load_n(&l->attention, __ATOMIC_ACQUIRE) & VLAPIC_STATUS)
        tell(vcpu);
    if (UNLIKELY(vcpu->activity == VCPU_HALTED) && delivers(l))
        vcpu->activity = VCPU_ACTIVE;
}

enum run_result exit_apic_access(struct vcpu *vcpu)
{
    u64 q = vmread(F(EXIT_QUALIFICATION));
    gpa_t at = GPA(vlapic_page_address(vcpu->lapic).v + ACCESS_OFFSET(q));
    vcpu_requeue_event(vcpu);
    return mmio_exit(
        vcpu, at, ACCESS_TYPE(q) == ACCESS_FETCH ? EPT_X : EPT_QUAL_LINEAR_VALID | EPT_QUAL_FINAL);
}

// This exit and the next one come after their instruction.
enum run_result exit_apic_write(struct vcpu *vcpu)
{
    vlapic_page_written(vcpu->lapic, ACCESS_OFFSET(vmread(F(EXIT_QUALIFICATION))));
    vcpu_update_deadline(vcpu);
    return RUN_RESUME;
}

enum run_result exit_eoi(struct vcpu *vcpu)
{
    spin_lock(&vcpu->vm->device_lock);
    vlapic_ended(vcpu->lapic, (u8)vmread(F(EXIT_QUALIFICATION)));
    spin_unlock(&vcpu->vm->device_lock);
    return RUN_RESUME;
}
