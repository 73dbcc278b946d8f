; Entry from a multiboot2 loader: 32-bit protected mode, EBX = boot information. Builds boot page
; tables (4 GiB identity, the same at PHYS_WINDOW, the image at -2 GiB), enters long mode and calls
; boot_multiboot2(hpa of the boot information) on the boot stack. kernel/paging.c then replaces
; these tables by exact ones.

bits 32

KERNEL_VMA      equ 0xffffffff80000000
MB2_MAGIC       equ 0xe85250d6
MB2_LOADED      equ 0x36d76289
PAGE_P_RW       equ 0x3
PAGE_LARGE      equ 0x83
MSR_EFER        equ 0xc0000080
EFER_LME_NXE    equ 0x900
CR0_PE_MP_WP_PG equ 0x80010003
CR4_PAE         equ 0x20

section .multiboot
align 8
header:
        dd MB2_MAGIC, 0, header_end - header
        dd 0x100000000 - (MB2_MAGIC + (header_end - header))
        ; modules page aligned
        align 8
        dw 6, 0
        dd 8
        align 8
        dw 0, 0
        dd 8
header_end:

section .boot.text progbits alloc exec nowrite align=16
global boot_start
boot_start:
        cli
        cld
        cmp     eax, MB2_LOADED
        jne     no_loader
        mov     esp, boot_stack_top - KERNEL_VMA
        mov     edi, ebx

        mov     eax, 0x80000001
        cpuid
        test    edx, 1 << 29
        jz      no_long_mode

        call    build_tables
        mov     eax, CR4_PAE
        mov     cr4, eax
        mov     eax, boot_pml4 - KERNEL_VMA
        mov     cr3, eax
        mov     ecx, MSR_EFER
        rdmsr
        or      eax, EFER_LME_NXE
        wrmsr
        mov     eax, CR0_PE_MP_WP_PG
        mov     cr0, eax
        lgdt    [boot_gdt_ptr - KERNEL_VMA]
        jmp     0x08:(boot_long - KERNEL_VMA)

; 4 page directories of 2 MiB pages cover 4 GiB; the three uses of them share one PDPT each.
build_tables:
        mov     ecx, 2048
        mov     eax, PAGE_LARGE
        mov     ebx, boot_pds - KERNEL_VMA
.fill:  mov     [ebx], eax
        mov     dword [ebx + 4], 0
        add     eax, 0x200000
        add     ebx, 8
        dec     ecx
        jnz     .fill
        mov     eax, (boot_pds - KERNEL_VMA) + PAGE_P_RW
        mov     ebx, boot_pdpt - KERNEL_VMA
        mov     ecx, 4
.pdpt:  mov     [ebx], eax
        add     eax, 0x1000
        add     ebx, 8
        dec     ecx
        jnz     .pdpt
        mov     dword [boot_pdpt_high - KERNEL_VMA + 510 * 8], (boot_pds - KERNEL_VMA) + PAGE_P_RW
        mov     eax, (boot_pdpt - KERNEL_VMA) + PAGE_P_RW
        mov     [boot_pml4 - KERNEL_VMA], eax
        mov     [boot_pml4 - KERNEL_VMA + 256 * 8], eax
        mov     dword [boot_pml4 - KERNEL_VMA + 511 * 8], (boot_pdpt_high - KERNEL_VMA) + PAGE_P_RW
        ret

no_loader:
        mov     esi, text_loader - KERNEL_VMA
        jmp     say
no_long_mode:
        mov     esi, text_long - KERNEL_VMA
; Too early for a console: the serial port at the speed that the firmware left, and port 0xE9. Under
; Bochs the emulator ends.
say:    mov     dx, 0x3fb
        mov     al, 3           ; 8 data bits
        out     dx, al
.next:  lodsb
        test    al, al
        jz      .stop
        mov     ah, al
        mov     dx, 0x3fd
        mov     ecx, 100000     ; there may be no serial port
.wait:  in      al, dx
        test    al, 0x20
        loopz   .wait
        mov     al, ah
        mov     dx, 0x3f8
        out     dx, al
        out     0xe9, al
        jmp     .next
.stop:  mov     dx, 0x3fd
        mov     ecx, 100000
.drain: in      al, dx
        test    al, 0x40
        loopz   .drain
        in      al, 0xe9
        cmp     al, 0xe9
        jne     .halt
        mov     esi, text_shutdown - KERNEL_VMA
        mov     dx, 0x8900
        mov     ecx, 8
        rep outsb
.halt:  hlt
        jmp     .halt

text_loader:    db "nestor: not started by a multiboot2 loader (GRUB: use 'multiboot2')", 13, 10
                db "nestor: end: panic 0", 13, 10, 0
text_long:      db "nestor: this processor has no 64-bit mode, so no VMX for Nestor", 13, 10
                db "nestor: end: no-vmx 0", 13, 10, 0
text_shutdown:  db "Shutdown"

bits 64
boot_long:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        xor     eax, eax
        mov     fs, ax
        mov     gs, ax
        mov     rsp, boot_stack_top
        mov     edi, edi
        xor     ebp, ebp
        mov     rax, boot_multiboot2
        call    rax
.stop:  cli
        hlt
        jmp     .stop

extern boot_multiboot2

align 16
boot_gdt:
        dq 0
        dq 0x00af9b000000ffff
        dq 0x00cf93000000ffff
boot_gdt_ptr:
        dw 23
        dd boot_gdt - KERNEL_VMA

section .bss align=4096
boot_pml4:      resb 4096
boot_pdpt:      resb 4096
boot_pdpt_high: resb 4096
boot_pds:       resb 4096 * 4
boot_stack:     resb 4096 * 4
boot_stack_top:
