// The memory of the random L1: VMCS regions, EPTs, bitmaps, lists, and the rules of random.h for
// them.

#include "tests/l1/random.h"

// The tables lie in an odd MiB: none can be taken for a large page that L2 may write to.
#define VMCS_AREA    (64 * MIB)
#define TABLE_AREA   (65 * MIB)
#define KEPT_AREA    (66 * MIB)
#define RUBBISH_AREA (67 * MIB)
#define CANARY_AREA  (100 * MIB)

enum { TABLES = 8, RUBBISH_PAGES = 16, CANARY_WORDS = 65536 };
enum { READ_EXEC = 5, RWX = 7, WRITE_BACK = 6 << 3, LARGE = 0x80 };

struct world world;
static u64 state;

void random_seed(u64 seed)
{
    state = seed ? seed : 1;
}

// xorshift64*
u64 random(void)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1d;
}

u64 below(u64 n)
{
    return (random() >> 16) % n;
}

bool one_in(u64 n)
{
    return below(n) == 0;
}

u64 random_value(void)
{
    static const u64 odd[] = {0,
                              1,
                              7,
                              0xff,
                              0xfff,
                              0x1000,
                              0x200000,
                              0xffff,
                              0xffffffff,
                              0x8000000000000000,
                              0x7fffffffffff,
                              0x800000000000,
                              0xffff800000000000,
                              ~0ull,
                              0x80000b0e,
                              0x80000202,
                              0x400,
                              0xc093};
    switch (below(4)) {
    case 0:
        return odd[below(ARRAY_SIZE(odd))];
    case 1:
        return BIT(below(64));
    case 2:
        return random();
    default:
        return random() & 0xffff;
    }
}

// ------------------------------------------------------------------------------------------ places

u64 world_vmcs(u32 i)
{
    return VMCS_AREA + i * PAGE_SIZE;
}

u64 world_shadow(u32 i)
{
    return world_vmcs(VMCSS + i);
}

// A table of EPT that is used at its own level or at a lower one.
static u64 *table(u32 level, u64 i)
{
    return (u64 *)(TABLE_AREA + ((level - 1) * TABLES + i) * PAGE_SIZE);
}

static u64 kept_page(u32 i)
{
    return KEPT_AREA + i * PAGE_SIZE;
}

static u64 sandbox_page(void)
{
    return SANDBOX + below(SANDBOX_MB * MIB / PAGE_SIZE) * PAGE_SIZE;
}

// Addresses without memory: holes, devices, beyond the VM's memory, beyond the physical width.
static u64 nowhere(void)
{
    static const u64 places[] = {0xa0000,     0xf0000000,   0xfee00000,    0xfec00000,  0xfffff000,
                                 0x100000000, 0x1000000000, 0x10000000000, 0x7ffffff000};
    return places[below(ARRAY_SIZE(places))];
}

u64 world_written(void)
{
    switch (below(64)) {
    case 0 ... 3:
        return nowhere();
    case 4:
        return sandbox_page() + below(PAGE_SIZE);
    default:
        return sandbox_page();
    }
}

u64 world_read(u64 kept)
{
    switch (below(64)) {
    case 0 ... 3:
        return nowhere();
    case 4:
        return kept + below(PAGE_SIZE - 1) + 1;
    default:
        return kept;
    }
}

u32 world_msr(void)
{
    static const u32 known[] = {
        0x10,       0x3a,       0x3b,       0x8b,       0x9b,       0x9e,       0xfe,
        0x174,      0x175,      0x176,      0x1a0,      0x1d9,      0x200,      0x277,
        0x2ff,      0x480,      0x491,      0x802,      0x808,      0x80b,      0x83f,
        0xda0,      0xc0000080, 0xc0000081, 0xc0000082, 0xc0000084, 0xc0000100, 0xc0000101,
        0xc0000102, 0xc0000103, 0x40000000, 0xc0001000};
    return one_in(16) ? (u32)random() : known[below(ARRAY_SIZE(known))];
}

// Those that L2 may have opened: the diagnostic port and its neighbours, and ports of nothing.
u16 world_port(void)
{
    switch (below(4)) {
    case 0:
        return (u16)random();
    case 1:
        return (u16)(0x5000 + below(0xb000));
    default:
        return (u16)(0x80 + below(8));
    }
}

// --------------------------------------------------------------------------------------------- EPT

