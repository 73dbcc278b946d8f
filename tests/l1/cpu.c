// The processor and the machine as a kernel without VMX sees them. The sections' tests are in
// cpu_*.c.

#include "tests/l1/cpu.h"

static const struct test tests[] = {
    {"cpuid", test_cpuid},
    {"msr", test_msr},
    {"msr-write", test_msr_write},
    {"cr0", test_cr0},
    {"cr3", test_cr3},
    {"cr4", test_cr4},
    {"cr8", test_cr8},
    {"xcr0", test_xcr0},
    {"exceptions", test_exceptions},
    {"paging", test_paging},
    {"debug", test_debug},
    {"ring3", test_ring3},
    {"compat", test_compat},
    {"real", test_real},
    {"cache", test_cache},
    {"pic", test_pic},
    {"pit", test_pit},
    {"xapic", test_xapic},
    {"apic-moved", test_apic_moved},
    {"apic-priority", test_apic_priority},
    {"apic-software-enable", test_apic_software_enable},
    {"ioapic", test_ioapic},
    {"rtc", test_rtc},
    {"pmtimer", test_pmtimer},
    {"ports", test_ports},
    {"x2apic", test_x2apic},
    {"tsc", test_tsc},
};

int main(void);
int main(void)
{
    return run_tests("cpu", tests, ARRAY_SIZE(tests));
}
