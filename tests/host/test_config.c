// nestor.cfg: what is accepted, and what each error says.

#include "kernel/config.h"
#include "tests/host/test.h"

static struct config config;
static char errors[8000]; // "file:line: message\n" of each

static void hear(void *ctx, const char *file, u32 line, const char *message)
{
    size_t n = strlen(errors);
    (void)ctx;
    snprintf(errors + n, sizeof(errors) - n, "%s:%u: %s\n", file, line, message);
}

static const struct config_report report = {hear, NULL};

// Parses a copy of exactly the length, without a NUL.
static unsigned parse_bytes(const char *text, size_t len)
{
    char *copy = malloc(len ? len : 1);
    memcpy(copy, text, len);
    errors[0] = 0;
    config_init(&config);
    unsigned n = config_parse(&config, "nestor.cfg", copy, len, &report);
    free(copy);
    return n;
}

static unsigned parse(const char *text)
{
    return parse_bytes(text, strlen(text));
}

#define CHECK_STR(a, b)                                                                            \
    do {                                                                                           \
        CHECK(!strcmp((a), (b)));                                                                  \
        if (strcmp((a), (b)))                                                                      \
            printf("is \"%s\"\nnot \"%s\"\n", (a), (b));                                           \
    } while (0)

// The text must give this one error.
static void one_error(const char *text, const char *error)
{
    char want[400];
    snprintf(want, sizeof(want), "nestor.cfg:%s\n", error);
    CHECK_EQ(parse(text), 1);
    CHECK_STR(errors, want);
}

// The same for a line in a VM's section, as its line 2; the VM must be invalid and know why.
static void vm_error(const char *line, const char *error)
{
    char text[6000], want[400];
    snprintf(text, sizeof(text),
             "[vm a]\n%s\nkernel = k\nmemory = 8M\n[vm b]\nkernel = k\nmemory=2M", line);
    snprintf(want, sizeof(want), "2: %s", error);
    one_error(text, want);
    CHECK_EQ(config.nvms, 2);
    CHECK(!config.vm[0].valid);
    CHECK_EQ(config.vm[0].error_line, 2);
    CHECK_STR(config.vm[0].error, error);
    CHECK(config.vm[1].valid);
}

static void vm_line(const char *line)
{
    char text[6000];
    snprintf(text, sizeof(text), "[vm a]\nkernel = k\nmemory = 8M\n%s\n", line);
    CHECK_EQ(parse(text), 0);
    CHECK_STR(errors, "");
    CHECK(config.nvms == 1 && config.vm[0].valid);
}

TEST(nothing_gives_the_defaults)
{
    CHECK_EQ(parse(""), 0);
    CHECK_EQ(config.console, CONSOLE_COM1);
    CHECK_EQ(config.baud, 115200);
    CHECK_EQ(config.log, LOG_INFO);
    CHECK_EQ(config.nvms, 0);
}

TEST(the_example_of_the_documentation)
{
    CHECK_EQ(parse("# comment\n"
                   "console = com1 115200\n"
                   "[vm debian]\n"
                   "kernel  = vmlinuz\n"
                   "initrd  = initrd.img\n"
                   "cmdline = console=ttyS0\n"
                   "memory  = 1G\n"
                   "cpus    = 1\n"
                   "pci     = 00:03.0\n"
                   "[vm lab]\n"
                   "kind    = multiboot           # found from the image when left out\n"
                   "kernel  = test.elf\n"
                   "cmdline = first second\n"
                   "module  = env.txt some arguments\n"
                   "module  = other.bin           # may repeat\n"
                   "memory  = 256M\n"
                   "debug-exit = 0xf4\n"),
             0);
    CHECK_EQ(config.nvms, 2);
    struct vm_config *a = &config.vm[0], *b = &config.vm[1];
    CHECK(a->valid && b->valid);
    CHECK_STR(a->name, "debian");
    CHECK_EQ(a->line, 3);
    CHECK_EQ(a->kind, VM_KIND_AUTO);
    CHECK_STR(a->kernel.name, "vmlinuz");
    CHECK_EQ(a->kernel.line, 4);
    CHECK_STR(a->initrd.name, "initrd.img");
    CHECK_STR(a->cmdline, "console=ttyS0");
    CHECK_EQ(a->memory, GIB);
    CHECK_EQ(a->memory_line, 7);
    CHECK_EQ(a->cpus, 1);
    CHECK_EQ(a->pcis, 1);
    CHECK_EQ(a->pci[0], 3 << 3);
    CHECK_EQ(a->debug_exit, CONFIG_NO_PORT);
    CHECK_EQ(b->kind, VM_KIND_MULTIBOOT);
    CHECK(!b->initrd.name);
    CHECK_STR(b->cmdline, "first second");
    CHECK_EQ(b->modules, 2);
    CHECK_STR(b->module[0].name, "env.txt");
    CHECK_STR(b->module[0].args, "some arguments");
    CHECK_EQ(b->module[0].line, 14);
    CHECK_STR(b->module[1].name, "other.bin");
    CHECK_STR(b->module[1].args, "");
    CHECK_EQ(b->memory, 256 * MIB);
    CHECK_EQ(b->debug_exit, 0xf4);
}

