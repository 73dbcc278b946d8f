#include "vmx/switch.h"

#include "libc/string.h"
#include "libc/x86.h"

#define MSR_XSS 0xda0

// IA32_TSC_AUX last: not every processor has it.
static const u32 msrs[] = {0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, 0xc0000103};

struct switched {
    u8 fpu[PAGE_SIZE - 512]; // XSAVE or FXSAVE area, 64-byte aligned
    u64 xcr0, xss;
    u64 dr[4], dr6, cr2;
    u64 msr[ARRAY_SIZE(msrs)];
};

_Static_assert(sizeof(struct switched) <= PAGE_SIZE, "one page of the pool");

bool switch_init(struct vcpu *vcpu)
{
    vcpu->saved = pool_page(&vcpu->vm->pool);
    if (!vcpu->saved)
        return false;
    vcpu->saved->fpu[0] = 0x7f; // FCW 037FH, MXCSR 1F80H
    vcpu->saved->fpu[1] = 0x03;
    vcpu->saved->fpu[24] = 0x80;
    vcpu->saved->fpu[25] = 0x1f;
    vcpu->saved->xcr0 = 1;
    vcpu->saved->dr6 = 0xffff0ff0;
    return true;
}

static bool has_xsave(struct vcpu *vcpu)
{
    return cpuid_has_xsave(&vcpu->vm->cpuid);
}

// With XCR0 at its maximum, so that nothing is left out; the area fits, as cpuid_build() offers no
// more than AVX-512.
static void save_fpu(struct vcpu *vcpu, struct switched *s)
{
    if (!has_xsave(vcpu)) {
        asm volatile("fxsave64 %0" : "=m"(s->fpu));
        return;
    }
    s->xcr0 = xgetbv(0);
    xsetbv(0, vcpu->vm->cpuid.xcr0);
    asm volatile("xsave64 %0" : "=m"(s->fpu) : "a"(~0u), "d"(~0u));
}

static void load_fpu(struct vcpu *vcpu, struct switched *s)
{
    if (!has_xsave(vcpu)) {
        asm volatile("fxrstor64 %0" ::"m"(s->fpu));
        return;
    }
    xsetbv(0, vcpu->vm->cpuid.xcr0);
    asm volatile("xrstor64 %0" ::"m"(s->fpu), "a"(~0u), "d"(~0u));
    xsetbv(0, s->xcr0);
}

static void prepare_fpu(struct vcpu *vcpu)
{
    write_cr0(read_cr0() & ~(u64)CR0_TS);
    write_cr4(read_cr4() | BIT(9) | (has_xsave(vcpu) ? CR4_OSXSAVE : 0));
}

void switch_save(struct vcpu *vcpu)
{
    struct switched *s = vcpu->saved;
    prepare_fpu(vcpu);
    save_fpu(vcpu, s);
    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
        rdmsr_safe(msrs[i], &s->msr[i]);
    if (vcpu->vm->cpuid.xsaves)
        s->xss = rdmsr(MSR_XSS);
    asm volatile("mov %%dr0, %0" : "=r"(s->dr[0]));
    asm volatile("mov %%dr1, %0" : "=r"(s->dr[1]));
    asm volatile("mov %%dr2, %0" : "=r"(s->dr[2]));
    asm volatile("mov %%dr3, %0" : "=r"(s->dr[3]));
    asm volatile("mov %%dr6, %0" : "=r"(s->dr6));
    s->cr2 = read_cr2();
}

void switch_load(struct vcpu *vcpu)
{
    struct switched *s = vcpu->saved;
    prepare_fpu(vcpu);
    load_fpu(vcpu, s);
    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
        wrmsr_safe(msrs[i], s->msr[i]);
    if (vcpu->vm->cpuid.xsaves)
        wrmsr(MSR_XSS, s->xss);
    asm volatile("mov %0, %%dr0" ::"r"(s->dr[0]));
    asm volatile("mov %0, %%dr1" ::"r"(s->dr[1]));
    asm volatile("mov %0, %%dr2" ::"r"(s->dr[2]));
    asm volatile("mov %0, %%dr3" ::"r"(s->dr[3]));
    asm volatile("mov %0, %%dr6" ::"r"(s->dr6));
    write_cr2(s->cr2);
}
