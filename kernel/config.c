#include "kernel/config.h"

#include "libc/printf.h"
#include "libc/string.h"

#define LINE_MAX   4096
#define MEMORY_MIN (2 * MIB)
#define MEMORY_MAX (1024 * GIB)

#define STR_(x)    #x
#define STR(x)     STR_(x)

struct text {
    const char *p;
    size_t n;
};

enum section {
    SECTION_TOP,
    SECTION_VM,
    SECTION_SKIP, // after a section header that is wrong: one error is enough
};

struct parser {
    struct config *c;
    const struct config_report *report;
    const char *file;
    u32 line;
    enum section section;
    struct vm_config *vm; // of the section
    u32 seen;             // keys of this section, by their place in the table
    unsigned errors;
};

// A value's parser returns NULL, or what would have been right.
struct key {
    const char *name;
    enum section section;
    bool repeats;
    const char *(*parse)(struct parser *p, struct text value);
};

static PRINTF(2, 3) void fail(struct parser *p, const char *fmt, ...)
{
    char message[CONFIG_MESSAGE];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    for (char *c = message; *c; c++)
        if (*c < ' ' || *c > '~') // parts of the file are quoted: nothing but text for the console
            *c = '?';
    p->errors++;
    p->report->error(p->report->ctx, p->file, p->line, message);
    if (p->section == SECTION_VM && p->vm->valid) {
        p->vm->valid = false;
        p->vm->error_line = p->line;
        snprintf(p->vm->error, sizeof(p->vm->error), "%s", message);
    }
}

// ---- Pieces of text

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static struct text trim(struct text t)
{
    while (t.n && is_space(t.p[0])) {
        t.p++;
        t.n--;
    }
    while (t.n && is_space(t.p[t.n - 1]))
        t.n--;
    return t;
}

static bool equals(struct text t, const char *s)
{
    return strlen(s) == t.n && !memcmp(t.p, s, t.n);
}

// Place of the first `c`, or t.n.
static size_t find(struct text t, char c)
{
    size_t i = 0;
    while (i < t.n && t.p[i] != c)
        i++;
    return i;
}

// Takes the first word off `t`: up to white space and, in lists, up to a comma.
static struct text take_word(struct text *t, bool commas)
{
    *t = trim(*t);
    struct text word = {t->p, 0};
    while (word.n < t->n && !is_space(word.p[word.n]) && !(commas && word.p[word.n] == ','))
        word.n++;
    size_t used = MIN(word.n + 1, t->n);
    *t = trim((struct text){t->p + used, t->n - used});
    return word;
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 16;
}

// All of `t` as digits of `base`; false if there is anything else, nothing, or more than `max`.
static bool digits(struct text t, u32 base, u64 max, u64 *out)
{
    u64 v = 0;
    for (size_t i = 0; i < t.n; i++) {
        u32 d = (u32)digit_of(t.p[i]);
        if (d >= base || d > max || v > (max - d) / base)
            return false;
        v = v * base + d;
    }
    *out = v;
    return t.n > 0;
}

// A decimal number, or a hexadecimal one after 0x.
static bool number(struct text t, u64 max, u64 *out)
{
    if (t.n > 2 && t.p[0] == '0' && (t.p[1] | 0x20) == 'x')
        return digits((struct text){t.p + 2, t.n - 2}, 16, max, out);
    return digits(t, 10, max, out);
}

// A number with an optional suffix K, M or G.
static bool size(struct text t, u64 max, u64 *out)
{
    static const char suffixes[] = "kmg";
    const char *suffix = t.n ? strchr(suffixes, t.p[t.n - 1] | 0x20) : NULL;
    if (!suffix || !*suffix)
        return number(t, max, out);
    unsigned shift = 10 * (unsigned)(suffix - suffixes + 1);
    if (!number((struct text){t.p, t.n - 1}, max >> shift, out))
        return false;
    *out <<= shift;
    return true;
}

// A copy of `t` that lives in the configuration, or NULL if its space is used up.
static const char *keep(struct parser *p, struct text t)
{
    struct config *c = p->c;
    if (t.n >= CONFIG_STRINGS - c->strings_used)
        return NULL;
    char *copy = c->strings + c->strings_used;
    memcpy(copy, t.p, t.n);
    copy[t.n] = 0;
    c->strings_used += (u32)t.n + 1;
    return copy;
}

static const char no_space[] =
    "names and command lines of at most " STR(CONFIG_STRINGS_KIB) "K in the whole file";

// ---- Values of the top level

