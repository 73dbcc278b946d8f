// From vmcs12 to vmcs02: one function for each group of fields, run when L1 changed the group.

#include "drivers/cpu.h"
#include "vmx/msr.h"
#include "vmx/nested/state.h"
#include "vmx/vmcs01.h"

#define EFER_LONG (EFER_LME | EFER_LMA)

static u64 limit(enum control_word w, u64 v)
{
    return (v | vmx.caps.word[w].must) & vmx.caps.word[w].may;
}

// L0's pointer to a page that L1 names, or NULL where L1 has no memory.
static u8 *l1_page(struct vcpu *vcpu, u64 address)
{
    return guest_ptr(&vcpu->vm->mem, GPA(address), PAGE_SIZE);
}

static void write_pin(struct nvmcs *nv)
{
    vmwrite(F(PIN_CTRL), limit(WORD_PIN, control_merge_word(
                                             WORD_PIN, v12_controls(&nv->v, WORD_PIN), &vmx.caps) |
                                             CTL_PREEMPTION_TIMER));
}

// The bits of the primary controls that the table leaves to this function.
static void write_proc(struct vcpu *vcpu, struct nvmcs *nv)
{
    u64 l1 = v12_controls(&nv->v, WORD_PROC);
    u64 proc = control_merge_word(WORD_PROC, l1, &vmx.caps) | CTL_MSR_BITMAPS;
    nv->proc_l1 = (u32)(l1 & (CTL_INTR_WINDOW | CTL_NMI_WINDOW));
    // CR8 is L1's own TPR unless L1 shadows it: L0 then emulates the access.
    if (l1 & CTL_TPR_SHADOW)
        proc |= l1 & (CTL_TPR_SHADOW | CTL_CR8_LOAD_EXITING | CTL_CR8_STORE_EXITING);
    else
        proc |= CTL_CR8_LOAD_EXITING | CTL_CR8_STORE_EXITING;
    nv->vmcs02.proc = (u32)limit(WORD_PROC, proc | nv->proc_l1);
    vmwrite(F(PROC_CTRL), nv->vmcs02.proc);
    (void)vcpu;
}

static void write_proc2(struct vcpu *vcpu, struct nvmcs *nv)
{
    u64 l1 = v12_controls(&nv->v, WORD_PROC2);
    u64 proc2 = control_merge_word(WORD_PROC2, l1, &vmx.caps);
    proc2 |= l1 & (CTL_VIRTUALIZE_APIC | CTL_VIRTUALIZE_X2APIC | CTL_APIC_REGISTERS |
                   CTL_VIRTUAL_INTR_DELIVERY | CTL_VMFUNC);
    if (V12_HAS(&nv->v, TSC_OFFSETTING)) // vmcs02 always has it; without it nothing is scaled
        proc2 |= l1 & CTL_TSC_SCALING;
    vmwrite(F(PROC2_CTRL), limit(WORD_PROC2, proc2));
    (void)vcpu;
}

static void write_entry(struct nvmcs *nv)
{
    vmwrite(F(ENTRY_CTRL),
            limit(WORD_ENTRY,
                  control_merge_word(WORD_ENTRY, v12_controls(&nv->v, WORD_ENTRY), &vmx.caps)));
}

static void write_exceptions(struct nvmcs *nv)
{
    // Page faults are L1's alone, so its mask and match serve as they are.
    vmwrite(F(EXCEPTION_BITMAP), v12(nv, F(EXCEPTION_BITMAP)) | vmcs01_exceptions());
    vmwrite(F(PF_ERROR_MASK), v12(nv, F(PF_ERROR_MASK)));
    vmwrite(F(PF_ERROR_MATCH), v12(nv, F(PF_ERROR_MATCH)));
}

// Pages of L1 that L0 reads, not the processor.
static void find_bitmaps(struct vcpu *vcpu, struct nvmcs *nv)
{
    bool io = V12_HAS(&nv->v, IO_BITMAPS), msr = V12_HAS(&nv->v, MSR_BITMAPS);
    nv->l1_maps.io_a = io ? l1_page(vcpu, v12(nv, F(IO_BITMAP_A))) : NULL;
    nv->l1_maps.io_b = io ? l1_page(vcpu, v12(nv, F(IO_BITMAP_B))) : NULL;
    bool shadowing = V12_HAS(&nv->v, VMCS_SHADOWING);
    nv->l1_maps.msr = msr ? l1_page(vcpu, v12(nv, F(MSR_BITMAP))) : NULL;
    nv->l1_maps.vmread = shadowing ? l1_page(vcpu, v12(nv, F(VMREAD_BITMAP))) : NULL;
    nv->l1_maps.vmwrite = shadowing ? l1_page(vcpu, v12(nv, F(VMWRITE_BITMAP))) : NULL;
    nv->msrs_stale = true;
}

