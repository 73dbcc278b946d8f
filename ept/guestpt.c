#include "ept/guestpt.h"

#include "libc/bits.h"
#include "libc/string.h"

#define CR0_WP    BIT(16)
#define CR0_PG    BIT(31)
#define CR4_PSE   BIT(4)
#define CR4_PAE   BIT(5)
#define CR4_SMEP  BIT(20)
#define CR4_SMAP  BIT(21)
#define EFER_LMA  BIT(10)
#define EFER_NXE  BIT(11)
#define EFLAGS_AC BIT(18)

#define PTE_P     BIT(0)
#define PTE_RW    BIT(1)
#define PTE_US    BIT(2)
#define PTE_A     BIT(5)
#define PTE_D     BIT(6)
#define PTE_PS    BIT(7)
#define PTE_XD    BIT(63)
#define PTE_ADDR  0x000ffffffffff000ull

// Error code of a page fault ("Page-Fault Exceptions").
#define PF_P    1u
#define PF_RSVD 8u
#define PF_I    16u

// The guest can change an entry between the read and the setting of its flags as often as it likes.
#define GUESTPT_TRIES 4

// What differs between the modes of paging. A walk starts with a table at `levels`.
struct paging_mode {
    unsigned levels;
    unsigned index_bits; // 9 with entries of 8 bytes, 10 with 4
    u64 root;
};

struct pt_entry {
    gpa_t table;
    u64 offset;
    u64 value;
};

struct pt_walk {
    struct pt_entry entry[4];
    unsigned count;
    u64 rights; // PTE_RW and PTE_US of all levels; PTE_XD of any
    gpa_t gpa;  // of the page, or of the entry that is not RAM
};

static bool is_pae(const struct guest_paging *pg)
{
    return (pg->cr4 & CR4_PAE) && !(pg->efer & EFER_LMA);
}

static bool is_32bit(const struct guest_paging *pg)
{
    return !(pg->cr4 & CR4_PAE);
}

static struct paging_mode mode_of(const struct guest_paging *pg, u64 linear)
{
    if (is_32bit(pg))
        return (struct paging_mode){2, 10, pg->cr3 & 0xfffff000};
    if (is_pae(pg))
        return (struct paging_mode){2, 9, pg->pdpte[bits(linear, 31, 30)] & PTE_ADDR};
    return (struct paging_mode){4, 9, pg->cr3 & PTE_ADDR};
}

static u64 span(const struct paging_mode *mode, unsigned level)
{
    return PAGE_SIZE << (mode->index_bits * (level - 1));
}

static bool is_leaf(const struct guest_paging *pg, u64 entry, unsigned level)
{
    if (is_32bit(pg) && level == 2)
        return (entry & PTE_PS) && (pg->cr4 & CR4_PSE);
    return level == 1 || (level < 4 && (entry & PTE_PS));
}

// Address of the page that a leaf maps. A 4 MiB page has its address bits 39:32 in bits 20:13.
static u64 leaf_address(const struct paging_mode *mode, u64 entry, unsigned level)
{
    u64 address = entry & PTE_ADDR & ~(span(mode, level) - 1);
    if (mode->index_bits == 10 && level == 2)
        address |= bits(entry, 20, 13) << 32;
    return address;
}

// Bits that must be 0 in a present entry ("Reserved bits" of each mode of paging).
static u64 reserved_bits(const struct guest_paging *pg, const struct paging_mode *mode, u64 entry,
                         unsigned level)
{
    bool leaf = is_leaf(pg, entry, level);
    u64 wide = PTE_ADDR & ~(BIT(pg->maxphyaddr) - 1);
    if (is_32bit(pg)) {
        unsigned width =
            MAX(32u, MIN(pg->maxphyaddr, 40u)); // PSE-36: bit 21, and what is beyond the width
        return leaf && level == 2 ? BIT(21) | ((BIT(21) - 1) & ~(BIT(width - 19) - 1)) : 0;
    }
    u64 reserved = wide;
    if (!(pg->efer & EFER_NXE))
        reserved |= PTE_XD;
    if (is_pae(pg))
        reserved |= PTE_XD - BIT(52);
    if (level == 4 || (level == 3 && !pg->large_1g))
        reserved |= PTE_PS;
    else if (leaf && level > 1)
        reserved |= (span(mode, level) - 1) & ~(u64)0x1fff; // bit 12 is PAT
    return reserved;
}

static u64 read_entry(const struct guest_paging *pg, const void *slot)
{
    return is_32bit(pg) ? __atomic_load_n((const u32 *)slot, __ATOMIC_RELAXED)
                        : __atomic_load_n((const u64 *)slot, __ATOMIC_RELAXED);
}

