// The vmcs12s of a vCPU: in L0's memory from VMPTRLD to VMCLEAR, in L1's region before and after. L1
// may make more VMCSs active than L0 keeps; the one not used for longest then goes to its region
// early, as a processor may do at any time.

#include "drivers/cpu.h"
#include "libc/string.h"
#include "vmx/nested/shadow.h"
#include "vmx/nested/state.h"

#define ACTIVE_MAX 64
#define EPT02_PAGES_SHARE 2 // of 3 parts of the pool

struct nvmcs *store_find(struct vcpu *vcpu, gpa_t region)
{
    struct nested *n = vcpu->nested;
    LIST_FOR(node, &n->active) {
        struct nvmcs *nv = CONTAINER_OF(node, struct nvmcs, lru);
        if (nv->gpa.v == region.v) {
            list_del(node);
            list_add(&n->active, node);
            return nv;
        }
    }
    return NULL;
}

// What is read of vmcs02 only when L1 asks for it: guest state that exits leave alone.
bool store_is_lazy(vmcs_field_t f)
{
    if (field_type(f) != FIELD_GUEST)
        return false;
    switch (field_group(f)) {
    case GROUP_SEGMENTS:
        return !field_same(f, F(GUEST_CS_AR)) && !field_same(f, F(GUEST_SS_AR));
    case GROUP_TABLES:
    case GROUP_DEBUG:
    case GROUP_MSRS:
    case GROUP_PDPTES:
        return true;
    default:
        return field_same(f, F(GUEST_PENDING_DEBUG));
    }
}

// Fields that the exit controls say are not saved keep L1's value.
static bool is_saved(const struct nvmcs *nv, vmcs_field_t f)
{
    if (field_same(f, F(GUEST_DR7)) || field_same(f, F(GUEST_DEBUGCTL)))
        return V12_HAS(&nv->v, EXIT_SAVE_DEBUG);
    if (field_same(f, F(GUEST_PAT)))
        return V12_HAS(&nv->v, EXIT_SAVE_PAT);
    if (field_same(f, F(GUEST_EFER)))
        return V12_HAS(&nv->v, EXIT_SAVE_EFER);
    return !field_same(f, F(GUEST_PERF_GLOBAL_CTRL));
}

void store_sync_lazy(struct vcpu *vcpu, struct nvmcs *nv)
{
    struct vmcs *running = vcpu->vmcs;
    bool pdptes = V12_HAS(&nv->v, EPT);
    if (!nv->lazy)
        return;
    nv->lazy = false;
    vmcs_load(&nv->vmcs02);
    for (unsigned i = 0; i < VF_COUNT; i++) {
        vmcs_field_t f = field_at(i);
        if (!store_is_lazy(f) || !vcpu->nested->exists[i] || !is_saved(nv, f))
            continue;
        if (field_group(f) == GROUP_PDPTES && !pdptes)
            continue;
        u64 v;
        if (vmread_safe(f, &v))
            v12_save(&nv->v, f, v);
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
    struct vmcs *running = vcpu->vmcs;
    store_sync_lazy(vcpu, nv);
    if (launch_state_clear)
        nv->v.launched = false;
    write_back(vcpu, nv);
    list_del(&nv->lru);
    vcpu->nested->count--;
    if (vcpu->nested->host_loaded == nv)
        vcpu->nested->host_loaded = NULL;
    release(vcpu, nv);
    vmcs_load(running);
}

// Makes room by writing the least recently used VMCS back, but never the current one.
static bool evict(struct vcpu *vcpu)
{
    struct nested *n = vcpu->nested;
    for (struct list *node = n->active.prev; node != &n->active; node = node->prev) {
        struct nvmcs *nv = CONTAINER_OF(node, struct nvmcs, lru);
        if (nv != n->current) {
            store_clear(vcpu, nv, false);
            return true;
        }
    }
    return false;
}

static struct nvmcs *try_new(struct vcpu *vcpu)
{
    struct pool *pool = &vcpu->vm->pool;
    struct nvmcs *nv = pool_page(pool);
    if (!nv)
        return NULL;
    list_init(&nv->lru);
    u8 *bitmap = pool_page(pool);
    if (bitmap)
        nv->msr_bitmap = ptr_phys(bitmap);
    if (!bitmap || !vmcs_create(&nv->vmcs02, pool, false) || !shadow_create(vcpu, nv)) {
        release(vcpu, nv);
        return NULL;
    }
    memset(bitmap, 0xff, PAGE_SIZE);
    return nv;
}

struct nvmcs *store_get(struct vcpu *vcpu, gpa_t gpa)
{
    struct nested *n = vcpu->nested;
    const struct vmcs12_region *region = guest_ptr(&vcpu->vm->mem, gpa, PAGE_SIZE);
    if (!region)
        return NULL;
    if (n->count >= ACTIVE_MAX)
        evict(vcpu);
    struct nvmcs *nv;
    while (!(nv = try_new(vcpu)))
        if (!evict(vcpu))
            return NULL;
    nv->gpa = gpa;
    v12_from_region(&nv->v, region);
    nv->vpid02 = ++this_cpu()->next_vpid;
    nv->flush_vpid = true;
    nv->shadow_due = SHADOW_ALL;
    use_vmcs(vcpu, &nv->vmcs02);
    merge_init(vcpu, nv);
    use_vmcs(vcpu, &vcpu->vmcs01);
    list_add(&n->active, &nv->lru);
    n->count++;
    return nv;
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
    list_init(&n->active);
    for (unsigned i = 0; i < VF_COUNT; i++)
        n->exists[i] = field_exists(field_at(i), &vcpu->vm->caps);
    init_env(vcpu);
    void *no_page = pool_page(&vcpu->vm->pool);
    if (!no_page)
        return false;
    n->no_page = ptr_phys(no_page);
    return init_ept02(vcpu) && shadow_init(vcpu);
}

void nested_init_vmcs01(struct vcpu *vcpu)
{
    shadow_enable(vcpu);
}
