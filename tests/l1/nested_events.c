// "Exceptions", "Event Injection", "Information for VM Exits During Event Delivery".

#include "tests/l1/nested.h"

#define VALID BIT(31)

L2_CODE(ud2, "ud2");
L2_CODE(divide, "xor %eax, %eax; xor %edx, %edx; div %eax");
L2_CODE(int3, "int3");
L2_CODE(int1, ".byte 0xf1");
L2_CODE(read_rsi, "mov (%rsi), %rax");
L2_CODE(write_rsi, "mov %rax, (%rsi)");
L2_CODE(fninit, "fninit");
L2_CODE(step, "pushfq; orq $0x100, (%rsp); popfq; nop; nop");
L2_CODE(int40, "int $0x40");
L2_CODE(bad_ds, "mov $0x1230, %eax; mov %eax, %ds");
L2_CODE(bad_stack, "mov $0x8000000000000000, %rsp; push %rax");
L2_CODE(nothing, "nop");

struct exception_row {
    const char *name;
    const u8 *code;
    u8 vector;
    u32 info, error, length;
};

static const struct exception_row exceptions[] = {
    {"#UD", l2_ud2, VEC_UD, 0x80000306, 0, 0},
    {"#DE", l2_divide, VEC_DE, 0x80000300, 0, 0},
    {"#BP", l2_int3, VEC_BP, 0x80000603, 0, 1},
    {"#DB of INT1", l2_int1, VEC_DB, 0x80000501, 0, 1},
    {"#GP", l2_read_rsi, VEC_GP, 0x80000b0d, 0, 0},
    {"#GP with a selector", l2_bad_ds, VEC_GP, 0x80000b0d, 0x1230, 0},
    {"#NM", l2_fninit, VEC_NM, 0x80000307, 0, 0},
    {"#SS", l2_bad_stack, VEC_SS, 0x80000b0c, 0, 0},
    {"#DB of a single step", l2_step, VEC_DB, 0x80000301, 0, 0},
};

static void prepare(const struct exception_row *row)
{
    l2_defaults(row->code);
    events_idt();
    l2.rsi = BIT(63);
    if (row->vector == VEC_NM)
        vmset(GUEST_CR0, CR0_TS);
    if (row->vector == VEC_SS)
        events_gate(VEC_SS)->ist = 1;
}

void test_exceptions(void)
{
    l2_reset(l2_nothing);
    for (u32 i = 0; i < ARRAY_SIZE(exceptions); i++) {
        const struct exception_row *row = &exceptions[i];
        prepare(row);
        vmwrite(EXCEPTION_BITMAP, BIT(row->vector));
        if (check_run(R_EXCEPTION, "%s intercepted", row->name)) {
            check_eq(vmread(EXIT_INTR_INFO), row->info, "%s: information", row->name);
            if (row->info & BIT(11))
                check_eq(vmread(EXIT_INTR_ERROR), row->error, "%s: error code", row->name);
            if (row->length)
                check_eq(vmread(EXIT_LENGTH), row->length, "%s: instruction length", row->name);
            check_eq(vmread(IDT_VECTORING) >> 31, 0, "%s: IDT-vectoring", row->name);
        }
        prepare(row);
        vmwrite(EXCEPTION_BITMAP, ~BIT(row->vector) & 0xffffbfff);
        check_delivered(l2_run(), row->vector, "%s not intercepted", row->name);
        if (row->info & BIT(11))
            check_eq(events_stack(0), row->error, "%s: error code on the stack", row->name);
    }
    prepare(&exceptions[8]);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_DB));
    try_write_dr6(0xffff0ff0);
    check_run(R_EXCEPTION, "single step");
    check_eq(vmread(QUALIFICATION), 0x4000, "single step: qualification");
    check_eq(read_dr6(), 0xffff0ff0, "single step: DR6 is not changed");
}

