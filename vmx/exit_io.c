// Port I/O, against the device models.

#include "libc/x86.h"
#include "vmx/event.h"

#define IO_IN      BIT(3)
#define IO_STRING  BIT(4)
#define IO_REP     BIT(5)
#define MAX_STRING 64 // elements for each exit, so that no guest holds L0

static u32 port_in(struct vcpu *vcpu, u16 port, unsigned size)
{
    spin_lock(&vcpu->vm->device_lock);
    u32 v = machine_port_read(&vcpu->vm->machine, port, size);
    spin_unlock(&vcpu->vm->device_lock);
    return v;
}

static void port_out(struct vcpu *vcpu, u16 port, unsigned size, u32 value)
{
    spin_lock(&vcpu->vm->device_lock);
    machine_port_write(&vcpu->vm->machine, port, size, value);
    spin_unlock(&vcpu->vm->device_lock);
}

struct string_io {
    u16 port;
    unsigned size;
    bool in;
    struct linear_ctx cpu;
    struct mem_operand mem;
    u64 mask; // of the address size
};

static bool string_element(struct vcpu *vcpu, struct string_io *s, struct guest_fault *fault)
{
    u64 linear;
    u32 v = 0;
    if (!linear_address(&s->cpu, &s->mem, s->size, s->in ? MEM_WRITE : MEM_READ, &linear, fault))
        return false;
    if (s->in) {
        // Whether the memory can be written is known before the device loses its data.
        u8 probe[4];
        if (!vcpu_linear_read(vcpu, linear, probe, s->size, fault) ||
            !vcpu_linear_write(vcpu, linear, probe, s->size, fault))
            return false;
        v = port_in(vcpu, s->port, s->size);
        return vcpu_linear_write(vcpu, linear, &v, s->size, fault);
    }
    if (!vcpu_linear_read(vcpu, linear, &v, s->size, fault))
        return false;
    port_out(vcpu, s->port, s->size, v);
    return true;
}

// Adds to the low bits of a register as an instruction of the address size does.
static void step(u64 *reg, u64 mask, u64 by)
{
    u64 v = (*reg + by) & mask;
    *reg = mask == 0xffff ? (*reg & ~mask) | v : v;
}

static enum run_result string_io(struct vcpu *vcpu, u64 q)
{
    struct seg_state seg[SEG_COUNT] = {0};
    struct string_io s = {.port = (u16)(q >> 16), .size = (q & 7) + 1, .in = q & IO_IN};
    struct insn_info info;
    struct guest_fault fault;
    insn_info_decode(s.in ? INFO_INS : INFO_OUTS, (u32)vmread(F(EXIT_INSTR_INFO)), q, &info);
    vcpu_linear_ctx(vcpu, &s.cpu, seg);
    s.mem = info.mem;
    s.mask = s.mem.addr_size == 8 ? ~0ull : BIT(8 * s.mem.addr_size) - 1;
    u64 *count = &vcpu->gpr[GPR_RCX], *index = &vcpu->gpr[s.in ? GPR_RDI : GPR_RSI];
    u64 by = vmread(F(GUEST_RFLAGS)) & BIT(10) ? -(u64)s.size : s.size;
    unsigned max = vcpu_is_traced(vcpu) ? 1 : MAX_STRING;
    for (unsigned i = 0; i < max; i++) {
        if (q & IO_REP && !(*count & s.mask))
            break;
        if (!string_element(vcpu, &s, &fault)) {
            vcpu_inject_fault(vcpu, &fault);
            return RUN_RESUME;
        }
        step(index, s.mask, by);
        if (!(q & IO_REP))
            break;
        step(count, s.mask, ~0ull);
    }
    if (!(q & IO_REP) || !(*count & s.mask))
        vcpu_skip(vcpu);
    else
        vcpu_single_step(vmread(F(GUEST_RFLAGS)));
    return RUN_RESUME;
}

#define DR7_ENABLES 0xff
#define DR7_RW_IO   2
#define CR4_DE      BIT(3)

static u64 read_dr(unsigned n)
{
    u64 v;
    switch (n) {
    case 0:
        asm volatile("mov %%dr0, %0" : "=r"(v));
        return v;
    case 1:
        asm volatile("mov %%dr1, %0" : "=r"(v));
        return v;
    case 2:
        asm volatile("mov %%dr2, %0" : "=r"(v));
        return v;
    default:
        asm volatile("mov %%dr3, %0" : "=r"(v));
        return v;
    }
}

// The VM exit comes before the processor looks at I/O breakpoints: L0 does, and leaves the debug
// exception pending. (SDM, "Breakpoint Exception Conditions".)
static void check_breakpoints(u64 dr7, u16 port, unsigned size)
{
    u64 hit = 0;
    if (!(vmread(F(GUEST_CR4)) & CR4_DE))
        return;
    for (unsigned n = 0; n < 4; n++) {
        unsigned len = (dr7 >> (18 + 4 * n) & 3) + 1; // 3 stands for 4 bytes, 2 for none
        u64 at = read_dr(n) & ~(u64)(len - 1);
        if (dr7 >> 2 * n & 3 && (dr7 >> (16 + 4 * n) & 3) == DR7_RW_IO && port < at + len &&
            at < (u64)port + size)
            hit |= BIT(n);
    }
    if (hit)
        vmwrite(F(GUEST_PENDING_DEBUG),
                vmread(F(GUEST_PENDING_DEBUG)) | hit | PENDING_DEBUG_ENABLED);
}

enum run_result exit_io(struct vcpu *vcpu)
{
    u64 q = vmread(F(EXIT_QUALIFICATION));
    unsigned size = (q & 7) + 1;
    u16 port = (u16)(q >> 16);
    enum run_result r = RUN_RESUME;
    if (q & IO_STRING) {
        r = string_io(vcpu, q);
    } else {
        u64 *rax = &vcpu->gpr[GPR_RAX], mask = size == 4 ? ~0ull : BIT(8 * size) - 1;
        if (q & IO_IN)
            *rax = (*rax & ~mask) | port_in(vcpu, port, size);
        else
            port_out(vcpu, port, size, (u32)(*rax & mask));
        vcpu_skip(vcpu);
    }
    u64 dr7 = vmread(F(GUEST_DR7));
    if (UNLIKELY(dr7 & DR7_ENABLES))
        check_breakpoints(dr7, port, size);
    vcpu_update_deadline(vcpu);
    return r;
}
