#pragma once
// The sections of the nestedx program.

#include "tests/l1/vmx/events.h"

void test_pml(void);
void test_vmfunc(void);
void test_eptp_switching(void);
void test_ve(void);
void test_ve_not(void);
void test_shadow_regions(void);
void test_shadow_access(void);
void test_x2apic_registers(void);
void test_apic_page(void);
void test_virtual_interrupts(void);
void test_virtual_vectoring(void);
void test_virtual_eoi(void);
void test_posted(void);
