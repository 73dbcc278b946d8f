// "VM Entries": each row breaks one rule; the outcome says at which stage the entry fails. The
// order is the manual's: checks on controls (error 7), on the host-state area (error 8), on the
// guest-state area (exit 33), loading MSRs (exit 34).

#include "tests/l1/nested.h"

L2_CODE(target, "");

enum op { NONE, WRITE, SET, CLEAR };

struct change {
    u16 field;
    u8 op;
    u64 v;
};

struct row {
    const char *name;
    u16 word; // of the control that is needed and switched on, or 0
    u32 need;
    struct change change[3];
};

static const struct row control_rows[] = {
    {"pin-based controls: all 0", 0, 0, {{PIN_CTLS, WRITE, 0}}},
    {"pin-based controls: reserved bit 31", 0, 0, {{PIN_CTLS, SET, BIT(31)}}},
    {"processor-based controls: all 0", 0, 0, {{PROC_CTLS, WRITE, 0}}},
    {"processor-based controls: reserved bit 0", 0, 0, {{PROC_CTLS, SET, 1}}},
    {"secondary controls: reserved bit 31", PROC2_CTLS, 0, {{PROC2_CTLS, SET, BIT(31)}}},
    {"VM-exit controls: all 0", 0, 0, {{EXIT_CTLS, WRITE, 0}}},
    {"VM-exit controls: reserved bit 0 off", 0, 0, {{EXIT_CTLS, CLEAR, 1}}},
    {"VM-entry controls: all 0", 0, 0, {{ENTRY_CTLS, WRITE, 0}}},
    {"VM-entry controls: reserved bit 31", 0, 0, {{ENTRY_CTLS, SET, BIT(31)}}},
    {"CR3-target count 5", 0, 0, {{CR3_TARGET_COUNT, WRITE, 5}}},
    {"I/O bitmap A not aligned", PROC_CTLS, PROC_IO_BITMAPS, {{IO_BITMAP_A, WRITE, 0x1001}}},
    {"I/O bitmap B not aligned", PROC_CTLS, PROC_IO_BITMAPS, {{IO_BITMAP_B, WRITE, 0x1800}}},
    {"I/O bitmap A beyond the width", PROC_CTLS, PROC_IO_BITMAPS, {{IO_BITMAP_A, WRITE, BIT(52)}}},
    {"MSR bitmap not aligned", PROC_CTLS, PROC_MSR_BITMAPS, {{MSR_BITMAP, WRITE, 0x1010}}},
    {"MSR bitmap beyond the width", PROC_CTLS, PROC_MSR_BITMAPS, {{MSR_BITMAP, WRITE, BIT(60)}}},
    {"virtual-APIC address not aligned",
     PROC_CTLS,
     PROC_TPR_SHADOW,
     {{VAPIC_ADDRESS, WRITE, 0x300008}}},
    {"virtual-APIC address beyond the width",
     PROC_CTLS,
     PROC_TPR_SHADOW,
     {{VAPIC_ADDRESS, WRITE, BIT(53)}}},
    {"TPR threshold with bit 4",
     PROC_CTLS,
     PROC_TPR_SHADOW,
     {{VAPIC_ADDRESS, WRITE, 0x4000000}, {TPR_THRESHOLD, WRITE, 0x10}}},
    {"virtual NMIs without NMI exiting", PIN_CTLS, PIN_VNMI, {{PIN_CTLS, CLEAR, PIN_NMI}}},
    {"NMI window without virtual NMIs", PROC_CTLS, PROC_NMI_WINDOW, {{PIN_CTLS, SET, PIN_NMI}}},
    {"APIC-access address not aligned",
     PROC2_CTLS,
     PROC2_APIC_ACCESS,
     {{APIC_ACCESS, WRITE, 0x300010}}},
    {"x2APIC mode without TPR shadow", PROC2_CTLS, PROC2_X2APIC, {{0, NONE, 0}}},
    {"APIC registers without TPR shadow", PROC2_CTLS, PROC2_APIC_REGS, {{0, NONE, 0}}},
    {"virtual interrupts without TPR shadow",
     PROC2_CTLS,
     PROC2_VINTR,
     {{PIN_CTLS, SET, PIN_EXTINT}}},
    {"VPID 0", PROC2_CTLS, PROC2_VPID, {{VPID, WRITE, 0}}},
    {"EPT: memory type 1", PROC2_CTLS, PROC2_EPT, {{EPTP, CLEAR, 7}, {EPTP, SET, 1}}},
    {"EPT: walk length 3", PROC2_CTLS, PROC2_EPT, {{EPTP, CLEAR, 0x38}, {EPTP, SET, 0x10}}},
    {"EPT: reserved bit 8", PROC2_CTLS, PROC2_EPT, {{EPTP, SET, 0x100}}},
    {"EPT: beyond the width", PROC2_CTLS, PROC2_EPT, {{EPTP, SET, BIT(51)}}},
    {"unrestricted guest without EPT",
     PROC2_CTLS,
     PROC2_UNRESTRICTED,
     {{PROC2_CTLS, CLEAR, PROC2_EPT}}},
    {"PML without EPT", PROC2_CTLS, PROC2_PML, {{PROC2_CTLS, CLEAR, PROC2_EPT}}},
    {"PML address not aligned", PROC2_CTLS, PROC2_PML, {{PML_ADDRESS, WRITE, 0x300001}}},
    {"VM functions: reserved bit", PROC2_CTLS, PROC2_VMFUNC, {{VMFUNC_CTLS, WRITE, BIT(63)}}},
    {"VMREAD bitmap not aligned", PROC2_CTLS, PROC2_SHADOW, {{VMREAD_BITMAP, WRITE, 8}}},
    {"VMWRITE bitmap beyond the width",
     PROC2_CTLS,
     PROC2_SHADOW,
     {{VMWRITE_BITMAP, WRITE, BIT(52)}}},
    {"save preemption timer without the timer", EXIT_CTLS, EXIT_SAVE_TIMER, {{0, NONE, 0}}},
    {"MSR-store address not aligned",
     0,
     0,
     {{EXIT_MSR_STORE_COUNT, WRITE, 1}, {EXIT_MSR_STORE, WRITE, 0x300008}}},
    {"MSR-store address beyond the width",
     0,
     0,
     {{EXIT_MSR_STORE_COUNT, WRITE, 1}, {EXIT_MSR_STORE, WRITE, BIT(52)}}},
    {"exit MSR-load address not aligned",
     0,
     0,
     {{EXIT_MSR_LOAD_COUNT, WRITE, 1}, {EXIT_MSR_LOAD, WRITE, 0x300001}}},
    {"exit MSR-load address beyond the width",
     0,
     0,
     {{EXIT_MSR_LOAD_COUNT, WRITE, 1}, {EXIT_MSR_LOAD, WRITE, BIT(63)}}},
    {"entry MSR-load address not aligned",
     0,
     0,
     {{ENTRY_MSR_LOAD_COUNT, WRITE, 1}, {ENTRY_MSR_LOAD, WRITE, 0x300004}}},
    {"entry MSR-load address beyond the width",
     0,
     0,
     {{ENTRY_MSR_LOAD_COUNT, WRITE, 1}, {ENTRY_MSR_LOAD, WRITE, BIT(54)}}},
    {"event: type 1", 0, 0, {{ENTRY_INTR_INFO, WRITE, 0x80000141}}},
    {"event: NMI with vector 3", 0, 0, {{ENTRY_INTR_INFO, WRITE, 0x80000203}}},
    {"event: exception with vector 32", 0, 0, {{ENTRY_INTR_INFO, WRITE, 0x80000320}}},
    {"event: #UD with an error code", 0, 0, {{ENTRY_INTR_INFO, WRITE, 0x80000b06}}},
    {"event: #GP without an error code", 0, 0, {{ENTRY_INTR_INFO, WRITE, 0x8000030d}}},
    {"event: interrupt with an error code", 0, 0, {{ENTRY_INTR_INFO, WRITE, 0x80000841}}},
    {"event: reserved bit 12", 0, 0, {{ENTRY_INTR_INFO, WRITE, 0x80001041}}},
    {"event: error code with bit 16",
     0,
     0,
     {{ENTRY_INTR_INFO, WRITE, 0x80000b0d}, {ENTRY_ERROR_CODE, WRITE, 0x10000}}},
    {"event: INT n of 16 bytes",
     0,
     0,
     {{ENTRY_INTR_INFO, WRITE, 0x80000440}, {ENTRY_LENGTH, WRITE, 16}}},
    {"event: INT3 of 100 bytes",
     0,
     0,
     {{ENTRY_INTR_INFO, WRITE, 0x80000603}, {ENTRY_LENGTH, WRITE, 100}}},
    {"entry to SMM", ENTRY_CTLS, ENTRY_SMM, {{0, NONE, 0}}},
    {"deactivate dual-monitor treatment", ENTRY_CTLS, ENTRY_DUAL, {{0, NONE, 0}}},
};

