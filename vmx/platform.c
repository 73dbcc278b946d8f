#include "vmx/platform.h"

#include "libc/x86.h"

#define BOCHS_PORT 0xe9

struct quirks quirks;

bool platform_is_bochs(void)
{
    return inb(BOCHS_PORT) == BOCHS_PORT;
}

void platform_detect(void)
{
    quirks.lost_interrupt_exits = quirks.unrecorded_virtual_interrupts =
        quirks.real_mode_error_codes = platform_is_bochs();
}
