# Nestor: `make help` lists the targets.

VERSION := 0.1
B       := build
MAKEFLAGS += --no-builtin-rules

CC      := gcc
NASM    := nasm
LD      := ld

WARN    := -Wall -Wextra -Werror -Wmissing-prototypes -Wstrict-prototypes -Wshadow -Wvla
# No SSE in L0, so that the FPU state of the guest stays in the registers; no red zone, because
# interrupts use the same stack.
CFLAGS  := -std=gnu11 -O2 -g -ffreestanding -fno-stack-protector -fno-pic -fno-asynchronous-unwind-tables \
           -fno-omit-frame-pointer -mno-red-zone -mgeneral-regs-only -mcmodel=kernel \
           -ffile-prefix-map=$(CURDIR)/= -I. $(WARN) -DNESTOR_VERSION='"$(VERSION)"'

C_SRC   := $(sort $(wildcard boot/*.c kernel/*.c vmx/*.c vmx/nested/*.c vtd/*.c ept/*.c \
           drivers/*.c drivers/model/*.c libc/*.c))
ASM_SRC := $(sort $(wildcard boot/*.asm kernel/*.asm vmx/*.asm))
OBJ     := $(ASM_SRC:%.asm=$(B)/obj/%.asm.o) $(C_SRC:%.c=$(B)/obj/%.o)

.PHONY: all
all: $(B)/nestor.elf

# The image is linked twice: the second time with the symbol table that the first one yields, for
# backtraces with names. A dry table of the same size keeps all addresses equal.
$(B)/nestor.elf: $(OBJ) $(B)/obj/symbols.o boot/link.ld
	@echo "  LD      $@"
	@$(LD) -nostdlib -z max-page-size=4096 -z noexecstack --no-warn-rwx-segments --build-id=none \
	    -T boot/link.ld -o $@ $(OBJ) $(B)/obj/symbols.o

$(B)/nestor.tmp.elf: $(OBJ) boot/link.ld
	@$(LD) -nostdlib -z max-page-size=4096 -z noexecstack --no-warn-rwx-segments --build-id=none \
	    -T boot/link.ld -o $@ $(OBJ)

$(B)/obj/symbols.o: $(B)/nestor.tmp.elf scripts/symbols
	@scripts/symbols $< > $(B)/obj/symbols.asm
	@$(NASM) -f elf64 -o $@ $(B)/obj/symbols.asm

$(B)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  CC      $<"
	@$(CC) $(CFLAGS) -MMD -MP -c $< -o $@

$(B)/obj/%.asm.o: %.asm Makefile
	@mkdir -p $(@D)
	@echo "  NASM    $<"
	@$(NASM) -f elf64 -MD $(@:.o=.d) -MP -o $@ $<

-include $(OBJ:.o=.d)

.PHONY: clean
clean:
	rm -rf $(B)/obj $(B)/host $(B)/fuzz $(B)/test $(B)/*.elf $(B)/*.iso