static const struct row host_rows[] = {
    {"CR0.PG off", 0, 0, {{HOST_CR0, CLEAR, CR0_PG}}},
    {"CR0.NE off", 0, 0, {{HOST_CR0, CLEAR, CR0_NE}}},
    {"CR0.PE off", 0, 0, {{HOST_CR0, CLEAR, CR0_PE}}},
    {"CR4.VMXE off", 0, 0, {{HOST_CR4, CLEAR, CR4_VMXE}}},
    {"CR4 reserved bit 31", 0, 0, {{HOST_CR4, SET, BIT(31)}}},
    {"CR4.PAE off", 0, 0, {{HOST_CR4, CLEAR, CR4_PAE}}},
    {"CR3 beyond the width", 0, 0, {{HOST_CR3, SET, BIT(51)}}},
    {"SYSENTER_ESP not canonical", 0, 0, {{HOST_SYSENTER_ESP, WRITE, BIT(63)}}},
    {"SYSENTER_EIP not canonical", 0, 0, {{HOST_SYSENTER_EIP, WRITE, BIT(47)}}},
    {"PAT with type 2", EXIT_CTLS, EXIT_LOAD_PAT, {{HOST_PAT, WRITE, 0x0007040600070402}}},
    {"PAT with type 8", EXIT_CTLS, EXIT_LOAD_PAT, {{HOST_PAT, WRITE, 0x0800040600070406}}},
    {"EFER with a reserved bit", EXIT_CTLS, EXIT_LOAD_EFER, {{HOST_EFER, WRITE, 0x502}}},
    {"EFER without LMA", EXIT_CTLS, EXIT_LOAD_EFER, {{HOST_EFER, WRITE, 0x100}}},
    {"EFER without LME", EXIT_CTLS, EXIT_LOAD_EFER, {{HOST_EFER, WRITE, 0x400}}},
    {"ES with RPL", 0, 0, {{HOST_ES, WRITE, SEL_DATA | 1}}},
    {"CS with RPL", 0, 0, {{HOST_CS, WRITE, SEL_CODE64 | 3}}},
    {"SS with TI", 0, 0, {{HOST_SS, WRITE, SEL_DATA | 4}}},
    {"DS with RPL", 0, 0, {{HOST_DS, WRITE, SEL_DATA | 2}}},
    {"FS with TI", 0, 0, {{HOST_FS, WRITE, 4}}},
    {"GS with RPL", 0, 0, {{HOST_GS, WRITE, 1}}},
    {"TR with RPL", 0, 0, {{HOST_TR, WRITE, SEL_TSS | 3}}},
    {"CS null", 0, 0, {{HOST_CS, WRITE, 0}}},
    {"TR null", 0, 0, {{HOST_TR, WRITE, 0}}},
    {"FS base not canonical", 0, 0, {{HOST_FS_BASE, WRITE, BIT(63)}}},
    {"GS base not canonical", 0, 0, {{HOST_GS_BASE, WRITE, BIT(47)}}},
    {"TR base not canonical", 0, 0, {{HOST_TR_BASE, WRITE, BIT(62)}}},
    {"GDTR base not canonical", 0, 0, {{HOST_GDTR_BASE, WRITE, BIT(63)}}},
    {"IDTR base not canonical", 0, 0, {{HOST_IDTR_BASE, WRITE, BIT(63)}}},
    {"host address-space size 0 in IA-32e mode", 0, 0, {{EXIT_CTLS, CLEAR, EXIT_HOST64}}},
};

