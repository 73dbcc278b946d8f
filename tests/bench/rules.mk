# The benchmark that runs as L1 (with the runtime of the test kernels), and the targets that run it.
# Included by the Makefile at the top.

BENCH_OBJS = $(call L1_OBJ,$(wildcard tests/bench/*.c)) $(L1_OUT)/tests/bench/enter.o

$(L1_OUT)/bench.elf: $(L1_OUT)/entry-both.o $(L1_RT_OBJS) $(BENCH_OBJS) tests/l1/rt/link.ld
	@echo "  LD      $@"
	@$(L1_LD) $(L1_LDFLAGS) $(filter %.o,$^) -o $@

# QEMU's -kernel takes 32-bit images with a multiboot 1 header only.
$(L1_OUT)/bench-mb1-64.elf: $(L1_OUT)/entry-mb1.o $(L1_RT_OBJS) $(BENCH_OBJS) tests/l1/rt/link.ld
	@$(L1_LD) $(L1_LDFLAGS) $(filter %.o,$^) -o $@
$(L1_OUT)/bench-mb1.elf: $(L1_OUT)/bench-mb1-64.elf
	@objcopy -O elf32-i386 $< $@

# For the test that runs it.
l1: $(L1_OUT)/bench.elf

-include $(wildcard $(L1_OUT)/tests/bench/*.d)

.PHONY: bench-build

bench-build:
	@$(MAKE) --no-print-directory COUNT=1 all
	@$(MAKE) --no-print-directory all $(L1_OUT)/bench.elf $(L1_OUT)/bench-mb1.elf
