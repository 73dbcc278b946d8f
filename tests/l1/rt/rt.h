#pragma once
// The runtime of the test kernels: long mode with 4 GiB mapped one to one, exceptions that can be
// caught, output on COM1, checks and the way out. A program supplies
//
//     static const struct test tests[] = {{"msr", test_msr}, ...};
//     int main(void) { return run_tests("cpu", tests, ARRAY_SIZE(tests)); }
//
// and prints one line for each check, which must not depend on where it runs:
//
//     ok cpu.msr: text            the check passed
//     FAIL cpu.msr: text (...)    it did not
//     val cpu.msr: text 0x...     a raw result, to be compared between two runs
//
// The last line is "exit: N": 0 when every check passed, 1 when one did not, EXIT_BROKEN when the
// program could not go on to its end.

#include "libc/printf.h"
#include "libc/string.h"
#include "libc/types.h"
#include "tests/l1/rt/cpu.h"

enum {
    SEL_CODE64 = 0x08,
    SEL_DATA = 0x10,
    SEL_CODE32 = 0x18,
    SEL_CODE16 = 0x20,
    SEL_DATA16 = 0x28,
    SEL_USER_DATA = 0x33,
    SEL_USER_CODE64 = 0x3b,
    SEL_USER_CODE32 = 0x43,
    SEL_TSS = 0x48,
    SEL_SMALL = 0x58,     // data, limit 0xff
    SEL_READONLY = 0x60,  // data
    SEL_EXEC_ONLY = 0x68, // 32-bit code that cannot be read
    SEL_FREE = 0x70,      // four entries for the tests
};

#define FLAG_CF     BIT(0)
#define FLAG_PF     BIT(2)
#define FLAG_AF     BIT(4)
#define FLAG_ZF     BIT(6)
#define FLAG_SF     BIT(7)
#define FLAG_TF     BIT(8)
#define FLAG_IF     BIT(9)
#define FLAG_OF     BIT(11)
#define FLAG_RF     BIT(16)
#define FLAGS_ALU   (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

#define CR0_PE      BIT(0)
#define CR0_MP      BIT(1)
#define CR0_EM      BIT(2)
#define CR0_TS      BIT(3)
#define CR0_NE      BIT(5)
#define CR0_WP      BIT(16)
#define CR0_NW      BIT(29)
#define CR0_CD      BIT(30)
#define CR0_PG      BIT(31)
#define CR4_TSD     BIT(2)
#define CR4_DE      BIT(3)
#define CR4_PAE     BIT(5)
#define CR4_PGE     BIT(7)
#define CR4_PCE     BIT(8)
#define CR4_OSFXSR  BIT(9)
#define CR4_VMXE    BIT(13)
#define CR4_PCIDE   BIT(17)
#define CR4_OSXSAVE BIT(18)
#define EFER_SCE    BIT(0)
#define EFER_LME    BIT(8)
#define EFER_LMA    BIT(10)
#define EFER_NXE    BIT(11)

#define PTE_P       BIT(0)
#define PTE_W       BIT(1)
#define PTE_U       BIT(2)
#define PTE_A       BIT(5)
#define PTE_D       BIT(6)
#define PTE_PS      BIT(7)
#define PTE_NX      BIT(63)

// ------------------------------------------------------------------------------- checks and output

struct test {
    const char *section;
    void (*run)(void);
};

// Runs all tests, or those that the command line names (only=a,b). Returns 0 if all checks passed.
int run_tests(const char *program, const struct test *tests, size_t n);

// Prints on COM1.
void print(const char *fmt, ...) PRINTF(1, 2);
void vprint(const char *fmt, va_list args) PRINTF(1, 0);

// One check, one line. The text must be the same on every platform.
bool check(bool good, const char *fmt, ...) PRINTF(2, 3);
bool check_eq(u64 got, u64 want, const char *fmt, ...) PRINTF(3, 4);
// A raw result for the comparison of two runs.
void value(u64 v, const char *fmt, ...) PRINTF(2, 3);
// A fault (or its absence) as the result: `got` is a vector or NO_FAULT.
bool check_fault(u32 got, u32 want, const char *fmt, ...) PRINTF(3, 4);
// Marks what cannot be tested here; neither good nor bad.
void skip(const char *fmt, ...) PRINTF(1, 2);

// "#GP", "no fault", ...
const char *fault_name(u32 vector);

