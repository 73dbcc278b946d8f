// Output, checks, exceptions and the modes of the processor that tests visit.

#include "tests/l1/rt/rt.h"

enum { COM1 = 0x3f8, DEBUG_EXIT = 0xf4, BOCHS_SHUTDOWN = 0x8900 };
enum { LOW_IVT = 0x6000, LOW_RESULT = 0x6400, LOW_CODE = 0x7000 };

// ------------------------------------------------------------------------------------------ output

static void put(char c)
{
    while (!(inb(COM1 + 5) & 0x20))
        ;
    outb(COM1, (u8)c);
}

void vprint(const char *fmt, va_list args)
{
    char line[512];
    vsnprintf(line, sizeof(line), fmt, args);
    for (char *p = line; *p; p++) {
        if (*p == '\n')
            put('\r');
        put(*p);
    }
}

void print(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vprint(fmt, args);
    va_end(args);
}

static void uart_init(void)
{
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 0x80);
    outb(COM1 + 0, 1); // 115200
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 3); // 8n1
    outb(COM1 + 2, 7); // FIFO
    outb(COM1 + 4, 3);
}

void exit_program(int code)
{
    cli();
    print("exit: %d\n", code);
    while (!(inb(COM1 + 5) & 0x40))
        ;
    outb(DEBUG_EXIT, (u8)code);
    for (const char *p = "Shutdown"; *p; p++)
        outb(BOCHS_SHUTDOWN, (u8)*p);
    for (;;)
        asm volatile("hlt");
}

// ------------------------------------------------------------------------------------------ checks

static struct {
    const char *program, *section;
    u32 passed, failed;
} run;

static void line(const char *verdict, const char *fmt, va_list args)
{
    print("%s %s.%s: ", verdict, run.program, run.section);
    vprint(fmt, args);
}

bool check(bool good, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    line(good ? "ok" : "FAIL", fmt, args);
    va_end(args);
    print("\n");
    *(good ? &run.passed : &run.failed) += 1;
    return good;
}

bool check_eq(u64 got, u64 want, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    line(got == want ? "ok" : "FAIL", fmt, args);
    va_end(args);
    if (got == want)
        print(" is 0x%llx\n", (unsigned long long)want);
    else
        print(" is 0x%llx, should be 0x%llx\n", (unsigned long long)got, (unsigned long long)want);
    *(got == want ? &run.passed : &run.failed) += 1;
    return got == want;
}

void value(u64 v, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    line("val", fmt, args);
    va_end(args);
    print(" is 0x%llx\n", (unsigned long long)v);
}

void skip(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    line("skip", fmt, args);
    va_end(args);
    print("\n");
}

const char *fault_name(u32 vector)
{
    static const char *const names[32] = {
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "fault 9", "#TS",
        "#NP", "#SS", "#GP", "#PF", "15",  "#MF", "#AC", "#MC", "#XM", "#VE",     "#CP",
    };
    static char other[16];
    if (vector == NO_FAULT)
        return "no fault";
    if (vector < 32 && names[vector])
        return names[vector];
    snprintf(other, sizeof(other), "vector %u", vector);
    return other;
}

bool check_fault(u32 got, u32 want, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    line(got == want ? "ok" : "FAIL", fmt, args);
    va_end(args);
    print(": %s", fault_name(got));
    if (got != want)
        print(", should be %s", fault_name(want));
    print("\n");
    *(got == want ? &run.passed : &run.failed) += 1;
    return got == want;
}

// Is `name` one of the comma-separated words of the list?
static bool listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; *p && *p != ' ';) {
        if (!strncmp(p, name, n) && (p[n] == ',' || p[n] == ' ' || !p[n]))
            return true;
        while (*p && *p != ' ' && *p++ != ',')
            ;
    }
    return false;
}

int run_tests(const char *program, const struct test *tests, size_t n)
{
    const char *only = arg_text("only");
    run.program = program;
    for (size_t i = 0; i < n; i++) {
        run.section = tests[i].section;
        if (!only || listed(only, run.section))
            tests[i].run();
    }
    print("%s: %u checks passed, %u failed\n", program, run.passed, run.failed);
    return run.failed || !run.passed;
}

// -------------------------------------------------------------------------- exceptions, interrupts

struct fault fault;
struct idt_entry idt[256];
struct table_pointer idt_pointer = {sizeof(idt) - 1, (u64)idt};
struct tss64 tss;
u32 irq_count[256];

static void (*handlers[256])(struct regs *);
static u8 trap_stack[8192] ALIGNED(16), double_fault_stack[4096] ALIGNED(16);
extern u8 isr_stubs[256][16];
extern const u64 extable_start[], extable_end[];

void set_handler(u8 vector, void (*fn)(struct regs *))
{
    handlers[vector] = fn;
}

