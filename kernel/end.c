#include "kernel/end.h"

#include "kernel/console.h"
#include "kernel/dump.h"
#include "kernel/power.h"
#include "libc/printf.h"
#include "libc/x86.h"
#include "vmx/platform.h"

#define BOCHS_SHUTDOWN 0x8900

// The machine goes off when the VMs have ended. It stays on with a message that somebody must read,
// but in a virtual machine, where the console has it.
static bool wants_off(enum end_kind kind)
{
    return kind <= END_VM_FAILED || cpuid(1, 0).ecx & BIT(31);
}

void end(enum end_kind kind, u32 code)
{
    static const char *const names[] = {"ok",    "debug-exit", "vm-reset", "vm-failed",
                                        "no-vm", "no-vmx",     "panic"};
    irq_disable();
    log_error("end: %s %u", names[kind], code);
    console_drain();
    if (platform_is_bochs())
        for (const char *s = "Shutdown"; *s; s++)
            outb(BOCHS_SHUTDOWN, (u8)*s);
    if (wants_off(kind))
        power_off();
    for (;;)
        asm volatile("cli; hlt");
}

void panic(const char *fmt, ...)
{
    static bool again;
    char text[200];
    va_list args;
    irq_disable();
    console_seize();
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    log_error("panic: %s", text);
    if (!again) {
        again = true;
        dump_backtrace();
    }
    end(END_PANIC, 0);
}