// Reads the entries down to the leaf. `*error` gets PF_ bits if GUESTPT_FAULT.
static enum guestpt_result read_tables(const struct guest_paging *pg, u64 linear,
                                       struct pt_walk *walk, u32 *error)
{
    struct paging_mode mode = mode_of(pg, linear);
    u64 next = mode.root;
    *error = 0;
    if (is_pae(pg) && !(pg->pdpte[bits(linear, 31, 30)] & PTE_P))
        return GUESTPT_FAULT;
    *walk = (struct pt_walk){.rights = PTE_RW | PTE_US};
    for (unsigned level = mode.levels;; level--) {
        u64 index = linear / span(&mode, level) & (BIT(mode.index_bits) - 1);
        u64 offset = index * (PAGE_SIZE >> mode.index_bits);
        const u8 *table = pg->page(pg->ctx, GPA(next), GUESTPT_TABLE);
        walk->gpa = GPA(next + offset);
        if (!table)
            return GUESTPT_NOT_RAM;
        u64 entry = read_entry(pg, table + offset);
        if (!(entry & PTE_P))
            return GUESTPT_FAULT;
        if (entry & reserved_bits(pg, &mode, entry, level)) {
            *error = PF_P | PF_RSVD;
            return GUESTPT_FAULT;
        }
        walk->entry[walk->count++] = (struct pt_entry){GPA(next), offset, entry};
        walk->rights &= entry | PTE_XD;
        walk->rights |= entry & PTE_XD;
        if (is_leaf(pg, entry, level)) {
            u64 in_page = linear & (span(&mode, level) - 1);
            walk->gpa = GPA(leaf_address(&mode, entry, level) + in_page);
            return GUESTPT_OK;
        }
        next = is_32bit(pg) ? entry & 0xfffff000 : entry & PTE_ADDR;
    }
}

// "Determination of Access Rights".
static bool allowed(const struct guest_paging *pg, u64 rights, unsigned access)
{
    bool user_page = rights & PTE_US;
    if ((access & GUESTPT_FETCH) && (rights & PTE_XD))
        return false;
    if (access & GUESTPT_USER)
        return user_page && (!(access & GUESTPT_WRITE) || (rights & PTE_RW));
    if (access & GUESTPT_FETCH)
        return !user_page || !(pg->cr4 & CR4_SMEP);
    bool exempt = (pg->rflags & EFLAGS_AC) && !(access & GUESTPT_IMPLICIT);
    if (user_page && (pg->cr4 & CR4_SMAP) && !exempt)
        return false;
    return !(access & GUESTPT_WRITE) || (rights & PTE_RW) || !(pg->cr0 & CR0_WP);
}

