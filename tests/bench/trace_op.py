"""Where the instructions of an operation go: a trace of one repetition, by function.

The benchmark stops the emulator before and after the repetition (xchg %bx, %bx); between the two
the emulator's debugger prints every instruction.
"""

import collections
import os
import re
import subprocess

import runs

STEP = re.compile(r"^\(\d+\)\.\[\d+\] \[0x\w+\] \w+:([0-9a-f]+) \([^)]*\): ([^;]*)")
# L0 runs in the upper half; L1 and L2 are the benchmark.
UPPER_HALF = 1 << 63
COMMANDS = "c,trace on,c,trace off"


def steps(operation, log):
    """(address, instruction) of all that is executed, in order."""
    arguments = f"only={operation} trace={operation}"
    debugger = ["--e9", "--debugger", COMMANDS]
    console = runs.machine(arguments).boot(log, bochs=debugger, cut_off=True)
    found = [(int(m[1], 16), m[2].strip()) for m in map(STEP.match, console.splitlines()) if m]
    if not found:
        raise runs.BenchError(f"no trace: is {operation} the name of an operation? See {log}")
    return found


class Symbols:
    """Names for addresses of an ELF file: the function, and the inline function within it."""

    def __init__(self, image, addresses):
        wanted = sorted(set(addresses))
        command = ["addr2line", "-a", "-f", "-i", "-e", image]
        done = subprocess.run(command, input="\n".join(map(hex, wanted)), capture_output=True,
                              text=True, check=True)
        self.chains = {}
        for block in re.split(r"^0x", done.stdout, flags=re.M)[1:]:
            address, *lines = block.splitlines()
            # innermost first, each followed by its place in the source
            places = [os.path.basename(place.partition(" ")[0]) for place in lines[1::2]]
            self.chains[int(address, 16)] = (lines[0::2], places)

    def function(self, address):
        return self.chains[address][0][-1]

    def inline(self, address):
        return self.chains[address][0][0]

    def place(self, address):
        return self.chains[address][1][0]


def by_name(names, head):
    """Lines of a table: share and number of each name, most first."""
    counts = collections.Counter(names)
    lines = [f"{'instructions':>12}  {head}"]
    lines += [f"{n:12}  {name}" for name, n in counts.most_common()]
    return lines


VMX = re.compile(r"^(vm\w+|inve\w+|invv\w+|rdmsr|wrmsr|rdtsc|cpuid|mov [cd]r\d|mov \w+, [cd]r\d)\b")


def report(operation, out):
    """Prints the tables; the instructions themselves, with their functions, go to `out`.txt."""
    found = steps(operation, out + ".log")
    ours = [(a, insn) for a, insn in found if a & UPPER_HALF]
    symbols = Symbols(runs.NESTOR, [a for a, _ in ours])
    with open(out + ".txt", "w") as text:
        for address, insn in found:
            where = "benchmark"
            if address & UPPER_HALF:
                where = f"{symbols.function(address)}/{symbols.inline(address)}"
                where += " " + symbols.place(address)
            text.write(f"{address:016x}  {where:60}  {insn}\n")
    special = collections.Counter(m[1] for m in (VMX.match(insn) for _, insn in ours) if m)
    print(f"{operation}: {len(found)} instructions, {len(ours)} of them in L0")
    print("\n".join(by_name((symbols.function(a) for a, _ in ours), "function of L0")))
    print("\n".join(by_name((symbols.inline(a) for a, _ in ours), "the same, by inline function")))
    print("costly ones: " + ", ".join(f"{n} {name}" for name, n in special.most_common()))
    print(f"all in order: {os.path.relpath(out, runs.TOP)}.txt")
