// VMCLEAR, VMPTRLD, VMPTRST, the launch state, and what survives VMCLEAR and VMXOFF.

#include "tests/l1/vmxinsn.h"

// Errors by number, as the manual's "VM-Instruction Error Numbers" has them.
enum {
    E_VMCALL_IN_ROOT = 1,
    E_VMCLEAR_ADDRESS = 2,
    E_VMCLEAR_VMXON = 3,
    E_LAUNCH_NOT_CLEAR = 4,
    E_RESUME_NOT_LAUNCHED = 5,
    E_VMPTRLD_ADDRESS = 9,
    E_VMPTRLD_VMXON = 10,
    E_VMPTRLD_REVISION = 11,
    E_MOV_SS = 26,
};

void test_vmptr(void)
{
    u64 a = vmx_region(), b = vmx_region(), pointer = 0;
    check_outcome(vmptrst(&pointer), VMX_OK, "VMPTRST without a current VMCS");
    check_eq(pointer, ~0ull, "the pointer");
    check_outcome(vmptrld(a + 4), VMX_INVALID, "VMPTRLD off a page, without a current VMCS");
    check_outcome(vmptrld(vmxon_region), VMX_INVALID,
                  "VMPTRLD of the VMXON pointer, without a current VMCS");
    check_outcome(vmptrld(a), VMX_OK, "VMPTRLD");
    vmptrst(&pointer);
    check(pointer == a, "the pointer is A's");
    check_outcome(vmptrld(a), VMX_OK, "VMPTRLD again");
    check_outcome(vmptrld(b + 1), VMX_VALID | E_VMPTRLD_ADDRESS, "VMPTRLD off a page");
    check_outcome(vmptrld(b + 0x800), VMX_VALID | E_VMPTRLD_ADDRESS, "VMPTRLD half a page off");
    check_outcome(vmptrld(b | caps.phys_limit), VMX_VALID | E_VMPTRLD_ADDRESS,
                  "VMPTRLD beyond the width");
    check_outcome(vmptrld(~0ull), VMX_VALID | E_VMPTRLD_ADDRESS, "VMPTRLD of ~0");
    check_outcome(vmptrld(vmxon_region), VMX_VALID | E_VMPTRLD_VMXON,
                  "VMPTRLD of the VMXON pointer");
    *(u32 *)b = caps.revision + 1;
    check_outcome(vmptrld(b), VMX_VALID | E_VMPTRLD_REVISION, "VMPTRLD of another revision");
    *(u32 *)b = 0xffffffff;
    check_outcome(vmptrld(b), VMX_VALID | E_VMPTRLD_REVISION, "VMPTRLD of revision 0xffffffff");
    *(u32 *)b = caps.revision | BIT(31);
    if (!(caps.proc2 & PROC2_SHADOW))
        check_outcome(vmptrld(b), VMX_VALID | E_VMPTRLD_REVISION, "VMPTRLD of a shadow VMCS");
    check_outcome(vmptrld(0xf0000000), VMX_VALID | E_VMPTRLD_REVISION,
                  "VMPTRLD where no memory is");
    vmptrst(&pointer);
    check(pointer == a, "the pointer is A's still");
    *(u32 *)b = caps.revision;
    check_outcome(vmptrld(b), VMX_OK, "VMPTRLD of B");
    vmptrst(&pointer);
    check(pointer == b, "the pointer is B's");
    vmclear(a);
    vmclear(b);
}

void test_vmclear(void)
{
    u64 a = vmx_region(), b = vmx_region(), pointer = 0;
    check_outcome(vmclear(a + 8), VMX_INVALID, "off a page, without a current VMCS");
    check_outcome(vmclear(vmxon_region), VMX_INVALID, "the VMXON pointer, without a current VMCS");
    check_outcome(vmclear(a), VMX_OK, "a VMCS that was never used");
    vmptrld(a);
    check_outcome(vmclear(b + 8), VMX_VALID | E_VMCLEAR_ADDRESS, "off a page");
    check_outcome(vmclear(b | caps.phys_limit), VMX_VALID | E_VMCLEAR_ADDRESS, "beyond the width");
    check_outcome(vmclear(vmxon_region), VMX_VALID | E_VMCLEAR_VMXON, "the VMXON pointer");
    check_outcome(vmclear(b), VMX_OK, "one that is not current");
    vmptrst(&pointer);
    check(pointer == a, "the current one stays");
    check_outcome(vmclear(a), VMX_OK, "the current one");
    vmptrst(&pointer);
    check_eq(pointer, ~0ull, "the pointer after it");
    check_outcome(vmclear(a), VMX_OK, "again");
    check(*(u32 *)a == caps.revision, "the revision identifier stays in memory");
}

