#pragma once
// VMX instructions with their outcome as one number, capabilities, and entering VMX operation.

#include "tests/l1/rt/rt.h"
#include "tests/l1/vmx/fields.h"

// The outcome of a VMX instruction.
enum {
    VMX_OK = 0,
    VMX_INVALID = 0x1000, // VMfailInvalid
    VMX_VALID = 0x2000,   // VMfailValid, plus the VM-instruction error
    VMX_FAULT = 0x3000,   // plus the vector; the error code is in `fault`
    VMX_FLAGS = 0x4000,   // none of these: plus the arithmetic flags
};

u32 vmx_outcome(u64 flags);
// "VMfailValid 7", "#GP", ...
const char *outcome_name(u32 outcome);
bool check_outcome(u32 got, u32 want, const char *fmt, ...) PRINTF(3, 4);

// Executes one VMX instruction with all arithmetic flags set before it. What moves an operand into
// place may stand before it and may use RDI, R12, R13 and R15; a fault is caught at the first only.
#define VMX_INSN(insn, ...)                                                                        \
    ({                                                                                             \
        u64 flags_;                                                                                \
        fault_clear();                                                                             \
        asm volatile("push $0x8d7; popfq\n" TRY(insn) "pushfq; pop %[flags]"                       \
                     : [flags] "=&r"(flags_)                                                       \
                     : __VA_ARGS__                                                                 \
                     : "memory", "cc", "rdi", "r12", "r13", "r15");                                \
        vmx_outcome(flags_);                                                                       \
    })

static inline u32 vmxon(u64 region)
{
    return VMX_INSN("vmxon %[a]", [a] "m"(region));
}

static inline u32 vmxoff(void)
{
    return VMX_INSN("vmxoff", "r"(0));
}

static inline u32 vmclear(u64 region)
{
    return VMX_INSN("vmclear %[a]", [a] "m"(region));
}

static inline u32 vmptrld(u64 region)
{
    return VMX_INSN("vmptrld %[a]", [a] "m"(region));
}

static inline u32 vmptrst(u64 *region)
{
    return VMX_INSN("vmptrst (%[a])", [a] "r"(region));
}

static inline u32 vmwrite_to(u64 encoding, u64 v)
{
    return VMX_INSN("vmwrite %[v], %[e]", [v] "r"(v), [e] "r"(encoding));
}

static inline u32 vmread_from(u64 encoding, u64 *v)
{
    return VMX_INSN("vmread %[e], (%[v])", [v] "r"(v), [e] "r"(encoding));
}

struct invept_desc {
    u64 eptp, zero;
};

struct invvpid_desc {
    u16 vpid, zero[3];
    u64 linear;
};

static inline u32 invept(u64 type, u64 eptp, u64 reserved)
{
    struct invept_desc d = {eptp, reserved};
    return VMX_INSN("invept %[d], %[t]", [d] "m"(d), [t] "r"(type));
}

static inline u32 invvpid(u64 type, u16 vpid, u64 linear)
{
    struct invvpid_desc d = {vpid, {0}, linear};
    return VMX_INSN("invvpid %[d], %[t]", [d] "m"(d), [t] "r"(type));
}

static inline u32 vmcall(void)
{
    return VMX_INSN("vmcall", "r"(0));
}

// VMLAUNCH and VMRESUME that are expected to fail before the guest runs.
static inline u32 vmlaunch(void)
{
    return VMX_INSN("vmlaunch", "r"(0));
}

static inline u32 vmresume(void)
{
    return VMX_INSN("vmresume", "r"(0));
}

// Access to a field that exists; a failure ends the program.
u64 vmread(u32 encoding);
void vmwrite(u32 encoding, u64 v);
void vmset(u32 encoding, u64 bits);
void vmclr(u32 encoding, u64 bits);

// What the processor offers (allowed-1 settings, TRUE where there) and demands (allowed-0).
struct vmx_caps {
    u64 basic, misc, ept_vpid;
    u32 pin, proc, proc2, exit, entry;              // may be 1
    u32 pin_must, proc_must, exit_must, entry_must; // must be 1
    u64 cr0_must, cr4_must, cr0_may, cr4_may;
    u64 phys_limit; // first address beyond the width of VMX's physical addresses
    u32 revision;
};
extern struct vmx_caps caps;
void caps_read(void);

// Turns CR4.VMXE on, unlocks IA32_FEATURE_CONTROL if firmware left it open, executes VMXON; and
// the way back. vmx_region() gives a page with the revision identifier.
void vmx_begin(void);
void vmx_end(void);
void vmx_enable(void);
u64 vmx_region(void);
extern u64 vmxon_region;

// Every field of the manual that this suite knows, with its existence on this processor.
struct field_row {
    u16 encoding;
    bool exists;
    const char *name;
};
// Fills `rows` (room for FIELD_ROWS) and returns their number.
enum { FIELD_ROWS = 200 };
u32 field_rows(struct field_row *rows);
