// L1 outside IA-32e mode: 32-bit operands, halves of fields of 64 bits, host address-space size 0,
// 32-bit and PAE paging of the host, segments of memory operands. (vmx/legacy.asm is that L1.)

#include "tests/l1/nested.h"

struct pair {
    u32 encoding, value;
};

struct legacy {
    u32 cr3, cr4;
    u64 vmxon, vmcs;
    u32 writes, reads;
    u32 result;
    u32 cr0_after, cr3_after, cr4_after, efer_after, cs_after, ss_after, flags_after, gdt_after;
    u32 tries;
    struct table_pointer idt;
} PACKED;

// An instruction with its operand at FS:offset.
enum insn { TRY_VMPTRST, TRY_VMPTRLD, TRY_VMREAD, TRY_VMWRITE };
struct
try {
    u32 insn, selector, offset;
    u32 result; // vector << 16 | error code of the fault, or 0
};

void legacy_run(struct legacy *l);
extern u8 legacy_fault_12[], legacy_fault_13[], legacy_fault_14[];

#define END      0xffffffffu
#define CR4_PSE  BIT(4)
#define HIGH(f)  ((f) + 1)
#define L2_FLAGS 0x8d7 // all arithmetic flags, none of which the exit keeps

asm(".pushsection .text\n.code32\nl2_legacy: vmcall\n.code64\n.popsection");
extern u8 l2_legacy[];

#define GP_0     (13u << 16)
#define SEL_DOWN SEL_FREE
#define DOWN     0x0040970000000fffull // data, expand-down: offsets from 1000H on

static const struct row {
    const char *name;
    enum insn insn;
    u32 selector;
    u64 offset; // ~0: of the pointer to the VMCS
    u32 result;
} rows[] = {
    {"VMPTRST to the end of a segment", TRY_VMPTRST, SEL_SMALL, 0xf8, 0},
    {"VMPTRST across its limit", TRY_VMPTRST, SEL_SMALL, 0xf9, GP_0},
    {"VMPTRLD across its limit", TRY_VMPTRLD, SEL_SMALL, 0xf9, GP_0},
    {"VMREAD to the end of a segment", TRY_VMREAD, SEL_SMALL, 0xfc, 0},
    {"VMREAD across its limit", TRY_VMREAD, SEL_SMALL, 0xfd, GP_0},
    {"VMWRITE from the end of a segment", TRY_VMWRITE, SEL_SMALL, 0xfc, 0},
    {"VMWRITE across its limit", TRY_VMWRITE, SEL_SMALL, 0xfd, GP_0},
    {"VMWRITE far beyond its limit", TRY_VMWRITE, SEL_SMALL, 0xfffffffc, GP_0},
    {"VMPTRLD from a read-only segment", TRY_VMPTRLD, SEL_READONLY, ~0ull, 0},
    {"VMPTRST to a read-only segment", TRY_VMPTRST, SEL_READONLY, ~0ull, GP_0},
    {"VMREAD to a read-only segment", TRY_VMREAD, SEL_READONLY, ~0ull, GP_0},
    {"VMPTRLD from a null segment", TRY_VMPTRLD, 0, ~0ull, GP_0},
    {"VMPTRST to a null segment", TRY_VMPTRST, 0, ~0ull, GP_0},
    {"VMPTRLD from an expand-down segment", TRY_VMPTRLD, SEL_DOWN, ~0ull, 0},
    {"VMPTRLD below an expand-down segment", TRY_VMPTRLD, SEL_DOWN, 0xff0, GP_0},
    {"VMPTRLD from the last byte below it", TRY_VMPTRLD, SEL_DOWN, 0xfff, GP_0},
};

static struct try tries[ARRAY_SIZE(rows) + 1];
static u64 gates[32];
static struct pair writes[128], reads[16];
static u32 count;

static void put(u32 encoding, u64 value)
{
    writes[count++] = (struct pair){encoding, (u32)value};
}

