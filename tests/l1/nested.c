// An L1 with guests of many kinds: VM entries and VM exits by the sections of the manual, volume 3,
// chapters "VMX Non-Root Operation", "VM Entries" and "VM Exits". Tests are in nested_*.c.

#include "tests/l1/nested.h"

static const struct test tests[] = {
    {"round-trip", test_round_trip}, {"host-state", test_host_state},
    {"exits", test_exits},           {"enables", test_enables},
    {"io", test_io},                 {"msr-bitmaps", test_msr_bitmaps},
    {"exceptions", test_exceptions}, {"page-faults", test_page_faults},
    {"triple-fault", test_triple_fault}, {"injection", test_injection},
    {"vectoring", test_vectoring}, {"external", test_external},
    {"interrupt-window", test_interrupt_window}, {"preemption-timer", test_preemption_timer},
    {"tsc", test_tsc}, {"activity", test_activity}, {"nmi", test_nmi},
};

int main(void);
int main(void)
{
    vmx_begin();
    return run_tests("nested", tests, ARRAY_SIZE(tests));
}