TEST(line_ends_comments_and_spaces)
{
    CHECK_EQ(parse("\r\n  # a comment\r\n\tlog=debug\r\n[vm  a ]\r\nkernel=k#1 #2\r\n"
                   "memory = 4096K\r\ncmdline = a=b # c=d\r\ncpus\t=\t2"),
             0);
    CHECK_EQ(config.log, LOG_DEBUG);
    CHECK_STR(config.vm[0].name, "a");
    CHECK_STR(config.vm[0].kernel.name, "k#1");
    CHECK_STR(config.vm[0].cmdline, "a=b");
    CHECK_EQ(config.vm[0].memory, 4 * MIB);
    CHECK_EQ(config.vm[0].cpus, 2);
}

TEST(top_level_values)
{
    CHECK_EQ(parse("console = none\nlog = error"), 0);
    CHECK_EQ(config.console, CONSOLE_NONE);
    CHECK_EQ(config.log, LOG_ERROR);
    CHECK(config.mitigations);
    CHECK_EQ(parse("mitigations = off"), 0);
    CHECK(!config.mitigations);
    CHECK_EQ(parse("mitigations = auto"), 0);
    CHECK(config.mitigations);
    CHECK_EQ(parse("console = com1"), 0);
    CHECK_EQ(config.baud, 115200);
    CHECK_EQ(parse("console = com1 9600"), 0);
    CHECK_EQ(config.baud, 9600);
}

TEST(top_level_errors_leave_the_default)
{
    one_error("log = loud", "1: log = loud: expected error, warn, info or debug");
    one_error("mitigations = on", "1: mitigations = on: expected auto or off");
    CHECK_EQ(config.log, LOG_INFO);
#define BAUD "expected none, or com1 and a baud rate that divides 115200 (com1 115200)"
    one_error("\nconsole = com1 110000", "2: console = com1 110000: " BAUD);
    CHECK_EQ(config.baud, 115200);
    one_error("console = com1 0", "1: console = com1 0: " BAUD);
    one_error("console = com2", "1: console = com2: " BAUD);
    one_error("console = none 1", "1: console = none 1: " BAUD);
    one_error("console = com1 9600 8n1", "1: console = com1 9600 8n1: " BAUD);
    one_error("log = debug\nlog = info", "2: log is given twice: once is right");
    CHECK_EQ(config.log, LOG_DEBUG);
    one_error("log", "1: 'log': expected key = value");
    one_error("log =", "1: log = : expected a value after '='");
    one_error("memory = 1G", "1: memory belongs into a section that begins with [vm NAME]");
    one_error("colour = red", "1: unknown key 'colour': known here are console, log, mitigations");
}

TEST(sizes)
{
    static const struct {
        const char *text;
        u64 bytes;
    } good[] = {{"2M", 2 * MIB},          {"2097152", 2 * MIB},  {"0x200000", 2 * MIB},
                {"3m", 3 * MIB},          {"1024G", 1024 * GIB}, {"1g", GIB},
                {"1048576M", 1024 * GIB}, {"2052K", 2052 * KIB}};
    static const char *const bad[] = {"1M",
                                      "1025G",
                                      "2M5",
                                      "M",
                                      "2T",
                                      "-2M",
                                      "2.5G",
                                      "2050K1",
                                      "2097153",
                                      "2050K",
                                      "18446744073709551616",
                                      "17179869185G",
                                      "0x",
                                      "1048577M"};
    char text[100], want[200];
    for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
        snprintf(text, sizeof(text), "[vm a]\nkernel=k\nmemory=%s", good[i].text);
        CHECK_EQ(parse(text), 0);
        CHECK_EQ(config.vm[0].memory, good[i].bytes);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        snprintf(text, sizeof(text), "[vm a]\nkernel=k\nmemory=%s", bad[i]);
        snprintf(want, sizeof(want),
                 "3: memory = %s: expected a size from 2M to 1024G in steps of 4K, such as 512M",
                 bad[i]);
        CHECK_EQ(parse(text), 1);
        CHECK(strstr(errors, want));
    }
}

