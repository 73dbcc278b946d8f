#pragma once
// The cases of the entry checks, by row: what is set up and passes although the row's condition
// holds, and one change that makes exactly this row fail.

#include <stdlib.h>

#include "tests/host/nested_base.h"

// What a case may change: vmcs12, L1's processor, its view of itself, its memory.
struct world {
    struct vmcs12 v;
    struct vmx_caps caps;
    struct entry_env env;
    struct guest_mem mem;
    u8 *ram;
};

typedef void (*change)(struct world *w);

#define SET(field, value) v12_set(&w->v, F(field), value)
#define OR(field, bits)   SET(field, v12_get(&w->v, F(field)) | (bits))
#define NOT(field, bits)  SET(field, v12_get(&w->v, F(field)) & ~(u64)(bits))

static void proc2(struct world *w, u64 bits)
{
    OR(PROC2_CTRL, bits);
}

static void ept(struct world *w)
{
    proc2(w, CTL_EPT);
    SET(EPTP, 0x5000 | 3 << 3 | 6);
}

static void unrestricted(struct world *w)
{
    ept(w);
    proc2(w, CTL_UNRESTRICTED);
}

static void tpr_shadow(struct world *w)
{
    OR(PROC_CTRL, CTL_TPR_SHADOW);
    SET(VIRTUAL_APIC_ADDR, 0x3000);
}

static void virtual_intr(struct world *w)
{
    tpr_shadow(w);
    proc2(w, CTL_VIRTUAL_INTR_DELIVERY);
    OR(PIN_CTRL, CTL_EXT_INTR_EXITING);
}

static void posted(struct world *w)
{
    virtual_intr(w);
    OR(PIN_CTRL, CTL_POSTED_INTERRUPTS);
    OR(EXIT_CTRL, CTL_EXIT_ACK_INTR);
    SET(POSTED_INTR_VECTOR, 0xf2);
    SET(POSTED_INTR_DESC_ADDR, 0x4040);
}

static void virtual_nmis(struct world *w)
{
    OR(PIN_CTRL, CTL_NMI_EXITING | CTL_VIRTUAL_NMIS);
}

static void switching(struct world *w)
{
    ept(w);
    proc2(w, CTL_VMFUNC);
    SET(VMFUNC_CTRL, VMFUNC_EPTP_SWITCHING);
    SET(EPTP_LIST_ADDR, 0x6000);
}

static void inject(struct world *w, unsigned type, unsigned vector)
{
    SET(ENTRY_INTR_INFO, BIT(31) | type << 8 | vector);
}

enum { EXTERNAL, NMI = 2, EXCEPTION, SOFTWARE, PRIVILEGED, SOFT_EXCEPTION, OTHER };

static void inject_gp(struct world *w)
{
    inject(w, EXCEPTION, VEC_GP);
    OR(ENTRY_INTR_INFO, BIT(11));
}

// L2 outside IA-32e mode, without PAE paging.
static void guest32(struct world *w)
{
    NOT(ENTRY_CTRL, CTL_ENTRY_IA32E_GUEST);
    NOT(GUEST_CR4, CR4_PAE);
    SET(GUEST_CS_AR, 0xc09b);
    SET(GUEST_RIP, 0x1000);
}

static void pae(struct world *w)
{
    guest32(w);
    OR(GUEST_CR4, CR4_PAE);
}

static void guest_v86(struct world *w)
{
    guest32(w);
    OR(GUEST_RFLAGS, RFLAGS_VM);
    for (unsigned n = 0; n < 6; n++) {
        v12_set(&w->v, field_at(VF_GUEST_ES_SELECTOR + n), 0x1230 + n);
        v12_set(&w->v, field_at(VF_GUEST_ES_BASE + n), (0x1230 + n) << 4);
        v12_set(&w->v, field_at(VF_GUEST_ES_LIMIT + n), 0xffff);
        v12_set(&w->v, field_at(VF_GUEST_ES_AR + n), 0xf3);
    }
}

// An unrestricted L2 in real mode.
static void real_mode(struct world *w)
{
    guest32(w);
    unrestricted(w);
    NOT(GUEST_CR0, CR0_PE | CR0_PG);
    SET(GUEST_CS_AR, 0x93);
    SET(GUEST_CS_LIMIT, 0xffff);
}

static void ldtr(struct world *w)
{
    SET(GUEST_LDTR_SELECTOR, 0x20);
    SET(GUEST_LDTR_AR, 0x82);
    SET(GUEST_LDTR_LIMIT, 0xffff);
}

