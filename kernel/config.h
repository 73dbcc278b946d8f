#pragma once
// nestor.cfg: what L0 and each VM are to be. docs/configuration.md describes the language; the
// table of keys in config.c is the one list of what it knows.

#include "drivers/model/layout.h"
#include "libc/log.h"
#include "libc/types.h"

#define CONFIG_VMS         16
#define CONFIG_MODULES     16
#define CONFIG_PCI         16
#define CONFIG_CPUS        MACHINE_MAX_CPUS
#define CONFIG_STRINGS_KIB 32
#define CONFIG_STRINGS     (CONFIG_STRINGS_KIB * KIB)
#define CONFIG_VM_NAME     31
#define CONFIG_NO_PORT     (-1)
#define CONFIG_MESSAGE     256 // an error text with its NUL

enum console_kind { CONSOLE_NONE, CONSOLE_COM1 };

enum vm_kind { VM_KIND_AUTO, VM_KIND_LINUX, VM_KIND_MULTIBOOT };

// What a VM's processor says of VMX.
enum vm_vmx { VMX_FOR_VM, VMX_HIDDEN, VMX_LOCKED_OFF };

// A file that the configuration names. Strings live in struct config and end with a NUL.
struct config_file {
    const char *name; // NULL: not given
    const char *args; // "" if there are none
    u32 line;
};

struct vm_config {
    const char *name;
    u32 line; // of the section
    enum vm_kind kind;
    struct config_file kernel, initrd;
    const char *cmdline; // "" if there is none
    u64 memory;          // bytes, a multiple of 4K
    u32 memory_line;
    u32 cpus;
    u16 pci[CONFIG_PCI]; // bus << 8 | device << 3 | function
    u32 pcis;
    struct config_file module[CONFIG_MODULES];
    u32 modules;
    s32 debug_exit; // port, or CONFIG_NO_PORT
    enum vm_vmx vmx;
    bool valid;
    char error[CONFIG_MESSAGE]; // if not valid: the first error of the section
    u32 error_line;
};

struct config {
    enum console_kind console;
    u32 baud;
    enum log_level log;
    bool mitigations; // speculation barriers, where the processor needs them
    u32 nvms;
    struct vm_config vm[CONFIG_VMS];
    char strings[CONFIG_STRINGS];
    u32 strings_used;
};

// Hears of each error: the file as given to config_parse, the line from 1, and what would be right.
struct config_report {
    void (*error)(void *ctx, const char *file, u32 line, const char *message);
    void *ctx;
};

// The settings that hold where nobody says otherwise; no VMs.
void config_init(struct config *c);

// Reads `len` bytes of configuration (no NUL needed) into `c`, on which config_init was called.
// Returns the number of errors. After an error at top level the default holds; a VM whose section
// has an error is in `c` with valid == false; everything else is usable.
unsigned config_parse(struct config *c, const char *file, const char *text, size_t len,
                      const struct config_report *report);

// Reads L0's command line: words of the form key=value for keys of the top level, where commas
// stand for spaces (console=com1,9600). They override what the file says, so call it last. A first
// word without '=' is taken for the image's name, which some loaders put there. Returns the number
// of errors, reported with line 0 of "command line".
unsigned config_override(struct config *c, const char *cmdline, const struct config_report *report);