static void put_segment(u32 i, u16 selector, u64 base, u32 limit, u32 ar)
{
    put(GUEST_ES + 2 * i, selector);
    put(GUEST_ES_BASE + 2 * i, base);
    put(GUEST_ES_LIMIT + 2 * i, limit);
    put(GUEST_ES_AR + 2 * i, ar);
}

static void put_controls(void)
{
    put(PIN_CTLS, caps.pin_must);
    put(PROC_CTLS, caps.proc_must);
    put(EXIT_CTLS, caps.exit_must);
    put(ENTRY_CTLS, caps.entry_must);
    static const u16 zero[] = {EXCEPTION_BITMAP,
                               PF_MASK,
                               PF_MATCH,
                               CR3_TARGET_COUNT,
                               EXIT_MSR_STORE_COUNT,
                               EXIT_MSR_LOAD_COUNT,
                               ENTRY_MSR_LOAD_COUNT,
                               ENTRY_INTR_INFO,
                               CR0_MASK,
                               CR4_MASK,
                               GUEST_INTERRUPTIBILITY,
                               GUEST_ACTIVITY,
                               GUEST_SYSENTER_CS,
                               GUEST_SYSENTER_ESP,
                               GUEST_SYSENTER_EIP,
                               GUEST_PENDING_DEBUG,
                               GUEST_DEBUGCTL,
                               HOST_SYSENTER_CS,
                               HOST_SYSENTER_ESP,
                               HOST_SYSENTER_EIP,
                               HOST_FS,
                               HOST_GS,
                               HOST_FS_BASE,
                               HOST_GS_BASE};
    for (u32 i = 0; i < ARRAY_SIZE(zero); i++)
        put(zero[i], 0);
    put(TSC_OFFSET, 0x11223344);
    put(HIGH(TSC_OFFSET), 0x55667788);
    put(LINK_POINTER, ~0u);
    put(HIGH(LINK_POINTER), ~0u);
}

static void put_host(const struct legacy *l)
{
    put(HOST_CS, SEL_CODE32);
    put(HOST_SS, SEL_DATA);
    put(HOST_DS, SEL_DATA);
    put(HOST_ES, SEL_DATA);
    put(HOST_TR, SEL_TSS);
    put(HOST_TR_BASE, (u64)&tss);
    put(HOST_GDTR_BASE, (u64)gdt);
    put(HOST_IDTR_BASE, (u64)idt);
    put(HOST_CR0, read_cr0());
    put(HOST_CR3, l->cr3);
    put(HOST_CR4, l->cr4);
}

static void put_guest(const struct legacy *l)
{
    for (u32 i = 0; i < 6; i++)
        put_segment(i, i < 4 ? SEL_DATA : 0, 0, ~0u, i < 4 ? 0xc093 : 0x10000);
    put_segment(1, SEL_CODE32, 0, ~0u, 0xc09b);
    put_segment(6, 0, 0, 0, 0x10000);
    put_segment(7, SEL_TSS, (u64)&tss, 103, 0x8b);
    put(GUEST_GDTR_BASE, (u64)gdt);
    put(GUEST_GDTR_LIMIT, gdt_pointer.limit);
    put(GUEST_IDTR_BASE, (u64)idt);
    put(GUEST_IDTR_LIMIT, idt_pointer.limit);
    put(GUEST_CR0, read_cr0());
    put(GUEST_CR3, l->cr3);
    put(GUEST_CR4, l->cr4);
    put(GUEST_DR7, 0x400);
    put(GUEST_RFLAGS, L2_FLAGS);
    put(GUEST_RIP, (u64)l2_legacy);
    put(GUEST_RSP, 0x7000);
}

static u64 gate(const u8 *handler)
{
    u64 to = (u64)handler;
    return (to & 0xffff) | SEL_CODE32 << 16 | 0x8e00ull << 32 | to >> 16 << 48;
}

