// From the multiboot2 loader's information to the kernel's neutral one.

#include "boot/multiboot2.h"
#include "kernel/console.h"
#include "kernel/main.h"

#define INFO_MAX MIB

void boot_multiboot2(u64 info);

// Called by boot/entry.asm on the boot stack and the boot page tables, which map the first 4 GiB.
void boot_multiboot2(u64 info)
{
    static struct boot_info boot;
    console_init();
    int r = multiboot2_parse(phys_ptr(HPA(info)), INFO_MAX, &boot);
    if (r)
        panic("the boot loader's information is unusable: %s", multiboot2_error_text(r));
    kernel_start(&boot);
}
