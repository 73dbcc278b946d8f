/*
 * What ordinary programs do, timed with the TSC: the same program at every level. Prints
 *
 *     work LEVEL NAME ticks N
 *
 * where N is for one of what NAME says, but for boot: all until this program starts. As level
 * `alone` it does no more than that.
 */
#include <cpuid.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

enum { PROCESSES = 100, PAGES = 4096, PAGE = 4096, PINGS = 1000, SLEEPS = 50, CPUIDS = 200 };
#define SPINS 20000000u /* of two instructions */
#define PERIOD_NS 4000000 /* of the kernel's timer: 250 Hz */

static const char *level;

static void wrong(const char *what)
{
    printf("work %s %s wrong\n", level, what);
    exit(1);
}

static void show(const char *name, uint64_t ticks)
{
    printf("work %s %s ticks %llu\n", level, name, (unsigned long long)ticks);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/*
 * The microseconds at which the kernel logged `text`. Not by sscanf(): with that the program is a
 * fifth larger, and fork_exec() slower.
 */
static uint64_t log_time(const char *text)
{
    enum { READ_ALL = 3, SIZE = 1 << 18 };
    char *log = calloc(1, SIZE), *dot;
    char *line = log && klogctl(READ_ALL, log, SIZE - 1) > 0 ? strstr(log, text) : NULL;
    while (line && line > log && *line != '[')
        line--;
    if (!line)
        wrong("boot");
    uint64_t seconds = strtoul(line + 1, &dot, 10); /* "<6>[    1.234567] text" */
    uint64_t us = strtoul(dot + 1, NULL, 10);
    free(log); /* or fork() has more to copy */
    return seconds * 1000000 + us;
}

/*
 * Where the kernel has a paravirtual clock, its time begins earlier than where it has not. When it
 * comes to this line, it has the TSC in each case.
 */
static void boot(void)
{
    uint64_t start = now_ns(), tsc = __rdtsc(), ns;
    const char *line = "work begins\n";
    int log = open("/dev/kmsg", O_WRONLY);
    if (log < 0 || write(log, line, strlen(line)) < 0 || close(log))
        wrong("boot");
    uint64_t up = log_time("work begins") - log_time("Calibrating delay loop");
    do
        ns = now_ns() - start;
    while (ns < 50000000);
    show("boot", (uint64_t)((double)up * 1e3 * (double)(__rdtsc() - tsc) / (double)ns));
}

static void fork_exec(void)
{
    uint64_t start = __rdtsc();
    for (int i = 0; i < PROCESSES; i++) {
        int status = -1;
        pid_t pid = fork();
        if (pid == 0) {
            execl("/proc/self/exe", "work", "exit", (char *)NULL);
            _exit(255);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
            WEXITSTATUS(status) != 7)
            wrong("fork-exec");
    }
    show("fork-exec", (__rdtsc() - start) / PROCESSES);
}

/* The first pass makes the levels below find memory for it, where they have not yet. */
static void touch(const char *name)
{
    uint64_t start = __rdtsc();
    char *area = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* Large pages are off by default where there is little memory, as at L2. */
    if (area == MAP_FAILED || madvise(area, (size_t)PAGES * PAGE, MADV_NOHUGEPAGE))
        wrong(name);
    for (int i = 0; i < PAGES; i++)
        area[(size_t)i * PAGE] = 1;
    munmap(area, (size_t)PAGES * PAGE);
    show(name, (__rdtsc() - start) / PAGES);
}

static void ping_pong(void)
{
    int there[2], back[2];
    char byte = 1;
    if (pipe(there) || pipe(back))
        wrong("ping-pong");
    pid_t pid = fork();
    if (pid == 0) {
        while (read(there[0], &byte, 1) == 1 && byte)
            if (write(back[1], &byte, 1) != 1)
                _exit(1);
        _exit(0);
    }
    uint64_t start = __rdtsc();
    for (int i = 0; i < PINGS; i++)
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
            wrong("ping-pong");
    show("ping-pong", (__rdtsc() - start) / PINGS);
    byte = 0;
    if (write(there[1], &byte, 1) != 1 || waitpid(pid, NULL, 0) != pid)
        wrong("ping-pong");
}

static void naps(void)
{
    const struct timespec nap = {0, 1000000};
    uint64_t start = __rdtsc();
    for (int i = 0; i < SLEEPS; i++)
        nanosleep(&nap, NULL);
    show("nanosleep-1ms", (__rdtsc() - start) / SLEEPS);
}

static void cpuids(void)
{
    unsigned a, b, c, d;
    uint64_t start = __rdtsc();
    for (int i = 0; i < CPUIDS; i++)
        __cpuid(0, a, b, c, d);
    show("cpuid", (__rdtsc() - start) / CPUIDS);
}

/* What is not this loop is the kernel's timer, and what the levels below make of it. */
static void spin(void)
{
    uint64_t ns = now_ns(), start = __rdtsc(), ticks;
    unsigned n = SPINS;
    __asm__ volatile("1: dec %0; jnz 1b" : "+r"(n));
    ticks = __rdtsc() - start;
    ns = now_ns() - ns;
    if (ticks < 2ull * SPINS || ns < PERIOD_NS)
        wrong("timer-tick");
    show("timer-tick", (ticks - 2ull * SPINS) / (ns / PERIOD_NS));
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "exit"))
        return 7;
    level = argc > 1 ? argv[1] : "?";
    setvbuf(stdout, NULL, _IOLBF, 0);
    boot();
    if (!strcmp(level, "alone"))
        return 0;
    fork_exec();
    touch("touch-new-page");
    touch("touch-page");
    ping_pong();
    naps();
    cpuids();
    spin();
    return 0;
}