static void prepare_tries(struct legacy *l)
{
    gates[12] = gate(legacy_fault_12);
    gates[13] = gate(legacy_fault_13);
    gates[14] = gate(legacy_fault_14);
    gdt[SEL_DOWN / 8] = DOWN;
    l->idt = (struct table_pointer){sizeof(gates) - 1, (u64)gates};
    l->tries = (u32)(u64)tries;
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        u64 offset = rows[i].offset == ~0ull ? (u64)&l->vmcs : rows[i].offset;
        tries[i] = (struct try){rows[i].insn, rows[i].selector, (u32)offset, END};
    }
    tries[ARRAY_SIZE(rows)].insn = END;
}

static u64 run(u64 cr3, u64 cr4, const char *name)
{
    static const u16 fields[] = {EXIT_REASON, EXIT_LENGTH, TSC_OFFSET, HIGH(TSC_OFFSET), GUEST_RIP};
    struct legacy *l = alloc_pages(1);
    *l = (struct legacy){.cr3 = (u32)cr3,
                         .cr4 = (u32)cr4,
                         .vmxon = vmxon_region,
                         .vmcs = vmx_region(),
                         .writes = (u32)(u64)writes,
                         .reads = (u32)(u64)reads};
    prepare_tries(l);
    count = 0;
    put_controls();
    put_host(l);
    put_guest(l);
    put(END, 0);
    for (u32 i = 0; i < ARRAY_SIZE(fields); i++)
        reads[i] = (struct pair){fields[i], 0};
    reads[ARRAY_SIZE(fields)].encoding = END;
    legacy_run(l);
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++)
        check_eq(tries[i].result, rows[i].result, "%s: %s", name, rows[i].name);
    check_eq(l->result, 0, "%s: a guest was entered and left", name);
    check_eq(reads[0].value, R_VMCALL, "%s: exit reason", name);
    check_eq(reads[1].value, 3, "%s: instruction length", name);
    check_eq(reads[2].value, 0x11223344, "%s: low half of a field", name);
    check_eq(reads[3].value, 0x55667788, "%s: high half of a field", name);
    check_eq(reads[4].value - (u64)l2_legacy, 0, "%s: RIP of L2", name);
    check_eq(l->cr0_after ^ (u32)read_cr0(), 0, "%s: CR0", name);
    check_eq(l->cr3_after ^ (u32)cr3, 0, "%s: CR3", name);
    check_eq(l->cr4_after ^ (u32)cr4, 0, "%s: CR4", name);
    check_eq(l->efer_after & (EFER_LMA | EFER_LME), 0, "%s: EFER.LMA and LME", name);
    check_eq(l->cs_after, SEL_CODE32, "%s: CS", name);
    check_eq(l->ss_after, SEL_DATA, "%s: SS", name);
    check_eq(l->flags_after, 2, "%s: EFLAGS", name);
    check_eq(l->gdt_after, 0xffff, "%s: limit of GDTR", name);
    return l->vmcs;
}

void test_legacy_host(void)
{
    u32 *directory = alloc_pages(1);
    u64 *pointers = alloc_pages(1), cr4 = read_cr4() & ~(u64)(CR4_PAE | CR4_PSE);
    for (u64 i = 0; i < 1024; i++)
        directory[i] = (u32)(i << 22 | PTE_PS | PTE_W | PTE_P);
    for (u64 i = 0; i < 4; i++)
        pointers[i] = ((u64)pd + i * PAGE_SIZE) | PTE_P;
    vmxoff();
    u64 paging32 = run((u64)directory, cr4 | CR4_PSE, "32-bit paging");
    u64 pae = run((u64)pointers, cr4 | CR4_PAE, "PAE paging");
    vmxon(vmxon_region);
    // Their host state is not one of IA-32e mode, although nothing in them changed.
    vmptrld(paging32);
    check_outcome(vmresume(), VMX_VALID | 8, "VMRESUME of the first in IA-32e mode");
    vmptrld(pae);
    check_outcome(vmresume(), VMX_VALID | 8, "VMRESUME of the second in IA-32e mode");
    vmclear(paging32);
    vmclear(pae);
}
