; The way into a guest and back. While a vCPU runs, L0 is on the CPU's exit stack, which holds the
; vCPU's pointer at its top:
;
;   vmx_run(vcpu):    save L0's registers, change stacks, push vcpu, then
;   enter:            call vcpu_enter(vcpu), which goes on to
;   vmx_resume(vcpu): load the guest's registers, VMRESUME
;   vmx_exit:         save the guest's registers, call vcpu_exit(vcpu): 0 goes to `enter`
;
; Any other result of vcpu_exit, and what vcpu_enter returns if it does, is that of vmx_run. A VM
; exit loads RSP, so that nothing has to be taken off the stack before VMRESUME.
;
; The offsets are those of struct vcpu (vmx/vm.h) and struct cpu (drivers/cpu.h), checked in
; vmx/run.c.

bits 64
default rel

CPU_EXIT_STACK    equ 8
CPU_CALLER_RSP    equ 16
HOST_RSP          equ 0x6c14    ; VMCS fields
INSTRUCTION_ERROR equ 0x4400
ERROR_NOT_LAUNCHED equ 5        ; "VMRESUME with non-launched VMCS"

GPR_RAX equ 0 * 8
GPR_RCX equ 1 * 8
GPR_RDX equ 2 * 8
GPR_RBX equ 3 * 8
GPR_RBP equ 5 * 8
GPR_RSI equ 6 * 8
GPR_RDI equ 7 * 8
GPR_R8 equ 8 * 8
GPR_R9 equ 9 * 8
GPR_R10 equ 10 * 8
GPR_R11 equ 11 * 8
GPR_R12 equ 12 * 8
GPR_R13 equ 13 * 8
GPR_R14 equ 14 * 8
GPR_R15 equ 15 * 8

section .text

extern vcpu_exit
extern vcpu_enter
extern vcpu_entry_failed

global vmx_run
vmx_run:
        push    rbp
        mov     rbp, rsp
        push    rbx
        push    r12
        push    r13
        push    r14
        push    r15
        mov     [gs:CPU_CALLER_RSP], rsp
        mov     rsp, [gs:CPU_EXIT_STACK]
        push    rdi                     ; here is HOST_RSP (vmcs_init_host)

enter:
        mov     rdi, [rsp]
        call    vcpu_enter
leave_run:
        mov     rsp, [gs:CPU_CALLER_RSP]
        pop     r15
        pop     r14
        pop     r13
        pop     r12
        pop     rbx
        pop     rbp
        ret

global vmx_resume
vmx_resume:
        mov     rax, [rdi + GPR_RAX]
        mov     rcx, [rdi + GPR_RCX]
        mov     rdx, [rdi + GPR_RDX]
        mov     rbx, [rdi + GPR_RBX]
        mov     rbp, [rdi + GPR_RBP]
        mov     rsi, [rdi + GPR_RSI]
        mov     r8,  [rdi + GPR_R8]
        mov     r9,  [rdi + GPR_R9]
        mov     r10, [rdi + GPR_R10]
        mov     r11, [rdi + GPR_R11]
        mov     r12, [rdi + GPR_R12]
        mov     r13, [rdi + GPR_R13]
        mov     r14, [rdi + GPR_R14]
        mov     r15, [rdi + GPR_R15]
        mov     rdi, [rdi + GPR_RDI]
        vmresume
        ; It failed: the first time with a VMCS, or L0 put something impossible into it.
        push    rax
        mov     eax, INSTRUCTION_ERROR
        vmread  rax, rax
        cmp     eax, ERROR_NOT_LAUNCHED
        pop     rax
        jne     .failed
        vmlaunch
.failed:
        mov     eax, HOST_RSP
        vmread  rsp, rax
        xor     ebp, ebp
        mov     rdi, [rsp]
        call    vcpu_entry_failed
        jmp     leave_run

global vmx_exit
vmx_exit:
        push    rdi
        mov     rdi, [rsp + 8]
        mov     [rdi + GPR_RAX], rax
        mov     [rdi + GPR_RCX], rcx
        mov     [rdi + GPR_RDX], rdx
        mov     [rdi + GPR_RBX], rbx
        mov     [rdi + GPR_RBP], rbp
        mov     [rdi + GPR_RSI], rsi
        mov     [rdi + GPR_R8], r8
        mov     [rdi + GPR_R9], r9
        mov     [rdi + GPR_R10], r10
        mov     [rdi + GPR_R11], r11
        mov     [rdi + GPR_R12], r12
        mov     [rdi + GPR_R13], r13
        mov     [rdi + GPR_R14], r14
        mov     [rdi + GPR_R15], r15
        pop     qword [rdi + GPR_RDI]
        xor     ebp, ebp
        call    vcpu_exit
        test    eax, eax
        jz      enter
        jmp     leave_run