#define SEG(i) ((u16)(2 * (i)))
enum { ES, CS, SS, DS, FS, GS, LDTR, TR };
#define AR(i)    (u16)(GUEST_ES_AR + SEG(i))
#define BASE(i)  (u16)(GUEST_ES_BASE + SEG(i))
#define LIMIT(i) (u16)(GUEST_ES_LIMIT + SEG(i))
#define SEL(i)   (u16)(GUEST_ES + SEG(i))

static const struct row guest_rows[] = {
    {"CR0.NE off", 0, 0, {{GUEST_CR0, CLEAR, CR0_NE}}},
    {"CR0.PE off with PG on", 0, 0, {{GUEST_CR0, CLEAR, CR0_PE}}},
    {"CR0.PG off in IA-32e mode", 0, 0, {{GUEST_CR0, CLEAR, CR0_PG}}},
    {"CR4.VMXE off", 0, 0, {{GUEST_CR4, CLEAR, CR4_VMXE}}},
    {"CR4 reserved bit 31", 0, 0, {{GUEST_CR4, SET, BIT(31)}}},
    {"CR4.PAE off in IA-32e mode", 0, 0, {{GUEST_CR4, CLEAR, CR4_PAE}}},
    {"CR3 beyond the width", 0, 0, {{GUEST_CR3, SET, BIT(51)}}},
    {"DEBUGCTL with a reserved bit",
     ENTRY_CTLS,
     ENTRY_LOAD_DEBUG,
     {{GUEST_DEBUGCTL, WRITE, BIT(63)}}},
    {"DR7 with bit 32", ENTRY_CTLS, ENTRY_LOAD_DEBUG, {{GUEST_DR7, SET, BIT(32)}}},
    {"SYSENTER_ESP not canonical", 0, 0, {{GUEST_SYSENTER_ESP, WRITE, BIT(63)}}},
    {"SYSENTER_EIP not canonical", 0, 0, {{GUEST_SYSENTER_EIP, WRITE, BIT(47)}}},
    {"PAT with type 3", ENTRY_CTLS, ENTRY_LOAD_PAT, {{GUEST_PAT, WRITE, 3}}},
    {"EFER with a reserved bit", ENTRY_CTLS, ENTRY_LOAD_EFER, {{GUEST_EFER, WRITE, 0x10500}}},
    {"EFER.LMA off in IA-32e mode", ENTRY_CTLS, ENTRY_LOAD_EFER, {{GUEST_EFER, WRITE, 0x100}}},
    {"EFER.LME off with LMA and PG", ENTRY_CTLS, ENTRY_LOAD_EFER, {{GUEST_EFER, WRITE, 0x400}}},
    {"BNDCFGS with reserved bits", ENTRY_CTLS, ENTRY_LOAD_BNDCFG, {{GUEST_BNDCFGS, WRITE, 0xffc}}},
    {"IA-32e mode off with a 64-bit EFER",
     ENTRY_CTLS,
     ENTRY_LOAD_EFER,
     {{GUEST_EFER, WRITE, 0x500}, {ENTRY_CTLS, CLEAR, ENTRY_GUEST64}}},
    {"RFLAGS bit 1 off", 0, 0, {{GUEST_RFLAGS, WRITE, 0}}},
    {"RFLAGS bit 3 on", 0, 0, {{GUEST_RFLAGS, WRITE, 0xa}}},
    {"RFLAGS bit 22 on", 0, 0, {{GUEST_RFLAGS, WRITE, BIT(22) | 2}}},
    {"RFLAGS bit 63 on", 0, 0, {{GUEST_RFLAGS, WRITE, BIT(63) | 2}}},
    {"RFLAGS.VM in IA-32e mode", 0, 0, {{GUEST_RFLAGS, WRITE, BIT(17) | 2}}},
    {"an interrupt injected with IF = 0", 0, 0, {{ENTRY_INTR_INFO, WRITE, 0x80000041}}},
    {"TR with TI", 0, 0, {{SEL(TR), WRITE, SEL_TSS | 4}}},
    {"LDTR usable with TI", 0, 0, {{SEL(LDTR), WRITE, 4}, {AR(LDTR), WRITE, 0x82}}},
    {"TR base not canonical", 0, 0, {{BASE(TR), WRITE, BIT(63)}}},
    {"FS base not canonical", 0, 0, {{BASE(FS), WRITE, BIT(63)}}},
    {"GS base not canonical", 0, 0, {{BASE(GS), WRITE, BIT(47)}}},
    {"LDTR base not canonical, usable",
     0,
     0,
     {{BASE(LDTR), WRITE, BIT(63)}, {AR(LDTR), WRITE, 0x82}}},
    {"CS base above 4 GiB", 0, 0, {{BASE(CS), WRITE, BIT(32)}}},
    {"SS base above 4 GiB", 0, 0, {{BASE(SS), WRITE, BIT(32)}}},
    {"DS base above 4 GiB", 0, 0, {{BASE(DS), WRITE, BIT(32)}}},
    {"ES base above 4 GiB", 0, 0, {{BASE(ES), WRITE, BIT(33)}}},
    {"CS: a data segment", 0, 0, {{AR(CS), WRITE, 0xa092}}},
    {"CS: not accessed", 0, 0, {{AR(CS), WRITE, 0xa09a}}},
    {"CS: a system segment", 0, 0, {{AR(CS), WRITE, 0xa08b}}},
    {"CS: not present", 0, 0, {{AR(CS), WRITE, 0xa01b}}},
    {"CS: L and D", 0, 0, {{AR(CS), WRITE, 0xe09b}}},
    {"CS: reserved bit 8", 0, 0, {{AR(CS), WRITE, 0xa19b}}},
    {"CS: reserved bit 17", 0, 0, {{AR(CS), WRITE, 0x2a09b}}},
    {"CS: DPL 3 with SS.DPL 0", 0, 0, {{AR(CS), WRITE, 0xa0fb}}},
    {"CS: byte granularity with a limit of 4 GiB", 0, 0, {{AR(CS), WRITE, 0x209b}}},
    {"CS: page granularity with a limit of 1 MiB", 0, 0, {{LIMIT(CS), WRITE, 0xffffe}}},
    {"SS: read-only data", 0, 0, {{AR(SS), WRITE, 0xc091}}},
    {"SS: code", 0, 0, {{AR(SS), WRITE, 0xc09b}}},
    {"SS: DPL 3 with RPL 0", 0, 0, {{AR(SS), WRITE, 0xc0f3}}},
    {"SS: RPL differs from CS", 0, 0, {{SEL(SS), WRITE, SEL_DATA | 3}}},
    {"SS: not present", 0, 0, {{AR(SS), WRITE, 0xc013}}},
    {"SS: a system segment", 0, 0, {{AR(SS), WRITE, 0xc083}}},
    {"DS: not accessed", 0, 0, {{AR(DS), WRITE, 0xc092}}},
    {"DS: execute-only code", 0, 0, {{AR(DS), WRITE, 0xc099}}},
    {"DS: not present", 0, 0, {{AR(DS), WRITE, 0xc013}}},
    {"ES: DPL below RPL", 0, 0, {{SEL(ES), WRITE, SEL_DATA | 3}}},
    {"ES: reserved bit 9", 0, 0, {{AR(ES), WRITE, 0xc293}}},
    {"FS: usable, a system segment", 0, 0, {{AR(FS), WRITE, 0xc083}}},
    {"GS: usable, limit and granularity",
     0,
     0,
     {{AR(GS), WRITE, 0xc093}, {LIMIT(GS), WRITE, 0x100}}},
    {"TR: available", 0, 0, {{AR(TR), WRITE, 0x89}}},
    {"TR: 16-bit in IA-32e mode", 0, 0, {{AR(TR), WRITE, 0x83}}},
    {"TR: unusable", 0, 0, {{AR(TR), WRITE, 0x1008b}}},
    {"TR: not present", 0, 0, {{AR(TR), WRITE, 0x0b}}},
    {"TR: S", 0, 0, {{AR(TR), WRITE, 0x9b}}},
    {"TR: granularity", 0, 0, {{AR(TR), WRITE, 0x808b}}},
    {"LDTR: usable, not an LDT", 0, 0, {{AR(LDTR), WRITE, 0x8b}}},
    {"LDTR: usable, not present", 0, 0, {{AR(LDTR), WRITE, 0x02}}},
    {"GDTR base not canonical", 0, 0, {{GUEST_GDTR_BASE, WRITE, BIT(63)}}},
    {"IDTR base not canonical", 0, 0, {{GUEST_IDTR_BASE, WRITE, BIT(47)}}},
    {"GDTR limit above 64 KiB", 0, 0, {{GUEST_GDTR_LIMIT, WRITE, 0x10000}}},
    {"IDTR limit above 64 KiB", 0, 0, {{GUEST_IDTR_LIMIT, WRITE, 0x80000000}}},
    {"RIP not canonical", 0, 0, {{GUEST_RIP, WRITE, BIT(63)}}},
    {"RIP above 4 GiB in compatibility mode",
     0,
     0,
     {{AR(CS), WRITE, 0xc09b}, {GUEST_RIP, WRITE, BIT(32)}}},
    {"activity state 4", 0, 0, {{GUEST_ACTIVITY, WRITE, 4}}},
    {"HLT with blocking by STI",
     0,
     0,
     {{GUEST_ACTIVITY, WRITE, 1},
      {GUEST_INTERRUPTIBILITY, WRITE, 1},
      {GUEST_RFLAGS, WRITE, 0x202}}},
    {"HLT with #PF injected",
     0,
     0,
     {{GUEST_ACTIVITY, WRITE, 1}, {ENTRY_INTR_INFO, WRITE, 0x80000b0e}}},
    {"interruptibility: STI and MOV SS",
     0,
     0,
     {{GUEST_INTERRUPTIBILITY, WRITE, 3}, {GUEST_RFLAGS, WRITE, 0x202}}},
    {"interruptibility: STI with IF = 0", 0, 0, {{GUEST_INTERRUPTIBILITY, WRITE, 1}}},
    {"interruptibility: reserved bit 5", 0, 0, {{GUEST_INTERRUPTIBILITY, WRITE, 0x20}}},
    {"interruptibility: SMI outside SMM", 0, 0, {{GUEST_INTERRUPTIBILITY, WRITE, 4}}},
    {"an interrupt injected with MOV SS",
     0,
     0,
     {{GUEST_INTERRUPTIBILITY, WRITE, 2},
      {GUEST_RFLAGS, WRITE, 0x202},
      {ENTRY_INTR_INFO, WRITE, 0x80000041}}},
    {"an NMI injected with MOV SS",
     0,
     0,
     {{GUEST_INTERRUPTIBILITY, WRITE, 2}, {ENTRY_INTR_INFO, WRITE, 0x80000202}}},
    {"a virtual NMI injected while blocked",
     PIN_CTLS,
     PIN_NMI | PIN_VNMI,
     {{GUEST_INTERRUPTIBILITY, WRITE, 8}, {ENTRY_INTR_INFO, WRITE, 0x80000202}}},
    {"pending debug exceptions: reserved bit 4", 0, 0, {{GUEST_PENDING_DEBUG, WRITE, 0x10}}},
    {"pending debug exceptions: bit 63", 0, 0, {{GUEST_PENDING_DEBUG, WRITE, BIT(63)}}},
    {"pending debug exceptions: TF with STI but no BS",
     0,
     0,
     {{GUEST_INTERRUPTIBILITY, WRITE, 1}, {GUEST_RFLAGS, WRITE, 0x302}}},
    {"pending debug exceptions: BS with STI but no TF",
     0,
     0,
     {{GUEST_INTERRUPTIBILITY, WRITE, 1},
      {GUEST_RFLAGS, WRITE, 0x202},
      {GUEST_PENDING_DEBUG, WRITE, 0x4000}}},
};