static const char *parse_console(struct parser *p, struct text value)
{
    static const char right[] = "none, or com1 and a baud rate that divides 115200 (com1 115200)";
    struct text kind = take_word(&value, true);
    u64 baud = 115200;
    if (equals(kind, "none") && !value.n) {
        p->c->console = CONSOLE_NONE;
        return NULL;
    }
    if (!equals(kind, "com1"))
        return right;
    if (value.n && (!number(value, 115200, &baud) || !baud || 115200 % baud))
        return right;
    p->c->console = CONSOLE_COM1;
    p->c->baud = (u32)baud;
    return NULL;
}

static const char *parse_log(struct parser *p, struct text value)
{
    static const char *const levels[] = {
        [LOG_ERROR] = "error", [LOG_WARN] = "warn", [LOG_INFO] = "info", [LOG_DEBUG] = "debug"};
    for (unsigned i = 0; i < ARRAY_SIZE(levels); i++)
        if (equals(value, levels[i])) {
            p->c->log = (enum log_level)i;
            return NULL;
        }
    return "error, warn, info or debug";
}

static const char *parse_mitigations(struct parser *p, struct text value)
{
    if (!equals(value, "auto") && !equals(value, "off"))
        return "auto or off";
    p->c->mitigations = equals(value, "auto");
    return NULL;
}

// ---- Values of a VM

static const char *parse_kind(struct parser *p, struct text value)
{
    if (equals(value, "linux"))
        p->vm->kind = VM_KIND_LINUX;
    else if (equals(value, "multiboot"))
        p->vm->kind = VM_KIND_MULTIBOOT;
    else
        return "linux or multiboot";
    return NULL;
}

static const char *set_file(struct parser *p, struct config_file *file, struct text name,
                            struct text args)
{
    file->line = p->line;
    file->name = keep(p, name);
    file->args = keep(p, args);
    return file->name && file->args ? NULL : no_space;
}

static const char *parse_one_file(struct parser *p, struct config_file *file, struct text value)
{
    struct text name = take_word(&value, false);
    return value.n ? "one file name without spaces" : set_file(p, file, name, value);
}

static const char *parse_kernel(struct parser *p, struct text value)
{
    return parse_one_file(p, &p->vm->kernel, value);
}

static const char *parse_initrd(struct parser *p, struct text value)
{
    return parse_one_file(p, &p->vm->initrd, value);
}

static const char *parse_module(struct parser *p, struct text value)
{
    struct vm_config *vm = p->vm;
    if (vm->modules == CONFIG_MODULES)
        return "at most " STR(CONFIG_MODULES) " modules";
    struct text name = take_word(&value, false);
    return set_file(p, &vm->module[vm->modules++], name, value);
}

static const char *parse_cmdline(struct parser *p, struct text value)
{
    const char *copy = keep(p, value);
    if (!copy)
        return no_space;
    p->vm->cmdline = copy;
    return NULL;
}

static const char *parse_memory(struct parser *p, struct text value)
{
    u64 bytes;
    if (!size(value, MEMORY_MAX, &bytes) || bytes < MEMORY_MIN || bytes % PAGE_SIZE)
        return "a size from 2M to 1024G in steps of 4K, such as 512M";
    p->vm->memory = bytes;
    p->vm->memory_line = p->line;
    return NULL;
}

static const char *parse_cpus(struct parser *p, struct text value)
{
    u64 n;
    if (!number(value, CONFIG_CPUS, &n) || !n)
        return "a number from 1 to " STR(CONFIG_CPUS);
    p->vm->cpus = (u32)n;
    return NULL;
}

// BB:DD.F in hexadecimal, all of it.
static bool parse_bdf(struct text t, u16 *out)
{
    u64 bus, dev, fn;
    if (t.n != 7 || t.p[2] != ':' || t.p[5] != '.' ||
        !digits((struct text){t.p, 2}, 16, 255, &bus) ||
        !digits((struct text){t.p + 3, 2}, 16, 31, &dev) ||
        !digits((struct text){t.p + 6, 1}, 16, 7, &fn))
        return false;
    *out = (u16)(bus << 8 | dev << 3 | fn);
    return true;
}

static bool is_assigned(const struct config *c, u16 bdf)
{
    for (u32 i = 0; i < c->nvms; i++)
        for (u32 j = 0; j < c->vm[i].pcis; j++)
            if (c->vm[i].pci[j] == bdf)
                return true;
    return false;
}