void test_page_faults(void)
{
    u8 *page = alloc_pages(1);
    u64 *pte = page_entry((u64)page), good = *pte;
    static const struct {
        const char *name;
        bool write, bit;
        u32 mask, match, reason;
    } rows[] = {
        {"bit set, mask 0, match 0", false, true, 0, 0, R_EXCEPTION},
        {"bit clear, mask 0, match 0", false, false, 0, 0, R_VMCALL},
        {"bit set, mask 0, match ~0", false, true, 0, ~0u, R_VMCALL},
        {"bit clear, mask 0, match ~0", false, false, 0, ~0u, R_EXCEPTION},
        {"bit set, writes match, a write", true, true, 2, 2, R_EXCEPTION},
        {"bit set, writes match, a read", false, true, 2, 2, R_VMCALL},
        {"bit clear, writes match, a write", true, false, 2, 2, R_VMCALL},
        {"bit clear, writes match, a read", false, false, 2, 2, R_EXCEPTION},
    };
    l2_reset(l2_nothing);
    *pte = 0;
    invlpg(page);
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        l2_defaults(rows[i].write ? l2_write_rsi : l2_read_rsi);
        events_idt();
        l2.rsi = (u64)page + 0x123;
        vmwrite(EXCEPTION_BITMAP, rows[i].bit ? BIT(VEC_PF) : 0);
        vmwrite(PF_MASK, rows[i].mask);
        vmwrite(PF_MATCH, rows[i].match);
        asm volatile("mov %0, %%cr2" : : "r"(0x5555ull));
        check_run(rows[i].reason, "%s", rows[i].name);
        if (rows[i].reason == R_EXCEPTION) {
            check_eq(vmread(EXIT_INTR_INFO), 0x80000b0e, "%s: information", rows[i].name);
            check_eq(vmread(EXIT_INTR_ERROR), rows[i].write ? 2 : 0, "%s: error code",
                     rows[i].name);
            check(vmread(QUALIFICATION) == (u64)page + 0x123, "%s: qualification", rows[i].name);
            check_eq(read_cr2(), 0x5555, "%s: CR2 is not changed", rows[i].name);
        } else {
            check_eq(events_vector(), VEC_PF, "%s: vector in L2", rows[i].name);
            check(read_cr2() == (u64)page + 0x123, "%s: CR2", rows[i].name);
        }
    }
    *pte = good;
    invlpg(page);
}

void test_triple_fault(void)
{
    l2_reset(l2_ud2);
    vmwrite(GUEST_IDTR_LIMIT, 0);
    check_run(R_TRIPLE_FAULT, "#UD with an empty IDT");
    check_eq(vmread(QUALIFICATION), 0, "qualification");
    check_eq(vmread(EXIT_INTR_INFO) >> 31, 0, "interruption information");
    l2_defaults(l2_ud2);
    vmwrite(GUEST_IDTR_LIMIT, 0);
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_DF));
    check_run(R_EXCEPTION, "with #DF intercepted");
    check_eq(vmread(EXIT_INTR_INFO), 0x80000b08, "#DF: information");
    check_eq(vmread(EXIT_INTR_ERROR), 0, "#DF: error code");
    l2_defaults(l2_ud2);
    events_idt();
    events_gate(VEC_UD)->type = 0x0e;
    events_gate(VEC_NP)->type = 0x0e;
    check_delivered(l2_run(), VEC_DF, "#UD and #NP not present");
}

// --------------------------------------------------------------------------------------- injection

struct injection_row {
    const char *name;
    u32 info, error, length;
    u8 vector;
    bool error_code;
};

static const struct injection_row injections[] = {
    {"external interrupt 0x41", VALID | 0x041, 0, 0, 0x41, false},
    {"external interrupt 0xff", VALID | 0x0ff, 0, 0, 0xff, false},
    {"NMI", VALID | 0x202, 0, 0, VEC_NMI, false},
    {"#DE", VALID | 0x300, 0, 0, VEC_DE, false},
    {"#DB", VALID | 0x301, 0, 0, VEC_DB, false},
    {"#UD", VALID | 0x306, 0, 0, VEC_UD, false},
    {"#DF", VALID | 0xb08, 0, 0, VEC_DF, true},
    {"#TS", VALID | 0xb0a, 0x10, 0, VEC_TS, true},
    {"#NP", VALID | 0xb0b, 0x7ffc, 0, VEC_NP, true},
    {"#SS", VALID | 0xb0c, 0, 0, VEC_SS, true},
    {"#GP", VALID | 0xb0d, 0x1234, 0, VEC_GP, true},
    {"#PF", VALID | 0xb0e, 0x13, 0, VEC_PF, true},
    {"#AC", VALID | 0xb11, 0, 0, VEC_AC, true},
    {"#MC", VALID | 0x312, 0, 0, VEC_MC, false},
    {"INT 0x42", VALID | 0x442, 0, 2, 0x42, false},
    {"INT 0x42 of 15 bytes", VALID | 0x442, 0, 15, 0x42, false},
    {"INT1", VALID | 0x501, 0, 1, VEC_DB, false},
    {"INT3", VALID | 0x603, 0, 1, VEC_BP, false},
    {"INTO", VALID | 0x604, 0, 1, VEC_OF, false},
};