static void apply(const struct row *row)
{
    l2_defaults(l2_target);
    events_idt(); // should L2 run against all rules, then its faults lead back
    if (row->word == PROC2_CTLS && l2_offers(PROC2_CTLS, PROC2_EPT) &&
        row->need & (PROC2_EPT | PROC2_PML | PROC2_UNRESTRICTED)) {
        vmwrite(EPTP, ept_pointer());
        l2_control(PROC2_CTLS, PROC2_EPT);
    }
    if (row->word)
        l2_control(row->word, row->need);
    for (u32 i = 0; i < 3; i++) {
        const struct change *c = &row->change[i];
        if (c->op == WRITE)
            vmwrite(c->field, c->v);
        else if (c->op == SET)
            vmset(c->field, c->v);
        else if (c->op == CLEAR)
            vmclr(c->field, c->v);
    }
}

static void run_rows(const struct row *rows, u32 n, u32 want)
{
    l2_reset(l2_target);
    for (u32 i = 0; i < n; i++) {
        const struct row *row = &rows[i];
        if (row->word && !l2_offers(row->word, row->need)) {
            skip("%s: no such control", row->name);
            continue;
        }
        apply(row);
        check_run(want, "%s", row->name);
        if (want == (R_BAD_GUEST | R_ENTRY_FAILED)) {
            check_eq(vmread(QUALIFICATION), 0, "%s: qualification", row->name);
            nmi_unblock();
        }
    }
    l2_defaults(l2_target);
    check_run(R_VMCALL, "a good VMCS after them");
}

