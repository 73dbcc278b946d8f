// The vmcs12s of a vCPU: in L0's memory from VMPTRLD to VMCLEAR, in L1's region before and after.
// L1 may make more VMCSs active than L0 keeps; the one not used for longest then goes to its region
// early, as a processor may do at any time.

#include "drivers/cpu.h"
#include "libc/bits.h"
#include "libc/string.h"
#include "vmx/nested/shadow.h"
#include "vmx/nested/state.h"

#define STORE_MAX         NESTED_VPIDS // one VPID each
#define EPT02_PAGES_SHARE 2            // of 3 parts of the pool

// What is read of vmcs02 only when L1 asks for it: guest state that exits leave alone.
static u8 lazy_part(vmcs_field_t f)
{
    if (field_type(f) != FIELD_GUEST)
        return 0;
    switch (field_group(f)) {
    case GROUP_SEGMENTS:
        return field_same(f, F(GUEST_CS_AR)) || field_same(f, F(GUEST_SS_AR)) ? 0 : LAZY_SEGMENTS;
    case GROUP_TABLES:
    case GROUP_DEBUG:
    case GROUP_MSRS:
    case GROUP_PDPTES:
        return LAZY_REST;
    default:
        return field_same(f, F(GUEST_PENDING_DEBUG)) ? LAZY_REST : 0;
    }
}

#define LAZY_STATE   (GROUP(SEGMENTS) | GROUP(TABLES) | GROUP(DEBUG) | GROUP(MSRS) | GROUP(PDPTES))
#define READ_WITH_IT (GROUP(STATE) | GROUP(CRS) | GROUP(ENTRY) | GROUP(EXIT) | GROUP(PROC2))

// The groups that hypervisors change at every other entry are looked at more closely.
bool store_is_stale(const struct nvmcs *nv)
{
    const struct vmcs12 *v = &nv->v;
    u32 dirty = v->unchecked | v->unmerged;
    if (!nv->lazy)
        return false;
    if (dirty & (LAZY_STATE | READ_WITH_IT))
        return true;
    if (dirty & GROUP(CR3) && !V12_HAS(v, ENTRY_IA32E_GUEST))
        return true; // PDPTEs
    if (dirty & GROUP(PROC) && !V12_HAS(v, UNRESTRICTED))
        return true; // selectors and rights
    return dirty & GROUP(RFLAGS) &&
           (v12(nv, F(GUEST_INTERRUPTIBILITY)) || v12(nv, F(GUEST_ACTIVITY)));
}

// Fields of which the controls say whether an exit saves them; otherwise they keep L1's value.
static bool is_conditional(vmcs_field_t f)
{
    return field_width(f) == WIDTH_64 || field_same(f, F(GUEST_DR7));
}

static bool is_saved(const struct vcpu *vcpu, const struct nvmcs *nv, vmcs_field_t f)
{
    if (field_same(f, F(GUEST_DR7)) || field_same(f, F(GUEST_DEBUGCTL)))
        return V12_HAS(&nv->v, EXIT_SAVE_DEBUG);
    if (field_same(f, F(GUEST_PAT)))
        return V12_HAS(&nv->v, EXIT_SAVE_PAT);
    if (field_same(f, F(GUEST_EFER)))
        return V12_HAS(&nv->v, EXIT_SAVE_EFER);
    // With EPT of L1's, which at the exit was what vmcs02 still says.
    return field_group(f) == GROUP_PDPTES && nv->vmcs02_eptp != vcpu->nested->eptp01;
}

static void read_fields(struct nvmcs *nv, const struct field_list *list)
{
#pragma GCC unroll 4
    for (unsigned i = 0; i < list->count; i++)
        nv->v.f[list->f[i].i] = vmread(list->f[i]);
}

void store_sync_lazy(struct vcpu *vcpu, struct nvmcs *nv, unsigned parts)
{
    const struct nested *n = vcpu->nested;
    struct vmcs *running = vcpu->vmcs;
    parts &= nv->lazy;
    if (!parts)
        return;
    nv->lazy &= (u8)~parts;
    vmcs_load(&nv->vmcs02);
    if (parts & LAZY_SEGMENTS)
        read_fields(nv, &n->lazy_segments);
    if (parts & LAZY_REST) {
        read_fields(nv, &n->lazy_rest);
        for (unsigned i = 0; i < n->lazy_if.count; i++)
            if (is_saved(vcpu, nv, n->lazy_if.f[i]))
                nv->v.f[n->lazy_if.f[i].i] = vmread(n->lazy_if.f[i]);
    }
    vmcs_load(running);
}

static void write_back(struct vcpu *vcpu, struct nvmcs *nv)
{
    struct vmcs12_region *region = guest_ptr(&vcpu->vm->mem, nv->gpa, PAGE_SIZE);
    if (region)
        v12_to_region(&nv->v, region);
}