static const char *parse_pci(struct parser *p, struct text value)
{
    struct vm_config *vm = p->vm;
    while (value.n) {
        u16 bdf;
        if (!parse_bdf(take_word(&value, true), &bdf))
            return "PCI functions as bus:device.function, such as 00:03.0 00:04.1";
        if (is_assigned(p->c, bdf))
            return "a function that no VM has yet";
        if (vm->pcis == CONFIG_PCI)
            return "at most " STR(CONFIG_PCI) " functions";
        vm->pci[vm->pcis++] = bdf;
    }
    return NULL;
}

static const char *parse_vmx(struct parser *p, struct text value)
{
    if (equals(value, "on"))
        p->vm->vmx = VMX_FOR_VM;
    else if (equals(value, "off"))
        p->vm->vmx = VMX_HIDDEN;
    else if (equals(value, "locked"))
        p->vm->vmx = VMX_LOCKED_OFF;
    else
        return "on, off (the VM's processor has no VMX) or locked (its firmware locked VMX off)";
    return NULL;
}

static const char *parse_debug_exit(struct parser *p, struct text value)
{
    u64 port;
    if (!number(value, 0xffff, &port))
        return "an I/O port from 0 to 0xffff, such as 0xf4";
    p->vm->debug_exit = (s32)port;
    return NULL;
}

// Everything that the language knows.
static const struct key keys[] = {
    {"console", SECTION_TOP, false, parse_console},
    {"log", SECTION_TOP, false, parse_log},
    {"mitigations", SECTION_TOP, false, parse_mitigations},
    {"kind", SECTION_VM, false, parse_kind},
    {"kernel", SECTION_VM, false, parse_kernel},
    {"initrd", SECTION_VM, false, parse_initrd},
    {"cmdline", SECTION_VM, false, parse_cmdline},
    {"module", SECTION_VM, true, parse_module},
    {"memory", SECTION_VM, false, parse_memory},
    {"cpus", SECTION_VM, false, parse_cpus},
    {"pci", SECTION_VM, true, parse_pci},
    {"debug-exit", SECTION_VM, false, parse_debug_exit},
    {"vmx", SECTION_VM, false, parse_vmx},
};

_Static_assert(ARRAY_SIZE(keys) <= 32, "parser.seen has a bit for each");

// ---- Lines

// "kernel, initrd, ..." for a message.
static void list_keys(enum section section, char *out, size_t room)
{
    size_t n = 0;
    out[0] = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(keys) && n < room; i++)
        if (keys[i].section == section)
            n += (size_t)snprintf(out + n, room - n, "%s%s", n ? ", " : "", keys[i].name);
}

static void unknown_key(struct parser *p, struct text name)
{
    char known[160];
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
        if (equals(name, keys[i].name)) {
            fail(p, "%s belongs %s", keys[i].name,
                 keys[i].section == SECTION_VM ? "into a section that begins with [vm NAME]"
                                               : "before the first [vm NAME]");
            return;
        }
    list_keys(p->section, known, sizeof(known));
    fail(p, "unknown key '%.*s': known here are %s", (int)MIN(name.n, 30u), name.p, known);
}

static void assign(struct parser *p, struct text name, struct text value)
{
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
        const struct key *k = &keys[i];
        if (k->section != p->section || !equals(name, k->name))
            continue;
        bool again = p->seen & BIT(i) && !k->repeats;
        p->seen |= (u32)BIT(i);
        if (again) {
            fail(p, "%s is given twice: once is right", k->name);
            return;
        }
        const char *right = value.n ? k->parse(p, value) : "a value after '='";
        if (right)
            fail(p, "%s = %.*s: expected %s", k->name, (int)MIN(value.n, 40u), value.p, right);
        return;
    }
    unknown_key(p, name);
}

// Checks what only the whole section shows.
static void end_section(struct parser *p)
{
    struct vm_config *vm = p->vm;
    if (p->section != SECTION_VM || !vm->valid)
        return;
    p->line = vm->line;
    if (!vm->kernel.name)
        fail(p, "VM %s has no kernel: add kernel = FILE", vm->name);
    else if (!vm->memory)
        fail(p, "VM %s has no memory: add a line such as memory = 512M", vm->name);
    else if (vm->kind == VM_KIND_LINUX && vm->modules)
        fail(p, "VM %s is of kind linux, which takes initrd = FILE and no module", vm->name);
    else if (vm->kind == VM_KIND_MULTIBOOT && vm->initrd.name)
        fail(p, "VM %s is of kind multiboot, which takes module = FILE and no initrd", vm->name);
}