void test_entry_controls(void)
{
    run_rows(control_rows, ARRAY_SIZE(control_rows), L2_FAILED | VMX_VALID | 7);
    if (arg_has("bare"))
        return; // Bochs itself ends on what follows
    l2_defaults(l2_target);
    vmwrite(ENTRY_INTR_INFO, 0x80000701);
    check_run(L2_FAILED | VMX_VALID | 7, "event: type 7 with vector 1");
}

void test_entry_host(void)
{
    run_rows(host_rows, ARRAY_SIZE(host_rows), L2_FAILED | VMX_VALID | 8);
}

void test_entry_guest(void)
{
    run_rows(guest_rows, ARRAY_SIZE(guest_rows), R_BAD_GUEST | R_ENTRY_FAILED);
    // What the failing entry leaves: VMX is as before, the guest area and the event are untouched.
    l2_reset(l2_target);
    vmwrite(GUEST_RFLAGS, 0);
    vmwrite(ENTRY_INTR_INFO, 0x80000306);
    check_run(R_BAD_GUEST | R_ENTRY_FAILED, "a failing VMLAUNCH");
    check_eq(vmread(ENTRY_INTR_INFO), 0x80000306, "the event stays valid");
    check_eq(vmread(EXIT_INTR_INFO) >> 31, 0, "no interruption information");
    check_outcome(vmresume(), VMX_VALID | 5, "VMRESUME after it: the VMCS is not launched");
}