static void release(struct vcpu *vcpu, struct nvmcs *nv)
{
    struct pool *pool = &vcpu->vm->pool;
    if (nv->vmcs02.hpa.v)
        vmcs_destroy(&nv->vmcs02, pool);
    if (nv->shadow.hpa.v)
        vmcs_destroy(&nv->shadow, pool);
    if (nv->msr_bitmap.v)
        pool_return(pool, phys_ptr(nv->msr_bitmap));
    pool_return(pool, nv);
}

void store_clear(struct vcpu *vcpu, struct nvmcs *nv, bool launch_state_clear)
{
    struct nested *n = vcpu->nested;
    store_sync_lazy(vcpu, nv, LAZY_ALL);
    if (launch_state_clear)
        nv->v.launched = false;
    write_back(vcpu, nv);
    list_del(&nv->lru);
    list_add(&n->parked, &nv->lru);
    if (n->host_loaded == nv)
        n->host_loaded = NULL;
}

// Gives the pages of the least useful VMCS back: a parked one, or an active one that is not current
// and goes to its region. False: there is none.
static bool evict(struct vcpu *vcpu)
{
    struct nested *n = vcpu->nested;
    if (list_empty(&n->parked)) {
        struct list *node = n->active.prev;
        if (node != &n->active && CONTAINER_OF(node, struct nvmcs, lru) == n->current)
            node = node->prev;
        if (node == &n->active)
            return false;
        store_clear(vcpu, CONTAINER_OF(node, struct nvmcs, lru), false);
    }
    struct nvmcs *nv = CONTAINER_OF(n->parked.prev, struct nvmcs, lru);
    list_del(&nv->lru);
    n->count--;
    n->slots &= ~BIT(nv->slot);
    release(vcpu, nv);
    vmcs_load(vcpu->vmcs);
    return true;
}

static struct nvmcs *try_new(struct vcpu *vcpu)
{
    struct pool *pool = &vcpu->vm->pool;
    struct nvmcs *nv = pool_page_dirty(pool);
    if (!nv)
        return NULL;
    memset(nv, 0, sizeof(*nv));
    list_init(&nv->lru);
    u8 *bitmap = pool_page_dirty(pool);
    if (bitmap)
        nv->msr_bitmap = ptr_phys(bitmap);
    if (!bitmap || !vmcs_create(&nv->vmcs02, pool, false) || !shadow_create(vcpu, nv)) {
        release(vcpu, nv);
        return NULL;
    }
    memset(bitmap, 0xff, PAGE_SIZE);
    return nv;
}

static struct nvmcs *new_nvmcs(struct vcpu *vcpu, gpa_t gpa)
{
    struct nvmcs *nv;
    struct nested *n = vcpu->nested;
    if (n->count >= STORE_MAX)
        evict(vcpu);
    while (!(nv = try_new(vcpu)))
        if (!evict(vcpu))
            return NULL;
    n->count++;
    nv->gpa = gpa;
    nv->slot = (u8)bit_lowest(~n->slots);
    n->slots |= BIT(nv->slot);
    nv->vpid02 = (u16)(vcpu->vpid + 1 + nv->slot);
    use_vmcs(vcpu, &nv->vmcs02);
    merge_init(vcpu, nv);
    use_vmcs(vcpu, &vcpu->vmcs01);
    return nv;
}

static struct nvmcs *find(struct list *head, gpa_t region)
{
    LIST_FOR(node, head)
    {
        struct nvmcs *nv = CONTAINER_OF(node, struct nvmcs, lru);
        if (nv->gpa.v == region.v)
            return nv;
    }
    return NULL;
}

static void make_active(struct nested *n, struct nvmcs *nv)
{
    list_del(&nv->lru);
    list_add(&n->active, &nv->lru);
}

struct nvmcs *store_find(struct vcpu *vcpu, gpa_t region)
{
    struct nvmcs *nv = find(&vcpu->nested->active, region);
    if (nv)
        make_active(vcpu->nested, nv);
    return nv;
}

struct nvmcs *store_get(struct vcpu *vcpu, gpa_t gpa)
{
    const struct vmcs12_region *region = guest_ptr(&vcpu->vm->mem, gpa, PAGE_SIZE);
    if (!region)
        return NULL;
    struct nvmcs *nv = find(&vcpu->nested->parked, gpa);
    if (nv) {
        if (v12_update(&nv->v, region))
            nv->shadow_due = SHADOW_ALL;
        nv->v.unmerged |= GROUP(TSC); // L1's own offset may have changed
    } else {
        nv = new_nvmcs(vcpu, gpa);
        if (!nv)
            return NULL;
        v12_from_region(&nv->v, region);
        nv->shadow_due = SHADOW_ALL;
    }
    nv->flush_vpid = true;
    make_active(vcpu->nested, nv);
    return nv;
}