// The good EPT: all of L1's memory to read and execute, the stack and the sandbox to write; below
// the window a table that is mutated. Of it the tables of the mutated ones begin as copies.
static void build_good(void)
{
    ept_pointer();
    for (u32 i = 0; i < 2048; i++)
        ept_pd[i] &= ~2ull;
    for (u64 a = SANDBOX; a < SANDBOX + SANDBOX_MB * MIB; a += 2 * MIB)
        ept_pd[a >> 21] |= 2;
    ept_pd[WINDOW >> 21] = (u64)table(1, 0) | RWX;
    *ept_entry(l2_stack_top) |= 2;
    *ept_entry(l2_stack_top - PAGE_SIZE) |= 2;
}

static void make_good(u32 level, u64 i)
{
    u64 *t = table(level, i);
    memset(t, 0, PAGE_SIZE);
    if (level == 4)
        t[0] = (u64)table(3, i) | RWX;
    for (u64 j = 0; level == 3 && j < 4; j++)
        t[j] = (u64)table(2, j + (one_in(2) ? 4 : 0)) | RWX;
    if (level == 2)
        memcpy(t, ept_pd + i % 4 * 512, PAGE_SIZE);
    for (u64 j = 0; level == 1 && j < 512; j++)
        t[j] = sandbox_page() | WRITE_BACK | RWX;
}

// Bits that mean little: accessed, dirty, ignored ones, suppress #VE.
static u64 noise(void)
{
    return random() & 0xfff0000000000f00;
}

static u64 random_type(void)
{
    return (one_in(4) ? below(16) : 6) << 3;
}

static u64 leaf(u32 level)
{
    switch (level) {
    case 1:
        if (one_in(2)) // anywhere, but not to be written to
            return (random() & 0xfffff000) | READ_EXEC | random_type() | noise();
        return sandbox_page() | below(8) | random_type() | noise();
    case 2:
        return (SANDBOX + below(SANDBOX_MB / 2) * 2 * MIB) | LARGE | below(8) | random_type();
    case 3:
        return below(8) << 30 | LARGE | READ_EXEC | random_type() | noise();
    default:
        return (u64)table(3, 0) | LARGE | READ_EXEC;
    }
}

// Tables are entered with write permission by the regular way down only; where one is used at
// another level than its own, which is always a lower one, L2 cannot write.
static u64 random_entry(u32 level, u64 now)
{
    switch (below(8)) {
    case 0:
        return noise();
    case 1:
    case 2:
        return level > 1 ? (u64)table(level - 1, below(TABLES)) | RWX | noise() : leaf(1);
    case 3:
        return (u64)table(level + (u32)below(5 - level), below(TABLES)) | READ_EXEC | noise();
    case 4:
        return leaf(level);
    case 5:
        return nowhere() | below(8) | random_type();
    case 6:
        return (RUBBISH_AREA + below(RUBBISH_PAGES) * PAGE_SIZE) | READ_EXEC | noise();
    default:
        // Any bit but the address, the permission to write, and what tells a page from a table.
        return now ^ (BIT(below(64)) & 0xffff000000000f7d);
    }
}

static void mutate_table(void)
{
    // Rarely where much hangs on it, or L2 would get nowhere.
    u32 level = one_in(2) ? 1 : one_in(4) ? 3 + (u32)below(2) : 2;
    u64 i = below(TABLES);
    if (one_in(4)) {
        make_good(level, i);
        return;
    }
    // Where L2 goes: the first GiB and the window.
    u64 slot = level == 4 ? 0 : level == 3 ? below(2) : below(512);
    table(level, i)[slot] = random_entry(level, table(level, i)[slot]);
}

u64 world_eptp(void)
{
    u64 root = (u64)table(4, below(TABLES));
    switch (below(32)) {
    case 0:
        return root | (random() & 0xfff);
    case 1:
        return nowhere() | 0x1e;
    case 2 ... 9:
        return root | 0x1e;
    case 10 ... 17:
        return root | 0x5e;
    default:
        return (u64)ept_pml4 | 0x1e | (one_in(2) ? 0x40 : 0);
    }
}

// ------------------------------------------------------------------------------- bitmaps and lists

