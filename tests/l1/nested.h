#pragma once
// The sections of the nested program.

#include "tests/l1/vmx/events.h"

void test_round_trip(void);
void test_host_state(void);
void test_exits(void);
void test_enables(void);
void test_io(void);
void test_msr_bitmaps(void);
void test_exceptions(void);
void test_page_faults(void);
void test_triple_fault(void);
void test_injection(void);
void test_vectoring(void);
void test_external(void);
void test_interrupt_window(void);
void test_nmi(void);
void test_preemption_timer(void);
void test_tsc(void);
void test_activity(void);
