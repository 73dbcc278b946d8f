// The MSRs of a VM: one table (vmx/msr.def) says of each what a read and a write do. MSRs that are
// not there do not exist: #GP(0).

#include "vmx/msr.h"
#include "libc/x86.h"
#include "vmx/cpu.h"
#include "vmx/event.h"
#include "vmx/nested/nested.h"

typedef bool (*msr_read)(struct vcpu *vcpu, u32 msr, u64 *v);
typedef bool (*msr_write)(struct vcpu *vcpu, u32 msr, u64 v);

struct msr_row {
    u32 first, last;
    msr_read read;
    msr_write write;                         // NULL: #GP
    enum { EXITS, READ_DIRECT, DIRECT } way; // which accesses of the guest need no exit
};

static bool read_zero(struct vcpu *vcpu, u32 msr, u64 *v)
{
    (void)vcpu, (void)msr;
    *v = 0;
    return true;
}

static bool write_ignored(struct vcpu *vcpu, u32 msr, u64 v)
{
    (void)vcpu, (void)msr, (void)v;
    return true;
}

static bool read_host(struct vcpu *vcpu, u32 msr, u64 *v)
{
    (void)vcpu;
    return rdmsr_safe(msr, v);
}

// An MSR that processors have had since the P6; where an emulator has not, it reads 0.
static bool read_host_or_zero(struct vcpu *vcpu, u32 msr, u64 *v)
{
    return rdmsr_safe(msr, v) || read_zero(vcpu, msr, v);
}

static bool write_host(struct vcpu *vcpu, u32 msr, u64 v)
{
    (void)vcpu;
    return wrmsr_safe(msr, v);
}

static bool read_tsc(struct vcpu *vcpu, u32 msr, u64 *v)
{
    (void)msr; // L2 reads it without an exit; the MSR-store list of an exit has L1's
    *v = rdtsc() + vcpu->tsc_offset;
    return true;
}

// IA32_TSC and IA32_TSC_ADJUST move together ("IA32_TSC_ADJUST Register Support").
static void set_tsc_offset(struct vcpu *vcpu, u64 offset)
{
    vcpu->tsc_adjust += offset - vcpu->tsc_offset;
    vcpu->tsc_offset = offset;
    nested_tsc_offset_changed(vcpu);
    vlapic_tsc_changed(vcpu->lapic);
    vcpu_update_deadline(vcpu);
}

static bool write_tsc(struct vcpu *vcpu, u32 msr, u64 v)
{
    (void)msr;
    set_tsc_offset(vcpu, v - rdtsc());
    return true;
}

static bool read_tsc_adjust(struct vcpu *vcpu, u32 msr, u64 *v)
{
    (void)msr;
    *v = vcpu->tsc_adjust;
    return true;
}

static bool write_tsc_adjust(struct vcpu *vcpu, u32 msr, u64 v)
{
    (void)msr;
    set_tsc_offset(vcpu, vcpu->tsc_offset + v - vcpu->tsc_adjust);
    return true;
}

static bool read_apic(struct vcpu *vcpu, u32 msr, u64 *v)
{
    return vlapic_read_msr(vcpu->lapic, msr, v);
}

static bool write_apic(struct vcpu *vcpu, u32 msr, u64 v)
{
    bool lock = msr == VLAPIC_MSR_X2APIC + VLAPIC_EOI / 16 && vlapic_eoi_is_level(vcpu->lapic);
    if (lock)
        spin_lock(&vcpu->vm->device_lock);
    bool ok = vlapic_write_msr(vcpu->lapic, msr, v);
    if (lock)
        spin_unlock(&vcpu->vm->device_lock);
    vcpu_update_deadline(vcpu);
    return ok;
}

static bool read_feature_control(struct vcpu *vcpu, u32 msr, u64 *v)
{
    (void)msr;
    *v = vcpu->feature_control;
    return true;
}