// Pages of L1 that the processor uses. Where L1 has no memory an unused page of its own budget
// stands in, which reads as zeros.
static u64 pinned(struct vcpu *vcpu, u64 address)
{
    hpa_t hpa;
    return guest_to_host(&vcpu->vm->mem, GPA(address), &hpa, NULL) ? hpa.v
                                                                   : vcpu->nested->no_page.v;
}

static void write_apic(struct vcpu *vcpu, struct nvmcs *nv)
{
    if (V12_HAS(&nv->v, TPR_SHADOW))
        vmwrite(F(VIRTUAL_APIC_ADDR), pinned(vcpu, v12(nv, F(VIRTUAL_APIC_ADDR))));
    if (V12_HAS(&nv->v, VIRTUALIZE_APIC))
        vmwrite(F(APIC_ACCESS_ADDR), pinned(vcpu, v12(nv, F(APIC_ACCESS_ADDR))));
    vapic_merge(nv);
}

void merge_tsc(struct vcpu *vcpu, struct nvmcs *nv)
{
    u64 offset = vcpu->tsc_offset;
    if (V12_HAS(&nv->v, TSC_OFFSETTING)) {
        if (V12_HAS(&nv->v, TSC_SCALING)) {
            u64 mul = v12(nv, F(TSC_MULTIPLIER));
            vmwrite(F(TSC_MULTIPLIER), mul);
            offset = (u64)((__int128)(s64)offset * (__int128)(s64)(mul >> 1) >> 47);
        }
        offset += v12(nv, F(TSC_OFFSET));
    }
    vmwrite(F(TSC_OFFSET), offset);
}

// SDM, "Guest/Host Masks and Read Shadows for CR0 and CR4": bits of L1 show L1's shadow, bits that
// only L0 owns show what L1 gave L2.
static void write_cr_masks(struct vcpu *vcpu, struct nvmcs *nv)
{
    u64 mask0 = v12(nv, F(CR0_MASK)), mask4 = v12(nv, F(CR4_MASK));
    u64 cr0 = v12(nv, F(GUEST_CR0)), cr4 = v12(nv, F(GUEST_CR4));
    vmwrite(F(CR0_MASK), mask0 | CR0_L0);
    vmwrite(F(CR4_MASK), mask4 | cr4_l0(vcpu));
    vmwrite(F(CR0_SHADOW), (v12(nv, F(CR0_SHADOW)) & mask0) | (cr0 & ~mask0));
    vmwrite(F(CR4_SHADOW), (v12(nv, F(CR4_SHADOW)) & mask4) | (cr4 & ~mask4));
}

static void write_crs(struct nvmcs *nv)
{
    // A VM entry leaves CD and NW alone, and L0 keeps both clear.
    vmwrite(F(GUEST_CR0), (v12(nv, F(GUEST_CR0)) & ~(CR0_CD | CR0_NW)) | CR0_NE | CR0_ET);
    vmwrite(F(GUEST_CR4), (v12(nv, F(GUEST_CR4)) | vmx.caps.cr4_fixed0) & vmx.caps.cr4_fixed1);
}

void merge_pdptes(struct vcpu *vcpu, struct nvmcs *nv)
{
    u64 cr0 = v12(nv, F(GUEST_CR0)), cr4 = v12(nv, F(GUEST_CR4));
    u64 p[4] = {v12(nv, F(GUEST_PDPTE0)), v12(nv, F(GUEST_PDPTE1)), v12(nv, F(GUEST_PDPTE2)),
                v12(nv, F(GUEST_PDPTE3))};
    if (!(cr0 & CR0_PG) || !(cr4 & CR4_PAE) || V12_HAS(&nv->v, ENTRY_IA32E_GUEST))
        return;
    // Without EPT of L1 a VM entry loads them from memory; vmcs02 has EPT on.
    if (!V12_HAS(&nv->v, EPT))
        guest_read(&vcpu->vm->mem, p, GPA(v12(nv, F(GUEST_CR3)) & 0xffffffe0), sizeof(p));
    vmwrite(F(GUEST_PDPTE0), p[0]);
    vmwrite(F(GUEST_PDPTE1), p[1]);
    vmwrite(F(GUEST_PDPTE2), p[2]);
    vmwrite(F(GUEST_PDPTE3), p[3]);
}

