// An L1 with guests of many kinds: VM entries and VM exits by the sections of the manual, volume 3,
// chapters "VMX Non-Root Operation", "VM Entries" and "VM Exits". Tests are in nested_*.c.

#include "tests/l1/nested.h"

static const struct test tests[] = {
    {"round-trip", test_round_trip},
    {"host-state", test_host_state},
    {"exits", test_exits},
    {"enables", test_enables},
    {"io", test_io},
    {"msr-bitmaps", test_msr_bitmaps},
    {"exceptions", test_exceptions},
    {"page-faults", test_page_faults},
    {"triple-fault", test_triple_fault},
    {"injection", test_injection},
    {"vectoring", test_vectoring},
    {"external", test_external},
    {"l1-apic", test_l1_apic},
    {"l1-apic-of-l2", test_l1_apic_of_l2},
    {"interrupt-window", test_interrupt_window},
    {"preemption-timer", test_preemption_timer},
    {"tsc", test_tsc},
    {"activity", test_activity},
    {"nmi", test_nmi},
    {"l1-apic-by-msr", test_l1_apic}, // `nmi` has changed the mode
    {"entry-controls", test_entry_controls},
    {"entry-host", test_entry_host},
    {"entry-guest", test_entry_guest},
    {"link-pointer", test_link_pointer},
    {"entry-order", test_entry_order},
    {"msr-lists", test_msr_lists},
    {"ept-translation", test_ept_translation},
    {"ept-permissions", test_ept_permissions},
    {"ept-misconfig", test_ept_misconfig},
    {"ept-accessed-dirty", test_ept_accessed_dirty},
    {"ept-guest-tables", test_ept_guest_tables},
    {"ept-vectoring", test_ept_vectoring},
    {"invept", test_invept},
    {"vpid", test_vpid},
    {"cr-masks", test_cr_masks},
    {"cr0-writes", test_cr0_writes},
    {"cr4-writes", test_cr4_writes},
    {"cr3-targets", test_cr3_targets},
    {"compatibility", test_compatibility},
    {"paged-32bit", test_paged_32bit},
    {"pae", test_pae},
    {"unpaged", test_unpaged},
    {"real-mode", test_real_mode},
    {"pat", test_pat},
    {"efer", test_efer},
    {"debug-controls", test_debug_controls},
    {"pending-debug", test_pending_debug},
    {"tpr-shadow", test_tpr_shadow},
    {"apic-access", test_apic_access},
    {"monitor-trap", test_monitor_trap},
    {"pause-loop", test_pause_loop},
    {"pml", test_pml},
    {"vm-functions", test_vm_functions},
    {"vmcs-shadowing", test_vmcs_shadowing},
    {"emulated-access", test_emulated_access},
    {"saved-state", test_saved_state},
};

int main(void);
int main(void)
{
    vmx_begin();
    return run_tests("nested", tests, ARRAY_SIZE(tests));
}
