// The parser of the machine's ACPI tables on any memory. The input is physical memory from
// 0xe0000 on; the checksums of the RSDP and of the tables that it leads to are put right first, so
// that the fuzzer gets past them.

#include <stdlib.h>
#include <string.h>

#include "drivers/acpi.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define BASE   0xe0000u
#define MEMORY 0x8000u

static u64 present; // bytes from BASE

static bool readable(void *ctx, hpa_t base, u64 len)
{
    (void)ctx;
    return base.v >= BASE && base.v - BASE <= present && len <= present - (base.v - BASE);
}

static void seal_rsdp(u8 *m)
{
    memcpy(m, "RSD PTR ", 8);
    m[8] = 0;
    m[8] = acpi_checksum(m, 20);
    m[32] = 0;
    m[32] = acpi_checksum(m, 36);
}

// Puts the checksum of the table at `at` right, if all of it is there.
static struct acpi_header *seal(u64 at)
{
    if (!readable(NULL, HPA(at), sizeof(struct acpi_header)))
        return NULL;
    struct acpi_header *h = phys_ptr(HPA(at));
    if (h->length < sizeof(*h) || !readable(NULL, HPA(at), h->length))
        return NULL;
    h->checksum = 0;
    h->checksum = acpi_checksum(h, h->length);
    return h;
}

static void seal_root(u64 at, u32 pointer_size)
{
    struct acpi_header *root = seal(at);
    for (u32 i = sizeof(*root); root && i + pointer_size <= root->length; i += pointer_size) {
        u64 table = 0;
        memcpy(&table, (u8 *)root + i, pointer_size);
        seal(table);
        root = seal(at); // which may be what was changed
    }
}

static void look(const struct acpi *a)
{
    struct acpi_interrupts in;
    struct acpi_fixed fixed;
    u8 type[2];
    if (acpi_interrupts(a, &in)) {
        if (in.cpus > ACPI_CPUS || in.ioapics > ACPI_IOAPICS || in.overrides > ACPI_OVERRIDES)
            abort();
        for (unsigned irq = 0; irq < 16; irq++)
            acpi_isa_irq(&in, (u8)irq);
    }
    if (acpi_fixed(a, &fixed))
        acpi_soft_off(a, &fixed, type);
    for (u32 i = 0; i < 4; i++) {
        const struct acpi_header *h = acpi_find(a, "SSDT", i);
        if (h && !readable(NULL, ptr_phys(h), h->length))
            abort();
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static const struct acpi_memory memory = {readable, NULL};
    u8 rsdp[36];
    struct acpi a;
    if (size < 48 || size > MEMORY)
        return 0;
    u8 *m = malloc(size); // exactly: reads beyond it are seen
    memcpy(m, data, size);
    phys_window = m - BASE;
    present = size;
    seal_rsdp(m);
    seal_root(((struct acpi_rsdp *)m)->rsdt, 4);
    seal_root(((struct acpi_rsdp *)m)->xsdt, 8);
    u32 found = acpi_scan(&memory, rsdp);
    if (found && !acpi_open(&a, rsdp, found, &memory))
        look(&a);
    if (!acpi_open(&a, rsdp, 20, &memory))
        look(&a);
    free(m);
    return 0;
}