static bool write_feature_control(struct vcpu *vcpu, u32 msr, u64 v)
{
    (void)msr;
    if (vcpu->feature_control & 1 || v & ~5ull)
        return false;
    vcpu->feature_control = v;
    return true;
}

#define MTRR_CAP_VALUE 0x508 // 8 variable ranges, fixed ranges, write-combining

static bool read_mtrr_cap(struct vcpu *vcpu, u32 msr, u64 *v)
{
    (void)vcpu, (void)msr;
    *v = MTRR_CAP_VALUE;
    return true;
}

// MTRRs are kept and have no effect: EPT gives the memory type of RAM, and devices are emulated.
static u64 *mtrr_slot(struct vcpu *vcpu, u32 msr)
{
    static const u32 fixed[] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
                                0x26b, 0x26c, 0x26d, 0x26e, 0x26f};
    if (msr == 0x2ff)
        return &vcpu->mtrr[0];
    if (msr - 0x200 < 16)
        return &vcpu->mtrr[1 + msr - 0x200];
    for (unsigned i = 0; i < ARRAY_SIZE(fixed); i++)
        if (fixed[i] == msr)
            return &vcpu->mtrr[17 + i];
    return NULL;
}

static bool memory_type_ok(u64 t)
{
    return t <= 6 && t != 2 && t != 3;
}

static bool mtrr_value_ok(struct vcpu *vcpu, u32 msr, u64 v)
{
    u64 address = BIT(vcpu->vm->phys_bits) - 1;
    if (msr == 0x2ff)
        return !(v & ~0xcffull) && memory_type_ok(v & 0xff);
    if (msr < 0x210)
        return msr & 1 ? !(v & ~(address & ~0x7ffull))
                       : !(v & ~(address & ~0xf00ull)) && memory_type_ok(v & 0xff);
    for (unsigned i = 0; i < 8; i++)
        if (!memory_type_ok(v >> (8 * i) & 0xff))
            return false;
    return true;
}

static bool read_mtrr(struct vcpu *vcpu, u32 msr, u64 *v)
{
    u64 *slot = mtrr_slot(vcpu, msr);
    *v = slot ? *slot : 0;
    return slot;
}

static bool write_mtrr(struct vcpu *vcpu, u32 msr, u64 v)
{
    u64 *slot = mtrr_slot(vcpu, msr);
    if (!slot || !mtrr_value_ok(vcpu, msr, v))
        return false;
    *slot = v;
    return true;
}

#define MISC_ENABLE_FAST_STRINGS BIT(0)
#define MISC_ENABLE_FIXED        (BIT(11) | BIT(12)) // no BTS, no PEBS
#define MISC_ENABLE_WRITABLE     (BIT(0) | BIT(22))  // and limit CPUID maxval, which has no effect

static bool read_misc_enable(struct vcpu *vcpu, u32 msr, u64 *v)
{
    (void)msr;
    *v = vcpu->misc_enable | MISC_ENABLE_FIXED;
    return true;
}

static bool write_misc_enable(struct vcpu *vcpu, u32 msr, u64 v)
{
    (void)msr;
    vcpu->misc_enable = v & MISC_ENABLE_WRITABLE;
    return true;
}

static bool read_efer(struct vcpu *vcpu, u32 msr, u64 *v)
{
    (void)vcpu, (void)msr;
    *v = vmread(F(GUEST_EFER));
    return true;
}

static bool write_efer(struct vcpu *vcpu, u32 msr, u64 v)
{
    u64 old = vmread(F(GUEST_EFER));
    (void)msr;
    if (v & ~vcpu->vm->cpuid.efer)
        return false;
    if ((v ^ old) & EFER_LME && vmread(F(GUEST_CR0)) & CR0_PG)
        return false;
    vmwrite(F(GUEST_EFER), (v & ~EFER_LMA) | (old & EFER_LMA));
    nested_msr_written(vcpu);
    return true;
}

