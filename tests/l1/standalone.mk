# Builds the test kernels alone: make -f tests/l1/standalone.mk
all: l1
include tests/l1/rules.mk