// L1 outside IA-32e mode.
static void host32(struct world *w)
{
    guest32(w);
    w->env.lma = false;
    NOT(EXIT_CTRL, CTL_EXIT_HOST_64BIT);
    SET(HOST_RIP, 0x1000);
}

static void ring3(struct world *w)
{
    SET(GUEST_CS_SELECTOR, 0xb);
    SET(GUEST_CS_AR, 0xa0fb);
    SET(GUEST_SS_SELECTOR, 0x13);
    SET(GUEST_SS_AR, 0xc0f3);
}

static void link_pointer(struct world *w)
{
    SET(VMCS_LINK_POINTER, 0x8000);
    *(u32 *)(w->ram + 0x8000) = NESTED_VMCS_REVISION;
}

// The list of cases: row, what is set up and passes, what then breaks the row.
#define CASES                                                                                      \
    C(PIN_SETTINGS, OR(PIN_CTRL, CTL_NMI_EXITING), NOT(PIN_CTRL, 2))                               \
    C(PROC_SETTINGS, OR(PROC_CTRL, CTL_HLT_EXITING), OR(PROC_CTRL, 1))                             \
    C(PROC2_SETTINGS, (SET(PROC2_CTRL, BIT(29)), NOT(PROC_CTRL, CTL_SECONDARY)),                   \
      OR(PROC_CTRL, CTL_SECONDARY))                                                                \
    C(CR3_TARGET_COUNT, SET(CR3_TARGET_COUNT, 4), SET(CR3_TARGET_COUNT, 5))                        \
    C(IO_BITMAPS, (OR(PROC_CTRL, CTL_IO_BITMAPS), SET(IO_BITMAP_A, 0x1000)),                       \
      SET(IO_BITMAP_B, 0x800))                                                                     \
    C(MSR_BITMAP, (OR(PROC_CTRL, CTL_MSR_BITMAPS), SET(MSR_BITMAP, BIT(40) - 4096)),               \
      SET(MSR_BITMAP, BIT(40)))                                                                    \
    C(VIRTUAL_APIC_ADDR, tpr_shadow(w), SET(VIRTUAL_APIC_ADDR, 0x3001))                            \
    C(TPR_THRESHOLD, (tpr_shadow(w), w->ram[0x3080] = 0xf0, SET(TPR_THRESHOLD, 15)),               \
      SET(TPR_THRESHOLD, 16))                                                                      \
    C(TPR_THRESHOLD_VTPR, (tpr_shadow(w), w->ram[0x3080] = 0x5f, SET(TPR_THRESHOLD, 5)),           \
      SET(TPR_THRESHOLD, 6))                                                                       \
    C(VIRTUAL_NMIS, virtual_nmis(w), NOT(PIN_CTRL, CTL_NMI_EXITING))                               \
    C(NMI_WINDOW, (virtual_nmis(w), OR(PROC_CTRL, CTL_NMI_WINDOW)),                                \
      NOT(PIN_CTRL, CTL_VIRTUAL_NMIS))                                                             \
    C(APIC_ACCESS_ADDR, (proc2(w, CTL_VIRTUALIZE_APIC), SET(APIC_ACCESS_ADDR, 0xfee00000)),        \
      SET(APIC_ACCESS_ADDR, 0xfee00010))                                                           \
    C(TPR_SHADOW_NEEDED, (tpr_shadow(w), proc2(w, CTL_VIRTUALIZE_X2APIC)),                         \
      NOT(PROC_CTRL, CTL_TPR_SHADOW))                                                              \
    C(X2APIC_EXCLUSIVE, (tpr_shadow(w), proc2(w, CTL_VIRTUALIZE_X2APIC)),                          \
      proc2(w, CTL_VIRTUALIZE_APIC))                                                               \
    C(VIRTUAL_INTR_EXT_INTR, virtual_intr(w), NOT(PIN_CTRL, CTL_EXT_INTR_EXITING))                 \
    C(POSTED_VIRTUAL_INTR, posted(w), NOT(PROC2_CTRL, CTL_VIRTUAL_INTR_DELIVERY))                  \
    C(POSTED_ACK, posted(w), NOT(EXIT_CTRL, CTL_EXIT_ACK_INTR))                                    \
    C(POSTED_VECTOR, posted(w), SET(POSTED_INTR_VECTOR, 0x100))                                    \
    C(POSTED_DESC_ALIGN, posted(w), SET(POSTED_INTR_DESC_ADDR, 0x4020))                            \
    C(POSTED_DESC_WIDTH, posted(w), SET(POSTED_INTR_DESC_ADDR, BIT(40)))                           \
    C(VPID_NOT_0, (proc2(w, CTL_VPID), SET(VPID, 1)), SET(VPID, 0))                                \
    C(EPTP_MEMORY_TYPE, ept(w), SET(EPTP, 0x5000 | 3 << 3 | 0))                                    \
    C(EPTP_WALK, ept(w), SET(EPTP, 0x5000 | 4 << 3 | 6))                                           \
    C(EPTP_AD, (ept(w), OR(EPTP, BIT(6))), w->caps.ept_vpid &= ~EPT_CAP_AD)                        \
    C(EPTP_RESERVED, ept(w), OR(EPTP, BIT(7)))                                                     \
    C(PML_EPT, (ept(w), proc2(w, CTL_PML)), NOT(PROC2_CTRL, CTL_EPT))                              \
    C(PML_ADDR, (ept(w), proc2(w, CTL_PML)), SET(PML_ADDRESS, 0x10))                               \
    C(EPT_NEEDED, unrestricted(w), NOT(PROC2_CTRL, CTL_EPT))                                       \
    C(VMFUNC_SETTINGS, switching(w), OR(VMFUNC_CTRL, 2))                                           \
    C(EPTP_SWITCHING_EPT, switching(w), NOT(PROC2_CTRL, CTL_EPT))                                  \
    C(EPTP_LIST_ADDR, switching(w), SET(EPTP_LIST_ADDR, 0x6008))                                   \
    C(SHADOW_BITMAPS, (proc2(w, CTL_VMCS_SHADOWING), SET(VMREAD_BITMAP, 0x1000)),                  \
      SET(VMWRITE_BITMAP, 1))                                                                      \
    C(TSC_MULTIPLIER, (proc2(w, CTL_TSC_SCALING), SET(TSC_MULTIPLIER, 1)), SET(TSC_MULTIPLIER, 0)) \
    C(VE_INFO_ADDR, proc2(w, CTL_EPT_VIOLATION_VE), SET(VE_INFO_ADDR, 0x123))                      \
    C(EXIT_SETTINGS, OR(EXIT_CTRL, CTL_EXIT_SAVE_DEBUG), OR(EXIT_CTRL, BIT(24)))                   \
    C(EXIT_SAVE_TIMER, (OR(PIN_CTRL, CTL_PREEMPTION_TIMER), OR(EXIT_CTRL, CTL_EXIT_SAVE_TIMER)),   \
      NOT(PIN_CTRL, CTL_PREEMPTION_TIMER))                                                         \
    C(EXIT_STORE_LIST, SET(EXIT_MSR_STORE_ADDR, 8), SET(EXIT_MSR_STORE_COUNT, 1))                  \
    C(EXIT_STORE_LIST_END, (SET(EXIT_MSR_STORE_COUNT, 2), SET(EXIT_MSR_STORE_ADDR, BIT(40) - 32)), \
      SET(EXIT_MSR_STORE_COUNT, 3))                                                                \
    C(EXIT_LOAD_LIST, SET(EXIT_MSR_LOAD_ADDR, BIT(40)), SET(EXIT_MSR_LOAD_COUNT, 1))               \
    C(EXIT_LOAD_LIST_END,                                                                          \
      (SET(EXIT_MSR_LOAD_COUNT, 0xffffffff), SET(EXIT_MSR_LOAD_ADDR, BIT(40) - (16ull << 32))),    \
      OR(EXIT_MSR_LOAD_ADDR, 32))                                                                  \
    C(ENTRY_SETTINGS, OR(ENTRY_CTRL, CTL_ENTRY_LOAD_DEBUG), OR(ENTRY_CTRL, CTL_ENTRY_TO_SMM))      \
    C(INJECT_TYPE, (inject(w, OTHER, 0)), inject(w, 1, 0))                                         \
    C(INJECT_VECTOR, inject(w, EXCEPTION, 31), inject(w, EXCEPTION, 32))                           \
    C(INJECT_ERROR_NEEDED, inject_gp(w), NOT(ENTRY_INTR_INFO, BIT(11)))                            \
    C(INJECT_ERROR_ALLOWED, inject(w, EXCEPTION, VEC_UD), OR(ENTRY_INTR_INFO, BIT(11)))            \
    C(INJECT_RESERVED, inject(w, EXCEPTION, VEC_UD), OR(ENTRY_INTR_INFO, BIT(12)))                 \
    C(INJECT_ERROR_CODE, (inject_gp(w), SET(ENTRY_ERROR_CODE, 0xffff)),                            \
      SET(ENTRY_ERROR_CODE, 0x10000))                                                              \
    C(INJECT_LENGTH, (inject(w, SOFTWARE, 0x80), SET(ENTRY_INSTR_LENGTH, 15)),                     \
      SET(ENTRY_INSTR_LENGTH, 16))                                                                 \
    C(ENTRY_LOAD_LIST, SET(ENTRY_MSR_LOAD_ADDR, 8), SET(ENTRY_MSR_LOAD_COUNT, 1))                  \
    C(ENTRY_LOAD_LIST_END, (SET(ENTRY_MSR_LOAD_COUNT, 1), SET(ENTRY_MSR_LOAD_ADDR, BIT(40) - 16)), \
      SET(ENTRY_MSR_LOAD_COUNT, 2))                                                                \
    C(HOST_CR0, OR(HOST_CR0, CR0_CD), NOT(HOST_CR0, CR0_NE))                                       \
    C(HOST_CR4, OR(HOST_CR4, CR4_PGE), NOT(HOST_CR4, CR4_VMXE))                                    \
    C(HOST_CR3, SET(HOST_CR3, BIT(40) - 1), SET(HOST_CR3, BIT(40)))                                \
    C(HOST_SYSENTER, SET(HOST_SYSENTER_ESP, ~0ull << 47), SET(HOST_SYSENTER_EIP, BIT(47)))         \
    C(HOST_PERF_GLOBAL,                                                                            \
      (OR(EXIT_CTRL, CTL_EXIT_LOAD_PERF_GLOBAL), SET(HOST_PERF_GLOBAL_CTRL, 0xf)),                 \
      SET(HOST_PERF_GLOBAL_CTRL, 0x10))                                                            \
    C(HOST_PAT, (OR(EXIT_CTRL, CTL_EXIT_LOAD_PAT), SET(HOST_PAT, 0x0007040600070401)),             \
      SET(HOST_PAT, 0x0207040600070406))                                                           \
    C(HOST_EFER_RESERVED,                                                                          \
      (OR(EXIT_CTRL, CTL_EXIT_LOAD_EFER), SET(HOST_EFER, EFER_LMA | EFER_LME | EFER_NXE)),         \
      OR(HOST_EFER, BIT(1)))                                                                       \
    C(HOST_EFER_MODE, (OR(EXIT_CTRL, CTL_EXIT_LOAD_EFER), SET(HOST_EFER, EFER_LMA | EFER_LME)),    \
      NOT(HOST_EFER, EFER_LME))                                                                    \
    C(HOST_SELECTORS, SET(HOST_DS_SELECTOR, 0x28), SET(HOST_DS_SELECTOR, 0x2b))                    \
    C(HOST_CS_TR, SET(HOST_TR_SELECTOR, 0x40), SET(HOST_TR_SELECTOR, 0))                           \
    C(HOST_SS, host32(w), SET(HOST_SS_SELECTOR, 0))                                                \
    C(HOST_BASES, SET(HOST_FS_BASE, BIT(47) - 1), SET(HOST_IDTR_BASE, BIT(47)))                    \
    C(SIZE_OUTSIDE_GUEST, host32(w),                                                               \
      (OR(ENTRY_CTRL, CTL_ENTRY_IA32E_GUEST), OR(GUEST_CR4, CR4_PAE), SET(GUEST_CS_AR, 0xa09b)))   \
    C(SIZE_OUTSIDE_HOST, host32(w), OR(EXIT_CTRL, CTL_EXIT_HOST_64BIT))                            \
    C(SIZE_INSIDE_HOST, SET(HOST_RIP, 0x1000), NOT(EXIT_CTRL, CTL_EXIT_HOST_64BIT))                \
    C(SIZE_32_PCIDE, host32(w), OR(HOST_CR4, CR4_PCIDE))                                           \
    C(SIZE_32_RIP, host32(w), SET(HOST_RIP, BIT(32)))                                              \
    C(SIZE_64_PAE, OR(HOST_CR4, CR4_PGE), NOT(HOST_CR4, CR4_PAE))                                  \
    C(SIZE_64_RIP, SET(HOST_RIP, BIT(47) - 1), SET(HOST_RIP, BIT(47)))                             \
    C(GUEST_CR0, OR(GUEST_CR0, CR0_CD | CR0_NW), NOT(GUEST_CR0, CR0_NE))                           \
    C(GUEST_CR0_PG, (guest32(w), unrestricted(w), NOT(GUEST_CR0, CR0_PG)),                         \
      (NOT(GUEST_CR0, CR0_PE), OR(GUEST_CR0, CR0_PG)))                                             \
    C(GUEST_CR4, OR(GUEST_CR4, CR4_SMEP), OR(GUEST_CR4, BIT(23)))                                  \
    C(GUEST_DEBUGCTL, (OR(ENTRY_CTRL, CTL_ENTRY_LOAD_DEBUG), SET(GUEST_DEBUGCTL, 1)),              \
      SET(GUEST_DEBUGCTL, 4))                                                                      \
    C(GUEST_IA32E_PAGING, OR(GUEST_CR4, CR4_PGE), NOT(GUEST_CR4, CR4_PAE))                         \
    C(GUEST_PCIDE, guest32(w), OR(GUEST_CR4, CR4_PCIDE))                                           \
    C(GUEST_CR3, SET(GUEST_CR3, BIT(40) - 1), SET(GUEST_CR3, BIT(63)))                             \
    C(GUEST_DR7, (OR(ENTRY_CTRL, CTL_ENTRY_LOAD_DEBUG), SET(GUEST_DR7, 0xffffffff)),               \
      SET(GUEST_DR7, BIT(32)))                                                                     \
    C(GUEST_SYSENTER, SET(GUEST_SYSENTER_EIP, BIT(47) - 1), SET(GUEST_SYSENTER_ESP, BIT(63)))      \
    C(GUEST_PERF_GLOBAL,                                                                           \
      (OR(ENTRY_CTRL, CTL_ENTRY_LOAD_PERF_GLOBAL), SET(GUEST_PERF_GLOBAL_CTRL, 7ull << 32)),       \
      SET(GUEST_PERF_GLOBAL_CTRL, 8ull << 32))                                                     \
    C(GUEST_PAT, (OR(ENTRY_CTRL, CTL_ENTRY_LOAD_PAT), SET(GUEST_PAT, 0x0504040600070106)),         \
      SET(GUEST_PAT, 0x0803000000000000))                                                          \
    C(GUEST_EFER_RESERVED,                                                                         \
      (OR(ENTRY_CTRL, CTL_ENTRY_LOAD_EFER), SET(GUEST_EFER, EFER_LMA | EFER_LME | EFER_SCE)),      \
      OR(GUEST_EFER, BIT(12)))                                                                     \
    C(GUEST_EFER_LMA, (OR(ENTRY_CTRL, CTL_ENTRY_LOAD_EFER), SET(GUEST_EFER, EFER_LMA | EFER_LME)), \
      SET(GUEST_EFER, 0))                                                                          \
    C(GUEST_EFER_LME, (OR(ENTRY_CTRL, CTL_ENTRY_LOAD_EFER), SET(GUEST_EFER, EFER_LMA | EFER_LME)), \
      NOT(GUEST_EFER, EFER_LME))                                                                   \
    C(TR_TI, SET(GUEST_TR_SELECTOR, 0x1b), SET(GUEST_TR_SELECTOR, 0x1c))                           \
    C(LDTR_TI, (ldtr(w)), SET(GUEST_LDTR_SELECTOR, 0x24))                                          \
    C(SS_RPL, ring3(w), SET(GUEST_CS_SELECTOR, 8))                                                 \
    C(V86_BASE, guest_v86(w), SET(GUEST_DS_BASE, 0))                                               \
    C(BASE_CANONICAL, SET(GUEST_FS_BASE, ~0ull << 47), SET(GUEST_GS_BASE, BIT(47)))                \
    C(LDTR_BASE, (SET(GUEST_LDTR_BASE, BIT(62)), ldtr(w), SET(GUEST_LDTR_BASE, 0)),                \
      SET(GUEST_LDTR_BASE, BIT(62)))                                                               \
    C(CS_BASE, SET(GUEST_CS_BASE, 0xffff0000), SET(GUEST_CS_BASE, BIT(32)))                        \
    C(DATA_BASE, (SET(GUEST_DS_AR, 0x10000), SET(GUEST_DS_BASE, ~0ull)), SET(GUEST_DS_AR, 0xc093)) \
    C(V86_LIMIT, guest_v86(w), SET(GUEST_GS_LIMIT, 0xfffff))                                       \
    C(V86_RIGHTS, guest_v86(w), SET(GUEST_SS_AR, 0x93))                                            \
    C(CS_TYPE, (unrestricted(w), SET(GUEST_CS_AR, 0xa093)), NOT(PROC2_CTRL, CTL_UNRESTRICTED))     \
    C(SS_TYPE, SET(GUEST_SS_AR, 0xc097), SET(GUEST_SS_AR, 0xc09b))                                 \
    C(DATA_ACCESSED, SET(GUEST_DS_AR, 0xc091), SET(GUEST_DS_AR, 0xc092))                           \
    C(DATA_READABLE, SET(GUEST_ES_AR, 0xc09b), SET(GUEST_ES_AR, 0xc099))                           \
    C(SEGMENT_S, SET(GUEST_FS_AR, 0x10000), SET(GUEST_FS_AR, 0xc083))                              \
    C(CS_DPL_DATA, (unrestricted(w), SET(GUEST_CS_AR, 0xa093)), OR(GUEST_CS_AR, 3 << 5))           \
    C(CS_DPL_NONCONFORMING, ring3(w), SET(GUEST_CS_AR, 0xa09b))                                    \
    C(CS_DPL_CONFORMING, SET(GUEST_CS_AR, 0xa09f), SET(GUEST_CS_AR, 0xa0bf))                       \
    C(SS_DPL_RPL, (ring3(w), SET(GUEST_CS_AR, 0xa09f)), SET(GUEST_SS_AR, 0xc093))                  \
    C(SS_DPL_0, real_mode(w), OR(GUEST_SS_AR, 3 << 5))                                             \
    C(DATA_DPL, (SET(GUEST_DS_SELECTOR, 3), SET(GUEST_DS_AR, 0xc0f3)), SET(GUEST_DS_AR, 0xc0b3))   \
    C(SEGMENT_PRESENT, SET(GUEST_GS_AR, 0x10000), SET(GUEST_GS_AR, 0xc013))                        \
    C(SEGMENT_RESERVED_LOW, OR(GUEST_DS_AR, BIT(12)), OR(GUEST_DS_AR, BIT(11)))                    \
    C(CS_DB, (guest32(w), SET(GUEST_CS_AR, 0xe09b)),                                               \
      (OR(ENTRY_CTRL, CTL_ENTRY_IA32E_GUEST), OR(GUEST_CR4, CR4_PAE)))                             \
    C(SEGMENT_G_CLEAR, (SET(GUEST_ES_LIMIT, 0xffe), SET(GUEST_ES_AR, 0x4093)),                     \
      OR(GUEST_ES_AR, BIT(15)))                                                                    \
    C(SEGMENT_G_SET, (SET(GUEST_CS_LIMIT, 0xfffff), SET(GUEST_CS_AR, 0x209b)),                     \
      SET(GUEST_CS_LIMIT, 0x100fff))                                                               \
    C(SEGMENT_RESERVED_HIGH, SET(GUEST_ES_AR, 0xfff10000), SET(GUEST_ES_AR, 0x2c093))              \
    C(TR_TYPE, (guest32(w), SET(GUEST_TR_AR, 0x83)),                                               \
      (OR(ENTRY_CTRL, CTL_ENTRY_IA32E_GUEST), OR(GUEST_CR4, CR4_PAE)))                             \
    C(TR_S, SET(GUEST_TR_LIMIT, 0xffff), OR(GUEST_TR_AR, BIT(4)))                                  \
    C(TR_PRESENT, SET(GUEST_TR_LIMIT, 0xffff), NOT(GUEST_TR_AR, BIT(7)))                           \
    C(TR_RESERVED_LOW, SET(GUEST_TR_LIMIT, 0xffff), OR(GUEST_TR_AR, BIT(8)))                       \
    C(TR_G_CLEAR, SET(GUEST_TR_LIMIT, 0x2067), OR(GUEST_TR_AR, BIT(15)))                           \
    C(TR_G_SET, (SET(GUEST_TR_LIMIT, 0x100fff), OR(GUEST_TR_AR, BIT(15))),                         \
      NOT(GUEST_TR_AR, BIT(15)))                                                                   \
    C(TR_USABLE, SET(GUEST_TR_LIMIT, 0xffff), OR(GUEST_TR_AR, BIT(16)))                            \
    C(TR_RESERVED_HIGH, SET(GUEST_TR_LIMIT, 0xffff), OR(GUEST_TR_AR, BIT(17)))                     \
    C(LDTR_TYPE, ldtr(w), SET(GUEST_LDTR_AR, 0x83))                                                \
    C(LDTR_S, ldtr(w), SET(GUEST_LDTR_AR, 0x92))                                                   \
    C(LDTR_PRESENT, ldtr(w), SET(GUEST_LDTR_AR, 0x02))                                             \
    C(LDTR_RESERVED_LOW, ldtr(w), SET(GUEST_LDTR_AR, 0x282))                                       \
    C(LDTR_G_CLEAR, (ldtr(w), SET(GUEST_LDTR_LIMIT, 0x17)), SET(GUEST_LDTR_AR, 0x8082))            \
    C(LDTR_G_SET, ldtr(w), SET(GUEST_LDTR_LIMIT, 0xffffffff))                                      \
    C(LDTR_RESERVED_HIGH, ldtr(w), SET(GUEST_LDTR_AR, 0x80000082))                                 \
    C(TABLE_BASE, SET(GUEST_GDTR_BASE, BIT(47) - 1), SET(GUEST_IDTR_BASE, BIT(47)))                \
    C(TABLE_LIMIT, SET(GUEST_IDTR_LIMIT, 0xffff), SET(GUEST_GDTR_LIMIT, 0x10000))                  \
    C(RIP_32, guest32(w), SET(GUEST_RIP, BIT(32)))                                                 \
    C(RIP_64, SET(GUEST_RIP, BIT(47)), SET(GUEST_RIP, BIT(48)))                                    \
    C(RFLAGS_RESERVED, OR(GUEST_RFLAGS, RFLAGS_CF), OR(GUEST_RFLAGS, BIT(15)))                     \
    C(RFLAGS_VM, guest_v86(w), (unrestricted(w), NOT(GUEST_CR0, CR0_PE | CR0_PG)))                 \
    C(RFLAGS_IF, (OR(GUEST_RFLAGS, RFLAGS_IF), inject(w, EXTERNAL, 0x30)),                         \
      NOT(GUEST_RFLAGS, RFLAGS_IF))                                                                \
    C(ACTIVITY_SUPPORTED, SET(GUEST_ACTIVITY, 3), SET(GUEST_ACTIVITY, 4))                          \
    C(ACTIVITY_HLT_DPL, ring3(w), SET(GUEST_ACTIVITY, 1))                                          \
    C(ACTIVITY_BLOCKING, SET(GUEST_INTERRUPTIBILITY, 2), SET(GUEST_ACTIVITY, 2))                   \
    C(ACTIVITY_EVENT, (SET(GUEST_ACTIVITY, 1), inject(w, EXCEPTION, VEC_DB)),                      \
      inject(w, EXCEPTION, VEC_UD))                                                                \
    C(BLOCK_RESERVED, SET(GUEST_INTERRUPTIBILITY, 8), OR(GUEST_INTERRUPTIBILITY, BIT(5)))          \
    C(BLOCK_BOTH, (OR(GUEST_RFLAGS, RFLAGS_IF), SET(GUEST_INTERRUPTIBILITY, 1)),                   \
      SET(GUEST_INTERRUPTIBILITY, 3))                                                              \
    C(BLOCK_STI_IF, (OR(GUEST_RFLAGS, RFLAGS_IF), SET(GUEST_INTERRUPTIBILITY, 1)),                 \
      NOT(GUEST_RFLAGS, RFLAGS_IF))                                                                \
    C(BLOCK_EXTERNAL, (OR(GUEST_RFLAGS, RFLAGS_IF), inject(w, EXTERNAL, 0x30)),                    \
      SET(GUEST_INTERRUPTIBILITY, 1))                                                              \
    C(BLOCK_NMI_MOV_SS, inject(w, NMI, 2), SET(GUEST_INTERRUPTIBILITY, 2))                         \
    C(BLOCK_SMI, SET(GUEST_INTERRUPTIBILITY, 8), SET(GUEST_INTERRUPTIBILITY, 4))                   \
    C(BLOCK_NMI_STI,                                                                               \
      (OR(GUEST_RFLAGS, RFLAGS_IF), SET(GUEST_INTERRUPTIBILITY, 1), inject(w, NMI, 2)),            \
      w->env.nmi_blocked_by_sti = true)                                                            \
    C(BLOCK_VIRTUAL_NMI, (SET(GUEST_INTERRUPTIBILITY, 8), inject(w, NMI, 2)), virtual_nmis(w))     \
    C(BLOCK_ENCLAVE, SET(GUEST_INTERRUPTIBILITY, 8), SET(GUEST_INTERRUPTIBILITY, 16))              \
    C(DEBUG_RESERVED, SET(GUEST_PENDING_DEBUG, 0x100f), SET(GUEST_PENDING_DEBUG, BIT(13)))         \
    C(DEBUG_BS_SET,                                                                                \
      (OR(GUEST_RFLAGS, RFLAGS_TF), SET(GUEST_ACTIVITY, 1), SET(GUEST_PENDING_DEBUG, BIT(14))),    \
      SET(GUEST_PENDING_DEBUG, 0))                                                                 \
    C(DEBUG_BS_CLEAR,                                                                              \
      (OR(GUEST_RFLAGS, RFLAGS_TF), SET(GUEST_INTERRUPTIBILITY, 2),                                \
       SET(GUEST_PENDING_DEBUG, BIT(14))),                                                         \
      SET(GUEST_DEBUGCTL, 2))                                                                      \
    C(DEBUG_RTM_BITS, (w->env.rtm = true, SET(GUEST_PENDING_DEBUG, BIT(16) | BIT(12))),            \
      OR(GUEST_PENDING_DEBUG, 1))                                                                  \
    C(DEBUG_RTM_SUPPORT, (w->env.rtm = true, SET(GUEST_PENDING_DEBUG, BIT(16) | BIT(12))),         \
      w->env.rtm = false)                                                                          \
    C(DEBUG_RTM_MOV_SS, (w->env.rtm = true, SET(GUEST_PENDING_DEBUG, BIT(16) | BIT(12))),          \
      SET(GUEST_INTERRUPTIBILITY, 2))                                                              \
    C(LINK_ALIGN, link_pointer(w), SET(VMCS_LINK_POINTER, 0x8001))                                 \
    C(LINK_WIDTH, link_pointer(w), SET(VMCS_LINK_POINTER, BIT(40)))                                \
    C(LINK_REVISION, link_pointer(w), *(u32 *)(w->ram + 0x8000) = 1)                               \
    C(LINK_SHADOW, link_pointer(w), *(u32 *)(w->ram + 0x8000) |= BIT(31))                          \
    C(LINK_CURRENT, (link_pointer(w), *(u32 *)(w->ram + 0x7000) = NESTED_VMCS_REVISION),           \
      SET(VMCS_LINK_POINTER, 0x7000))                                                              \
    C(PDPTE_FIELDS, (pae(w), ept(w), SET(GUEST_PDPTE0, 0x1001), SET(GUEST_PDPTE3, ~1ull)),         \
      SET(GUEST_PDPTE2, 3))                                                                        \
    C(PDPTE_MEMORY, (pae(w), SET(GUEST_CR3, 0x9020), *(u64 *)(w->ram + 0x9038) = 0x1001),          \
      *(u64 *)(w->ram + 0x9038) = BIT(40) | 1)

#define C(row, good, bad)                                                                          \
    static void good_##row(struct world *w)                                                        \
    {                                                                                              \
        good;                                                                                      \
    }                                                                                              \
    static void bad_##row(struct world *w)                                                         \
    {                                                                                              \
        bad;                                                                                       \
    }
CASES
#undef C

// A row without a case, or without half of one, does not compile.
static const struct {
    change good, bad;
} cases[RULE_COUNT] = {
#define BEGIN(section)
#define RULE(row, groups, rule, text) [RULE_##row] = {good_##row, bad_##row},
#define END(section)
#include "vmx/nested/check.def"
#undef BEGIN
#undef RULE
#undef END
};

static void world_init(struct world *w)
{
    w->ram = calloc(1, BASE_RAM);
    phys_window = w->ram;
    w->mem = (struct guest_mem){.range = {{GPA(0), HPA(0), BASE_RAM}}, .count = 1};
    w->caps = base_caps();
    w->env = base_env(&w->caps, &w->mem);
    base_vmcs12(&w->v);
}

static void world_fini(struct world *w)
{
    phys_window = NULL;
    free(w->ram);
}
