#include "vmx/cpuid.h"

#include "libc/string.h"
#include "libc/x86.h"

// CPUID.01H. Not offered: DTES64, MONITOR (L1 idles with HLT), DS-CPL, SMX, EIST, TM2, CNXT-ID,
// SDBG, PDCM, DCA. Always there, because Nestor emulates them: x2APIC, TSC deadline.
#define LEAF1_ECX                                                                                  \
    (BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(17) | BIT(19) | BIT(20) | BIT(22) |        \
     BIT(23) | BIT(25) | BIT(26) | BIT(28) | BIT(29) | BIT(30))
#define LEAF1_ECX_VMX    BIT(5)
#define LEAF1_ECX_ALWAYS (BIT(21) | BIT(24) | BIT(31))
#define LEAF1_OSXSAVE    BIT(27)
// Not offered: DS, ACPI (thermal MSRs), HTT (set by the number of CPUs), TM, PBE, serial number.
#define LEAF1_EDX  0x0f8bfbff
#define LEAF1_APIC BIT(9)
#define LEAF1_HTT  BIT(28)

#define LEAF6_ARAT BIT(2)

// CPUID.07H:EBX, not offered: SGX, HLE, RTM, PQM, MPX, PQE, PCOMMIT, processor trace.
#define LEAF7_EBX_NOT                                                                              \
    (BIT(2) | BIT(4) | BIT(11) | BIT(12) | BIT(14) | BIT(15) | BIT(22) | BIT(25))
#define LEAF7_EBX_ALWAYS BIT(1) // TSC_ADJUST, emulated
#define LEAF7_INVPCID    BIT(10)
// ECX: AVX512_VBMI, UMIP, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, RDPID.
#define LEAF7_ECX (BIT(1) | BIT(2) | BIT(6) | 0x5f00 | BIT(22))
// EDX: AVX512_4VNNIW, 4FMAPS, FSRM, VP2INTERSECT, SERIALIZE. No speculation controls yet.
#define LEAF7_EDX          (BIT(2) | BIT(3) | BIT(4) | BIT(8) | BIT(14))

#define XCR0_KNOWN         0xe7ull // x87, SSE, AVX, AVX-512
#define LEAF_D1_XSAVES     BIT(3)

#define EXT1_ECX           (BIT(0) | BIT(5) | BIT(8))
#define EXT1_EDX           (BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29))
#define EXT1_RDTSCP        BIT(27)
#define EXT7_INVARIANT_TSC BIT(8)

static u32 cpus_shift(u32 cpus)
{
    u32 s = 0;
    while (1u << s < cpus)
        s++;
    return s;
}

static void build_leaf1(struct cpuid_table *t, const struct cpuid_params *p)
{
    struct cpuid_regs *r = &t->basic[1];
    r->ebx = (r->ebx & 0xff00) | p->cpus << 16;
    r->ecx = (r->ecx & LEAF1_ECX) | LEAF1_ECX_ALWAYS | (p->vmx ? LEAF1_ECX_VMX : 0);
    r->edx = (r->edx & LEAF1_EDX) | LEAF1_APIC | (p->cpus > 1 ? LEAF1_HTT : 0);
}

static void build_leaf7(struct cpuid_table *t, const struct cpuid_params *p)
{
    struct cpuid_regs *r = &t->basic[7];
    r->eax = 0;
    r->ebx = (r->ebx & ~(u32)LEAF7_EBX_NOT) | LEAF7_EBX_ALWAYS;
    if (!p->invpcid)
        r->ebx &= ~(u32)LEAF7_INVPCID;
    r->ecx &= LEAF7_ECX;
    r->edx &= LEAF7_EDX;
}

// Leaf 15H: the TSC's frequency as the processor tells it, in terms of a crystal of 1 GHz, which is
// what the VM's local APIC timer runs on (drivers/model/layout.h). Nothing if the host is silent.
static struct cpuid_regs tsc_leaf(struct cpuid_regs tsc, struct cpuid_regs frequency)
{
    u64 mhz = frequency.eax & 0xffff;
    if (tsc.eax && tsc.ebx && tsc.ecx)
        mhz = (u64)tsc.ecx * tsc.ebx / tsc.eax / 1000000;
    return tsc.eax && mhz ? (struct cpuid_regs){1000, (u32)mhz, 1000000000, 0}
                          : (struct cpuid_regs){0};
}

static void build_basic(struct cpuid_table *t, cpuid_reader host, const struct cpuid_params *p)
{
    t->max_basic = MIN(host(0, 0).eax, CPUID_BASIC_MAX);
    for (u32 leaf = 0; leaf <= t->max_basic; leaf++)
        t->basic[leaf] = host(leaf, 0);
    t->basic[0].eax = t->max_basic;
    build_leaf1(t, p);
    t->basic[3] = t->basic[5] = (struct cpuid_regs){0};
    t->basic[6] = (struct cpuid_regs){.eax = LEAF6_ARAT};
    build_leaf7(t, p);
    for (u32 leaf = 8; leaf <= 0xc; leaf++)
        t->basic[leaf] = (struct cpuid_regs){0};
    for (u32 leaf = 0xe; leaf <= 0x14; leaf++)
        t->basic[leaf] = (struct cpuid_regs){0};
    t->basic[0x15] = tsc_leaf(t->basic[0x15], t->basic[0x16]);
    if (cpuid_has_xsave(t)) {
        t->xcr0 = ((u64)t->basic[0xd].edx << 32 | t->basic[0xd].eax) & XCR0_KNOWN;
        t->xsaves = p->xsaves && host(0xd, 1).eax & LEAF_D1_XSAVES;
    }
}

