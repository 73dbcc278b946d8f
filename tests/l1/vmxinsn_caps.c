// Appendix A, "VMX Capability Reporting Facility": what any processor must say, and what a
// hypervisor of today needs. Then everything outside VMX operation, and the way in.

#include "tests/l1/vmxinsn.h"

// Bits of a control word that must be 1 have to be allowed to be 1, too.
static void check_control(u32 msr, u32 default1, const char *name)
{
    u32 must = (u32)rdmsr(msr), may = (u32)(rdmsr(msr) >> 32);
    check_eq(must & ~may, 0, "%s: must be 1 but may not", name);
    check_eq(must & default1, default1, "%s: the default1 class", name);
}

void test_caps(void)
{
    check_eq(caps.basic >> 31 & 1, 0, "IA32_VMX_BASIC bit 31");
    u64 size = caps.basic >> 32 & 0x1fff;
    check(size > 0 && size <= 4096, "a VMCS region has 1 to 4096 bytes");
    check_eq(caps.basic >> 50 & 15, 6, "memory type of VMCS regions (write-back)");
    check_eq(caps.basic >> 56, 0, "IA32_VMX_BASIC reserved bits 63:56, less those defined later");
    check_control(0x481, 0x16, "pin-based controls");
    check_control(0x482, 0x0401e172, "processor-based controls");
    check_control(0x483, 0x36dff, "VM-exit controls");
    check_control(0x484, 0x11ff, "VM-entry controls");
    if (caps.basic >> 55 & 1)
        for (u32 i = 0; i < 4; i++) {
            u64 old = rdmsr(0x481 + i), new = rdmsr(0x48d + i);
            check(new >> 32 == old >> 32, "TRUE controls %u: what may be 1 is the same", i);
            check_eq((u32) new & ~(u32)old, 0, "TRUE controls %u: must be 1, but not before", i);
        }
    static const struct {
        const char *name;
        u32 *word;
        u32 bits;
    } wanted[] = {
        {"external-interrupt and NMI exiting", &caps.pin, PIN_EXTINT | PIN_NMI},
        {"HLT exiting", &caps.proc, PROC_HLT},
        {"interrupt-window exiting", &caps.proc, PROC_INTR_WINDOW},
        {"TSC offsetting", &caps.proc, PROC_TSC_OFFSET},
        {"INVLPG, MWAIT, RDPMC, RDTSC exiting", &caps.proc,
         PROC_INVLPG | PROC_MWAIT | PROC_RDPMC | PROC_RDTSC},
        {"CR3-load and CR3-store exiting", &caps.proc, PROC_CR3_LOAD | PROC_CR3_STORE},
        {"CR8-load and CR8-store exiting", &caps.proc, PROC_CR8_LOAD | PROC_CR8_STORE},
        {"MOV-DR exiting", &caps.proc, PROC_MOV_DR},
        {"I/O exiting and bitmaps", &caps.proc, PROC_IO | PROC_IO_BITMAPS},
        {"MSR bitmaps", &caps.proc, PROC_MSR_BITMAPS},
        {"host address-space size", &caps.exit, EXIT_HOST64},
        {"IA-32e mode guest", &caps.entry, ENTRY_GUEST64},
    };
    for (u32 i = 0; i < ARRAY_SIZE(wanted); i++)
        check_eq(*wanted[i].word & wanted[i].bits, wanted[i].bits, "offered: %s", wanted[i].name);
    check_eq(caps.cr0_must & ~caps.cr0_may, 0, "CR0: fixed to 1 and to 0");
    check_eq(caps.cr4_must & ~caps.cr4_may, 0, "CR4: fixed to 1 and to 0");
    check_eq(caps.cr0_must, 0x80000021, "CR0 fixed to 1: PG, NE, PE");
    check_eq(caps.cr0_may, 0xffffffff, "CR0 may be 1");
    check_eq(caps.cr4_must, CR4_VMXE, "CR4 fixed to 1: VMXE");
    u64 cr4 = read_cr4(), settable = 0;
    for (u32 i = 0; i < 32; i++)
        if (try_write_cr4(cr4 | BIT(i)) == NO_FAULT) {
            settable |= read_cr4() & BIT(i);
            write_cr4(cr4);
        }
    check_eq(caps.cr4_may & ~settable, 0, "CR4 bits that may be 1 but cannot be set");
    check_eq(settable & ~caps.cr4_may, 0, "CR4 bits that can be set but may not be 1");
    check((rdmsr(0x48a) & 0x3ff) >> 1 >= 0x17 && !(rdmsr(0x48a) & ~0x3ffull),
          "highest VMCS field index");
    check((caps.misc & 0x1f) <= 10, "the preemption timer counts at 1/1024 of the TSC or faster");
    check_eq(caps.misc >> 6 & 1, 1, "activity state HLT");
    check_eq(caps.misc >> 16 & 0x1ff, 4, "CR3 targets");
    u64 v;
    bool secondary = caps.proc & PROC_SECONDARY;
    check((try_rdmsr(0x48b, &v) == NO_FAULT) == secondary, "IA32_VMX_PROCBASED_CTLS2 as announced");
    check((try_rdmsr(0x48c, &v) == NO_FAULT) == !!(caps.proc2 & (PROC2_EPT | PROC2_VPID)),
          "IA32_VMX_EPT_VPID_CAP as announced");
    check((try_rdmsr(0x490, &v) == NO_FAULT) == (caps.basic >> 55 & 1), "TRUE MSRs as announced");
    check((try_rdmsr(0x491, &v) == NO_FAULT) == !!(caps.proc2 & PROC2_VMFUNC),
          "IA32_VMX_VMFUNC as announced");
    if (caps.proc2 & PROC2_EPT) {
        check(caps.ept_vpid >> 6 & 1, "EPT page-walk length 4");
        check(caps.ept_vpid >> 14 & 1, "EPT memory type write-back");
        check(caps.ept_vpid >> 20 & 1, "INVEPT");
    }
    check(!(caps.proc2 & PROC2_UNRESTRICTED) || (caps.proc2 & PROC2_EPT),
          "unrestricted guest needs EPT");
    for (u32 msr = 0x480; msr <= 0x491; msr++)
        check_fault(try_wrmsr(msr, 0), VEC_GP, "WRMSR 0x%x", msr);
}