TEST(values_of_a_vm)
{
    vm_line("cpus = 16");
    CHECK_EQ(config.vm[0].cpus, 16);
    CHECK_EQ(config.vm[0].vmx, VMX_FOR_VM);
    vm_line("vmx = off");
    CHECK_EQ(config.vm[0].vmx, VMX_HIDDEN);
    vm_line("vmx = locked");
    CHECK_EQ(config.vm[0].vmx, VMX_LOCKED_OFF);
    vm_line("debug-exit = 0xffff");
    CHECK_EQ(config.vm[0].debug_exit, 0xffff);
    vm_line("debug-exit = 0");
    CHECK_EQ(config.vm[0].debug_exit, 0);
    vm_line("kind = linux");
    CHECK_EQ(config.vm[0].kind, VM_KIND_LINUX);
    vm_line("pci = 00:03.0, ff:1f.7\npci = 00:04.0 00:04.1");
    CHECK_EQ(config.vm[0].pcis, 4);
    CHECK_EQ(config.vm[0].pci[1], 0xffff);
    CHECK_EQ(config.vm[0].pci[3], 4 << 3 | 1);
}

TEST(errors_in_a_vm)
{
    vm_error("cpus = 0", "cpus = 0: expected a number from 1 to 16");
    vm_error("cpus = 17", "cpus = 17: expected a number from 1 to 16");
    vm_error("cpus = two", "cpus = two: expected a number from 1 to 16");
    vm_error("debug-exit = 0x10000",
             "debug-exit = 0x10000: expected an I/O port from 0 to 0xffff, such as 0xf4");
    vm_error("kind = windows", "kind = windows: expected linux or multiboot");
    vm_error("initrd = a b", "initrd = a b: expected one file name without spaces");
    vm_error("log = debug", "log belongs before the first [vm NAME]");
    vm_error("memroy = 1G",
             "unknown key 'memroy': known here are kind, kernel, initrd, cmdline, module, "
             "memory, cpus, pci, debug-exit, vmx");
}

TEST(pci_errors)
{
    static const char *const bad[] = {"0:3.0",   "00:20.0", "00:03.8", "00:03,0",
                                      "zz:03.0", "00-03.0", "00:03.0x"};
    char line[60], want[200];
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        snprintf(line, sizeof(line), "pci = %s", bad[i]);
        snprintf(want, sizeof(want),
                 "%s: expected PCI functions as bus:device.function, such as 00:03.0 00:04.1",
                 line);
        vm_error(line, want);
    }
    vm_error("pci = 00:03.0 00:03.0",
             "pci = 00:03.0 00:03.0: expected a function that no VM has yet");
    one_error("[vm a]\nkernel=k\nmemory=2M\npci=00:03.0\n[vm b]\nkernel=k\nmemory=2M\npci=00:03.0",
              "8: pci = 00:03.0: expected a function that no VM has yet");
    CHECK(config.vm[0].valid && !config.vm[1].valid);
}

TEST(sections)
{
    static const char want[] =
        "expected [vm NAME], NAME of up to 31 letters, digits, '-', '_' and '.'";
    static const char *const bad[] = {
        "[vm]",     "[vm a b]", "[vm a",
        "[]",       "[",        "[machine a]",
        "[vm a/b]", "[vm a]]",  "[vm abcdefghijklmnopqrstuvwxyz123456]"};
    char text[200], error[200];
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        // The rest of the section is skipped without further errors.
        snprintf(text, sizeof(text), "%s\nnonsense\nmemory=1\n[vm x]\nkernel=k\nmemory=2M", bad[i]);
        snprintf(error, sizeof(error), "1: %s", want);
        one_error(text, error);
        CHECK(config.nvms == 1 && config.vm[0].valid);
    }
}

TEST(what_a_section_lacks)
{
    one_error("log = info\n[vm a]\nmemory=2M\n", "2: VM a has no kernel: add kernel = FILE");
    CHECK(!config.vm[0].valid);
    CHECK_EQ(config.vm[0].error_line, 2);
    one_error("[vm a]\nkernel=k\n[vm b]\nkernel=k\nmemory=2M",
              "1: VM a has no memory: add a line such as memory = 512M");
    CHECK(!config.vm[0].valid && config.vm[1].valid);
    one_error("[vm a]\nkernel=k\nmemory=2M\nkind=linux\nmodule=m",
              "1: VM a is of kind linux, which takes initrd = FILE and no module");
    one_error("[vm a]\nkernel=k\nmemory=2M\nkind=multiboot\ninitrd=m",
              "1: VM a is of kind multiboot, which takes module = FILE and no initrd");
}