static void build_ext(struct cpuid_table *t, cpuid_reader host, const struct cpuid_params *p)
{
    u32 max = host(0x80000000, 0).eax;
    t->max_ext = MIN(max, 0x80000000u + CPUID_EXT_MAX - 1);
    for (u32 leaf = 0; leaf <= (t->max_ext & 0xff); leaf++)
        t->ext[leaf] = host(0x80000000 + leaf, 0);
    t->ext[0].eax = t->max_ext;
    t->ext[1].ecx &= EXT1_ECX;
    t->ext[1].edx &= EXT1_EDX & ~(p->rdtscp ? 0 : (u32)EXT1_RDTSCP);
    t->ext[7].edx &= EXT7_INVARIANT_TSC;
    t->phys_bits = t->ext[8].eax & 0xff;
    t->linear_bits = 48;
    t->ext[8] = (struct cpuid_regs){.eax = t->phys_bits | 48 << 8};
    t->efer = EFER_SCE | EFER_LME | EFER_LMA | (t->ext[1].edx & BIT(20) ? EFER_NXE : 0);
}

void cpuid_build(struct cpuid_table *t, cpuid_reader host, const struct cpuid_params *p)
{
    memset(t, 0, sizeof(*t));
    t->cpus = p->cpus;
    build_basic(t, host, p);
    build_ext(t, host, p);
    t->hv[0] = (struct cpuid_regs){CPUID_HV_LEAF + 1, 0, 0, 0};
    memcpy(&t->hv[0].ebx, "NestorNestor", 12);
}

// Leaf 4: deterministic cache parameters with the topology of the VM.
static struct cpuid_regs cache_leaf(const struct cpuid_table *t, cpuid_reader host, u32 subleaf)
{
    struct cpuid_regs r = host(4, MIN(subleaf, 8));
    if (r.eax & 0x1f)
        r.eax = (r.eax & 0x3fff) | ((1u << cpus_shift(t->cpus)) - 1) << 26;
    return r;
}

// Leaf 0BH: one thread for each core.
static struct cpuid_regs topology_leaf(const struct cpuid_table *t, u32 subleaf, u32 apic_id)
{
    switch (subleaf) {
    case 0:
        return (struct cpuid_regs){0, 1, 1 << 8, apic_id};
    case 1:
        return (struct cpuid_regs){cpus_shift(t->cpus), t->cpus, 2 << 8 | 1, apic_id};
    default:
        return (struct cpuid_regs){0, 0, subleaf & 0xff, apic_id};
    }
}

// Leaf 0DH: sizes follow XCR0 and IA32_XSS, which are the VM's own while it runs.
static struct cpuid_regs xsave_leaf(const struct cpuid_table *t, cpuid_reader host, u32 subleaf)
{
    struct cpuid_regs r = {0};
    if (!cpuid_has_xsave(t))
        return r;
    if (subleaf < 2) {
        r = host(0xd, subleaf);
        if (subleaf == 0) {
            r.eax &= (u32)t->xcr0;
            r.edx &= (u32)(t->xcr0 >> 32);
        } else {
            r.eax &= t->xsaves ? 0xf : 0x7;
            r.ecx = r.edx = 0;
        }
    } else if (subleaf < 63 && t->xcr0 >> subleaf & 1) {
        r = host(0xd, subleaf);
    }
    return r;
}

static struct cpuid_regs basic_leaf(const struct cpuid_table *t, cpuid_reader host, u32 leaf,
                                    u32 subleaf, const struct cpuid_state *s)
{
    struct cpuid_regs r = t->basic[leaf];
    switch (leaf) {
    case 1:
        r.ebx |= s->apic_id << 24;
        r.ecx |= s->osxsave ? LEAF1_OSXSAVE : 0;
        r.edx &= s->apic ? ~0u : ~(u32)LEAF1_APIC;
        return r;
    case 4:
        return cache_leaf(t, host, subleaf);
    case 7:
        return subleaf ? (struct cpuid_regs){0} : r;
    case 0xb:
        return topology_leaf(t, subleaf, s->apic_id);
    case 0xd:
        return xsave_leaf(t, host, subleaf);
    default:
        return r;
    }
}

struct cpuid_regs cpuid_answer(const struct cpuid_table *t, cpuid_reader host, u32 leaf,
                               u32 subleaf, const struct cpuid_state *state)
{
    if (leaf <= t->max_basic)
        return basic_leaf(t, host, leaf, subleaf, state);
    if (leaf - 0x80000000u <= t->max_ext - 0x80000000u)
        return t->ext[leaf - 0x80000000u];
    if (leaf - CPUID_HV_LEAF < 0x100)
        return leaf - CPUID_HV_LEAF < CPUID_HV_MAX ? t->hv[leaf - CPUID_HV_LEAF]
                                                   : (struct cpuid_regs){0};
    return basic_leaf(t, host, t->max_basic, subleaf, state);
}

u64 cpuid_cr4_mask(const struct cpuid_table *t)
{
    u32 ebx = t->basic[7].ebx, ecx = t->basic[1].ecx;
    u64 m = 0x7ff; // VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT
    m |= ecx & BIT(5) ? CR4_VMXE : 0;
    m |= ecx & BIT(17) ? CR4_PCIDE : 0;
    m |= ecx & BIT(26) ? CR4_OSXSAVE : 0;
    m |= t->basic[7].ecx & BIT(2) ? BIT(11) : 0; // UMIP
    m |= ebx & BIT(0) ? BIT(16) : 0;             // FSGSBASE
    m |= ebx & BIT(7) ? CR4_SMEP : 0;
    m |= ebx & BIT(20) ? CR4_SMAP : 0;
    return m;
}