// ------------------------------------------------------------------------- outside VMX operation

static u64 dummy[2];

static void all_instructions(u32 want, const char *where)
{
    check_outcome(vmclear((u64)dummy), want, "VMCLEAR %s", where);
    check_outcome(vmptrld((u64)dummy), want, "VMPTRLD %s", where);
    check_outcome(vmptrst(dummy), want, "VMPTRST %s", where);
    check_outcome(vmread_from(GUEST_RIP, dummy), want, "VMREAD %s", where);
    check_outcome(vmwrite_to(GUEST_RIP, 0), want, "VMWRITE %s", where);
    check_outcome(vmlaunch(), want, "VMLAUNCH %s", where);
    check_outcome(vmresume(), want, "VMRESUME %s", where);
    check_outcome(vmxoff(), want, "VMXOFF %s", where);
    check_outcome(vmcall(), want, "VMCALL %s", where);
    check_outcome(invept(1, 0, 0), want, "INVEPT %s", where);
    check_outcome(invvpid(1, 1, 0), want, "INVVPID %s", where);
}

void test_outside(void)
{
    u64 region = vmx_region();
    write_cr4(read_cr4() & ~CR4_VMXE);
    check_outcome(vmxon(region), VMX_FAULT | VEC_UD, "VMXON with CR4.VMXE = 0");
    all_instructions(VMX_FAULT | VEC_UD, "with CR4.VMXE = 0");
    vmx_enable();
    all_instructions(VMX_FAULT | VEC_UD, "outside VMX operation");
    check_outcome(VMX_INSN("vmfunc", "a"(0), "c"(0)), VMX_FAULT | VEC_UD,
                  "VMFUNC outside VMX operation");
    check_fault(run_real(REAL_VMXON).vector, VEC_UD, "VMXON in real mode");
    check_fault(run_real(REAL_VMXOFF).vector, VEC_UD, "VMXOFF in real mode");
    check_fault(run_real(REAL_VMCALL).vector, VEC_UD, "VMCALL in real mode");
}

// ------------------------------------------------------------------------------------------- VMXON

asm(".pushsection .text\n"
    "user_vmxon: vmxon vmxon_region; int $0x80\n"
    ".code32\n"
    "compat_vmxon: vmxon vmxon_region; ret\n"
    ".code64\n.popsection\n");
extern u8 user_vmxon[], compat_vmxon[];

static void call_compat(u64 code)
{
    compat_call((void *)code, 0);
}

