; How a test kernel starts and how it catches what it provokes: multiboot headers, the way from
; 32-bit protected mode to long mode, one stub for each interrupt vector, and the calls whose
; faults come back as a result (fault_of) or that run in another mode (modes.asm has the rest).
;
; WITH_MB1, WITH_MB2 and KLUDGE (an address-carrying multiboot 1 header) select the headers.

%include "tests/l1/rt/layout.inc"

extern main, boot_read, rt_init, trap, exit_program
extern image_start, image_data_end, image_end

; ------------------------------------------------------------------------------------- headers

section .multiboot progbits alloc noexec nowrite align=8

%ifdef WITH_MB2
MB2_MAGIC equ 0xe85250d6
align 8
mb2_header:
    dd MB2_MAGIC, 0, mb2_end - mb2_header, -(MB2_MAGIC + (mb2_end - mb2_header))
    dw 0, 0
    dd 8
mb2_end:
%endif

%ifdef WITH_MB1
MB1_MAGIC equ 0x1badb002
%ifdef KLUDGE
MB1_FLAGS equ 0x10003
%else
MB1_FLAGS equ 0x3
%endif
align 4
mb1_header:
    dd MB1_MAGIC, MB1_FLAGS, -(MB1_MAGIC + MB1_FLAGS)
%ifdef KLUDGE
    dd mb1_header, image_start, image_data_end, image_end, entry32
%endif
%endif

; ---------------------------------------------------------------------------------- long mode

section .text
bits 32
global entry32
entry32:
    cli
    cld
    mov esp, stack_top
    mov [boot_magic], eax
    mov [boot_info], ebx
    mov eax, cr0
    mov [boot_cr0], eax
    call build_page_tables
    lgdt [gdt_pointer]
    mov eax, cr4
    mov [boot_cr4], eax
    or eax, 1 << 5                  ; PAE
    mov cr4, eax
    mov eax, pml4
    mov cr3, eax
    mov ecx, MSR_EFER
    rdmsr
    or eax, EFER_LME
    wrmsr
    mov eax, 0x80010033             ; PG, WP, NE, ET, MP, PE
    mov cr0, eax
    jmp SEL_CODE64:entry64

; 4 GiB, one to one, in 2 MiB pages; the last GiB (devices) is uncached. The lower levels allow
; ring 3, the top level does not: fault_of_user opens it.
build_page_tables:
    mov dword [pml4], pdpt + 3
    xor ecx, ecx
.pdpt:
    mov eax, ecx
    shl eax, 12
    add eax, pd + 7
    mov [pdpt + ecx * 8], eax
    inc ecx
    cmp ecx, 4
    jb .pdpt
    xor ecx, ecx
    mov eax, 0x87
.pd:
    cmp ecx, 3 * 512
    jb .cached
    or eax, 0x10                    ; PCD
.cached:
    mov [pd + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 4 * 512
    jb .pd
    ret

bits 64
entry64:
    LOAD_SEGMENTS eax, SEL_DATA, ds, es, ss
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, stack_top
    xor ebp, ebp
    call rt_init
    mov edi, [boot_magic]
    mov esi, [boot_info]
    call boot_read
    call main
    mov edi, eax
    call exit_program

; ------------------------------------------------------------------------- interrupts and faults

; Pushes what struct regs (rt.h) names, from the end.
isr_common:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    mov rbx, rsp                    ; the frame may lie at any 8 bytes when an IST is in use
    and rsp, -16
    call trap
    mov rsp, rbx
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq

%macro HAS_ERROR_CODE 1
    %assign with_error 0
    %if %1 == 8 || (%1 >= 10 && %1 <= 14) || %1 == 17 || %1 == 21
        %assign with_error 1
    %endif
%endmacro

align 16
global isr_stubs
isr_stubs:
%assign vector 0
%rep 256
    align 16
    HAS_ERROR_CODE vector
    %if with_error == 0
        push 0
    %endif
    push vector
    jmp isr_common
    %assign vector vector + 1
%endrep

; u64 catch_call(void (*fn)(u64), u64 arg): the vector of the fault that fn ran into, or
; NO_FAULT. catch_resume(vector) is how the trap handler comes back here.
global catch_call, catch_resume, catch_sp
catch_call:
    PUSH_CALLEE_SAVED
    pushfq
    push qword [catch_sp]
    mov [catch_sp], rsp
    sub rsp, 8
    mov rax, rdi
    mov rdi, rsi
    call rax
    mov edi, NO_FAULT
catch_resume:
    LOAD_SEGMENTS ecx, SEL_DATA, ds, es, ss
    mov rsp, [catch_sp]
    pop qword [catch_sp]
    popfq
    POP_CALLEE_SAVED
    mov eax, edi
    ret

section .data
align 8
global gdt, gdt_pointer, boot_cr0, boot_cr4
gdt:
    dq 0
    dq 0x00af9b000000ffff           ; SEL_CODE64
    dq 0x00cf93000000ffff           ; SEL_DATA
    dq 0x00cf9b000000ffff           ; SEL_CODE32
    dq 0x00009b000000ffff           ; SEL_CODE16: base 0, limit 64 KiB
    dq 0x000093000000ffff           ; SEL_DATA16
    dq 0x00cff3000000ffff           ; SEL_USER_DATA
    dq 0x00affb000000ffff           ; SEL_USER_CODE64
    dq 0x00cffb000000ffff           ; SEL_USER_CODE32
    dq 0, 0                         ; SEL_TSS, filled in by rt_init
    dq 0x00409300000000ff           ; SEL_SMALL: data, base 0, limit 0xff
    dq 0x00cf91000000ffff           ; SEL_READONLY
    dq 0x00cf99000000ffff           ; SEL_EXEC_ONLY: code that cannot be read
    dq 0, 0, 0, 0                   ; for the tests
gdt_end:
gdt_pointer:
    dw gdt_end - gdt - 1
    dq gdt
boot_magic: dd 0
boot_info:  dd 0
boot_cr0:   dd 0
boot_cr4:   dd 0
catch_sp:   dq 0

section .bss
alignb 4096
global pml4, pdpt, pd
pml4:       resb 4096
pdpt:       resb 4096
pd:         resb 4 * 4096
stack:      resb 32768
stack_top:

section .note.GNU-stack noalloc noexec nowrite progbits