static void write_debug(struct nvmcs *nv, const struct l1_state *l1)
{
    bool load = V12_HAS(&nv->v, ENTRY_LOAD_DEBUG);
    vmwrite(F(GUEST_DR7), load ? v12(nv, F(GUEST_DR7)) : l1->dr7);
    vmwrite(F(GUEST_DEBUGCTL), load ? v12(nv, F(GUEST_DEBUGCTL)) : l1->debugctl);
}

// SDM, "Loading Guest Control Registers, Debug Registers, and MSRs".
static void write_efer(struct nvmcs *nv, const struct l1_state *l1)
{
    u64 efer = v12(nv, F(GUEST_EFER));
    if (!V12_HAS(&nv->v, ENTRY_LOAD_EFER)) {
        bool lma = V12_HAS(&nv->v, ENTRY_IA32E_GUEST);
        efer = l1->efer & ~(u64)EFER_LMA;
        efer |= lma ? EFER_LMA : 0;
        // LME follows only where paging is on ("if CR0.PG is being loaded with 1").
        if (v12(nv, F(GUEST_CR0)) & CR0_PG)
            efer = lma ? efer | EFER_LME : efer & ~(u64)EFER_LME;
    }
    vmwrite(F(GUEST_EFER), efer);
}

static void write_pat(struct nvmcs *nv, const struct l1_state *l1)
{
    vmwrite(F(GUEST_PAT), V12_HAS(&nv->v, ENTRY_LOAD_PAT) ? v12(nv, F(GUEST_PAT)) : l1->pat);
}

static void copy_group(const struct nvmcs *nv, const struct field_list *list)
{
    for (unsigned i = 0; i < list->count; i++)
        vmwrite_safe(list->f[i], v12(nv, list->f[i]));
}

static void write_state(struct nvmcs *nv)
{
    vmwrite(F(GUEST_INTERRUPTIBILITY), v12(nv, F(GUEST_INTERRUPTIBILITY)));
    vmwrite(F(GUEST_PENDING_DEBUG), v12(nv, F(GUEST_PENDING_DEBUG)));
    // GUEST_ACTIVITY stays active: a halted L2 halts in vcpu->activity.
}

// Without both of its "load" and "save" controls, a register that L2 changed has to be given its
// value at each entry; with them vmcs02 goes on with what L2 left.
#define KEEPS(name) (V12_HAS(&nv->v, ENTRY_LOAD_##name) && V12_HAS(&nv->v, EXIT_SAVE_##name))

void merge_l1_state(struct nvmcs *nv, const struct l1_state *l1)
{
    const struct l1_state *old = &nv->l1_state;
    bool touched = nv->msrs_touched;
    bool debug = touched || nv->dr7_open || l1->dr7 != old->dr7 || l1->debugctl != old->debugctl;
    bool msrs = touched || l1->efer != old->efer || l1->pat != old->pat;
    if (LIKELY(!debug && !msrs))
        return;
    if (debug && !KEEPS(DEBUG))
        write_debug(nv, l1);
    if (msrs && !KEEPS(EFER))
        write_efer(nv, l1);
    if (msrs && !KEEPS(PAT))
        write_pat(nv, l1);
    nv->l1_state = *l1;
    nv->msrs_touched = false;
}

void merge_virtual_interrupts(struct nvmcs *nv)
{
    if (V12_HAS(&nv->v, TPR_SHADOW))
        vmwrite(F(TPR_THRESHOLD), v12(nv, F(TPR_THRESHOLD)));
    if (V12_HAS(&nv->v, VIRTUAL_INTR_DELIVERY))
        vmwrite(F(GUEST_INTR_STATUS), v12(nv, F(GUEST_INTR_STATUS)));
}

