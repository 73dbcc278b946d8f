#include "vmx/access.h"

#include "libc/string.h"
#include "libc/x86.h"
#include "vmx/event.h"
#include "vmx/nested/nested.h"
#include "vmx/vmxop.h"

#define PF_RESERVED 0x9 // present, reserved bit set

unsigned vcpu_cpl(void)
{
    return vmread(F(GUEST_SS_AR)) >> 5 & 3;
}

bool vcpu_in_64bit_code(void)
{
    return vmread(F(GUEST_CS_AR)) & CS_AR_L && vmread(F(GUEST_EFER)) & EFER_LMA;
}

static void *l1_page(void *ctx, gpa_t page, unsigned use)
{
    struct vcpu *vcpu = ctx;
    (void)use;
    return guest_ptr(&vcpu->vm->mem, page, PAGE_SIZE);
}

static void *l2_page(void *ctx, gpa_t page, unsigned use)
{
    return nested_l2_page(ctx, NGPA(page.v), use);
}

bool vcpu_read_physical(struct vcpu *vcpu, u64 address, void *to, u64 len)
{
    bool l2 = nested_in_l2(vcpu);
    for (u64 done = 0; done < len;) {
        u64 a = address + done, n = MIN(len - done, PAGE_SIZE - a % PAGE_SIZE);
        gpa_t page = GPA(align_down(a, PAGE_SIZE));
        u8 *p = l2 ? l2_page(vcpu, page, 0) : l1_page(vcpu, page, 0);
        if (!p) {
            if (l2)
                nested_l2_denied(vcpu, NGPA(a), EPT_R, 0);
            return false;
        }
        memcpy((u8 *)to + done, p + a % PAGE_SIZE, n);
        done += n;
    }
    return true;
}

void vcpu_paging(struct vcpu *vcpu, struct guest_paging *p)
{
    p->cr0 = vmread(F(GUEST_CR0));
    p->cr3 = vmread(F(GUEST_CR3));
    p->cr4 = vmread(F(GUEST_CR4));
    p->efer = vmread(F(GUEST_EFER));
    p->rflags = vmread(F(GUEST_RFLAGS));
    if (p->cr0 & CR0_PG && p->cr4 & CR4_PAE && !(p->efer & EFER_LMA)) {
        p->pdpte[0] = vmread(F(GUEST_PDPTE0));
        p->pdpte[1] = vmread(F(GUEST_PDPTE1));
        p->pdpte[2] = vmread(F(GUEST_PDPTE2));
        p->pdpte[3] = vmread(F(GUEST_PDPTE3));
    }
    p->maxphyaddr = (u8)vcpu->vm->phys_bits;
    p->large_1g = cpuid_has_1g(&vcpu->vm->cpuid);
    p->page = nested_in_l2(vcpu) ? l2_page : l1_page;
    p->ctx = vcpu;
}

static enum cpu_mode mode_of(u64 cs_ar)
{
    if (cs_ar & BIT(13) && vmread(F(GUEST_EFER)) & EFER_LMA)
        return MODE_64;
    return cs_ar & SEG_AR_BIG ? MODE_32 : MODE_16;
}

