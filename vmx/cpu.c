#include "vmx/cpu.h"

#include "drivers/cpu.h"
#include "libc/x86.h"
#include "vmx/platform.h"
#include "vmx/vmxop.h"

#define MSR_FEATURE_CONTROL 0x3a
#define FEATURE_LOCKED      BIT(0)
#define FEATURE_VMX         BIT(2)
#define CPUID_VMX           BIT(5)
#define VMXON_REVISION      BASIC_REVISION

struct vmx_state vmx;

static u64 read_cap(u32 msr, void *ctx)
{
    u64 v = 0;
    (void)ctx;
    rdmsr_safe(msr, &v);
    return v;
}

// What L0 cannot do without. Each is in every server processor since Westmere.
static const char *find_missing(const struct vmx_caps *c)
{
    const u64 walk = EPT_CAP_WALK_4 | EPT_CAP_WB | EPT_CAP_2M | EPT_CAP_INVEPT;
    if (!CAP_HAS(c, SECONDARY))
        return "secondary processor-based controls";
    if (!CAP_HAS(c, EPT) || (c->ept_vpid & walk) != walk)
        return "EPT (4-level, write-back, 2M pages, INVEPT)";
    if (!CAP_HAS(c, UNRESTRICTED))
        return "unrestricted guest";
    if (!CAP_HAS(c, EXT_INTR_EXITING) || !CAP_HAS(c, NMI_EXITING) || !CAP_HAS(c, VIRTUAL_NMIS))
        return "external-interrupt exiting, NMI exiting and virtual NMIs";
    if (!CAP_HAS(c, PREEMPTION_TIMER))
        return "the VMX-preemption timer";
    if (!CAP_HAS(c, MSR_BITMAPS))
        return "MSR bitmaps";
    if (!CAP_HAS(c, EXIT_HOST_64BIT) || !CAP_HAS(c, EXIT_LOAD_EFER) ||
        !CAP_HAS(c, EXIT_SAVE_EFER) || !CAP_HAS(c, ENTRY_LOAD_EFER) || !CAP_HAS(c, EXIT_LOAD_PAT) ||
        !CAP_HAS(c, EXIT_SAVE_PAT) || !CAP_HAS(c, ENTRY_LOAD_PAT))
        return "loading and saving of EFER and PAT";
    return NULL;
}

// Firmware that left IA32_FEATURE_CONTROL unlocked leaves the decision to us.
static bool feature_control_allows(void)
{
    u64 v;
    if (!rdmsr_safe(MSR_FEATURE_CONTROL, &v))
        return false;
    if (!(v & FEATURE_LOCKED)) {
        wrmsr_safe(MSR_FEATURE_CONTROL, v | FEATURE_VMX | FEATURE_LOCKED);
        rdmsr_safe(MSR_FEATURE_CONTROL, &v);
    }
    return v & FEATURE_VMX;
}

enum vmx_problem vmx_probe(const char **missing)
{
    if (!(cpuid(1, 0).ecx & CPUID_VMX))
        return VMX_ABSENT;
    if (!feature_control_allows())
        return VMX_LOCKED;
    struct vmx_caps *c = &vmx.caps;
    vmx_caps_from_msrs(read_cap, NULL, c);
    *missing = find_missing(c);
    if (*missing)
        return VMX_INCAPABLE;
    vmx.timer_shift = (unsigned)(c->misc & MISC_TIMER_RATE);
    vmx.vpid = CAP_HAS(c, VPID) && c->ept_vpid & VPID_CAP_SINGLE;
    vmx.shadowing = CAP_HAS(c, VMCS_SHADOWING);
    vmx.apicv = CAP_HAS(c, TPR_SHADOW) && CAP_HAS(c, VIRTUALIZE_APIC) &&
                CAP_HAS(c, VIRTUALIZE_X2APIC) && CAP_HAS(c, APIC_REGISTERS) &&
                CAP_HAS(c, VIRTUAL_INTR_DELIVERY);
    vmx.ept = (struct ept_caps){.large_2m = true,
                                .large_1g = c->ept_vpid & EPT_CAP_1G,
                                .exec_only = c->ept_vpid & EPT_CAP_EXEC_ONLY,
                                .ad = c->ept_vpid & EPT_CAP_AD,
                                .maxphyaddr = (u8)(cpuid(0x80000008, 0).eax & 0xff)};
    platform_detect();
    return VMX_OK;
}

enum vmx_problem vmx_enable(struct cpu *cpu, hpa_t region)
{
    const struct vmx_caps *c = &vmx.caps;
    if (!feature_control_allows())
        return VMX_LOCKED;
    write_cr0((read_cr0() | c->cr0_fixed0) & c->cr0_fixed1);
    write_cr4(((read_cr4() | CR4_VMXE) | c->cr4_fixed0) & c->cr4_fixed1);
    *(u32 *)phys_ptr(region) = (u32)(c->basic & VMXON_REVISION);
    cpu->vmxon = region;
    return vmxop_on(&region) ? VMX_OK : VMX_VMXON;
}