static void list_fields(struct field_list *list, enum field_group g)
{
    for (unsigned i = 0; i < VF_COUNT; i++)
        if (field_group(field_at(i)) == g && field_merge(field_at(i)) == MERGE_COPY)
            list->f[list->count++] = field_at(i);
}

// What L1's accesses to a field have to look after, and which fields they are.
static void list_care(struct nested *n, bool read_only)
{
    for (unsigned i = 0; i < VF_COUNT; i++) {
        vmcs_field_t f = field_at(i);
        u8 part = n->exists[i] ? lazy_part(f) : 0;
        struct field_list *list = is_conditional(f)       ? &n->lazy_if
                                  : part == LAZY_SEGMENTS ? &n->lazy_segments
                                                          : &n->lazy_rest;
        if (part && !field_same(f, F(GUEST_PERF_GLOBAL_CTRL)))
            list->f[list->count++] = f;
        n->care[i] = (u8)(part | (read_only && field_read_only(f) ? CARE_READ_ONLY : 0));
    }
    n->care[VF_EXIT_CTRL] |= LAZY_REST; // the controls of the exit say what it saved
}

static void invept_now(void *ctx, u64 eptp)
{
    (void)ctx;
    vmxop_invept(INVEPT_SINGLE, eptp);
}

static bool init_ept02(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    struct nested *n = vcpu->nested;
    u64 pages = (vm->pool.pages - vm->pool.fresh) * EPT02_PAGES_SHARE / 3 / vm->cpus_wanted;
    hpa_t base = pool_run(&vm->pool, pages);
    struct ept12 l1 = {.mem = &vm->mem,
                       .caps = {.large_2m = vm->caps.ept_vpid & EPT_CAP_2M,
                                .large_1g = vm->caps.ept_vpid & EPT_CAP_1G,
                                .exec_only = vm->caps.ept_vpid & EPT_CAP_EXEC_ONLY,
                                .ad = vm->caps.ept_vpid & EPT_CAP_AD,
                                .maxphyaddr = (u8)vm->phys_bits}};
    if (base.v == HPA_NONE.v || !ept02_init(&n->ept02, base, pages, &vm->ept01, &l1))
        return false;
    n->ept02.invept = invept_now;
    n->ept02.ctx = vcpu;
    return true;
}

#define DEBUGCTL_VALID 3

static void init_env(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    vcpu->nested->env = (struct entry_env){.caps = &vm->caps,
                                           .mem = &vm->mem,
                                           .cr4_valid = vcpu->cr4_mask,
                                           .efer_valid = vm->cpuid.efer,
                                           .debugctl_valid = DEBUGCTL_VALID,
                                           .phys_bits = (u8)vm->phys_bits,
                                           .linear_bits = (u8)vm->cpuid.linear_bits};
}

bool nested_init(struct vcpu *vcpu)
{
    hpa_t place = pool_run(&vcpu->vm->pool, (sizeof(struct nested) + PAGE_SIZE - 1) / PAGE_SIZE);
    if (place.v == HPA_NONE.v)
        return false;
    struct nested *n = vcpu->nested = phys_ptr(place);
    memset(n, 0, sizeof(*n));
    n->vmxon_region = VMCS_NONE;
    n->timer_deadline = ~0ull;
    n->eptp01 = ept_eptp(&vcpu->vm->ept01);
    list_init(&n->active);
    list_init(&n->parked);
    for (unsigned i = 0; i < VF_COUNT; i++)
        n->exists[i] = field_exists(field_at(i), &vcpu->vm->caps);
    memset(n->field_map, NO_FIELD, sizeof(n->field_map));
    for (unsigned i = 0; i < VF_COUNT; i++)
        if (n->exists[i])
            n->field_map[field_encoding(field_at(i))] = (u8)i;
    list_fields(&n->copy_segments, GROUP_SEGMENTS);
    list_fields(&n->copy_tables, GROUP_TABLES);
    list_fields(&n->copy_msrs, GROUP_MSRS);
    list_care(n, !(vcpu->vm->caps.misc & MISC_VMWRITE_ANY));
    init_env(vcpu);
    void *no_page = pool_page(&vcpu->vm->pool);
    if (!no_page)
        return false;
    n->no_page = ptr_phys(no_page);
    return init_ept02(vcpu) && shadow_init(vcpu);
}

u64 nested_release(struct vcpu *vcpu)
{
    vcpu->in_l2 = false;
    vcpu->nested->current = NULL;
    use_vmcs(vcpu, &vcpu->vmcs01);
    while (evict(vcpu))
        ;
    return ept02_release(&vcpu->nested->ept02);
}

void nested_init_vmcs01(struct vcpu *vcpu)
{
    shadow_enable(vcpu);
}
