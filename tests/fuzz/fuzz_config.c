// nestor.cfg and the command line, any bytes. What comes out must keep the promises of config.h.

#include <stdlib.h>
#include <string.h>

#include "kernel/config.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static unsigned heard;

static void hear(void *ctx, const char *file, u32 line, const char *message)
{
    (void)ctx;
    (void)line;
    if (!file[0] || strlen(message) >= CONFIG_MESSAGE)
        abort();
    for (; *message; message++)
        if (*message < ' ' || *message > '~')
            abort();
    heard++;
}

static void check_vm(const struct vm_config *vm)
{
    if (vm->valid == (vm->error[0] != 0))
        abort();
    if (!vm->valid)
        return;
    if (!vm->kernel.name[0] || !vm->memory || vm->memory % PAGE_SIZE || !vm->cpus ||
        vm->cpus > CONFIG_CPUS || vm->modules > CONFIG_MODULES || vm->pcis > CONFIG_PCI)
        abort();
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static struct config c;
    static const struct config_report report = {hear, NULL};
    heard = 0;
    config_init(&c);
    if (config_parse(&c, "fuzz.cfg", (const char *)data, size, &report) != heard)
        abort();
    for (u32 i = 0; i < c.nvms; i++)
        check_vm(&c.vm[i]);
    char *line = strndup((const char *)data, size);
    heard = 0;
    if (config_override(&c, line, &report) != heard)
        abort();
    free(line);
    return 0;
}