static bool is_name(struct text t)
{
    for (size_t i = 0; i < t.n; i++) {
        char c = t.p[i], lower = c | 0x20;
        if (!(lower >= 'a' && lower <= 'z') && !(c >= '0' && c <= '9') && !strchr("-_.", c))
            return false;
    }
    return t.n > 0 && t.n <= CONFIG_VM_NAME;
}

static const struct vm_config *find_vm(const struct config *c, struct text name)
{
    for (u32 i = 0; i < c->nvms; i++)
        if (equals(name, c->vm[i].name))
            return &c->vm[i];
    return NULL;
}

static void begin_vm(struct parser *p, struct text name)
{
    const struct vm_config *same = find_vm(p->c, name);
    const char *copy = p->c->nvms < CONFIG_VMS ? keep(p, name) : NULL;
    if (!copy) {
        fail(p, "expected %s",
             p->c->nvms < CONFIG_VMS ? no_space : "at most " STR(CONFIG_VMS) " VMs");
        return;
    }
    p->section = SECTION_VM;
    p->vm = &p->c->vm[p->c->nvms++];
    *p->vm = (struct vm_config){.name = copy,
                                .line = p->line,
                                .cmdline = "",
                                .cpus = 1,
                                .debug_exit = CONFIG_NO_PORT,
                                .valid = true};
    if (same)
        fail(p, "line %u describes a VM named %s already: take another name", same->line, copy);
}

static void parse_section(struct parser *p, struct text header)
{
    u32 line = p->line;
    end_section(p);
    p->line = line;
    p->section = SECTION_SKIP;
    p->seen = 0;
    struct text inner = {header.p + 1, header.n - 1};
    bool closed = inner.n && inner.p[inner.n - 1] == ']';
    inner.n -= closed;
    struct text kind = take_word(&inner, false);
    if (closed && equals(kind, "vm") && is_name(inner))
        begin_vm(p, inner);
    else
        fail(p,
             "expected [vm NAME], NAME of up to " STR(CONFIG_VM_NAME) " letters, digits, '-', '_' "
                                                                      "and '.'");
}

// A comment begins with # at the start of the line or after white space.
static struct text without_comment(struct text t)
{
    for (size_t i = 0; i < t.n; i++)
        if (t.p[i] == '#' && (!i || is_space(t.p[i - 1])))
            t.n = i;
    return trim(t);
}

static bool is_text(struct text t)
{
    for (size_t i = 0; i < t.n; i++)
        if ((u8)t.p[i] < ' ' && !is_space(t.p[i]))
            return false;
    return true;
}

static void parse_assignment(struct parser *p, struct text line)
{
    size_t at = find(line, '=');
    if (at == line.n) {
        fail(p, "'%.*s': expected key = value", (int)MIN(line.n, 40u), line.p);
        return;
    }
    assign(p, trim((struct text){line.p, at}),
           trim((struct text){line.p + at + 1, line.n - at - 1}));
}

static void parse_line(struct parser *p, struct text line)
{
    line = without_comment(line);
    bool header = line.n && line.p[0] == '[';
    if (header)
        parse_section(p, line);
    else if (!line.n || p->section == SECTION_SKIP)
        return;
    else if (line.n > LINE_MAX)
        fail(p, "the line is too long: expected at most %d characters", LINE_MAX);
    else if (!is_text(line))
        fail(p, "the line has a control character: expected plain text");
    else
        parse_assignment(p, line);
}

// ---- Entry points

void config_init(struct config *c)
{
    memset(c, 0, sizeof(*c));
    c->console = CONSOLE_COM1;
    c->baud = 115200;
    c->log = LOG_INFO;
    c->mitigations = true;
}

unsigned config_parse(struct config *c, const char *file, const char *text, size_t len,
                      const struct config_report *report)
{
    struct parser p = {.c = c, .report = report, .file = file};
    for (size_t at = 0; at < len;) {
        struct text line = {text + at, len - at};
        line.n = find(line, '\n');
        p.line++;
        parse_line(&p, line);
        at += line.n + 1;
    }
    end_section(&p);
    return p.errors;
}

unsigned config_override(struct config *c, const char *cmdline, const struct config_report *report)
{
    struct parser p = {.c = c, .report = report, .file = "command line"};
    struct text rest = {cmdline, strlen(cmdline)};
    for (bool first = true; (rest = trim(rest)).n; first = false) {
        struct text word = take_word(&rest, false);
        bool is_image = first && find(word, '=') == word.n;
        if (!is_image)
            parse_assignment(&p, word);
    }
    return p.errors;
}
