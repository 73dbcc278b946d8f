; The way into L2 and back, for a host of any kind: where it is to come back is written each time.

%include "tests/l1/vmx/enter.inc"

HOST_RSP equ 0x6c14
HOST_RIP equ 0x6c16

section .text
bits 64

; u64 l2_enter_raw(void): loads L2's registers from `l2`, executes VMLAUNCH or VMRESUME. Returns 0
; after a VM exit, with L2's registers in `l2`; else RFLAGS as VMLAUNCH or VMRESUME left them.
global l2_enter_raw
l2_enter_raw:
    PUSH_CALLEE_SAVED
    mov eax, HOST_RSP
    vmwrite rax, rsp
    mov eax, HOST_RIP
    mov ecx, l2_exit
    vmwrite rax, rcx
    L2_ENTER
    pushfq
    pop rax
    jmp l2_return
l2_exit:
    L2_KEEP_REGISTERS
    xor eax, eax
l2_return:
    POP_CALLEE_SAVED
    ret

section .note.GNU-stack noalloc noexec nowrite progbits
