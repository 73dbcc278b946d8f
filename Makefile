# Nestor: `make help` lists the targets.
#
# make run and make test do all their own set-up: they install the Debian packages that are missing.

VERSION := 0.1
# COUNT=1 builds the variant that counts what L0 executes, for the benchmark, in a place of its own.
B       := build$(if $(COUNT),/count)
BUILD   := $(B)
MAKEFLAGS += --no-builtin-rules

CC      := gcc
NASM    := nasm
LD      := ld

WARN    := -Wall -Wextra -Werror -Wmissing-prototypes -Wstrict-prototypes -Wshadow -Wvla
# No SSE in L0, so that the FPU state of the guest stays in the registers; no red zone, because
# interrupts use the same stack.
CFLAGS  := -std=gnu11 -O2 -g -ffreestanding -fno-stack-protector -fno-pic -fno-asynchronous-unwind-tables \
           -fno-omit-frame-pointer -mno-red-zone -mgeneral-regs-only -mcmodel=kernel \
           -ffile-prefix-map=$(CURDIR)=. -I. $(WARN) -DNESTOR_VERSION='"$(VERSION)"' \
           $(if $(COUNT),-DNESTOR_COUNT)

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

# --- Host: pure logic for the unit tests ---

HOST_CFLAGS := -std=gnu11 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -DNESTOR_HOST \
               -Wall -Wextra -Werror -I. -DNESTOR_VERSION='"host"'
HOST_SRC    := $(filter-out libc/% boot/%,$(C_SRC))
HOST_OBJ    := $(HOST_SRC:%.c=$(B)/host/obj/%.o)
HOST_FRAME  := $(B)/host/obj/tests/host/support.o
HOST_TESTS  := $(patsubst tests/host/%.c,$(B)/host/%,$(sort $(wildcard tests/host/test_*.c)))

$(B)/host/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	@$(CC) $(HOST_CFLAGS) -MMD -MP -c $< -o $@

$(B)/host/libnestor.a: $(HOST_OBJ)
	@rm -f $@
	@ar rcs $@ $^

# The frame comes first, in place of the kernel's log and panic.
.SECONDARY:
$(B)/host/test_%: $(B)/host/obj/tests/host/test_%.o $(HOST_FRAME) $(B)/host/libnestor.a
	@echo "  HOST    $@"
	@$(CC) $(HOST_CFLAGS) -o $@ $^ -pthread

-include $(HOST_OBJ:.o=.d) $(HOST_TESTS:$(B)/host/%=$(B)/host/obj/tests/host/%.d)

include tests/l1/rules.mk
include tests/fuzz/rules.mk
include tests/bench/rules.mk

# --- What users call ---

.DEFAULT_GOAL := all

.PHONY: deps run test check bench host lint format iso clean help

deps:
	@scripts/install-deps

# Set-up comes first, with the tools then there; only after it make looks at what is to be built.
run: deps
	@$(MAKE) --no-print-directory all
	@scripts/run-main-job

test: deps
	@$(MAKE) --no-print-directory -j2 all host l1 fuzz-build
	@tests/run $(T)

check: deps
	@$(MAKE) --no-print-directory -j2 all host l1
	@tests/run --quick $(T)

# make bench BENCH='--only nestor': see scripts/bench --help.
bench: deps
	@$(MAKE) --no-print-directory -j2 bench-build
	@scripts/bench $(BENCH)

host: $(HOST_TESTS)

lint:
	@scripts/lint

format:
	@clang-format -i $(filter %.c %.h,$(shell git ls-files))

# make iso CFG=path/to/nestor.cfg: a bootable image for an L1 of your own.
CFG ?= nestor.cfg
iso: all
	@scripts/mkiso $(B)/nestor.iso $(CFG)
	@echo "$(B)/nestor.iso"

clean:
	rm -rf $(B)/obj $(B)/host $(B)/fuzz $(B)/l1 $(B)/test $(B)/bench $(B)/count $(B)/*.elf $(B)/*.iso

help:
	@echo "make                 build/nestor.elf"
	@echo "make run             the main job: Linux/KVM as L1 on Nestor in Bochs, with a Linux as its L2"
	@echo "                     MMU=ept|shadow-on-ept   MODEL=a Bochs processor   INTERACTIVE=1: a shell"
	@echo "make test            all tests; T=NAME or T='A B*' runs those cases only"
	@echo "make check           the quick part: host tests, lint, a first boot"
	@echo "make bench           what operations of L1 and L2 cost: bare, on Nestor, on KVM (docs/performance.md)"
	@echo "make iso CFG=FILE    build/nestor.iso with the VMs of a nestor.cfg; see scripts/bochs-run --help"
	@echo "make lint, format    the habits of CONTRIBUTING.md"
	@echo "make fuzz [F=NAME]   the fuzzers for FUZZ_SECONDS each"
	@echo "make clean           all but the downloaded packages"
