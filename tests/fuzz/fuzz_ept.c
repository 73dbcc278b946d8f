// Histories of EPT12 edits, faults, INVEPTs and runs of L2 from the fuzzer's bytes. The first byte
// chooses the memory of the cache and the reach of a fault; the oracle is in ept_world.h.

#include "tests/host/ept_world.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static struct world w;
    if (size < 2)
        return 0;
    world_init(&w, data[0] & 1 ? 200 : EPT02_MIN_PAGES);
    w.cache.around = 1u << (data[0] >> 1 & 3);
    w.bytes = data + 1;
    w.left = size - 1;
    play(&w, 2000);
    return 0;
}