void test_launch_state(void)
{
    u64 a = vmx_region();
    check_outcome(vmlaunch(), VMX_INVALID, "VMLAUNCH without a current VMCS");
    check_outcome(vmresume(), VMX_INVALID, "VMRESUME without a current VMCS");
    check_outcome(vmcall(), VMX_INVALID, "VMCALL without a current VMCS");
    vmclear(a);
    vmptrld(a);
    // Bochs itself ends there: it has no dual-monitor treatment and does not say so.
    if (!arg_has("bare"))
        check_outcome(vmcall(), VMX_VALID | E_VMCALL_IN_ROOT, "VMCALL");
    check_outcome(vmresume(), VMX_VALID | E_RESUME_NOT_LAUNCHED, "VMRESUME of a clear VMCS");
    check_outcome(VMX_INSN("mov %%ss, %%eax; mov %%eax, %%ss; vmlaunch", "a"(0)),
                  VMX_VALID | E_MOV_SS, "VMLAUNCH right after MOV SS");
    check_outcome(VMX_INSN("mov %%ss, %%eax; mov %%eax, %%ss; vmresume", "a"(0)),
                  VMX_VALID | E_MOV_SS, "VMRESUME right after MOV SS");
    vmwrite(PIN_CTLS, 0);
    check_outcome(vmlaunch(), VMX_VALID | 7, "VMLAUNCH without the controls that must be 1");
    check_eq(vmread(INSTRUCTION_ERROR), 7, "the error field");
    check_outcome(VMX_INSN("vmfunc", "a"(0), "c"(0)), VMX_FAULT | VEC_UD,
                  "VMFUNC in root operation");
    vmclear(a);
}

// Fields that any value fits, one of each width and kind.
static const struct {
    u16 encoding;
    u64 v;
    const char *name;
} keep[] = {
    {GUEST_ES, 0x1234, "guest ES"},
    {HOST_CS, 0xfff8, "host CS"},
    {IO_BITMAP_A, 0x123456789abcdef0, "I/O bitmap A"},
    {LINK_POINTER, 0xfedcba9876543210, "VMCS link pointer"},
    {EXCEPTION_BITMAP, 0x89abcdef, "exception bitmap"},
    {GUEST_CS_LIMIT, 0xdeadbeef, "limit of CS"},
    {HOST_SYSENTER_CS, 0x55aa55aa, "host SYSENTER_CS"},
    {CR0_MASK, 0x1122334455667788, "CR0 mask"},
    {GUEST_RIP, 0xffff800012345678, "guest RIP"},
    {HOST_RSP, 0x8000000000000001, "host RSP"},
};

static void write_all(u64 xor)
{
    for (u32 i = 0; i < ARRAY_SIZE(keep); i++)
        vmwrite(keep[i].encoding, keep[i].v ^ (xor&0xff));
}

static void check_all(u64 xor, const char *when)
{
    for (u32 i = 0; i < ARRAY_SIZE(keep); i++)
        check_eq(vmread(keep[i].encoding), keep[i].v ^ (xor&0xff), "%s: %s", when, keep[i].name);
}

void test_state(void)
{
    u64 a = vmx_region(), b = vmx_region();
    vmclear(a);
    vmclear(b);
    vmptrld(a);
    write_all(0);
    vmptrld(b);
    write_all(0x5a);
    vmptrld(a);
    check_all(0, "A after B");
    vmptrld(b);
    check_all(0x5a, "B after A");
    vmclear(a);
    check_all(0x5a, "B after VMCLEAR of A");
    vmptrld(a);
    check_all(0, "A after VMCLEAR");
    vmclear(a);
    vmclear(b);
    vmxoff();
    vmxon(vmxon_region);
    vmptrld(b);
    check_all(0x5a, "B after VMXOFF and VMXON");
    vmptrld(a);
    check_all(0, "A after VMXOFF and VMXON");
    u64 moved = vmx_region();
    vmclear(a);
    memcpy((void *)moved, (void *)a, 4096);
    vmptrld(moved);
    check_all(0, "a copy of A");
    vmclear(moved);
    u64 pointer;
    vmptrld(b);
    check_outcome(vmxoff(), VMX_OK, "VMXOFF with a current VMCS");
    check_outcome(vmptrst(&pointer), VMX_FAULT | VEC_UD, "VMPTRST after it");
    check_outcome(vmxon(vmxon_region), VMX_OK, "VMXON after it");
    vmptrst(&pointer);
    check_eq(pointer, ~0ull, "the pointer after VMXON");
    check_outcome(vmread_from(GUEST_RIP, &pointer), VMX_INVALID, "VMREAD after it");
    vmclear(b);
}