TEST(several_errors_keep_the_first)
{
    CHECK_EQ(parse("[vm a]\ncpus = 0\ncpus = 1\nfoo = 2"), 3);
    CHECK_EQ(config.vm[0].error_line, 2);
    CHECK_STR(config.vm[0].error, "cpus = 0: expected a number from 1 to 16");
}

TEST(names_that_clash)
{
    one_error("[vm a]\nkernel=k\nmemory=2M\n[vm a]\nkernel=k\nmemory=2M",
              "4: line 1 describes a VM named a already: take another name");
    CHECK(config.vm[0].valid && !config.vm[1].valid);
}

TEST(too_many)
{
    char text[6000] = "";
    for (unsigned i = 0; i < CONFIG_VMS + 1; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text),
                 "[vm v%u]\nkernel=k\nmemory=2M\n", i);
    one_error(text, "49: expected at most 16 VMs");
    CHECK_EQ(config.nvms, 16);
    CHECK(config.vm[15].valid);
    strcpy(text, "[vm a]\nkernel=k\nmemory=2M\n");
    for (unsigned i = 0; i < CONFIG_MODULES + 1; i++)
        strcat(text, "module=m\n");
    one_error(text, "20: module = m: expected at most 16 modules");
    strcpy(text, "[vm a]\nkernel=k\nmemory=2M\npci=");
    for (unsigned i = 0; i < CONFIG_PCI + 1; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "01:%02x.0 ", i);
    one_error(text,
              "4: pci = 01:00.0 01:01.0 01:02.0 01:03.0 01:04.0 : expected at most 16 functions");
}

TEST(long_lines)
{
    char line[5000];
    memset(line, 'x', sizeof(line));
    memcpy(line, "cmdline = ", 10);
    line[4096] = 0;
    vm_line(line);
    CHECK_EQ(strlen(config.vm[0].cmdline), 4086);
    line[4096] = 'x';
    line[4097] = 0;
    vm_error(line, "the line is too long: expected at most 4096 characters");
}

TEST(strings_beyond_their_space)
{
    static char text[64 * KIB];
    size_t n = 0;
    for (unsigned i = 0; i < 9; i++) {
        n += (size_t)sprintf(text + n, "[vm v%u]\nkernel=k\nmemory=2M\ncmdline=", i);
        memset(text + n, 'y', 4000);
        n += 4000;
        text[n++] = '\n';
    }
    CHECK_EQ(parse_bytes(text, n), 1);
    CHECK(strstr(errors, "expected names and command lines of at most 32K in the whole file"));
    CHECK(config.vm[7].valid && !config.vm[8].valid);
}

TEST(control_characters)
{
    vm_error("cmdline = a\x1b[2J", "the line has a control character: expected plain text");
    CHECK_EQ(parse_bytes("log = de\0bug", 12), 1);
    CHECK_EQ(parse("log = caf\xc3\xa9"), 1);
    CHECK_STR(errors, "nestor.cfg:1: log = caf??: expected error, warn, info or debug\n");
}

TEST(command_line_overrides)
{
    static const struct {
        const char *text;
        const char *error;
    } bad[] = {
        {"log=loud", "command line:0: log = loud: expected error, warn, info or debug\n"},
        {"x=1", "command line:0: unknown key 'x': known here are console, log, mitigations\n"},
        {"log=debug quiet", "command line:0: 'quiet': expected key = value\n"},
        {"memory=1G", "command line:0: memory belongs into a section that begins with [vm NAME]\n"},
    };
    CHECK_EQ(parse("log = error\nconsole = none"), 0);
    CHECK_EQ(config_override(&config, "", &report), 0);
    CHECK_EQ(config_override(&config, "  nestor.elf  console=com1,9600 log=debug ", &report), 0);
    CHECK_EQ(config.console, CONSOLE_COM1);
    CHECK_EQ(config.baud, 9600);
    CHECK_EQ(config.log, LOG_DEBUG);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        errors[0] = 0;
        CHECK_EQ(config_override(&config, bad[i].text, &report), 1);
        CHECK_STR(errors, bad[i].error);
    }
}

TEST(random_damage_is_survived)
{
    static const char sound[] =
        "console = com1 9600\n[vm a]\nkernel = k\nmemory = 1G\npci = 00:03.0\n"
        "module = a b # c\r\ndebug-exit = 0xf4\n[vm b]\nkernel=k\n";
    char text[sizeof(sound)];
    for (unsigned round = 0; round < 30000; round++) {
        memcpy(text, sound, sizeof(sound));
        for (unsigned i = 0; i < 4; i++)
            text[(unsigned)rand() % (sizeof(sound) - 1)] =
                i & 1 ? (char)rand() : sound[(unsigned)rand() % 100];
        parse_bytes(text, (unsigned)rand() % sizeof(sound)); // the sanitizers judge
    }
}
