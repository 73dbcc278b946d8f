// An L1 that uses what newer processors add to VMX: page-modification logging, VM functions, EPT
// violations as #VE, VMCS shadowing, APIC virtualization. Tests are in nestedx_*.c.

#include "tests/l1/nestedx.h"

static const struct test tests[] = {
    {"pml", test_pml},
    {"vmfunc", test_vmfunc},
    {"eptp-switching", test_eptp_switching},
    {"ve", test_ve},
    {"ve-not", test_ve_not},
    {"shadow-regions", test_shadow_regions},
    {"shadow-access", test_shadow_access},
    {"x2apic-registers", test_x2apic_registers},
    {"apic-page", test_apic_page},
    {"virtual-interrupts", test_virtual_interrupts},
    {"virtual-vectoring", test_virtual_vectoring},
    {"virtual-eoi", test_virtual_eoi},
    {"posted", test_posted},
};

int main(void);
int main(void)
{
    vmx_begin();
    return run_tests("nestedx", tests, ARRAY_SIZE(tests));
}
