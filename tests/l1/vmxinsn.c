// Each VMX instruction in root operation: when it succeeds, and each way in which it fails. The
// sections' tests are in vmxinsn_*.c; from the third on they run in VMX operation.

#include "tests/l1/vmxinsn.h"

static void enter_operation(void)
{
    vmx_begin();
}

static const struct test tests[] = {
    {"caps", test_caps},
    {"outside", test_outside},
    {"vmxon", test_vmxon},
    {"operation", enter_operation},
    {"fixed-bits", test_fixed_bits},
    {"vmptr", test_vmptr},
    {"vmclear", test_vmclear},
    {"fields", test_fields},
    {"vmread", test_vmread},
    {"launch", test_launch_state},
    {"invalidate", test_invalidate},
    {"addressing", test_addressing},
    {"operands", test_operand_faults},
    {"moves", test_operand_moves},
    {"ring3", test_ring3_vmx},
    {"compat", test_compat_vmx},
    {"state", test_state},
};

int main(void);
int main(void)
{
    caps_read();
    return run_tests("vmxinsn", tests, ARRAY_SIZE(tests));
}