static bool read_pat(struct vcpu *vcpu, u32 msr, u64 *v)
{
    (void)vcpu, (void)msr;
    *v = vmread(F(GUEST_PAT));
    return true;
}

static bool write_pat(struct vcpu *vcpu, u32 msr, u64 v)
{
    (void)msr;
    for (unsigned i = 0; i < 8; i++) {
        u64 t = v >> (8 * i) & 0xff;
        if (t > 7 || t == 2 || t == 3)
            return false;
    }
    vmwrite(F(GUEST_PAT), v);
    nested_msr_written(vcpu);
    return true;
}

#define DEBUGCTL_VALID 3 // LBR, which records nothing here, and BTF

static bool read_debugctl(struct vcpu *vcpu, u32 msr, u64 *v)
{
    (void)vcpu, (void)msr;
    *v = vmread(F(GUEST_DEBUGCTL));
    return true;
}

static bool write_debugctl(struct vcpu *vcpu, u32 msr, u64 v)
{
    (void)msr;
    if (v & ~(u64)DEBUGCTL_VALID)
        return false;
    vmwrite(F(GUEST_DEBUGCTL), v);
    nested_msr_written(vcpu);
    return true;
}

static bool write_canonical(struct vcpu *vcpu, u32 msr, u64 v)
{
    (void)vcpu;
    return canonical_48(v) && wrmsr_safe(msr, v);
}

static bool read_base(struct vcpu *vcpu, u32 msr, u64 *v)
{
    (void)vcpu;
    *v = msr == 0xc0000100 ? vmread(F(GUEST_FS_BASE)) : vmread(F(GUEST_GS_BASE));
    return true;
}

static bool write_base(struct vcpu *vcpu, u32 msr, u64 v)
{
    (void)vcpu;
    if (!canonical_48(v))
        return false;
    if (msr == 0xc0000100)
        vmwrite(F(GUEST_FS_BASE), v);
    else
        vmwrite(F(GUEST_GS_BASE), v);
    return true;
}

static bool read_sysenter(struct vcpu *vcpu, u32 msr, u64 *v)
{
    (void)vcpu;
    *v = msr == 0x174   ? vmread(F(GUEST_SYSENTER_CS))
         : msr == 0x175 ? vmread(F(GUEST_SYSENTER_ESP))
                        : vmread(F(GUEST_SYSENTER_EIP));
    return true;
}

static bool write_sysenter(struct vcpu *vcpu, u32 msr, u64 v)
{
    nested_msr_written(vcpu);
    if (msr == 0x174) {
        vmwrite(F(GUEST_SYSENTER_CS), (u32)v);
        return true;
    }
    if (!canonical_48(v))
        return false;
    if (msr == 0x175)
        vmwrite(F(GUEST_SYSENTER_ESP), v);
    else
        vmwrite(F(GUEST_SYSENTER_EIP), v);
    return true;
}

static bool has_rdtscp(struct vcpu *vcpu)
{
    return vcpu->vm->cpuid.ext[1].edx & BIT(27);
}

static bool read_tsc_aux(struct vcpu *vcpu, u32 msr, u64 *v)
{
    return has_rdtscp(vcpu) && rdmsr_safe(msr, v);
}

static bool write_tsc_aux(struct vcpu *vcpu, u32 msr, u64 v)
{
    return has_rdtscp(vcpu) && !(v >> 32) && wrmsr_safe(msr, v);
}

static bool read_xss(struct vcpu *vcpu, u32 msr, u64 *v)
{
    return vcpu->vm->cpuid.xsaves && rdmsr_safe(msr, v);
}

static bool write_xss(struct vcpu *vcpu, u32 msr, u64 v)
{
    return vcpu->vm->cpuid.xsaves && !(v & ~vcpu->vm->cpuid.xss) && wrmsr_safe(msr, v);
}

