# The test kernels that run as L1 (and bare): build/l1/NAME.elf, and variants of boot for each way
# that a loader may take. Included by the Makefile at the top; needs nothing from it but BUILD.

BUILD ?= build
L1_CC ?= gcc
L1_NASM ?= nasm
L1_LD ?= ld
L1_OUT = $(BUILD)/l1

L1_CFLAGS = -std=gnu11 -O2 -g -ffreestanding -fno-stack-protector -fno-pic -fno-pie -mno-red-zone \
            -mgeneral-regs-only -fno-asynchronous-unwind-tables -ffile-prefix-map=$(CURDIR)=. \
            -Wall -Wextra -Werror -Wmissing-prototypes -Wstrict-prototypes -I.
L1_LDFLAGS = -nostdlib -static -z max-page-size=4096 -z noexecstack --build-id=none \
             --no-warn-rwx-segments -T tests/l1/rt/link.ld

# A program is tests/l1/NAME.c and tests/l1/NAME_*.c, with the runtime; those that use VMX share
# tests/l1/vmx/.
L1_PROGRAMS = $(patsubst tests/l1/%.c,%,$(filter-out $(wildcard tests/l1/*_*.c),\
              $(wildcard tests/l1/*.c)))
L1_LIBC ?= libc/printf.c libc/string.c
L1_RT_SOURCES = $(wildcard tests/l1/rt/*.c tests/l1/vmx/*.c) $(L1_LIBC)
L1_OBJ = $(addprefix $(L1_OUT)/,$(1:.c=.o))
L1_RT_OBJS = $(call L1_OBJ,$(L1_RT_SOURCES)) $(L1_OUT)/tests/l1/rt/modes.o \
             $(L1_OUT)/tests/l1/vmx/enter.o $(L1_OUT)/tests/l1/vmx/legacy.o
L1_IMAGES = $(L1_PROGRAMS:%=$(L1_OUT)/%.elf) $(L1_OUT)/boot-mb1.elf $(L1_OUT)/boot-mb2.elf \
            $(L1_OUT)/boot-kludge.bin

l1: $(L1_IMAGES)
.PHONY: l1

$(L1_OUT)/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC      $< (L1)"
	@$(L1_CC) $(L1_CFLAGS) -MMD -MP -c $< -o $@

$(L1_OUT)/%.o: %.asm
	@mkdir -p $(@D)
	@echo "  NASM    $< (L1)"
	@$(L1_NASM) -f elf64 -MD $(@:.o=.d) -MP $< -o $@

# One entry object for each set of headers.
L1_ENTRY_both = -DWITH_MB1 -DWITH_MB2
L1_ENTRY_mb1 = -DWITH_MB1
L1_ENTRY_mb2 = -DWITH_MB2
L1_ENTRY_kludge = -DWITH_MB1 -DKLUDGE
$(L1_OUT)/entry-%.o: tests/l1/rt/entry.asm tests/l1/rt/layout.inc
	@mkdir -p $(@D)
	@echo "  NASM    $@"
	@$(L1_NASM) -f elf64 $(L1_ENTRY_$*) $< -o $@

define L1_LINK
$(L1_OUT)/$(1).elf: $(L1_OUT)/entry-$(2).o $(L1_RT_OBJS) \
        $(call L1_OBJ,$(wildcard tests/l1/$(3).c tests/l1/$(3)_*.c)) tests/l1/rt/link.ld
	@echo "  LD      $$@"
	@$(L1_LD) $(L1_LDFLAGS) $$(filter %.o,$$^) -o $$@
endef
$(foreach p,$(L1_PROGRAMS),$(eval $(call L1_LINK,$(p),both,$(p))))
$(eval $(call L1_LINK,boot-mb2,mb2,boot))
$(eval $(call L1_LINK,boot-mb1-64,mb1,boot))
$(eval $(call L1_LINK,boot-kludge,kludge,boot))

# Multiboot 1 is about 32-bit images first of all: the same code in an ELF32 file, and flat.
$(L1_OUT)/boot-mb1.elf: $(L1_OUT)/boot-mb1-64.elf
	@objcopy -O elf32-i386 $< $@
$(L1_OUT)/boot-kludge.bin: $(L1_OUT)/boot-kludge.elf
	@objcopy -O binary $< $@

-include $(wildcard $(L1_OUT)/*.d $(L1_OUT)/tests/l1/*.d $(L1_OUT)/tests/l1/*/*.d $(L1_OUT)/libc/*.d)
