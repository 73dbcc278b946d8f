#pragma once
// The VMX instructions, and nothing else executes one. L0 checks what it passes, so that a failure
// of VMREAD or VMWRITE is a bug of L0; the others report.

#include "libc/addr.h"
#include "libc/log.h"
#include "vmx/count.h"
#include "vmx/field.h"

// 0, or 1 if the instruction failed (VMfailInvalid or VMfailValid).
#define VMX_MEM_OP(name, insn, counter)                                                            \
    static inline bool name(const hpa_t *region)                                                   \
    {                                                                                              \
        bool fail;                                                                                 \
        COUNT(counter);                                                                            \
        asm volatile(insn " %1" : "=@ccbe"(fail) : "m"(region->v) : "memory");                     \
        return !fail;                                                                              \
    }
VMX_MEM_OP(vmxop_on, "vmxon", vmxons)
VMX_MEM_OP(vmxop_clear, "vmclear", vmclears)
VMX_MEM_OP(vmxop_ptrld, "vmptrld", vmptrlds)
#undef VMX_MEM_OP

// Leaves VMX operation.
static inline void vmxop_off(void)
{
    asm volatile("vmxoff" ::: "memory", "cc");
}

// The value of a field of the current VMCS.
static inline u64 vmread(vmcs_field_t f)
{
    u64 v;
    COUNT(vmreads);
    asm volatile("vmread %1, %0" : "=r"(v) : "r"((u64)vmcs_encoding[f.i]) : "cc");
    return v;
}

// Sets a field of the current VMCS.
static inline void vmwrite(vmcs_field_t f, u64 v)
{
    COUNT(vmwrites);
    asm volatile("vmwrite %1, %0" ::"r"((u64)vmcs_encoding[f.i]), "rm"(v) : "cc", "memory");
}

// As above, for a field that this processor may lack: false if it does.
static inline bool vmread_safe(vmcs_field_t f, u64 *v)
{
    bool fail;
    *v = 0;
    COUNT(vmreads);
    asm volatile("vmread %2, %1" : "=@ccbe"(fail), "+r"(*v) : "r"((u64)vmcs_encoding[f.i]));
    return !fail;
}

static inline bool vmwrite_safe(vmcs_field_t f, u64 v)
{
    bool fail;
    COUNT(vmwrites);
    asm volatile("vmwrite %2, %1"
                 : "=@ccbe"(fail)
                 : "r"((u64)vmcs_encoding[f.i]), "r"(v)
                 : "memory");
    return !fail;
}

enum invept_type { INVEPT_SINGLE = 1, INVEPT_ALL };
enum invvpid_type { INVVPID_ADDRESS, INVVPID_SINGLE, INVVPID_ALL, INVVPID_SINGLE_BUT_GLOBAL };

// False if the processor refuses the type or the operand.
static inline bool vmxop_invept(enum invept_type type, u64 eptp)
{
    struct {
        u64 eptp, reserved;
    } d = {eptp, 0};
    bool fail;
    COUNT(invalidations);
    asm volatile("invept %1, %2" : "=@ccbe"(fail) : "m"(d), "r"((u64)type) : "memory");
    return !fail;
}

// `linear` counts for INVVPID_ADDRESS only.
static inline bool vmxop_invvpid(enum invvpid_type type, u16 vpid, u64 linear)
{
    struct {
        u64 vpid, linear;
    } d = {vpid, linear};
    bool fail;
    COUNT(invalidations);
    asm volatile("invvpid %1, %2" : "=@ccbe"(fail) : "m"(d), "r"((u64)type) : "memory");
    return !fail;
}