static bool read_vmx_cap(struct vcpu *vcpu, u32 msr, u64 *v)
{
    bool exists;
    *v = vmx_caps_msr(&vcpu->vm->caps, msr, &exists);
    return exists && !vcpu->vm->hide_vmx;
}

enum row {
    NO_ROW,
#define MSR(first, ...)      ROW_##first,
#define HIGH_MSR(first, ...) ROW_##first,
#include "vmx/msr.def"
#undef MSR
#undef HIGH_MSR
};

static const struct msr_row table[] = {
#define MSR(first, last, read, write, way)      [ROW_##first] = {first, last, read, write, way},
#define HIGH_MSR(first, last, read, write, way) [ROW_##first] = {first, last, read, write, way},
#include "vmx/msr.def"
#undef MSR
#undef HIGH_MSR
};

// The row of each MSR.
static const u8 low_rows[0xda1] = {
#define MSR(first, last, ...) [first... last] = ROW_##first,
#define HIGH_MSR(...)
#include "vmx/msr.def"
#undef MSR
#undef HIGH_MSR
};

#define HIGH 0xc0000000

static const u8 high_rows[0x104] = {
#define MSR(...)
#define HIGH_MSR(first, last, ...) [(first)-HIGH...(last) - HIGH] = ROW_##first,
#include "vmx/msr.def"
#undef MSR
#undef HIGH_MSR
};

// NO_ROW can be neither read nor written.
static inline const struct msr_row *find(u32 msr)
{
    if (msr < ARRAY_SIZE(low_rows))
        return &table[low_rows[msr]];
    return &table[msr - HIGH < ARRAY_SIZE(high_rows) ? high_rows[msr - HIGH] : NO_ROW];
}

bool vcpu_rdmsr(struct vcpu *vcpu, u32 msr, u64 *value)
{
    const struct msr_row *row = find(msr);
    return row->read && row->read(vcpu, msr, value);
}

bool vcpu_wrmsr(struct vcpu *vcpu, u32 msr, u64 value)
{
    const struct msr_row *row = find(msr);
    return row->write && row->write(vcpu, msr, value);
}

static bool is_open_word(unsigned word)
{
    for (unsigned i = 0; i < ARRAY_SIZE(msr_open_words); i++)
        if (msr_open_words[i] == word)
            return true;
    return false;
}

void msr_bitmap_init(u8 *page)
{
    const u64 *word = (const u64 *)page;
    u64 v;
    for (unsigned i = 0; i < PAGE_SIZE; i++)
        page[i] = 0xff;
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
        for (u32 msr = table[i].first; msr <= table[i].last && table[i].way != EXITS; msr++)
            if (rdmsr_safe(msr, &v)) // the emulator lacks IA32_DEBUGCTL
                msr_bitmap_open(page, msr, table[i].way == DIRECT);
    for (unsigned i = 0; i < PAGE_SIZE / 8; i++)
        ASSERT(!~word[i] || is_open_word(i));
}

enum run_result exit_rdmsr(struct vcpu *vcpu)
{
    u64 v;
    if (!vcpu_rdmsr(vcpu, (u32)vcpu->gpr[GPR_RCX], &v)) {
        vcpu_inject_gp(vcpu);
        return RUN_RESUME;
    }
    vcpu->gpr[GPR_RAX] = (u32)v;
    vcpu->gpr[GPR_RDX] = v >> 32;
    vcpu_skip(vcpu);
    return RUN_RESUME;
}

enum run_result exit_wrmsr(struct vcpu *vcpu)
{
    u64 v = vcpu->gpr[GPR_RDX] << 32 | (u32)vcpu->gpr[GPR_RAX];
    if (vcpu_wrmsr(vcpu, (u32)vcpu->gpr[GPR_RCX], v))
        vcpu_skip(vcpu);
    else
        vcpu_inject_gp(vcpu);
    return RUN_RESUME;
}
