#pragma once
// Where text goes: COM1, port 0xE9 under Bochs, the text screen, and a ring buffer that keeps the
// last messages. L0's own lines start with "nestor: "; the serial output of the VMs shares COM1,
// line by line, with the VM's name in front when there are several.

#include "kernel/boot_info.h"
#include "libc/log.h"

struct console_settings {
    bool com1;
    u32 baud;
    enum log_level level;
};

// Consoles with default settings, before the configuration is read.
void console_init(void);

// Adds the text screen that the boot loader left, if there is one. Page tables must be L0's own.
void console_screen(const struct boot_info *info);

// What the configuration says; before it, COM1 has 115200 baud and the level is LOG_INFO.
void console_configure(const struct console_settings *settings);

// One byte that a VM wrote to its COM1. `tag` is what stands in front of its lines, or NULL.
void console_vm_put(const void *vm, const char *tag, u8 byte);

// A byte typed on COM1, or -1.
int console_get(void);

// Lets received bytes interrupt (the interrupt's handler fetches them by console_get()).
void console_receive_irq(void);

// Waits until no other CPU prints, then lets only this CPU print: for a panic.
void console_seize(void);

// The ring buffer: copies the last `size` bytes of messages into `to`, returns how many.
size_t console_history(char *to, size_t size);

// Waits until all text has left the machine.
void console_drain(void);