static bool set_flags(const struct guest_paging *pg, void *slot, u64 value, u64 flags)
{
    if (is_32bit(pg)) {
        u32 old = (u32)value;
        return __atomic_compare_exchange_n((u32 *)slot, &old, old | (u32)flags, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    return __atomic_compare_exchange_n((u64 *)slot, &value, value | flags, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_RELAXED);
}

// Accessed in each entry, dirty in the leaf of a write.
static enum guestpt_result use_entries(const struct guest_paging *pg, struct pt_walk *walk,
                                       unsigned access)
{
    for (unsigned i = 0; i < walk->count; i++) {
        const struct pt_entry *entry = &walk->entry[i];
        bool dirty = i + 1 == walk->count && (access & GUESTPT_WRITE);
        u64 missing = (PTE_A | (dirty ? PTE_D : 0)) & ~entry->value;
        if (!missing)
            continue;
        u8 *table = pg->page(pg->ctx, entry->table, GUESTPT_TABLE | GUESTPT_WRITE);
        if (!table) {
            walk->gpa = GPA(entry->table.v + entry->offset);
            return GUESTPT_NOT_RAM;
        }
        if (!set_flags(pg, table + entry->offset, entry->value, missing))
            return GUESTPT_RETRY;
    }
    return GUESTPT_OK;
}

static u32 error_code(const struct guest_paging *pg, unsigned access, u32 error)
{
    bool nx = (pg->cr4 & CR4_PAE) && (pg->efer & EFER_NXE);
    bool tells_fetch = nx || (pg->cr4 & CR4_SMEP);
    return error | (access & GUESTPT_WRITE ? 2u : 0) | (access & GUESTPT_USER ? 4u : 0) |
           ((access & GUESTPT_FETCH) && tells_fetch ? PF_I : 0);
}

static enum guestpt_result translate_once(const struct guest_paging *pg, u64 linear,
                                          unsigned access, gpa_t *gpa, struct guestpt_fault *fault)
{
    struct pt_walk walk;
    u32 error;
    enum guestpt_result result = read_tables(pg, linear, &walk, &error);
    if (result == GUESTPT_OK && !allowed(pg, walk.rights, access)) {
        error = PF_P;
        result = GUESTPT_FAULT;
    }
    fault->use = GUESTPT_TABLE;
    if (result == GUESTPT_OK) {
        result = use_entries(pg, &walk, access);
        fault->use |= GUESTPT_WRITE;
    }
    if (result == GUESTPT_OK)
        *gpa = walk.gpa;
    else if (result == GUESTPT_FAULT)
        fault->error_code = error_code(pg, access, error);
    else if (result == GUESTPT_NOT_RAM)
        fault->gpa = walk.gpa;
    return result;
}

enum guestpt_result guestpt_translate(const struct guest_paging *pg, u64 linear, unsigned access,
                                      gpa_t *gpa, struct guestpt_fault *fault)
{
    enum guestpt_result result = GUESTPT_RETRY;
    if (!(pg->efer & EFER_LMA))
        linear = (u32)linear;
    *fault = (struct guestpt_fault){.linear = linear};
    if (!(pg->cr0 & CR0_PG)) {
        *gpa = GPA(linear);
        return GUESTPT_OK;
    }
    for (unsigned i = 0; i < GUESTPT_TRIES && result == GUESTPT_RETRY; i++)
        result = translate_once(pg, linear, access, gpa, fault);
    return result;
}

// L0's pointer to the page at the address in `entry`, if it is in the first range of RAM.
static inline const void *quick_page(const struct guest_mem *mem, u64 entry)
{
    u64 offset = (entry & PTE_ADDR) - mem->range[0].gpa.v;
    return LIKELY(offset < mem->range[0].size) ? phys_ptr(HPA(mem->range[0].hpa.v + offset)) : NULL;
}

// Entries are judged at the end: wherever one points that is not present, only RAM is read.
const u8 *guestpt_quick(const struct guest_mem *mem, u64 cr3, u64 efer, u64 linear, u64 len,
                        struct guestpt_memo *memo)
{
    const u64 odd = efer & EFER_NXE ? 0 : PTE_XD;
    u64 entry = cr3, all = ~0ull, any = 0;
    const u64 *table, *slot;
    const u8 *page;
    memo->efer = 0;
    if (linear % PAGE_SIZE + len > PAGE_SIZE)
        return NULL;
#define STEP(level)                                                                                \
    if (UNLIKELY(!(table = quick_page(mem, entry))))                                               \
        return NULL;                                                                               \
    slot = &table[linear >> (12 + 9 * (level - 1)) & 511];                                         \
    entry = __atomic_load_n(slot, __ATOMIC_RELAXED);                                               \
    memo->entry[4 - level] = slot;                                                                 \
    memo->value[4 - level] = entry;                                                                \
    all &= entry;                                                                                  \
    any |= entry
    STEP(4);
    STEP(3);
    if (UNLIKELY(any & PTE_PS))
        return NULL;
    STEP(2);
    if (entry & PTE_PS) {
        if (UNLIKELY(entry & 0x1ff000)) // PAT, or reserved
            return NULL;
        memo->entry[3] = slot;
        memo->value[3] = entry;
        entry |= linear & 0x1ff000;
    } else {
        STEP(1);
    }
#undef STEP
    page = quick_page(mem, entry);
    if (UNLIKELY(!page || (all & (PTE_P | PTE_A | PTE_US)) != (PTE_P | PTE_A) || any & odd))
        return NULL;
    memo->cr3 = cr3;
    memo->efer = efer;
    memo->page = linear & ~(PAGE_SIZE - 1);
    memo->at = page;
    return page + linear % PAGE_SIZE;
}

// One piece of an access that lies in one page, as L0 sees it.
struct piece {
    u8 *at;
    u64 len;
};

static enum guestpt_result find_piece(const struct guest_paging *pg, u64 linear, u64 len,
                                      unsigned access, struct piece *piece,
                                      struct guestpt_fault *fault)
{
    gpa_t gpa;
    enum guestpt_result result = guestpt_translate(pg, linear, access, &gpa, fault);
    if (result != GUESTPT_OK)
        return result;
    u64 offset = gpa.v % PAGE_SIZE;
    unsigned use = access & (GUESTPT_WRITE | GUESTPT_FETCH);
    u8 *page = pg->page(pg->ctx, GPA(gpa.v - offset), use);
    if (!page) {
        fault->gpa = gpa;
        fault->use = use;
        return GUESTPT_NOT_RAM;
    }
    *piece = (struct piece){page + offset, MIN(len, PAGE_SIZE - offset)};
    return GUESTPT_OK;
}

enum guestpt_result guest_linear_read(const struct guest_paging *pg, u64 linear, void *buf, u64 len,
                                      unsigned access, struct guestpt_fault *fault)
{
    struct piece piece;
    for (u64 done = 0; done < len; done += piece.len) {
        enum guestpt_result result =
            find_piece(pg, linear + done, len - done, access, &piece, fault);
        if (result != GUESTPT_OK)
            return result;
        memcpy((u8 *)buf + done, piece.at, piece.len);
    }
    return GUESTPT_OK;
}

enum guestpt_result guest_linear_write(const struct guest_paging *pg, u64 linear, const void *buf,
                                       u64 len, unsigned access, struct guestpt_fault *fault)
{
    struct piece piece[2];
    unsigned pieces = 0;
    for (u64 done = 0; done < len && pieces < ARRAY_SIZE(piece); done += piece[pieces++].len) {
        enum guestpt_result result = find_piece(pg, linear + done, len - done,
                                                access | GUESTPT_WRITE, &piece[pieces], fault);
        if (result != GUESTPT_OK)
            return result;
    }
    for (unsigned i = 0; i < pieces; buf = (const u8 *)buf + piece[i++].len)
        memcpy(piece[i].at, buf, piece[i].len);
    return GUESTPT_OK;
}