void test_link_pointer(void)
{
    u64 region = vmx_region();
    static const u64 bad[] = {0x300001, 0x300800, BIT(52)};
    l2_reset(l2_target);
    for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
        l2_defaults(l2_target);
        vmwrite(LINK_POINTER, bad[i]);
        check_run(R_BAD_GUEST | R_ENTRY_FAILED, "0x%llx", (unsigned long long)bad[i]);
        check_eq(vmread(QUALIFICATION), 4, "0x%llx: qualification", (unsigned long long)bad[i]);
    }
    l2_defaults(l2_target);
    *(u32 *)region = caps.revision + 1;
    vmwrite(LINK_POINTER, region);
    check_run(R_BAD_GUEST | R_ENTRY_FAILED, "another revision");
    check_eq(vmread(QUALIFICATION), 4, "another revision: qualification");
    *(u32 *)region = caps.revision | BIT(31);
    l2_defaults(l2_target);
    vmwrite(LINK_POINTER, region);
    check_run(R_BAD_GUEST | R_ENTRY_FAILED, "a shadow VMCS without VMCS shadowing");
    *(u32 *)region = caps.revision;
    l2_defaults(l2_target);
    vmwrite(LINK_POINTER, region);
    check_run(R_VMCALL, "an ordinary VMCS region");
}

