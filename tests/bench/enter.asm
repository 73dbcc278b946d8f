; The way into L2 and back, with nothing but what every hypervisor must do: HOST_RSP and HOST_RIP
; were written once (bench_stack, bench_exit), so that an entry costs L1 no VMWRITE of its own.

%include "tests/l1/vmx/enter.inc"

section .text
bits 64

; void bench_enter(void): loads L2's registers from `l2`, executes VMLAUNCH or VMRESUME, and returns
; after the VM exit with L2's registers in `l2`. Sets bench_failed when the instruction failed.
global bench_enter, bench_exit
bench_enter:
    PUSH_CALLEE_SAVED
    mov [saved_rsp], rsp
    L2_ENTER
    mov byte [bench_failed], 1
    jmp bench_return
bench_exit:
    L2_KEEP_REGISTERS
bench_return:
    mov rsp, [saved_rsp]
    mov byte [l2_launched], 1
    POP_CALLEE_SAVED
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
