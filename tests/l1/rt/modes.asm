; Calls into code of another mode: ring 3, 32-bit (compatibility mode), real mode.

%include "tests/l1/rt/layout.inc"

extern gdt_pointer, idt_pointer, pml4

section .text
bits 64

; void user_call(u64 code): continues there in ring 3 (64-bit), to be called under fault_of, for
; the only way back is a fault or `int 0x80`.
global user_call, user_call32
user_call:
    push SEL_USER_DATA
    push user_stack_top - 8
    pushfq
    push SEL_USER_CODE64
    push rdi
    iretq

user_call32:
    LOAD_SEGMENTS ecx, SEL_USER_DATA, ds, es
    push rcx
    push user_stack_top - 8
    pushfq
    push SEL_USER_CODE32
    push rdi
    iretq

; u32 compat_call(void *fn, u32 arg): calls 32-bit code at ring 0 in compatibility mode with
; EAX = arg on a stack of its own; what it leaves in EAX is the result. Faults of the callee work
; with fault_of around.
global compat_call
compat_call:
    PUSH_CALLEE_SAVED
    mov [compat_sp], rsp
    mov eax, esi
    mov edx, edi
    push SEL_CODE32
    push .in32
    retfq
bits 32
.in32:
    LOAD_SEGMENTS ecx, SEL_DATA, ds, es, ss
    mov esp, compat_stack_top
    call edx
    jmp SEL_CODE64:.back
bits 64
.back:
    mov rsp, [compat_sp]
    POP_CALLEE_SAVED
    ret

; void real_call(u16 offset): leaves long mode, runs the real-mode routine at this offset of
; real_image (copied to LOW_CODE before) and comes back. Interrupts are off.
global real_call
real_call:
    PUSH_CALLEE_SAVED
    mov [compat_sp], rsp
    mov rax, cr4
    mov [saved_cr4], rax
    mov ebp, edi
    push SEL_CODE32
    push LOW_CODE + low_leave - real_image
    retfq
real_back:
    mov rsp, [compat_sp]
    LOAD_SEGMENTS eax, SEL_DATA, ds, es, ss
    lidt [idt_pointer]
    mov rax, [saved_cr4]
    mov cr4, rax
    POP_CALLEE_SAVED
    ret

; ------------------------------------------------------- what is copied below 64 KiB to LOW_CODE

%define LOW(label) (LOW_CODE + (label) - real_image)

section .rodata
align 16
global real_image, real_image_end
real_image:

bits 32
low_leave:
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, MSR_EFER
    rdmsr
    and eax, ~EFER_LME
    wrmsr
    mov eax, cr4
    and eax, ~(1 << 5)
    mov cr4, eax
    jmp SEL_CODE16:LOW(low_16)
bits 16
low_16:
    LOAD_SEGMENTS ax, SEL_DATA16, ds, es, ss, fs, gs
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    jmp 0:LOW(low_real)
low_real:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov fs, ax
    mov gs, ax
    mov sp, LOW_STACK
    lidt [LOW(low_idt)]
    mov word [LOW_RESULT], NO_FAULT
    add bp, LOW_CODE
    call bp
low_return:
    cli
    mov eax, cr0
    or al, 1
    mov cr0, eax
    jmp dword SEL_CODE32:LOW(low_32)
bits 32
low_32:
    LOAD_SEGMENTS eax, SEL_DATA, ds, es, ss
    mov eax, cr4
    or eax, 1 << 5
    mov cr4, eax
    mov eax, pml4
    mov cr3, eax
    mov ecx, MSR_EFER
    rdmsr
    or eax, EFER_LME
    wrmsr
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    jmp SEL_CODE64:real_back

bits 16
align 2
low_idt:
    dw 0x3ff
    dd LOW_IVT

; Every vector of the real-mode table leads here with its number: the first event is recorded.
low_event:
    xor bx, bx
    mov ds, bx
    mov ss, bx
    mov [LOW_RESULT], ax
    mov sp, LOW_STACK
    jmp low_return