// Closed to writes whatever else is open: APIC base, TSC deadline, the x2APIC's registers but for
// TPR, EOI and self IPI.
static void close_msrs(void)
{
    u8 *writes = world.msrs + 2048;
    writes[0x1b / 8] = 0xff;
    writes[0x6e0 / 8] = 0xff;
    for (u32 msr = 0x800; msr < 0x900; msr += 8)
        writes[msr / 8] |= msr == 0x808 ? 0xf6 : msr == 0x838 ? 0x7f : 0xff;
}

static void mutate_bitmap(void)
{
    u16 port = world_port();
    if (one_in(2)) {
        world.msrs[below(PAGE_SIZE)] = one_in(2) ? 0 : (u8)random();
        close_msrs();
    } else if ((port >= 0x80 && port < 0x88) || port >= 0x5000) {
        u8 *bitmap = port < 0x8000 ? world.io_a : world.io_b;
        bitmap[port % 0x8000 / 8] ^= (u8)(1 << port % 8);
    }
}

// An exit that fails to store or load an MSR ends L1, so those lists hold what works.
static void mutate_list(void)
{
    static const u32 loads[] = {0xc0000081, 0xc0000082, 0xc0000084, 0xc0000102};
    static const u32 stores[] = {0x10, 0x174, 0x277, 0xc0000080, 0xc0000082, 0xc0000102};
    u64 i = below(LIST);
    switch (below(4)) {
    case 0:
        world.exit_load[i] = (struct msr_entry){loads[below(ARRAY_SIZE(loads))], 0, below(BIT(31))};
        break;
    case 1:
        world.exit_store[i] = (struct msr_entry){stores[below(ARRAY_SIZE(stores))], 0, random()};
        break;
    default:
        world.entry_load[i] = (struct msr_entry){world_msr(), one_in(16), random_value()};
    }
}

void world_mutate(void)
{
    switch (below(8)) {
    case 0:
        mutate_bitmap();
        break;
    case 1:
        mutate_list();
        break;
    case 2:
        world.eptps[below(512)] = world_eptp();
        break;
    default:
        mutate_table();
    }
}

// ------------------------------------------------------------------------------------------- start

static void build_lists(void)
{
    world.io_a = (u8 *)kept_page(0);
    world.io_b = (u8 *)kept_page(1);
    world.msrs = (u8 *)kept_page(2);
    world.entry_load = (void *)kept_page(3);
    world.exit_load = (void *)kept_page(4);
    world.exit_store = (void *)kept_page(5);
    world.eptps = (u64 *)kept_page(6);
    memset(world.io_a, 0xff, 3 * PAGE_SIZE);
    for (u32 i = 0; i < LIST; i++) {
        world.entry_load[i] = (struct msr_entry){0xc0000102, 0, i};
        world.exit_load[i] = (struct msr_entry){0xc0000102, 0, i};
        world.exit_store[i] = (struct msr_entry){0xc0000102, 0, 0};
    }
    for (u32 i = 0; i < 512; i++)
        world.eptps[i] = world_eptp();
}

static u64 canary_word(u64 i)
{
    return (i + 1) * 0x9e3779b97f4a7c15;
}

bool world_canary(void)
{
    const u64 *canary = (const u64 *)CANARY_AREA;
    for (u64 i = 0; i < CANARY_WORDS; i++)
        if (canary[i] != canary_word(i))
            return false;
    return true;
}

void world_init(void)
{
    build_good();
    for (u32 level = 1; level <= 4; level++)
        for (u64 i = 0; i < TABLES; i++)
            make_good(level, i);
    memset((void *)VMCS_AREA, 0, (VMCSS + SHADOW_VMCSS) * PAGE_SIZE);
    for (u32 i = 0; i < VMCSS; i++)
        *(u32 *)world_vmcs(i) = caps.revision;
    for (u32 i = 0; i < SHADOW_VMCSS; i++)
        *(u32 *)world_shadow(i) = caps.revision | 1u << 31;
    // No entry of EPT in the rubbish leads to memory: its address is beyond the physical width.
    u64 *rubbish = (u64 *)RUBBISH_AREA, *canary = (u64 *)CANARY_AREA, *sandbox = (u64 *)SANDBOX;
    for (u64 i = 0; i < RUBBISH_PAGES * 512; i++)
        rubbish[i] = random() | BIT(51) | BIT(50);
    for (u64 i = 0; i < CANARY_WORDS; i++)
        canary[i] = canary_word(i);
    for (u64 i = 0; i < MIB / 8; i++) // code for L2, too
        sandbox[i] = random();
    build_lists();
}
