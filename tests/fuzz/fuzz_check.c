// The entry checks on arbitrary vmcs12s. Oracle: from a vmcs12 that passed, checking only the
// groups that changed gives what checking everything gives.

#include <stdlib.h>
#include <string.h>

#include "tests/host/nested_base.h"

// One step: which field, how, and with what.
struct step {
    u8 field, how;
    u8 value[8];
};

static u64 changed(u64 old, const struct step *s)
{
    u64 value;
    memcpy(&value, s->value, sizeof(value));
    switch (s->how & 7) {
    case 0:
        return value;
    case 1:
        return old ^ BIT(value & 63);
    case 2:
        return old | BIT(value & 31);
    case 3:
        return old & ~BIT(value & 31);
    case 4:
        return value & 0xff;
    case 5:
        return (value & 15) * 0x1000;
    case 6:
        return old + 1;
    default:
        return value & 1 ? ~0ull : 0;
    }
}

static bool same(struct entry_result a, struct entry_result b)
{
    return a.outcome == b.outcome && a.number == b.number && a.row == b.row;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static u8 ram[BASE_RAM];
    struct guest_mem mem = {.range = {{GPA(0), HPA(0), BASE_RAM}}, .count = 1};
    struct vmx_caps caps = base_caps();
    struct entry_env env = base_env(&caps, &mem);
    struct vmcs12 v;
    if (size < 2)
        return 0;
    memset(ram, 0, sizeof(ram));
    phys_window = ram;
    env.rtm = data[0] & 1;
    env.nmi_blocked_by_sti = data[0] & 2;
    caps.basic |= data[0] & 4 ? BASIC_ANY_ERROR_CODE : 0;
    caps.misc |= data[0] & 8 ? MISC_INJECT_LENGTH_0 : 0;
    base_vmcs12(&v);
    v.unchecked = 0;
    for (size_t at = 1; at + sizeof(struct step) <= size; at += sizeof(struct step)) {
        struct vmcs12 before = v;
        struct step s;
        memcpy(&s, data + at, sizeof(s));
        if (s.how & 0x80) // L1's memory changes instead
            memcpy(ram + (s.field << 8 | (s.how & 0x78)), s.value, sizeof(s.value));
        else
            v12_set(&v, field_at(s.field % VF_COUNT), changed(v.f[s.field % VF_COUNT], &s));
        struct entry_result some = check_entry(&v, &env, v.unchecked);
        struct entry_result all = check_entry(&v, &env, GROUP_ALL);
        if (!same(some, all))
            abort();
        bool quick = !(v.unchecked & ~CHECK_QUICK);
        if (quick && check_entry_quick(&v, &env) != (all.outcome == ENTRY_OK))
            abort();
        if (all.outcome != ENTRY_OK && s.how & 0x80)
            return 0;
        if (all.outcome != ENTRY_OK && !(s.how & 0x40))
            v = before; // else let several changes meet
        if (all.outcome == ENTRY_OK)
            v.unchecked = 0;
    }
    return 0;
}
