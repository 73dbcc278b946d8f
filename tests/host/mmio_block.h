#pragma once
// What the emulator gets for memory in tests: one block of bytes at some linear address.

#include "tests/host/test.h"

#include "libc/x86.h"
#include "vmx/mmio.h"

#define RFLAGS_DF BIT(10)

struct block {
    u64 linear;
    u8 *bytes;
    u64 size;
    u64 fault_at; // an access that includes this address faults; 0: none
    bool read_only;
    unsigned reads, writes;
};

static bool block_has(struct block *b, u64 linear, unsigned size, struct guest_fault *fault)
{
    bool ok = linear >= b->linear && linear + size <= b->linear + b->size &&
              !(b->fault_at >= linear && b->fault_at < linear + size);
    if (!ok)
        *fault = (struct guest_fault){.vector = VEC_PF, .error = 2, .cr2 = linear};
    return ok;
}

static bool block_read(void *context, u64 linear, unsigned size, u64 *v, struct guest_fault *fault)
{
    struct block *b = context;
    *v = 0xdeadbeefdeadbeef; // only `size` bytes count
    if (!block_has(b, linear, size, fault))
        return false;
    memcpy(v, b->bytes + (linear - b->linear), size);
    b->reads++;
    return true;
}

static bool block_write(void *context, u64 linear, unsigned size, u64 v, struct guest_fault *fault)
{
    struct block *b = context;
    if (!block_has(b, linear, size, fault))
        return false;
    if (b->read_only) {
        *fault = (struct guest_fault){.vector = VEC_PF, .error = 3, .cr2 = linear};
        return false;
    }
    CHECK(size == 8 || v >> (8 * size) == 0);
    memcpy(b->bytes + (linear - b->linear), &v, size);
    b->writes++;
    return true;
}

static const struct insn_mem_ops block_ops = {block_read, block_write};
