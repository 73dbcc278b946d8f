/*
 * The work of the main job's L2. Each phase does something whose result it can check, and prints
 * `L2: <phase>: ok` or says what went wrong. `l2work small` does a tenth of it.
 */
#include <cpuid.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB (1024u * 1024)
#define SLEEP_NS 2000000
#define CHUNK_WORDS 512

struct work {
    unsigned processes, sleeps;
    size_t memory_words; /* a power of two */
    size_t file_bytes;
};
static const struct work whole = {200, 50, 64 * MIB / sizeof(uint64_t), 4 * MIB};
static const struct work small = {20, 5, 8 * MIB / sizeof(uint64_t), MIB / 2};
static const struct work *work = &whole;

static bool wrong(const char *what, uint64_t got, uint64_t expected)
{
    printf("L2: %s: got %llu, expected %llu\n", what, (unsigned long long)got,
           (unsigned long long)expected);
    return false;
}

/* The hypervisor's signature tells KVM from QEMU's own emulator. */
static bool runs_on_kvm(void)
{
    unsigned leaf, signature[3];

    __cpuid(0x40000000, leaf, signature[0], signature[1], signature[2]);
    printf("L2: hypervisor signature %.12s\n", (const char *)signature);
    return memcmp(signature, "KVMKVMKVM\0\0\0", sizeof(signature)) == 0;
}

static bool one_process(unsigned number)
{
    char argument[16];
    int status = -1;
    pid_t pid;

    snprintf(argument, sizeof(argument), "%u", number);
    pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", "l2work", "exit", argument, (char *)NULL);
        _exit(255);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return wrong("fork and wait", (uint64_t)pid, number);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != (int)number)
        return wrong("a process's status", (uint64_t)status, (uint64_t)number << 8);
    return true;
}

static bool processes(void)
{
    for (unsigned i = 0; i < work->processes; i++)
        if (!one_process(i))
            return false;
    return true;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/*
 * Sum of value x (2 x place + 1) over all words, visited in steps of an odd stride. The sum does
 * not depend on the order, but it does on every word's value and place.
 */
static uint64_t checksum(const uint64_t *words, size_t count, size_t stride)
{
    uint64_t sum = 0;
    size_t place = 0;

    for (size_t i = 0; i < count; i++) {
        sum += words[place] * (2 * place + 1);
        place = (place + stride) & (count - 1);
    }
    return sum;
}

static bool memory(void)
{
    uint64_t state = 88172645463325252ull, written = 0, forward, jumping;
    size_t count = work->memory_words, bytes = count * sizeof(uint64_t);
    uint64_t *words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (words == MAP_FAILED)
        return wrong("bytes of memory", 0, bytes);
    for (size_t i = 0; i < count; i++) {
        words[i] = next_random(&state);
        written += words[i] * (2 * i + 1);
    }
    forward = checksum(words, count, 1);
    /* a little more than a page: each access touches another page */
    jumping = checksum(words, count, 4096 / sizeof(*words) + 3);
    munmap(words, bytes);
    if (forward != written)
        return wrong("memory checksum", forward, written);
    return jumping == written || wrong("memory checksum, jumping", jumping, written);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A sleep may last longer than asked, never shorter, and time never goes back. */
static bool timers(void)
{
    const struct timespec pause = {.tv_nsec = SLEEP_NS};
    uint64_t start = now_ns(), before = start;

    for (unsigned i = 0; i < work->sleeps; i++) {
        uint64_t after;

        if (nanosleep(&pause, NULL) != 0)
            return wrong("nanosleep", i, work->sleeps);
        after = now_ns();
        if (after < before + SLEEP_NS)
            return wrong("nanoseconds slept", after - before, SLEEP_NS);
        before = after;
    }
    printf("L2: %u sleeps of %d us took %llu us\n", work->sleeps, SLEEP_NS / 1000,
           (unsigned long long)(before - start) / 1000);
    return true;
}

/* Writes pseudo-random chunks to the file, or reads them back and compares. */
static bool go_through_file(int fd, bool writing)
{
    uint64_t state = 1442695040888963407ull, expected[CHUNK_WORDS], got[CHUNK_WORDS];

    for (size_t at = 0; at < work->file_bytes; at += sizeof(expected)) {
        for (size_t i = 0; i < CHUNK_WORDS; i++)
            expected[i] = next_random(&state);
        if (writing) {
            if (write(fd, expected, sizeof(expected)) != (ssize_t)sizeof(expected))
                return wrong("bytes written", at, work->file_bytes);
        } else if (read(fd, got, sizeof(got)) != (ssize_t)sizeof(got) ||
                   memcmp(got, expected, sizeof(got)) != 0) {
            return wrong("bytes read and equal", at, work->file_bytes);
        }
    }
    return true;
}

static bool file(void)
{
    int fd = open("/tmp/work", O_RDWR | O_CREAT | O_TRUNC, 0600);
    bool ok = fd >= 0 && go_through_file(fd, true) && lseek(fd, 0, SEEK_SET) == 0 &&
              go_through_file(fd, false);

    close(fd);
    return unlink("/tmp/work") == 0 && ok;
}

static const struct {
    const char *name;
    bool (*run)(void);
} phases[] = {
    {"kvm", runs_on_kvm}, {"processes", processes}, {"memory", memory},
    {"timers", timers},   {"file", file},
};

int main(int argc, char **argv)
{
    if (argc > 2)
        return atoi(argv[2]); /* a process of the phase `processes` */
    if (argc > 1 && strcmp(argv[1], "small") == 0)
        work = &small;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++) {
        bool ok = phases[i].run();

        printf("L2: %s: %s\n", phases[i].name, ok ? "ok" : "failed");
        if (!ok)
            return 1;
    }
    return 0;
}
