#pragma once
// The sections of the cpu program.

#include "tests/l1/rt/rt.h"

void test_cpuid(void);
void test_msr(void);
void test_msr_write(void);
void test_cr0(void);
void test_cr3(void);
void test_cr4(void);
void test_cr8(void);
void test_xcr0(void);
void test_exceptions(void);
void test_paging(void);
void test_debug(void);
void test_ring3(void);
void test_compat(void);
void test_real(void);
void test_cache(void);
void test_pic(void);
void test_pit(void);
void test_xapic(void);
void test_apic_moved(void);
void test_apic_priority(void);
void test_apic_software_enable(void);
void test_x2apic(void);
void test_ioapic(void);
void test_rtc(void);
void test_pmtimer(void);
void test_ports(void);
void test_tsc(void);
