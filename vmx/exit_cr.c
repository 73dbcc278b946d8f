// Control-register accesses that exit: bits of CR0 and CR4 that L0 owns, and CR8.

#include "libc/x86.h"
#include "vmx/cpu.h"
#include "vmx/event.h"
#include "vmx/nested/nested.h"

enum cr_access { CR_TO, CR_FROM, CR_CLTS, CR_LMSW };

#define CR0_KNOWN    0xe005003full
#define CR4_PAE_BITS (BIT(4) | BIT(5) | BIT(7) | CR4_SMEP) // PSE, PAE, PGE, SMEP

static bool long_mode(void)
{
    return vmread(F(GUEST_EFER)) & EFER_LMA;
}

// SDM, "MOV—Move to/from Control Registers": what makes #GP(0).
static bool cr0_ok(u64 new, u64 cr4)
{
    if ((new &CR0_PG && !(new &CR0_PE)) || (new &CR0_NW && !(new &CR0_CD)))
        return false;
    if (!(new &CR0_PG) && cr4 & CR4_PCIDE)
        return false;
    u64 efer = vmread(F(GUEST_EFER));
    if (new &CR0_PG && efer &EFER_LME && !(efer & EFER_LMA))
        return cr4 & CR4_PAE && !(vmread(F(GUEST_CS_AR)) & BIT(13));
    // Leaving IA-32e mode works from compatibility mode only.
    return new &CR0_PG || !(efer & EFER_LMA) || !(vmread(F(GUEST_CS_AR)) & BIT(13));
}

// EFER.LMA and the entry control follow CR0.PG.
static void update_long_mode(u64 cr0)
{
    u64 efer = vmread(F(GUEST_EFER)), entry = vmread(F(ENTRY_CTRL));
    bool lma = efer & EFER_LME && cr0 & CR0_PG;
    if (lma == !!(efer & EFER_LMA))
        return;
    vmwrite(F(GUEST_EFER), lma ? efer | EFER_LMA : efer & ~EFER_LMA);
    vmwrite(F(ENTRY_CTRL),
            lma ? entry | CTL_ENTRY_IA32E_GUEST : entry & ~(u64)CTL_ENTRY_IA32E_GUEST);
}

// PAE paging: MOV to CR0, CR3 or CR4 loads the PDPTEs. False: they are bad, #GP(0), or EPT12 keeps
// them from L2.
static bool load_pdptes(struct vcpu *vcpu, u64 cr0, u64 cr3, u64 cr4)
{
    u64 pdpte[4];
    if (!(cr0 & CR0_PG) || !(cr4 & CR4_PAE) || vmread(F(GUEST_EFER)) & EFER_LME)
        return true;
    if (!vcpu_read_physical(vcpu, cr3 & 0xffffffe0, pdpte, sizeof(pdpte)))
        return false;
    u64 reserved = ~(BIT(vcpu->vm->phys_bits) - 1) | 0x1e6;
    for (unsigned i = 0; i < 4; i++)
        if (pdpte[i] & 1 && pdpte[i] & reserved)
            return false;
    vmwrite(F(GUEST_PDPTE0), pdpte[0]);
    vmwrite(F(GUEST_PDPTE1), pdpte[1]);
    vmwrite(F(GUEST_PDPTE2), pdpte[2]);
    vmwrite(F(GUEST_PDPTE3), pdpte[3]);
    return true;
}

// What the guest reads: its own value of the bits that it does not own.
static u64 guest_view(vmcs_field_t reg, vmcs_field_t mask, vmcs_field_t shadow)
{
    u64 m = vmread(mask);
    return (vmread(reg) & ~m) | (vmread(shadow) & m);
}

static void flush_tlb(struct vcpu *vcpu)
{
    if (vmx.vpid)
        vmxop_invvpid(INVVPID_SINGLE, (u16)vmread(F(VPID)), 0);
    (void)vcpu;
}

static bool write_cr0_guest(struct vcpu *vcpu, u64 value)
{
    struct cr_part l1 = nested_cr_part(vcpu, 0);
    u64 old = guest_view(F(GUEST_CR0), F(CR0_MASK), F(CR0_SHADOW)), cr4 = vmread(F(GUEST_CR4));
    u64 new = (((value & ~l1.mask) | (l1.actual & l1.mask)) & CR0_KNOWN) | CR0_ET;
    if (value >> 32 || !cr0_ok(new, cr4) || !nested_cr0_ok(vcpu, new))
        return false;
    if ((new ^ old) & (CR0_PG | CR0_CD | CR0_NW) &&
        !load_pdptes(vcpu, new, vmread(F(GUEST_CR3)), cr4))
        return false;
    update_long_mode(new);
    vmwrite(F(CR0_SHADOW), (new & ~l1.mask) | (l1.shadow & l1.mask));
    vmwrite(F(GUEST_CR0), (new & ~(CR0_CD | CR0_NW)) | CR0_NE);
    vcpu->host_dirty = true;
    nested_cr_written(vcpu, 0, new);
    if ((new ^ old) & (CR0_PG | CR0_WP))
        flush_tlb(vcpu);
    return true;
}