// The order: controls before host before guest before MSRs.
void test_entry_order(void)
{
    struct {
        u32 index, reserved;
        u64 v;
    } *list = alloc_pages(1);
    list[0].index = 0xc0000100;
    l2_reset(l2_target);
    vmwrite(ENTRY_MSR_LOAD, (u64)list);
    vmwrite(ENTRY_MSR_LOAD_COUNT, 1);
    check_run(R_BAD_MSR | R_ENTRY_FAILED, "a bad MSR");
    check_eq(vmread(QUALIFICATION), 1, "a bad MSR: qualification is its number");
    vmwrite(GUEST_RFLAGS, 0);
    check_run(R_BAD_GUEST | R_ENTRY_FAILED, "and bad guest state");
    vmclr(HOST_CR4, CR4_VMXE);
    check_run(L2_FAILED | VMX_VALID | 8, "and bad host state");
    vmwrite(CR3_TARGET_COUNT, 5);
    check_run(L2_FAILED | VMX_VALID | 7, "and bad controls");
    check_outcome(vmresume(), VMX_VALID | 5, "and VMRESUME of a clear VMCS");
}

// ------------------------------------------------------------------------------------ MSR lists

struct msr_entry {
    u32 index, reserved;
    u64 v;
};

L2_CODE(swap, "mov $0xc0000102, %ecx; mov $0x777, %eax; xor %edx, %edx; wrmsr");