#define READ_SEG(s, NAME)                                                                          \
    (*(s) = (struct seg_state){.sel = (u16)vmread(F(GUEST_##NAME##_SELECTOR)),                     \
                               .base = vmread(F(GUEST_##NAME##_BASE)),                             \
                               .limit = (u32)vmread(F(GUEST_##NAME##_LIMIT)),                      \
                               .ar = (u32)vmread(F(GUEST_##NAME##_AR))})

void vcpu_linear_ctx(struct vcpu *vcpu, struct linear_ctx *ctx, struct seg_state *seg)
{
    u64 cs_ar = vmread(F(GUEST_CS_AR));
    ctx->mode = mode_of(cs_ar);
    ctx->protected = vmread(F(GUEST_CR0)) & CR0_PE && !(vmread(F(GUEST_RFLAGS)) & RFLAGS_VM);
    ctx->linear_bits = 48;
    vcpu->gpr[GPR_RSP] = vmread(F(GUEST_RSP));
    ctx->gpr = vcpu->gpr;
    ctx->seg = seg;
    if (ctx->mode == MODE_64) { // where only these two count
        seg[SEG_FS].base = vmread(F(GUEST_FS_BASE));
        seg[SEG_GS].base = vmread(F(GUEST_GS_BASE));
        return;
    }
    READ_SEG(&seg[SEG_FS], FS);
    READ_SEG(&seg[SEG_GS], GS);
    READ_SEG(&seg[SEG_ES], ES);
    READ_SEG(&seg[SEG_CS], CS);
    READ_SEG(&seg[SEG_SS], SS);
    READ_SEG(&seg[SEG_DS], DS);
}

bool vcpu_access_done(struct vcpu *vcpu, enum guestpt_result r, const struct guestpt_fault *f,
                      struct guest_fault *out)
{
    if (r == GUESTPT_OK)
        return true;
    // Tables where there is no memory read as all ones, which has reserved bits set.
    *out = (struct guest_fault){.vector = VEC_PF,
                                .error = r == GUESTPT_FAULT ? f->error_code : PF_RESERVED,
                                .cr2 = f->linear};
    if (r == GUESTPT_RETRY)
        out->kind = FAULT_RETRY;
    else if (r == GUESTPT_NOT_RAM && nested_in_l2(vcpu) &&
             nested_l2_denied(vcpu, NGPA(f->gpa.v), nested_l2_qualification(f->use), f->linear))
        out->kind = FAULT_EXIT;
    return false;
}

static unsigned access_of(unsigned access)
{
    return vcpu_cpl() == 3 ? access | GUESTPT_USER : access;
}

// The short way for an operand of L1's kernel in 64-bit mode.
static bool quick_read(struct vcpu *vcpu, u64 linear, void *to, u64 len)
{
    u64 efer = vmread(F(GUEST_EFER));
    if (nested_in_l2(vcpu) || !(efer & EFER_LMA) || vcpu_cpl())
        return false;
    struct guestpt_memo memo;
    const u8 *p = guestpt_quick(&vcpu->vm->mem, vmread(F(GUEST_CR3)), efer, linear, len, &memo);
    if (p)
        memcpy(to, p, len);
    return p;
}

// Nothing is where an operand lies that the guest may access: reads are all ones, writes are lost.
static bool is_absent(enum guestpt_result r, const struct guestpt_fault *f,
                      const struct guest_fault *out)
{
    return r == GUESTPT_NOT_RAM && !(f->use & GUESTPT_TABLE) && out->kind == FAULT_EXCEPTION;
}

bool vcpu_linear_read(struct vcpu *vcpu, u64 linear, void *to, u64 len, struct guest_fault *fault)
{
    if (quick_read(vcpu, linear, to, len))
        return true;
    struct guest_paging p;
    struct guestpt_fault f;
    vcpu_paging(vcpu, &p);
    enum guestpt_result r = guest_linear_read(&p, linear, to, len, access_of(0), &f);
    if (vcpu_access_done(vcpu, r, &f, fault))
        return true;
    if (!is_absent(r, &f, fault))
        return false;
    memset(to, 0xff, len);
    return true;
}

bool vcpu_linear_write(struct vcpu *vcpu, u64 linear, const void *from, u64 len,
                       struct guest_fault *fault)
{
    struct guest_paging p;
    struct guestpt_fault f;
    vcpu_paging(vcpu, &p);
    enum guestpt_result r = guest_linear_write(&p, linear, from, len, access_of(GUESTPT_WRITE), &f);
    return vcpu_access_done(vcpu, r, &f, fault) || is_absent(r, &f, fault);
}

static bool operand_address(struct vcpu *vcpu, const struct insn_info *info, unsigned size,
                            enum mem_access access, u64 *linear, struct guest_fault *fault)
{
    struct seg_state seg[SEG_COUNT];
    struct linear_ctx ctx;
    vcpu_linear_ctx(vcpu, &ctx, seg);
    return linear_address(&ctx, &info->mem, size, access, linear, fault);
}

bool vcpu_operand_read(struct vcpu *vcpu, const struct insn_info *info, void *to, unsigned size)
{
    u64 linear;
    struct guest_fault f;
    if (operand_address(vcpu, info, size, MEM_READ, &linear, &f) &&
        vcpu_linear_read(vcpu, linear, to, size, &f))
        return true;
    vcpu_inject_fault(vcpu, &f);
    return false;
}

bool vcpu_operand_write(struct vcpu *vcpu, const struct insn_info *info, const void *from,
                        unsigned size)
{
    u64 linear;
    struct guest_fault f;
    if (operand_address(vcpu, info, size, MEM_WRITE, &linear, &f) &&
        vcpu_linear_write(vcpu, linear, from, size, &f))
        return true;
    vcpu_inject_fault(vcpu, &f);
    return false;
}