static bool write_cr4_guest(struct vcpu *vcpu, u64 value)
{
    struct cr_part l1 = nested_cr_part(vcpu, 4);
    u64 old = guest_view(F(GUEST_CR4), F(CR4_MASK), F(CR4_SHADOW)), cr0 = vmread(F(GUEST_CR0));
    u64 new = (value & ~l1.mask) | (l1.actual & l1.mask);
    if (new & ~vcpu->cr4_mask || !nested_cr4_ok(vcpu, new))
        return false;
    if (long_mode() && !(new &CR4_PAE))
        return false;
    if (new &CR4_PCIDE && !(old & CR4_PCIDE) && (!long_mode() || vmread(F(GUEST_CR3)) & 0xfff))
        return false;
    if ((new ^ old) & CR4_PAE_BITS && !load_pdptes(vcpu, cr0, vmread(F(GUEST_CR3)), new))
        return false;
    vmwrite(F(CR4_SHADOW), (new & ~l1.mask) | (l1.shadow & l1.mask));
    vmwrite(F(GUEST_CR4), (new | vmx.caps.cr4_fixed0) & vmx.caps.cr4_fixed1);
    vcpu->host_dirty = true;
    nested_cr_written(vcpu, 4, new);
    flush_tlb(vcpu);
    return true;
}

// MOV to CR3 exits without need on processors that force it, and for L2 where L1's CR3-target
// values say that it is not L1's.
static bool write_cr3_guest(struct vcpu *vcpu, u64 value)
{
    u64 keep = BIT(63), cr4 = vmread(F(GUEST_CR4));
    bool pcid = cr4 & CR4_PCIDE;
    if (long_mode() && value & ~(BIT(vcpu->vm->phys_bits) - 1) & ~(pcid ? keep : 0))
        return false;
    if (!load_pdptes(vcpu, vmread(F(GUEST_CR0)), value, cr4))
        return false;
    vmwrite(F(GUEST_CR3), value & ~keep);
    if (!(pcid && value & keep))
        flush_tlb(vcpu);
    return true;
}

static bool write_cr(struct vcpu *vcpu, unsigned cr, u64 v)
{
    switch (cr) {
    case 0:
        return write_cr0_guest(vcpu, v);
    case 3:
        return write_cr3_guest(vcpu, v);
    case 4:
        return write_cr4_guest(vcpu, v);
    case 8:
        if (v & ~0xfull)
            return false;
        vlapic_set_tpr(vcpu->lapic, (u8)(v << 4));
        return true;
    default:
        return false;
    }
}

static bool lmsw(struct vcpu *vcpu, u64 source)
{
    // LMSW sets PE, MP, EM, TS and cannot clear PE.
    u64 old = guest_view(F(GUEST_CR0), F(CR0_MASK), F(CR0_SHADOW));
    return write_cr0_guest(vcpu, (old & ~0xeull) | (source & 0xf));
}

enum run_result exit_cr_access(struct vcpu *vcpu)
{
    u64 q = vmread(F(EXIT_QUALIFICATION));
    unsigned cr = q & 0xf, reg = q >> 8 & 0xf;
    u64 v = vcpu_gpr(vcpu, reg);
    bool ok = true;
    switch ((enum cr_access)(q >> 4 & 3)) {
    case CR_TO:
        ok = write_cr(vcpu, cr, long_mode() ? v : (u32)v);
        break;
    case CR_FROM: // of CR3 or CR8
        vcpu_set_gpr(vcpu, reg, cr == 3 ? vmread(F(GUEST_CR3)) : vlapic_tpr(vcpu->lapic) >> 4);
        break;
    case CR_CLTS:
        ok = write_cr0_guest(vcpu, guest_view(F(GUEST_CR0), F(CR0_MASK), F(CR0_SHADOW)) & ~CR0_TS);
        break;
    case CR_LMSW:
        ok = lmsw(vcpu, q >> 16 & 0xffff);
        break;
    }
    if (ok)
        vcpu_skip(vcpu);
    else if (!vcpu_event_waits(vcpu))
        vcpu_inject_gp(vcpu);
    return RUN_RESUME;
}