void test_injection(void)
{
    l2_reset(l2_nothing);
    for (u32 i = 0; i < ARRAY_SIZE(injections); i++) {
        const struct injection_row *row = &injections[i];
        l2_defaults(l2_nothing);
        events_idt();
        vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
        vmwrite(ENTRY_INTR_INFO, row->info);
        vmwrite(ENTRY_ERROR_CODE, row->error);
        vmwrite(ENTRY_LENGTH, row->length);
        if (!check_delivered(l2_run(), row->vector, "%s", row->name))
            continue;
        u32 at = row->error_code;
        if (row->error_code)
            check_eq(events_stack(0), row->error, "%s: error code on the stack", row->name);
        check_eq(events_stack(at) - (u64)l2_nothing, row->length, "%s: RIP on the stack, offset",
                 row->name);
        check_eq(events_stack(at + 2) & ~FLAG_RF, 2 | FLAG_IF, "%s: RFLAGS on the stack",
                 row->name);
        check_eq(vmread(ENTRY_INTR_INFO) >> 31, 0, "%s: the valid bit is cleared", row->name);
        check_eq(vmread(GUEST_RFLAGS) & FLAG_IF, 0, "%s: IF in the handler", row->name);
        check_eq(vmread(GUEST_INTERRUPTIBILITY), row->vector == VEC_NMI ? 8 : 0,
                 "%s: interruptibility", row->name);
        nmi_unblock();
    }
    // An injected event is not subject to the exception bitmap; one that follows is.
    l2_defaults(l2_ud2);
    events_idt();
    vmwrite(EXCEPTION_BITMAP, ~0ull);
    vmwrite(ENTRY_INTR_INFO, VALID | 0x306);
    check_delivered(l2_run(), VEC_UD, "#UD injected while intercepted");
    // Injection ends HLT.
    l2_defaults(l2_nothing);
    events_idt();
    vmwrite(GUEST_ACTIVITY, 1);
    vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
    vmwrite(ENTRY_INTR_INFO, VALID | 0x50);
    check_delivered(l2_run(), 0x50, "an interrupt injected into HLT");
    check_eq(vmread(GUEST_ACTIVITY), 0, "activity state after it");
}

// ----------------------------------------------------------------------- exits during the delivery

void test_vectoring(void)
{
    static const struct {
        const char *name;
        u32 inject, error, length, vector;
    } rows[] = {
        {"external interrupt", VALID | 0x041, 0, 0, 0x41},
        {"NMI", VALID | 0x202, 0, 0, 2},
        {"#UD", VALID | 0x306, 0, 0, 6},
        {"#GP", VALID | 0xb0d, 0x1234, 0, 13},
        {"INT 0x42", VALID | 0x442, 0, 2, 0x42},
        {"INT3", VALID | 0x603, 0, 1, 3},
    };
    l2_reset(l2_nothing);
    for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
        u32 info = rows[i].inject;
        bool software = (info & 0x400) != 0;
        l2_defaults(l2_nothing);
        events_idt();
        events_gate((u8)rows[i].vector)->type = 0x0e; // not present
        vmwrite(GUEST_RFLAGS, 2 | FLAG_IF);
        vmwrite(EXCEPTION_BITMAP, BIT(VEC_NP));
        vmwrite(ENTRY_INTR_INFO, info);
        vmwrite(ENTRY_ERROR_CODE, rows[i].error);
        vmwrite(ENTRY_LENGTH, rows[i].length);
        if (!check_run(R_EXCEPTION, "#NP while %s is delivered", rows[i].name))
            continue;
        check_eq(vmread(EXIT_INTR_INFO), 0x80000b0b, "%s: exit information", rows[i].name);
        check_eq(vmread(EXIT_INTR_ERROR), rows[i].vector * 8 + 2 + !software, "%s: error code",
                 rows[i].name);
        check_eq(vmread(IDT_VECTORING), info, "%s: IDT-vectoring information", rows[i].name);
        if (info & BIT(11))
            check_eq(vmread(IDT_VECTORING_ERROR), rows[i].error, "%s: IDT-vectoring error code",
                     rows[i].name);
        if (software)
            check_eq(vmread(EXIT_LENGTH), rows[i].length, "%s: instruction length", rows[i].name);
        check(vmread(GUEST_RIP) == (u64)l2_nothing, "%s: RIP", rows[i].name);
        check_eq(vmread(GUEST_INTERRUPTIBILITY), rows[i].vector == VEC_NMI ? 8 : 0,
                 "%s: interruptibility", rows[i].name);
        nmi_unblock();
    }
    l2_defaults(l2_int40);
    events_idt();
    events_gate(0x40)->type = 0x0e;
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_NP));
    check_run(R_EXCEPTION, "#NP of an INT 0x40 that L2 executes");
    check_eq(vmread(IDT_VECTORING), VALID | 0x440, "INT 0x40: IDT-vectoring information");
    check_eq(vmread(EXIT_LENGTH), 2, "INT 0x40: instruction length");
    check_eq(vmread(EXIT_INTR_ERROR), 0x202, "INT 0x40: error code");
    l2_defaults(l2_ud2);
    events_idt();
    events_gate(VEC_UD)->type = 0x0e;
    vmwrite(EXCEPTION_BITMAP, BIT(VEC_NP));
    check_run(R_EXCEPTION, "#NP of a #UD that L2 causes");
    check_eq(vmread(IDT_VECTORING), VALID | 0x306, "#UD: IDT-vectoring information");
    check_eq(vmread(EXIT_INTR_ERROR), 0x33, "#UD: error code");
}
