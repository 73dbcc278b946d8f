// Reads a line that the runner types on the serial console: the alphabet over and over. The bytes
// come while nobody reads, far more than the FIFO holds, and none may be lost.

#include "tests/l1/rt/cpu.h"
#include "tests/l1/rt/rt.h"

#define COM1      0x3f8
#define FCR       (COM1 + 2)
#define LSR       (COM1 + 5)
#define FIFO_ON   0x07
#define LSR_DATA  1
#define PIC1_DATA 0x21
#define PIC2_DATA 0xa1
#define PATIENCE  2000000000ull // ticks for each byte

static void wait(u64 ticks)
{
    for (u64 end = rdtsc() + ticks; rdtsc() < end;)
        ;
}

static int read_byte(void)
{
    for (u64 end = rdtsc() + PATIENCE; rdtsc() < end;)
        if (inb(LSR) & LSR_DATA)
            return inb(COM1);
    return -1;
}

static void test_line(void)
{
    u64 bytes = 0, wrong = 0;
    int c;
    // Interrupts are on, though none comes: while they are off, the emulator's processor does not
    // leave the program for L0's serial port.
    outb(PIC1_DATA, 0xff);
    outb(PIC2_DATA, 0xff);
    asm volatile("sti");
    outb(FCR, FIFO_ON);
    print("typed: ready\n");
    wait(arg_u64("wait", 0));
    while ((c = read_byte()) >= 0 && c != '\n') {
        wrong += c != 'a' + (int)(bytes % 26);
        bytes++;
    }
    asm volatile("cli");
    check(c == '\n', "the line ends");
    check_eq(bytes, arg_u64("bytes", 0), "bytes before its end");
    check_eq(wrong, 0, "wrong bytes");
}

int main(void);
int main(void)
{
    static const struct test tests[] = {{"line", test_line}};
    return run_tests("typed", tests, 1);
}
