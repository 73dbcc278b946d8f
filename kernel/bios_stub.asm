; The firmware that a VM finds in segment F000H: answers to BIOS calls of boot code that goes back
; to real mode. It knows the memory, no disk, no screen and no keyboard. kernel/bios_stub.c copies
; it to the guest-physical address F0000H and fills in the vectors and the memory map.

bits 16
section .rodata

RESET_PORT   equ 0xcf9
RESET_VALUE  equ 0x06
E820_MAGIC   equ 0x534d4150             ; "SMAP"
E820_SIZE    equ 20
PIC1         equ 0x20
PIC2         equ 0xa0
EOI          equ 0x20
CARRY        equ 1
ZERO         equ 0x40
UNSUPPORTED  equ 0x86
NO_ANSWER    equ 0x80                   ; of a drive

; Flags in the frame of an INT, after `push bp; mov bp, sp`
%define FLAGS byte [bp + 6]
%define AT(label) ((label) - bios_stub_image)

global bios_stub_image, bios_stub_map, bios_stub_entries

bios_stub_image:

; Exceptions, the timer's hook and what else needs no answer.
nothing:
    iret

interrupt_slave:
    push ax
    mov al, EOI
    out PIC2, al
    jmp interrupt_done
interrupt_master:
    push ax
    mov al, EOI
interrupt_done:
    out PIC1, al
    pop ax
    iret

unsupported:
    push bp
    mov bp, sp
    mov ah, UNSUPPORTED
    or FLAGS, CARRY
    pop bp
    iret

equipment:
    push ds
    mov ax, 0x40
    mov ds, ax
    mov ax, [0x10]
    pop ds
    iret

memory_size:
    push ds
    mov ax, 0x40
    mov ds, ax
    mov ax, [0x13]
    pop ds
    iret

disk:
    push bp
    mov bp, sp
    mov ah, NO_ANSWER
    or FLAGS, CARRY
    pop bp
    iret

; No key waits, none is held down.
keyboard:
    push bp
    mov bp, sp
    xor ax, ax
    or FLAGS, ZERO
    pop bp
    iret

system:
    cmp eax, 0xe820
    jne unsupported
    cmp edx, E820_MAGIC
    jne unsupported
    cmp ecx, E820_SIZE
    jb unsupported
    cmp ebx, [cs:AT(bios_stub_map)]
    jae unsupported
    push bp
    mov bp, sp
    push si
    push di
    imul si, bx, E820_SIZE
    add si, AT(bios_stub_map) + 4
    mov cx, E820_SIZE / 2
.copy:
    mov ax, [cs:si]
    mov [es:di], ax
    add si, 2
    add di, 2
    loop .copy
    pop di
    pop si
    and FLAGS, ~CARRY & 0xff
    inc ebx
    cmp ebx, [cs:AT(bios_stub_map)]
    jb .more
    xor ebx, ebx                        ; that was the last one
.more:
    mov ecx, E820_SIZE
    mov eax, E820_MAGIC
    pop bp
    iret

; INT 18H and 19H: there is nothing to boot from; and the reset vector.
restart:
    mov dx, RESET_PORT
    mov al, RESET_VALUE
    out dx, al
    cli
    hlt
    jmp restart

align 4
bios_stub_map:                          ; number of entries, then the entries

; Not part of the image: the offset of each handler, in the order of enum bios_entry.
bios_stub_entries:
    dw AT(nothing), AT(interrupt_master), AT(interrupt_slave), AT(unsupported), AT(equipment)
    dw AT(memory_size), AT(disk), AT(keyboard), AT(system), AT(restart)
