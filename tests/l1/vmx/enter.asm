; The way into L2 and back.

HOST_RSP equ 0x6c14
HOST_RIP equ 0x6c16

extern l2, l2_launched

section .text
bits 64

; u64 l2_enter_raw(void): loads L2's registers from `l2`, executes VMLAUNCH or VMRESUME. Returns 0
; after a VM exit, with L2's registers in `l2`; else RFLAGS as VMLAUNCH or VMRESUME left them.
global l2_enter_raw
l2_enter_raw:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov eax, HOST_RSP
    vmwrite rax, rsp
    mov eax, HOST_RIP
    mov ecx, l2_exit
    vmwrite rax, rcx
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
    pushfq
    pop rax
    jmp l2_return
l2_exit:
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
    xor eax, eax
l2_return:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

section .note.GNU-stack noalloc noexec nowrite progbits
