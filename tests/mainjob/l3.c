/*
 * The smallest guest of /dev/kvm, for an L2 that is a hypervisor itself: its L3 writes a line to an
 * I/O port byte by byte, after a sum that the host checks, and halts.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define GUEST_BASE 0x1000
#define GUEST_SIZE 0x1000
#define PORT 0xe9
#define SUM 5050

/* 1 + 2 + ... + 100 in AX; then the text, until its NUL; HLT. Real mode, CS.base = 0. */
static const uint8_t code[] = {
    0x31, 0xc0,             /*     xor ax, ax */
    0xb9, 0x64, 0x00,       /*     mov cx, 100 */
    0x01, 0xc8,             /* 1:  add ax, cx */
    0xe2, 0xfc,             /*     loop 1b */
    0x89, 0xc3,             /*     mov bx, ax */
    0xbe, 0x1c, 0x10,       /*     mov si, text */
    0xac,                   /* 2:  lodsb */
    0x84, 0xc0,             /*     test al, al */
    0x74, 0x06,             /*     jz 3f */
    0xba, PORT, 0x00,       /*     mov dx, PORT */
    0xee,                   /*     out dx, al */
    0xeb, 0xf5,             /*     jmp 2b */
    0xf4,                   /* 3:  hlt */
    0x90, 0x90,
    'h', 'e', 'l', 'l', 'o', ' ', 'f', 'r', 'o', 'm', ' ', 'L', '3', 0,
};

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static int set_registers(int vcpu)
{
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = GUEST_BASE, .rflags = 2};

    if (ioctl(vcpu, KVM_GET_SREGS, &s) != 0)
        return -1;
    s.cs.base = 0;
    s.cs.selector = 0;
    return ioctl(vcpu, KVM_SET_SREGS, &s) != 0 ? -1 : ioctl(vcpu, KVM_SET_REGS, &r);
}

/* Runs until HLT; collects what the guest writes. */
static int run(int vcpu, const struct kvm_run *shared, char *text, size_t size)
{
    size_t n = 0;

    for (;;) {
        if (ioctl(vcpu, KVM_RUN, 0) != 0)
            return fail("KVM_RUN");
        if (shared->exit_reason == KVM_EXIT_HLT)
            break;
        if (shared->exit_reason != KVM_EXIT_IO || shared->io.port != PORT || n + 1 == size) {
            printf("L3: exit reason %u\n", shared->exit_reason);
            return 1;
        }
        text[n++] = ((const char *)shared)[shared->io.data_offset];
    }
    text[n] = 0;
    return 0;
}

static int judge(int vcpu, const char *text)
{
    struct kvm_regs r;

    if (ioctl(vcpu, KVM_GET_REGS, &r) != 0)
        return fail("KVM_GET_REGS");
    printf("L3: %s, sum %llu\n", text, (unsigned long long)(r.rbx & 0xffff));
    return (r.rbx & 0xffff) == SUM && strcmp(text, "hello from L3") == 0 ? 0 : 1;
}

int main(void)
{
    struct kvm_userspace_memory_region region = {.guest_phys_addr = GUEST_BASE,
                                                 .memory_size = GUEST_SIZE};
    char text[64];
    int kvm = open("/dev/kvm", O_RDWR), vm, vcpu;
    void *memory = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_run *shared;

    if (kvm < 0 || (vm = ioctl(kvm, KVM_CREATE_VM, 0)) < 0)
        return fail("KVM_CREATE_VM");
    memcpy(memory, code, sizeof(code));
    region.userspace_addr = (uintptr_t)memory;
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) != 0)
        return fail("KVM_SET_USER_MEMORY_REGION");
    if ((vcpu = ioctl(vm, KVM_CREATE_VCPU, 0)) < 0)
        return fail("KVM_CREATE_VCPU");
    shared = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
                  MAP_SHARED, vcpu, 0);
    if (shared == MAP_FAILED || set_registers(vcpu) != 0)
        return fail("registers");
    return run(vcpu, shared, text, sizeof(text)) || judge(vcpu, text);
}
