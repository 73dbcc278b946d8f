# Every tests/fuzz/fuzz_NAME.c becomes build/fuzz/fuzz_NAME, linked with those of the project's files
# that it needs, built under the same sanitizers. Included by the Makefile at the top.
#
#   make fuzz-short   each one for a fixed number of runs from a fixed seed: part of the tests
#   make fuzz         each one for FUZZ_SECONDS, from the corpus that earlier runs left
#   make fuzz F=decode   (either target) only that one
#   make fuzz F=vmx      in the emulator: a million random VMX operations of an L1 (tests/cases.py)
#
# Inputs that fail are kept as build/fuzz/NAME-crash-*; "build/fuzz/fuzz_NAME FILE" repeats one. An
# input worth keeping for ever goes to tests/fuzz/corpus/NAME/, from which every run starts.

B ?= build
FUZZ_CC ?= clang
FUZZ_RUNS ?= 20000
FUZZ_SECONDS ?= 300

FUZZ_OUT := $(B)/fuzz
FUZZ_SANITIZE = address,undefined
FUZZ_CFLAGS = -std=gnu11 -g -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all -DNESTOR_HOST \
              -DNESTOR_VERSION='"fuzz"' -Wall -Wextra -Werror -I.
FUZZ_LIB_SRC := $(wildcard $(addsuffix /*.c,ept vmx vmx/nested vtd drivers drivers/model kernel))
FUZZ_LIB_OBJ := $(FUZZ_LIB_SRC:%.c=$(FUZZ_OUT)/%.o)
FUZZ_NAMES := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_CHOSEN = $(if $(F),$(F),$(FUZZ_NAMES))
FUZZ_LONG = $(if $(F),$(F),$(FUZZ_NAMES) vmx)

# Histories of page tables take thousands of steps a run.
FUZZ_RUNS_ept ?= 1000

.PHONY: fuzz fuzz-short fuzz-build fuzz-long-vmx
fuzz-build: $(FUZZ_NAMES:%=$(FUZZ_OUT)/fuzz_%)
fuzz-short: $(foreach n,$(FUZZ_CHOSEN),fuzz-short-$(n))
fuzz: $(foreach n,$(FUZZ_LONG),fuzz-long-$(n))

fuzz-long-vmx: all l1
	@echo "  FUZZ    vmx"
	@tests/run --long

fuzz-short-%: $(FUZZ_OUT)/fuzz_%
	@echo "  FUZZ    $*"
	@$< -seed=1 -runs=$(or $(FUZZ_RUNS_$*),$(FUZZ_RUNS)) -max_len=4096 -timeout=20 \
	    -artifact_prefix=$(FUZZ_OUT)/$*- $(wildcard tests/fuzz/corpus/$*) \
	    >$(FUZZ_OUT)/$*.log 2>&1 || { tail -n 40 $(FUZZ_OUT)/$*.log; exit 1; }

fuzz-long-%: $(FUZZ_OUT)/fuzz_%
	@echo "  FUZZ    $* for $(FUZZ_SECONDS) s"
	@mkdir -p $(FUZZ_OUT)/corpus/$*
	@$< -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -print_final_stats=1 -timeout=20 \
	    -artifact_prefix=$(FUZZ_OUT)/$*- $(FUZZ_OUT)/corpus/$* $(wildcard tests/fuzz/corpus/$*)

# One archive, so that a fuzzer links only what it calls; the support file comes first, in place of
# the kernel's log and panic.
$(FUZZ_OUT)/fuzz_%: $(FUZZ_OUT)/tests/fuzz/fuzz_%.o $(FUZZ_OUT)/tests/host/support.o \
                    $(FUZZ_OUT)/libnestor.a
	@echo "  LD      $@"
	@$(FUZZ_CC) -fsanitize=fuzzer,$(FUZZ_SANITIZE) -o $@ $^

$(FUZZ_OUT)/libnestor.a: $(FUZZ_LIB_OBJ)
	@rm -f $@
	@ar rcs $@ $^

$(FUZZ_OUT)/%.o: %.c tests/fuzz/rules.mk
	@mkdir -p $(@D)
	@$(FUZZ_CC) $(FUZZ_CFLAGS) -fsanitize=fuzzer-no-link,$(FUZZ_SANITIZE) -MMD -MP -c $< -o $@

.SECONDARY: $(FUZZ_LIB_OBJ) $(FUZZ_NAMES:%=$(FUZZ_OUT)/tests/fuzz/fuzz_%.o) \
            $(FUZZ_OUT)/tests/host/support.o
-include $(FUZZ_LIB_OBJ:.o=.d) $(wildcard $(FUZZ_OUT)/tests/*/*.d)
