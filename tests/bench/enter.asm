; The way into L2 and back, with nothing but what every hypervisor must do: HOST_RSP and HOST_RIP
; were written once (bench_stack, bench_exit), so that an entry costs L1 no VMWRITE of its own.

extern l2, l2_launched

section .text
bits 64

; void bench_enter(void): loads L2's registers from `l2`, executes VMLAUNCH or VMRESUME, and returns
; after the VM exit with L2's registers in `l2`. Sets bench_failed when the instruction failed.
global bench_enter
bench_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [saved_rsp], rsp
    mov rcx, [l2 + 8]
    mov rdx, [l2 + 16]
    mov rbx, [l2 + 24]
    mov rbp, [l2 + 32]
    mov rsi, [l2 + 40]
    mov rdi, [l2 + 48]
    mov r8, [l2 + 56]
    mov r9, [l2 + 64]
    mov r10, [l2 + 72]
    mov r11, [l2 + 80]
    mov r12, [l2 + 88]
    mov r13, [l2 + 96]
    mov r14, [l2 + 104]
    mov r15, [l2 + 112]
    cmp byte [l2_launched], 0
    mov rax, [l2]
    jne .resume
    vmlaunch
    jmp .failed
.resume:
    vmresume
.failed:
    mov byte [bench_failed], 1
    jmp bench_return

global bench_exit
bench_exit:
    mov [l2], rax
    mov [l2 + 8], rcx
    mov [l2 + 16], rdx
    mov [l2 + 24], rbx
    mov [l2 + 32], rbp
    mov [l2 + 40], rsi
    mov [l2 + 48], rdi
    mov [l2 + 56], r8
    mov [l2 + 64], r9
    mov [l2 + 72], r10
    mov [l2 + 80], r11
    mov [l2 + 88], r12
    mov [l2 + 96], r13
    mov [l2 + 104], r14
    mov [l2 + 112], r15
bench_return:
    mov rsp, [saved_rsp]
    mov byte [l2_launched], 1
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

section .bss
alignb 16
    resb 256
global bench_stack
bench_stack:                            ; HOST_RSP: nothing is pushed before saved_rsp is loaded
saved_rsp: resq 1
global bench_failed
bench_failed: resb 1

section .note.GNU-stack noalloc noexec nowrite progbits
