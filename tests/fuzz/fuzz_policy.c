// Exit ownership on arbitrary vmcs12s, exits and bitmaps. Oracles: an exit that L1's bitmaps let
// through is L1's with full bitmaps or with none; an exit is L0's whatever L1 says, or never.

#include <stdlib.h>
#include <string.h>

#include "vmx/nested/policy.h"

static void require(bool ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static u8 pages[5][4096], ones[4096];
    static const struct vmcs12 nothing;
    static const struct exit_bitmaps none;
    struct exit_bitmaps maps = {pages[0], pages[1], pages[2], pages[3], pages[4]};
    struct exit_bitmaps full = {ones, ones, ones, ones, ones};
    struct vmcs12_region region = {0};
    struct exit_event x;
    struct vmcs12 v;

    if (size < sizeof(x))
        return 0;
    memcpy(&x, data, sizeof(x));
    data += sizeof(x);
    size -= sizeof(x);
    memcpy(&region, data, size < sizeof(region) ? size : sizeof(region));
    v12_from_region(&v, &region);
    memset(ones, 0xff, sizeof(ones));
    for (unsigned i = 0; i < 5; i++)
        memset(pages[i], size > i ? data[i] : 0, sizeof(pages[i]));

    for (u32 reason = 0; reason < 80; reason++) {
        x.reason = reason | (x.reason & 0x80000000);
        enum exit_owner o = exit_owner(&v, &x, &maps);
        require(o == EXIT_TO_L0 || o == EXIT_TO_L1 || o == EXIT_EMULATE);
        require((o == EXIT_TO_L0) == (exit_owner(&nothing, &x, &none) == EXIT_TO_L0));
        enum exit_owner f = exit_owner(&v, &x, &full), n = exit_owner(&v, &x, &none);
        require(f == n);
        require(o != EXIT_TO_L1 || f == EXIT_TO_L1);
    }
    return 0;
}
