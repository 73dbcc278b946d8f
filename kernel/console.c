#include "kernel/console.h"

#include "drivers/screen.h"
#include "drivers/uart.h"
#include "kernel/paging.h"
#include "libc/lock.h"
#include "libc/printf.h"
#include "libc/x86.h"

#define COM1       0x3f8
#define BOCHS_PORT 0xe9
#define RING       (64 * 1024)
#define LINE       256
#define PREFIX     "nestor: "

static struct uart com1;
static bool bochs_port;
static struct console_settings settings = {true, 115200, LOG_INFO};
static struct spinlock lock;
static bool seized;

static char ring[RING];
static u64 ring_end;

// Who wrote last on the serial line, and whether the line is still open.
static const void *writer;
static bool line_open;

void console_init(void)
{
    uart_init(&com1, COM1, settings.baud);
    bochs_port = inb(BOCHS_PORT) == BOCHS_PORT;
}

void console_screen(const struct boot_info *info)
{
    const struct framebuffer *fb = &info->framebuffer;
    if (fb->kind != FRAMEBUFFER_TEXT || fb->width > 200 || fb->height > 100)
        return;
    void *cells = paging_map_device(fb->address, (u64)fb->pitch * fb->height);
    if (cells)
        screen_init(cells, fb->width, fb->height);
}

void console_configure(const struct console_settings *s)
{
    if (s->baud != settings.baud || s->com1 != settings.com1) {
        if (s->com1)
            uart_init(&com1, COM1, s->baud);
        else
            com1.present = false;
    }
    settings = *s;
}

static void serial_put(char c)
{
    if (c == '\n')
        uart_put(&com1, '\r');
    uart_put(&com1, (u8)c);
    if (bochs_port)
        outb(BOCHS_PORT, (u8)c);
}

static void serial_text(const char *s)
{
    while (*s)
        serial_put(*s++);
}

// Gives the serial line to `who`, closing the other writer's open line.
static void take_line(const void *who)
{
    if (line_open && writer != who) {
        serial_put('\n');
        line_open = false;
    }
    writer = who;
}

static void keep(const char *s)
{
    for (; *s; s++)
        ring[ring_end++ % RING] = *s;
}

static void enter(void)
{
    if (!seized)
        spin_lock(&lock);
}

static void leave(void)
{
    if (!seized)
        spin_unlock(&lock);
}

void log_at(enum log_level level, const char *fmt, ...)
{
    char line[LINE];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    enter();
    keep(line);
    keep("\n");
    if (level <= settings.level) {
        take_line(NULL);
        serial_text(PREFIX);
        serial_text(line);
        serial_put('\n');
        for (const char *s = line; *s; s++)
            screen_put(*s);
        screen_put('\n');
    }
    leave();
}

void console_vm_put(const void *vm, const char *tag, u8 byte)
{
    enter();
    take_line(vm);
    if (!line_open && tag) {
        serial_text(tag);
        serial_text(": ");
    }
    uart_put(&com1, byte);
    if (bochs_port)
        outb(BOCHS_PORT, byte);
    line_open = byte != '\n';
    leave();
}

int console_get(void)
{
    return uart_get(&com1);
}

void console_receive_irq(void)
{
    uart_receive_irq(&com1, true);
}

void console_seize(void)
{
    for (int i = 0; i < 1000000 && lock.next != lock.serving; i++)
        __builtin_ia32_pause();
    seized = true;
}

size_t console_history(char *to, size_t size)
{
    enter();
    u64 n = MIN(MIN(ring_end, RING), size);
    for (u64 i = 0; i < n; i++)
        to[i] = ring[(ring_end - n + i) % RING];
    leave();
    return n;
}

void console_drain(void)
{
    uart_drain(&com1);
}