// After a fault that nobody expected, or without what the program needs itself. No run with this
// status counts, whatever its checks said.
enum { EXIT_BROKEN = 2 };

// Ends the program: the last line, then the debug-exit port, then Bochs's shutdown port.
void exit_program(int code) NORETURN;

// --------------------------------------------------------------------------- interrupts and faults

struct regs {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    u64 vector, error, rip, cs, rflags, rsp, ss;
};

// Calls fn(arg). Returns the vector of the fault that it ran into (details in `fault`), NO_FAULT
// if it returned. Also the way back from ring 3.
u32 fault_of(void (*fn)(u64), u64 arg);

// `fn` handles this vector from now on (0: nobody; a fault is then caught or ends the program).
void set_handler(u8 vector, void (*fn)(struct regs *));

// How often each vector above 31 without handler of its own arrived. EOI of the PIC or APIC is not
// given.
extern u32 irq_count[256];

void rt_init(void);
void trap(struct regs *regs);
u32 catch_call(void (*fn)(u64), u64 arg);
void catch_resume(u32 vector) NORETURN;
extern u64 catch_sp;

// -------------------------------------------------------------------------------- tables and modes

struct table_pointer {
    u16 limit;
    u64 base;
} PACKED;

struct idt_entry {
    u16 offset_low, selector;
    u8 ist, type;
    u16 offset_mid;
    u32 offset_high, zero;
} PACKED;

struct tss64 {
    u32 zero0;
    u64 rsp[3];
    u64 zero1;
    u64 ist[7];
    u64 zero2;
    u16 zero3, iomap;
} PACKED;

extern u64 gdt[];
extern struct table_pointer gdt_pointer, idt_pointer;
extern struct idt_entry idt[256];
extern struct tss64 tss;
extern u64 pml4[512], pdpt[512], pd[4 * 512];
extern u32 boot_cr0, boot_cr4;

// Runs 64-bit or 32-bit code in ring 3, where all memory can be reached meanwhile, until it faults;
// `int 0x80` comes back as vector 0x80. (Otherwise all pages belong to the supervisor.)
u32 fault_of_user(const void *code);
u32 fault_of_user32(const void *code);
u32 compat_call(void *fn, u32 arg);

// What a visit to real mode leaves behind.
struct real_result {
    u16 vector; // NO_FAULT, or the first exception
    u16 zero;
    u32 a, b;
};

enum real_routine {
    REAL_NOTHING,
    REAL_UD2,
    REAL_DIVIDE,
    REAL_LIMIT,
    REAL_VMXON,
    REAL_VMXOFF,
    REAL_VMCALL,
    REAL_CPUID,
    REAL_ABSENT_MSR,
    REAL_SOFTWARE_INT,
    REAL_MODE_BITS,
    REAL_BIG_SEGMENT,
    REAL_BIOS_MEMORY,
    REAL_BIOS_E820,
    REAL_BIOS_UNKNOWN,
};
struct real_result run_real(enum real_routine routine);

// Splits the 2 MiB page at `a` (below 4 GiB) into 4 KiB pages once; returns the page-table entry of
// `a`, whose flags the test may change (invlpg is up to it).
u64 *page_entry(u64 a);

// Zeroed pages, one after the other in physical memory; never given back.
void *alloc_pages(size_t n);

// -------------------------------------------------------------------------------- boot information

struct boot_module {
    u64 start, end;
    char args[128];
};

struct boot_region {
    u64 base, length;
    u32 type; // 1 is RAM
};

struct boot {
    int version;              // of multiboot: 1, 2 or 0 when the magic number is unknown
    u32 mem_lower, mem_upper; // KiB
    u32 modules, regions;
    bool has_memory, has_map;
    u64 rsdp; // of a multiboot 2 tag, or 0
    char cmdline[1024];
    char loader[64];
    struct boot_module module[8];
    struct boot_region region[64];
};
extern struct boot boot;

void boot_read(u32 magic, u32 info);

// The value of `name=` on the command line, or the default; whether the word is there; the words'
// text after `name=` up to the next blank (0 if absent).
u64 arg_u64(const char *name, u64 otherwise);
bool arg_has(const char *word);
const char *arg_text(const char *name);
// The highest RAM address plus one of the memory map, up to `below`.
u64 ram_top(u64 below);

// The ACPI table with this signature, or 0. The FADT has "FACP".
const u8 *acpi_table(const char *signature);
bool acpi_checksum_good(const u8 *p, size_t n);
const u8 *acpi_rsdp(void);