align 16
low_stubs:
%assign vector 0
%rep 32
    align 8
    mov ax, vector
    jmp low_event
    %assign vector vector + 1
%endrep

; The routines for real_call: the label and its offset, for C.
%macro REAL_ROUTINE 1
    align 16
    real_%1:
%endmacro

REAL_ROUTINE nothing
    mov dword [LOW_RESULT + 4], 0x1234
    ret
REAL_ROUTINE ud2
    ud2
    ret
REAL_ROUTINE divide
    xor cx, cx
    div cx
    ret
REAL_ROUTINE limit                  ; beyond the segment's 64 KiB
    mov ebx, 0x10000
    mov eax, [ebx]
    ret
REAL_ROUTINE vmxon
    vmxon [LOW_RESULT + 8]
    ret
REAL_ROUTINE vmxoff
    vmxoff
    ret
REAL_ROUTINE vmcall
    vmcall
    ret
REAL_ROUTINE cpuid
    xor eax, eax
    cpuid
    mov [LOW_RESULT + 4], ebx
    ret
REAL_ROUTINE absent_msr             ; an exception that has an error code in other modes
    mov ecx, 0x3000
    rdmsr
    ret
REAL_ROUTINE software_int
    int 5
    ret
REAL_ROUTINE mode_bits              ; CR0 and EFLAGS as real mode sees them
    mov eax, cr0
    mov [LOW_RESULT + 4], eax
    pushfd
    pop eax
    mov [LOW_RESULT + 8], eax
    ret
REAL_ROUTINE big_segment            ; a 4 GiB data segment survives the way back from protected mode
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov bx, SEL_DATA
    mov fs, bx
    and al, 0xfe
    mov cr0, eax
    mov ebx, 0x200000
    mov eax, [fs:ebx]
    mov [LOW_RESULT + 4], eax
    xor ax, ax
    mov fs, ax
    ret
; Calls of the firmware, by its own vectors.
REAL_ROUTINE bios_memory            ; INT 12H: AX
    lidt [LOW(bios_idt)]
    int 0x12
    mov [LOW_RESULT + 4], eax
    ret
REAL_ROUTINE bios_e820              ; the first entry's size and the next one's number
    lidt [LOW(bios_idt)]
    mov eax, 0xe820
    mov edx, 0x534d4150
    xor ebx, ebx
    mov ecx, 20
    mov di, LOW_RESULT - 32
    int 0x15
    jc .fail
    mov [LOW_RESULT + 8], ebx
    mov eax, [LOW_RESULT - 32 + 8]
    mov [LOW_RESULT + 4], eax
.fail:
    ret
REAL_ROUTINE bios_unknown           ; CF and AH after a function of INT 15H that nobody has
    lidt [LOW(bios_idt)]
    mov ax, 0x1234
    clc
    int 0x15
    setc [LOW_RESULT + 4]
    mov [LOW_RESULT + 8], ah
    ret
align 2
bios_idt:
    dw 0x3ff
    dd 0
real_image_end:

section .data
align 2
global real_stub_offset, real_offsets
real_stub_offset: dw low_stubs - real_image
real_offsets:                       ; in the order of enum real_routine (rt.h)
    dw real_nothing - real_image, real_ud2 - real_image, real_divide - real_image
    dw real_limit - real_image, real_vmxon - real_image, real_vmxoff - real_image
    dw real_vmcall - real_image, real_cpuid - real_image, real_absent_msr - real_image
    dw real_software_int - real_image, real_mode_bits - real_image, real_big_segment - real_image
    dw real_bios_memory - real_image, real_bios_e820 - real_image, real_bios_unknown - real_image
align 8
compat_sp:  dq 0
saved_cr4:  dq 0

section .bss
alignb 4096
            resb 8192
compat_stack_top:
            resb 8192
global user_stack_top
user_stack_top:

section .note.GNU-stack noalloc noexec nowrite progbits
