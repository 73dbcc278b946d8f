// What a loader owes to a multiboot kernel: the mode at entry, command line, modules, memory map.

#include "tests/l1/rt/rt.h"

static void test_entry(void)
{
    check(boot.version == 1 || boot.version == 2, "the magic number is multiboot's");
    value((u64)boot.version, "multiboot version");
    check_eq(boot_cr0 & (CR0_PG | CR0_PE), CR0_PE, "CR0 at entry: protected, not paged: PG and PE");
    check_eq(boot_cr4 & CR4_PAE, 0, "CR4.PAE at entry");
    check(boot.loader[0] != 0, "the loader has a name");
}

static void test_cmdline(void)
{
    print("val boot.cmdline: \"%s\"\n", boot.cmdline);
    check(arg_has("first"), "the word 'first' is there");
    check_eq(arg_u64("number", 0), 0x1234, "number=0x1234");
    check(!arg_has("absent"), "the word 'absent' is not");
}

// The runner makes the modules: the first holds text, the second 5000 bytes i * 7 + i / 256.
static void test_modules(void)
{
    check_eq(boot.modules, 2, "modules");
    if (boot.modules != 2)
        return;
    const struct boot_module *m = boot.module;
    print("val boot.modules: arguments \"%s\" and \"%s\"\n", m[0].args, m[1].args);
    check_eq(m[0].end - m[0].start, 14, "size of the first");
    check(!memcmp((void *)m[0].start, "hello, module\n", 14), "content of the first");
    check_eq(m[1].end - m[1].start, 5000, "size of the second");
    const u8 *p = (const u8 *)m[1].start;
    u64 bad = 0;
    for (u32 i = 0; i < 5000; i++)
        bad += p[i] != (u8)(i * 7 + i / 256);
    check_eq(bad, 0, "wrong bytes of the second");
    check(!(m[0].start & 0xfff) && !(m[1].start & 0xfff), "modules start at page boundaries");
    extern u8 image_start[], image_end[];
    for (u32 i = 0; i < 2; i++) {
        check(m[i].start >= (u64)image_end || m[i].end <= (u64)image_start,
              "module %u does not overlap the kernel", i);
        check(m[i].end <= ram_top(4 * GIB), "module %u lies in RAM", i);
    }
}

static bool is_ram(u64 a)
{
    bool ram = false;
    for (u32 i = 0; i < boot.regions; i++) {
        const struct boot_region *r = &boot.region[i];
        if (a >= r->base && a - r->base < r->length) {
            if (r->type != 1)
                return false;
            ram = true;
        }
    }
    return ram;
}

static u32 overlaps(void)
{
    u32 n = 0;
    for (u32 i = 0; i < boot.regions; i++)
        for (u32 j = 0; j < i; j++) {
            const struct boot_region *a = &boot.region[i], *b = &boot.region[j];
            n += a->base < b->base + b->length && b->base < a->base + a->length;
        }
    return n;
}

static void test_memory(void)
{
    check(boot.has_memory, "the amount of memory is given");
    check(boot.mem_lower >= 512 && boot.mem_lower <= 640, "lower memory is 512 to 640 KiB");
    check(boot.has_map, "a memory map is given");
    check_eq(overlaps(), 0, "overlapping regions");
    check(is_ram(0x1000), "0x1000 is RAM");
    check(is_ram(0x7c00), "0x7c00 is RAM");
    check(!is_ram(0xa0000), "0xa0000 is not RAM");
    check(!is_ram(0xf0000), "0xf0000 is not RAM");
    check(is_ram(MIB), "1 MiB is RAM");
    check(is_ram(32 * MIB - 1), "32 MiB - 1 is RAM");
    check(!is_ram(0xfee00000), "0xfee00000 is not RAM");
    u64 top = ram_top(3 * GIB);
    u64 want = arg_u64("memory", 0) * MIB;
    check(top <= want && top + 2 * MIB >= want, "RAM ends where the machine says, less tables");
    check(boot.mem_upper * KIB + MIB <= top && boot.mem_upper * KIB + 2 * MIB >= top,
          "upper memory agrees with the map");
}

// Writes a word to the first and the last word of each page of RAM above the image, then reads all.
static void test_ram(void)
{
    u64 top = ram_top(3 * GIB) & ~0xfffull, from = 32 * MIB, bad = 0;
    for (u64 a = from; a < top; a += 64 * KIB) {
        write64(a, a);
        write64(a + 0xff8, ~a);
    }
    for (u64 a = from; a < top; a += 64 * KIB)
        bad += read64(a) != a || read64(a + 0xff8) != ~a;
    check_eq(bad, 0, "RAM does not keep its words");
    u64 beyond = 0xf0000000;
    check_eq(read32(beyond), 0xffffffff, "where nothing is, reads");
}

static void test_acpi(void)
{
    const u8 *rsdp = acpi_rsdp();
    if (!check(rsdp != NULL, "there is an RSDP"))
        return;
    check(acpi_checksum_good(rsdp, 20), "its checksum is good");
    static const char *const wanted[] = {"FACP", "APIC"};
    for (u32 i = 0; i < ARRAY_SIZE(wanted); i++) {
        const u8 *t = acpi_table(wanted[i]);
        if (check(t != NULL, "table %s is there", wanted[i]))
            check(acpi_checksum_good(t, read32((u64)t + 4)), "checksum of %s is good", wanted[i]);
    }
    const u8 *fadt = acpi_table("FACP");
    if (!fadt)
        return;
    u64 dsdt = read32((u64)fadt + 40);
    check(!memcmp((void *)dsdt, "DSDT", 4), "FADT points to a DSDT");
    check(acpi_checksum_good((u8 *)dsdt, read32(dsdt + 4)), "checksum of DSDT is good");
    u64 facs = read32((u64)fadt + 36);
    check(facs && !(facs & 63) && !memcmp((void *)facs, "FACS", 4), "FADT points to a FACS");
}

// What boot code that goes back to real mode may ask of the firmware.
static void test_bios(void)
{
    u64 bda = 0x400;
    asm("" : "+r"(bda)); // the compiler takes so low an address for a mistake
    check_eq(read32(bda) & 0xffff, 0x3f8, "BIOS data area: port of COM1");
    check_eq(run_real(REAL_BIOS_MEMORY).a & 0xffff, 639, "INT 12H: KiB below the EBDA");
    struct real_result e820 = run_real(REAL_BIOS_E820), unknown = run_real(REAL_BIOS_UNKNOWN);
    check_eq(e820.a >> 16, 9, "INT 15H, E820: size of the first range in 64K");
    check_eq(e820.b, 1, "INT 15H, E820: the next range's number");
    check_eq(unknown.a, 1, "INT 15H, unknown function: CF");
    check_eq(unknown.b, 0x86, "INT 15H, unknown function: AH");
}

static const struct test tests[] = {
    {"entry", test_entry},   {"cmdline", test_cmdline}, {"modules", test_modules},
    {"memory", test_memory}, {"ram", test_ram},         {"acpi", test_acpi},
    {"bios", test_bios},
};

int main(void);
int main(void)
{
    return run_tests("boot", tests, ARRAY_SIZE(tests));
}