void test_msr_lists(void)
{
    struct msr_entry *load = alloc_pages(1), *store = load + 16, *back = load + 32;
    u8 *map = alloc_pages(1);
    l2_reset(l2_swap);
    l2_control(PROC_CTLS, PROC_MSR_BITMAPS);
    vmwrite(MSR_BITMAP, (u64)map);
    load[0] = (struct msr_entry){0xc0000102, 0, 0x111};
    load[1] = (struct msr_entry){0xc0000084, 0, 0x47700};
    vmwrite(ENTRY_MSR_LOAD, (u64)load);
    vmwrite(ENTRY_MSR_LOAD_COUNT, 2);
    store[0] = (struct msr_entry){0xc0000102, 0, 0};
    store[1] = (struct msr_entry){0xc0000084, 0, 0};
    vmwrite(EXIT_MSR_STORE, (u64)store);
    vmwrite(EXIT_MSR_STORE_COUNT, 2);
    back[0] = (struct msr_entry){0xc0000102, 0, 0x333};
    back[1] = (struct msr_entry){0xc0000084, 0, 0x200};
    vmwrite(EXIT_MSR_LOAD, (u64)back);
    vmwrite(EXIT_MSR_LOAD_COUNT, 2);
    check_run(R_VMCALL, "three lists");
    check_eq(store[0].v, 0x777, "stored: what L2 wrote");
    check_eq(store[1].v, 0x47700, "stored: what the entry loaded");
    check_eq(rdmsr(0xc0000102), 0x333, "loaded by the exit: KERNEL_GS_BASE");
    check_eq(rdmsr(0xc0000084), 0x200, "loaded by the exit: FMASK");
    l2_defaults(l2_swap);
    l2_control(PROC_CTLS, PROC_TSC_OFFSET | PROC_MSR_BITMAPS);
    vmwrite(MSR_BITMAP, (u64)map);
    vmwrite(TSC_OFFSET, BIT(50));
    store[0] = (struct msr_entry){0x10, 0, 0};
    vmwrite(EXIT_MSR_STORE, (u64)store);
    vmwrite(EXIT_MSR_STORE_COUNT, 1);
    check_run(R_VMCALL, "the TSC stored");
    check(store[0].v < BIT(49), "the TSC stored: L2's offset is not in it");
    static const struct {
        const char *name;
        u32 index, reserved;
        u64 v;
    } bad[] = {
        {"FS_BASE", 0xc0000100, 0, 0},
        {"GS_BASE", 0xc0000101, 0, 0},
        {"an x2APIC register", 0x808, 0, 0},
        {"an absent MSR", 0x3000, 0, 0},
        {"reserved bits", 0xc0000102, 1, 0},
        {"a value that is not canonical", 0xc0000102, 0, BIT(63)},
        {"IA32_VMX_BASIC", 0x480, 0, 0},
    };
    for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
        l2_defaults(l2_swap);
        load[1] = (struct msr_entry){bad[i].index, bad[i].reserved, bad[i].v};
        vmwrite(ENTRY_MSR_LOAD, (u64)load);
        vmwrite(ENTRY_MSR_LOAD_COUNT, 3);
        check_run(R_BAD_MSR | R_ENTRY_FAILED, "entry list: %s", bad[i].name);
        check_eq(vmread(QUALIFICATION), 2, "entry list: %s: number", bad[i].name);
    }
    wrmsr(0xc0000102, 0);
}