u32 fault_of(void (*fn)(u64), u64 arg)
{
    fault_clear();
    return catch_call(fn, arg);
}

void user_call(u64 code);
void user_call32(u64 code);

static u32 in_ring3(void (*enter)(u64), const void *code)
{
    pml4[0] |= PTE_U;
    write_cr3(read_cr3());
    u32 vector = fault_of(enter, (u64)code);
    pml4[0] &= ~PTE_U;
    write_cr3(read_cr3());
    return vector;
}

u32 fault_of_user(const void *code)
{
    return in_ring3(user_call, code);
}

u32 fault_of_user32(const void *code)
{
    return in_ring3(user_call32, code);
}

static u64 fixup_of(u64 rip)
{
    for (const u64 *e = extable_start; e < extable_end; e += 2)
        if (e[0] == rip)
            return e[1];
    return 0;
}

static void die(const struct regs *r)
{
    print("unexpected %s, error 0x%llx, at 0x%llx:0x%llx, flags 0x%llx, stack 0x%llx:0x%llx, "
          "CR2 0x%llx\n",
          fault_name((u32)r->vector), (unsigned long long)r->error, (unsigned long long)r->cs,
          (unsigned long long)r->rip, (unsigned long long)r->rflags, (unsigned long long)r->ss,
          (unsigned long long)r->rsp, (unsigned long long)read_cr2());
    exit_program(EXIT_BROKEN);
}

void trap(struct regs *r)
{
    if (handlers[r->vector]) {
        handlers[r->vector](r);
        return;
    }
    if (r->vector >= 32 && r->vector != 0x80) {
        irq_count[r->vector]++;
        return;
    }
    fault = (struct fault){(u32)r->vector, (u32)r->error, read_cr2(), r->rip};
    u64 fixup = fixup_of(r->rip);
    if (fixup && (r->cs & 3) == 0)
        r->rip = fixup;
    else if (catch_sp)
        catch_resume((u32)r->vector);
    else
        die(r);
}

void rt_init(void)
{
    for (int i = 0; i < 256; i++) {
        u64 stub = (u64)isr_stubs[i];
        idt[i] = (struct idt_entry){(u16)stub, SEL_CODE64, 0, 0x8e, (u16)(stub >> 16), 0, 0};
    }
    idt[0x80].type = 0xee;
    idt[VEC_BP].type = 0xee;
    idt[VEC_OF].type = 0xee;
    idt[VEC_DF].ist = 1;
    tss.rsp[0] = (u64)trap_stack + sizeof(trap_stack);
    tss.ist[0] = (u64)double_fault_stack + sizeof(double_fault_stack);
    tss.iomap = sizeof(tss);
    u64 base = (u64)&tss;
    gdt[SEL_TSS / 8] =
        (sizeof(tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[SEL_TSS / 8 + 1] = base >> 32;
    asm volatile("lidt %0; ltr %w1" : : "m"(idt_pointer), "r"(SEL_TSS) : "memory");
    uart_init();
}

// ------------------------------------------------------------------------------ modes of operation

extern const u8 real_image[], real_image_end[];
extern const u16 real_stub_offset, real_offsets[];
void real_call(u16 offset);

struct real_result run_real(enum real_routine routine)
{
    volatile struct real_result *result = (void *)LOW_RESULT;
    u16 *ivt = (u16 *)LOW_IVT;
    memcpy((void *)LOW_CODE, real_image, (size_t)(real_image_end - real_image));
    for (int i = 0; i < 256; i++) {
        ivt[2 * i] = (u16)(LOW_CODE + real_stub_offset + 8 * (i < 32 ? i : 31));
        ivt[2 * i + 1] = 0;
    }
    result->vector = 0;
    result->a = result->b = 0;
    real_call(real_offsets[routine]);
    return *result;
}

// ------------------------------------------------------------------------------------------- pages

static u8 page_pool[1 * MIB] ALIGNED(4096);
static size_t pages_used;

void *alloc_pages(size_t n)
{
    if ((pages_used + n) * PAGE_SIZE > sizeof(page_pool)) {
        print("out of pages\n");
        exit_program(EXIT_BROKEN);
    }
    u8 *p = page_pool + pages_used * PAGE_SIZE;
    pages_used += n;
    return p;
}

u64 *page_entry(u64 a)
{
    u64 *pde = &pd[a >> 21];
    if (*pde & PTE_PS) {
        u64 *table = alloc_pages(1);
        for (u64 i = 0; i < 512; i++)
            table[i] = (*pde & ~PTE_PS) + (i << 12);
        *pde = (u64)table | 7;
        write_cr3(read_cr3());
    }
    return (u64 *)(*pde & ~0xfffull) + (a >> 12 & 511);
}
