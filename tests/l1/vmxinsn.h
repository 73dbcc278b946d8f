#pragma once
// The sections of the vmxinsn program.

#include "tests/l1/vmx/vmx.h"

void test_caps(void);
void test_outside(void);
void test_vmxon(void);
void test_fixed_bits(void);
void test_vmptr(void);
void test_vmclear(void);
void test_fields(void);
void test_vmread(void);
void test_launch_state(void);
void test_invalidate(void);
void test_addressing(void);
void test_operand_faults(void);
void test_operand_moves(void);
void test_ring3_vmx(void);
void test_compat_vmx(void);
void test_state(void);