static void merge_controls(struct vcpu *vcpu, struct nvmcs *nv, u32 groups)
{
    if (groups & GROUP(PIN))
        write_pin(nv);
    if (groups & (GROUP(PROC)))
        write_proc(vcpu, nv);
    if (groups & (GROUP(PROC) | GROUP(PROC2)))
        write_proc2(vcpu, nv);
    if (groups & GROUP(ENTRY))
        write_entry(nv);
    if (groups & GROUP(EXCEPTIONS))
        write_exceptions(nv);
    if (groups & (GROUP(PROC) | GROUP(PROC2) | GROUP(BITMAPS)))
        find_bitmaps(vcpu, nv);
    if (groups & (GROUP(PROC) | GROUP(PROC2) | GROUP(APIC)))
        write_apic(vcpu, nv);
    if (groups & (GROUP(PROC) | GROUP(PROC2) | GROUP(TSC)))
        merge_tsc(vcpu, nv);
    if (groups & GROUP(PLE)) {
        vmwrite_safe(F(PLE_GAP), v12(nv, F(PLE_GAP)));
        vmwrite_safe(F(PLE_WINDOW), v12(nv, F(PLE_WINDOW)));
    }
    if (groups & GROUP(VPID))
        nv->flush_vpid = true;
    if (groups & (GROUP(PROC) | GROUP(ENTRY) | GROUP(EXIT)))
        nv->dr7_open = !V12_HAS(&nv->v, MOV_DR_EXITING) && !KEEPS(DEBUG);
    if (groups & (GROUP(TPR) | GROUP(PROC) | GROUP(PROC2))) // after a new control, too
        merge_virtual_interrupts(nv);
}

static void merge_guest(struct vcpu *vcpu, struct nvmcs *nv, u32 groups, const struct l1_state *l1)
{
    if (groups & (GROUP(CR_MASKS) | GROUP(CRS)))
        write_cr_masks(vcpu, nv);
    if (groups & GROUP(CRS))
        write_crs(nv);
    if (groups & (GROUP(CRS) | GROUP(CR3) | GROUP(PDPTES) | GROUP(ENTRY)))
        merge_pdptes(vcpu, nv);
    if (groups & GROUP(CR3))
        vmwrite(F(GUEST_CR3), v12(nv, F(GUEST_CR3)));
    if (groups & GROUP(SEGMENTS))
        copy_group(nv, &vcpu->nested->copy_segments);
    if (groups & GROUP(TABLES))
        copy_group(nv, &vcpu->nested->copy_tables);
    if (groups & GROUP(STATE))
        write_state(nv);
    if (groups & (GROUP(DEBUG) | GROUP(ENTRY) | GROUP(EXIT)))
        write_debug(nv, l1);
    if (groups & (GROUP(MSRS) | GROUP(ENTRY) | GROUP(EXIT) | GROUP(CRS))) {
        write_efer(nv, l1);
        write_pat(nv, l1);
    }
    if (groups & GROUP(MSRS))
        copy_group(nv, &vcpu->nested->copy_msrs);
}

void merge_rest(struct vcpu *vcpu, struct nvmcs *nv, u32 groups)
{
    merge_controls(vcpu, nv, groups);
    merge_guest(vcpu, nv, groups, &vcpu->nested->l1);
}

// An MSR is open to L2 if L0 and L1 both open it.
void merge_msr_bitmap(struct vcpu *vcpu, struct nvmcs *nv)
{
    const u64 *l0 = phys_ptr(vcpu->vm->msr_bitmap), *l1 = (const u64 *)nv->l1_maps.msr;
    u64 *to = phys_ptr(nv->msr_bitmap), *seen = nv->msrs_seen;
    nv->msrs_stale = false;
    for (unsigned i = 0; i < ARRAY_SIZE(msr_open_words); i++, seen++) {
        *seen = l1 ? l1[msr_open_words[i]] : ~0ull;
        to[msr_open_words[i]] = l0[msr_open_words[i]] | *seen;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(x2apic_words); i++, seen++)
        *seen = l1 ? l1[x2apic_words[i]] : ~0ull;
    vapic_open_msrs(nv);
}

void merge_init(struct vcpu *vcpu, struct nvmcs *nv)
{
    vmcs_init_host(&vmx.host);
    vmwrite(F(EXIT_CTRL), vmcs01_exit_controls());
    vmwrite(F(MSR_BITMAP), nv->msr_bitmap.v);
    vmwrite(F(EXIT_MSR_STORE_COUNT), 0);
    vmwrite(F(EXIT_MSR_LOAD_COUNT), 0);
    vmwrite(F(ENTRY_MSR_LOAD_COUNT), 0);
    vmwrite(F(CR3_TARGET_COUNT), 0);
    vmwrite(F(ENTRY_INTR_INFO), 0);
    vmwrite(F(GUEST_ACTIVITY), 0);
    vmwrite(F(VMCS_LINK_POINTER), ~0ull);
    vmwrite_safe(F(XSS_EXITING_BITMAP), 0);
    vmwrite_safe(F(VMFUNC_CTRL), 0); // vmfunc.c
    if (vmx.vpid)
        vmwrite(F(VPID), nv->vpid02);
    (void)vcpu;
}