static void vmxon_faults(void)
{
    u64 cr0 = read_cr0();
    vmxon_region = vmx_region();
    write_cr0(cr0 & ~CR0_NE);
    check_outcome(vmxon(vmxon_region), VMX_FAULT | VEC_GP, "CR0.NE = 0");
    check_eq(fault.error, 0, "CR0.NE = 0: error code");
    write_cr0(cr0);
    check_fault(fault_of_user(user_vmxon), VEC_GP, "ring 3");
    write_cr4(read_cr4() & ~CR4_VMXE);
    check_fault(fault_of_user(user_vmxon), VEC_UD, "ring 3 with CR4.VMXE = 0");
    vmx_enable();
    check_fault(fault_of(call_compat, (u64)compat_vmxon), VEC_UD, "compatibility mode");
    u64 *absent = (u64 *)alloc_pages(1), *pte = page_entry((u64)absent), good = *pte;
    *pte = 0;
    invlpg(absent);
    check_outcome(VMX_INSN("vmxon (%[a])", [a] "r"(absent)), VMX_FAULT | VEC_PF,
                  "an operand that is not present");
    check_eq(fault.error, 0, "an operand that is not present: error code");
    check(fault.cr2 == (u64)absent, "an operand that is not present: CR2");
    *pte = good;
    invlpg(absent);
    check_outcome(VMX_INSN("vmxon (%[a])", [a] "r"(BIT(63))), VMX_FAULT | VEC_GP,
                  "a non-canonical operand");
}

void test_vmxon(void)
{
    vmx_enable();
    vmxon_faults();
    check_outcome(vmxon(vmxon_region + 8), VMX_INVALID, "8 bytes off a page");
    check_outcome(vmxon(vmxon_region + 0x800), VMX_INVALID, "half a page off");
    check_outcome(vmxon(vmxon_region | caps.phys_limit), VMX_INVALID, "beyond the width");
    check_outcome(vmxon(vmxon_region | BIT(63)), VMX_INVALID, "bit 63");
    check_outcome(vmxon(0xf0000000), VMX_INVALID, "where no memory is");
    *(u32 *)vmxon_region = caps.revision + 1;
    check_outcome(vmxon(vmxon_region), VMX_INVALID, "another revision");
    *(u32 *)vmxon_region = caps.revision | BIT(31);
    check_outcome(vmxon(vmxon_region), VMX_INVALID, "bit 31 of the revision");
    *(u32 *)vmxon_region = caps.revision;
    check_outcome(vmxon(vmxon_region), VMX_OK, "good");
    u64 pointer = 0;
    check_outcome(vmptrst(&pointer), VMX_OK, "VMPTRST after it");
    check_eq(pointer, ~0ull, "VMCS pointer after it");
    check_outcome(vmxon(vmxon_region), VMX_INVALID, "VMXON again, without a current VMCS");
    u64 vmcs = vmx_region();
    check_outcome(vmptrld(vmcs), VMX_OK, "VMPTRLD");
    check_outcome(vmxon(vmxon_region), VMX_VALID | 15, "VMXON again, with a current VMCS");
    check_fault(fault_of_user(user_vmxon), VEC_GP, "VMXON again in ring 3");
    check_fault(fault_of(call_compat, (u64)compat_vmxon), VEC_UD,
                "VMXON again in compatibility mode");
    check_outcome(vmclear(vmcs), VMX_OK, "VMCLEAR");
    check_outcome(vmxoff(), VMX_OK, "VMXOFF");
    check_outcome(vmxoff(), VMX_FAULT | VEC_UD, "VMXOFF again");
    check_fault(try_write_cr4(read_cr4() & ~CR4_VMXE), NO_FAULT, "CR4.VMXE off after VMXOFF");
}

void test_fixed_bits(void)
{
    u64 cr0 = read_cr0(), cr4 = read_cr4();
    check_fault(try_write_cr4(cr4 & ~CR4_VMXE), VEC_GP, "CR4.VMXE off");
    check_fault(try_write_cr0(cr0 & ~CR0_NE), VEC_GP, "CR0.NE off");
    check_fault(try_write_cr0(cr0 & ~CR0_PG), VEC_GP, "CR0.PG off");
    check_fault(try_write_cr0(cr0 & ~(CR0_PG | CR0_PE)), VEC_GP, "CR0.PG and PE off");
    check_fault(try_write_cr0(cr0 ^ CR0_TS), NO_FAULT, "CR0.TS");
    check_fault(try_write_cr0(cr0), NO_FAULT, "CR0.TS back");
    check_eq(read_cr0(), cr0, "CR0");
    check_eq(read_cr4(), cr4, "CR4");
}
