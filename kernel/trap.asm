; Exception and interrupt entries of L0: one stub per vector makes a uniform struct trap_frame and
; calls trap_handle(frame).

bits 64
default rel

section .text

extern trap_handle

; Vectors 8, 10-14, 17, 21, 29, 30 push an error code; the others get 0.
%define HAS_CODE(v) \
        ((v) == 8 || ((v) >= 10 && (v) <= 14) || (v) == 17 || (v) == 21 || (v) == 29 || (v) == 30)

%assign v 0
%rep 256
align 16
trap_stub_%+v:
%if !HAS_CODE(v)
        push    0
%endif
        push    strict dword v
        jmp     trap_common
%assign v v + 1
%endrep

trap_common:
        cld
        push    rax
        push    rcx
        push    rdx
        push    rbx
        push    rbp
        push    rsi
        push    rdi
        push    r8
        push    r9
        push    r10
        push    r11
        push    r12
        push    r13
        push    r14
        push    r15
        mov     rdi, rsp
        mov     rbx, rsp
        and     rsp, -16
        call    trap_handle
        mov     rsp, rbx
        pop     r15
        pop     r14
        pop     r13
        pop     r12
        pop     r11
        pop     r10
        pop     r9
        pop     r8
        pop     rdi
        pop     rsi
        pop     rbp
        pop     rbx
        pop     rdx
        pop     rcx
        pop     rax
        add     rsp, 16
        iretq

section .rodata
align 8
global trap_stubs
trap_stubs:
%assign v 0
%rep 256
        dq      trap_stub_%+v
%assign v v + 1
%endrep
