; A hypervisor outside IA-32e mode: 32-bit protected mode with paging, for one guest's run.

%include "tests/l1/rt/layout.inc"

HOST_RSP  equ 0x6c14
HOST_RIP  equ 0x6c16
VM_ERROR  equ 0x4400
EXIT_REASON equ 0x4402
TSC_OFFSET equ 0x2010
END       equ -1

; struct legacy of legacy.h
L_CR3     equ 0
L_CR4     equ 4
L_VMXON   equ 8                     ; pointers of 64 bits
L_VMCS    equ 16
L_WRITES  equ 24                    ; pairs of encoding and value, END
L_READS   equ 28
L_RESULT  equ 32
L_AFTER   equ 36                    ; CR0, CR3, CR4, EFER, CS, SS, EFLAGS, GDTR limit after the exit
L_TRIES   equ 68                    ; struct try, the last with END as its instruction
L_IDT     equ 72                    ; table_pointer of 32-bit gates

; struct try of nested_legacy.c
T_INSN    equ 0
T_SEL     equ 4                     ; for FS
T_OFFSET  equ 8
T_RESULT  equ 12
T_SIZE    equ 16
FAILED    equ 0xffff0000            ; VMfail, in place of vector << 16 | error code

extern gdt_pointer, idt_pointer, pml4

section .text
bits 64

; void legacy_run(struct legacy *l)
global legacy_run
legacy_run:
    PUSH_CALLEE_SAVED
    mov [saved_rsp], rsp
    mov rax, cr4
    mov [saved_cr4], eax
    mov esi, edi
    push SEL_CODE32
    push .leave
    retfq

bits 32
.leave:
    LOAD_SEGMENTS eax, SEL_DATA, ds, es, ss
    mov esp, legacy_stack_top
    call paging_off
    and eax, ~EFER_LME
    wrmsr
    mov eax, [esi + L_CR4]
    mov cr4, eax
    mov eax, [esi + L_CR3]
    mov cr3, eax
    call paging_on
    call operate
    mov [esi + L_RESULT], eax
    call paging_off
    or eax, EFER_LME
    wrmsr
    mov eax, [saved_cr4]
    mov cr4, eax
    mov eax, pml4
    mov cr3, eax
    call paging_on
    jmp SEL_CODE64:.back
bits 64
.back:
    mov rsp, [saved_rsp]
    LOAD_SEGMENTS eax, SEL_DATA, ds, es, ss
    lgdt [gdt_pointer]
    lidt [idt_pointer]
    POP_CALLEE_SAVED
    ret

bits 32
; Leaves EFER in EDX:EAX, its number in ECX.
paging_off:
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, MSR_EFER
    rdmsr
    ret

paging_on:
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    ret

; From VMXON to VMXOFF. EAX: 0 after a VM exit; 1 VMXON failed, 2 VMCLEAR or VMPTRLD, 3 a VMWRITE,
; 4 VMLAUNCH (with the error number in bits 31:16), 5 a VMREAD.
operate:
    mov eax, 1
    vmxon [esi + L_VMXON]
    jbe .return
    mov eax, 2
    vmclear [esi + L_VMCS]
    jbe .off
    vmptrld [esi + L_VMCS]
    jbe .off
    call try_operands
    mov edi, [esi + L_WRITES]
.write:
    mov edx, [edi]
    cmp edx, END
    je .launch
    mov eax, 3
    vmwrite edx, [edi + 4]
    jbe .off
    add edi, 8
    jmp .write
.launch:
    mov edx, HOST_RSP
    vmwrite edx, esp
    mov edx, HOST_RIP
    mov eax, .exit
    vmwrite edx, eax
    vmlaunch
    mov edx, VM_ERROR
    vmread eax, edx
    shl eax, 16
    mov al, 4
    jmp .off
.exit:
    pushfd
    pop dword [esi + L_AFTER + 24]
    call after
    mov edi, [esi + L_READS]
.read:
    mov edx, [edi]
    xor eax, eax
    cmp edx, END
    je .off
    mov eax, 5
    vmread [edi + 4], edx
    jbe .off
    add edi, 8
    jmp .read
.off:
    vmxoff
.return:
    ret

; Executes instructions with operands in FS, which may fault.
try_operands:
    lidt [esi + L_IDT]
    mov edi, [esi + L_TRIES]
.next:
    mov eax, [edi + T_INSN]
    cmp eax, END
    je .done
    mov ecx, [edi + T_SEL]
    mov fs, cx
    mov ebx, [edi + T_OFFSET]
    mov [try_esp], esp
    call [.insn + eax * 4]
    mov eax, FAILED
    jbe .result
    xor eax, eax
.result:
    mov [edi + T_RESULT], eax
    add edi, T_SIZE
    jmp .next
.done:
    LOAD_SEGMENTS eax, SEL_DATA, fs
    ret

.insn:
    dd .vmptrst, .vmptrld, .vmread, .vmwrite

.vmptrst:
    vmptrst [fs:ebx]
    ret
.vmptrld:
    vmptrld [fs:ebx]
    ret
.vmread:
    mov edx, EXIT_REASON
    vmread [fs:ebx], edx
    ret
.vmwrite:
    mov edx, TSC_OFFSET
    vmwrite edx, [fs:ebx]
    ret

; Handlers of faults with an error code.
%macro FAULT 1
global legacy_fault_%1
legacy_fault_%1:
    pop eax
    or eax, %1 << 16
    jmp fault
%endmacro

FAULT 12
FAULT 13
FAULT 14

fault:
    mov esp, [try_esp]
    jmp try_operands.result

; What the exit loaded.
after:
    mov eax, cr0
    mov [esi + L_AFTER], eax
    mov eax, cr3
    mov [esi + L_AFTER + 4], eax
    mov eax, cr4
    mov [esi + L_AFTER + 8], eax
    mov ecx, MSR_EFER
    rdmsr
    mov [esi + L_AFTER + 12], eax
    mov [esi + L_AFTER + 16], cs
    mov [esi + L_AFTER + 20], ss
    sub esp, 8
    sgdt [esp]
    movzx eax, word [esp]
    add esp, 8
    mov [esi + L_AFTER + 28], eax
    ret

section .bss
align 16
saved_rsp: resq 1
saved_cr4: resd 1
try_esp: resd 1
alignb 16
    resb 4096
legacy_stack_top:
