// Accesses to memory that is not RAM: the instruction is decoded and executed against the device
// models.

#include "libc/string.h"
#include "libc/x86.h"
#include "vmx/decode.h"
#include "vmx/event.h"
#include "vmx/mmio.h"
#include "vmx/nested/nested.h"

#define EPT_QUAL_FETCH        BIT(2)
#define EPT_QUAL_LINEAR_VALID BIT(7)
#define EPT_QUAL_FINAL        BIT(8) // of the address itself, not of a paging structure
#define PF_RSVD_PRESENT       0x9

// One access within a page, at an address of the physical memory that L1 sees.
static void device_access(struct vcpu *vcpu, gpa_t gpa, unsigned size, bool write, u64 *value)
{
    struct machine *m = &vcpu->vm->machine;
    bool eoi = write && gpa.v % PAGE_SIZE == VLAPIC_EOI;
    bool lock = !machine_is_lapic(m, vcpu->id, gpa) || (eoi && vlapic_eoi_is_level(vcpu->lapic));
    if (lock)
        spin_lock(&vcpu->vm->device_lock);
    if (write)
        machine_mmio_write(m, vcpu->id, gpa, size, *value);
    else
        *value = machine_mmio_read(m, vcpu->id, gpa, size);
    if (lock)
        spin_unlock(&vcpu->vm->device_lock);
}

static bool access(struct vcpu *vcpu, u64 linear, unsigned size, bool write, u64 *value,
                   struct guest_fault *fault)
{
    struct guest_paging p;
    struct guestpt_fault f;
    unsigned use = write ? GUESTPT_WRITE : 0;
    gpa_t at = GPA(0);
    vcpu_paging(vcpu, &p);
    if (linear % PAGE_SIZE + size <= PAGE_SIZE &&
        guestpt_translate(&p, linear, use | (vcpu_cpl() == 3 ? GUESTPT_USER : 0), &at, &f) ==
            GUESTPT_OK &&
        !p.page(vcpu, GPA(align_down(at.v, PAGE_SIZE)), use)) {
        // No RAM there: for L2 the address is one more translation away.
        f = (struct guestpt_fault){.linear = linear, .gpa = at, .use = use};
        if (nested_in_l2(vcpu) && !nested_l2_translate(vcpu, NGPA(at.v), use, &at))
            return vcpu_access_done(vcpu, GUESTPT_NOT_RAM, &f, fault);
        device_access(vcpu, at, size, write, value);
        return true;
    }
    return write ? vcpu_linear_write(vcpu, linear, value, size, fault)
                 : vcpu_linear_read(vcpu, linear, value, size, fault);
}

static bool op_read(void *context, u64 linear, unsigned size, u64 *value, struct guest_fault *fault)
{
    *value = 0;
    return access(context, linear, size, false, value, fault);
}

static bool op_write(void *context, u64 linear, unsigned size, u64 value, struct guest_fault *fault)
{
    return access(context, linear, size, true, &value, fault);
}

// The instruction at RIP, and why there is no more of it.
struct fetched {
    u8 bytes[INSN_MAX_LENGTH];
    unsigned length;
    enum guestpt_result end;
    struct guestpt_fault fault;
};

// Reads it as far as its memory is there: it may end before the next page begins.
static void fetch(struct vcpu *vcpu, u64 linear, struct fetched *f)
{
    struct guest_paging p;
    unsigned how = GUESTPT_FETCH | (vcpu_cpl() == 3 ? GUESTPT_USER : 0);
    vcpu_paging(vcpu, &p);
    f->length = 0;
    for (u64 n = MIN(PAGE_SIZE - linear % PAGE_SIZE, INSN_MAX_LENGTH); f->length < INSN_MAX_LENGTH;
         n = INSN_MAX_LENGTH - f->length) {
        f->end = guest_linear_read(&p, linear + f->length, f->bytes + f->length, n, how, &f->fault);
        if (f->end != GUESTPT_OK)
            return;
        f->length += (unsigned)n;
    }
}

// What the guest gets for an instruction that L0 cannot decode. More than 15 bytes are #GP(0)
// ("Interrupt 13"); an instruction that L0 does not know is taken for an undefined one.
static void undecodable(struct vcpu *vcpu, int error, const struct fetched *f)
{
    struct guest_fault fault = {.vector = error == DECODE_SHORT ? VEC_GP : VEC_UD};
    if (error == DECODE_SHORT)
        vcpu_access_done(vcpu, f->end, &f->fault, &fault);
    vcpu_inject_fault(vcpu, &fault);
}

static void emulate(struct vcpu *vcpu)
{
    static const struct insn_mem_ops ops = {op_read, op_write};
    struct seg_state seg[SEG_COUNT] = {0};
    struct mmio_ctx ctx = {.ops = &ops,
                           .context = vcpu,
                           .traced = vcpu_is_traced(vcpu),
                           .rip = vmread(F(GUEST_RIP)),
                           .rflags = vmread(F(GUEST_RFLAGS))};
    const u64 rip = ctx.rip;
    vcpu_linear_ctx(vcpu, &ctx.cpu, seg);
    struct fetched code;
    u64 base = ctx.cpu.mode == MODE_64 ? 0 : vmread(F(GUEST_CS_BASE));
    u64 linear = ctx.cpu.mode == MODE_64 ? ctx.rip : (u32)(base + ctx.rip);
    struct insn insn;
    fetch(vcpu, linear, &code);
    int error = decode_insn(code.bytes, code.length, ctx.cpu.mode, ctx.rip, &insn);
    if (error) {
        undecodable(vcpu, error, &code);
        return;
    }
    enum mmio_result r = mmio_emulate(&ctx, &insn);
    vmwrite(F(GUEST_RSP), vcpu->gpr[GPR_RSP]);
    vmwrite(F(GUEST_RFLAGS), ctx.rflags);
    if (r == MMIO_FAULT)
        vcpu_inject_fault(vcpu, &ctx.fault);
    else if (r == MMIO_DONE)
        vcpu_advance(vcpu, rip, ctx.rip, ctx.rflags);
    else
        vcpu_single_step(ctx.rflags);
}

enum run_result mmio_exit(struct vcpu *vcpu, gpa_t gpa, u64 qualification)
{
    (void)gpa;
    if (vcpu->event.info & INFO_VALID) {
        // Descriptors or a stack where no memory is, while an event is delivered: all ones are no
        // descriptor, and the exceptions that follow end the same way.
        vcpu_triple_fault(vcpu);
    } else if (qualification & EPT_QUAL_FETCH) {
        // What is fetched where there is no memory is all ones, no instruction.
        vcpu_inject_ud(vcpu);
    } else if (qualification & EPT_QUAL_LINEAR_VALID && !(qualification & EPT_QUAL_FINAL)) {
        struct guest_fault f = {
            .vector = VEC_PF, .error = PF_RSVD_PRESENT, .cr2 = vmread(F(GUEST_LINEAR_ADDR))};
        vcpu_inject_fault(vcpu, &f);
    } else {
        emulate(vcpu);
        vcpu_update_deadline(vcpu);
    }
    return RUN_RESUME;
}
