"""The ways to run the benchmark (tests/bench/*.c) in the emulator, and what each prints."""

import os
import re
import shutil
import subprocess
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPTS = os.path.join(TOP, "scripts")
BENCH = os.path.join(TOP, "build", "l1", "bench.elf")
NESTOR = os.path.join(TOP, "build", "nestor.elf")
COUNTING_NESTOR = os.path.join(TOP, "build", "count", "nestor.elf")
HASWELL = "corei7_haswell_4770"
# The nearest model without VMCS shadowing.
NO_SHADOWING = "corei7_ivy_bridge_3770k"
TIME_LIMIT = 120

CONFIGURATION = """\
[vm bench]
kind = multiboot
kernel = bench.elf
cmdline = {arguments}
memory = 128M
debug-exit = 0xf4
"""

LINE = re.compile(r"bench (\S+) (ticks|exits|vmreads|vmwrites|vmptrlds|vmclears|invepts) (\d+)")


class BenchError(Exception):
    pass


def parse(text):
    """{operation: {what: number}} of the benchmark's output; raises if it found something wrong."""
    wrong = [line for line in text.splitlines() if re.match(r"bench \S+ wrong", line)]
    if wrong:
        raise BenchError("\n".join(wrong))
    results = {}
    for name, what, number in LINE.findall(text):
        results.setdefault(name, {})[what] = int(number)
    return results


class Machine:
    """What the emulator boots: a configuration of one VM with its files {name: path}."""

    def __init__(self, config, files, model=HASWELL, memory=256, time_limit=TIME_LIMIT):
        self.config = config
        self.files = files
        self.model = model
        self.memory = memory
        self.time_limit = time_limit

    def boot(self, log, nestor=NESTOR, bochs=(), cut_off=False):
        """The console of one run, bare if nestor is None; it also goes to the file `log`.

        With cut_off the emulator's debugger ends the run before the guest does.
        """
        with tempfile.TemporaryDirectory(prefix="bench.") as place:
            for name, path in self.files.items():
                shutil.copy(path, os.path.join(place, name))
            config, iso = os.path.join(place, "nestor.cfg"), os.path.join(place, "bench.iso")
            with open(config, "w") as out:
                out.write(self.config)
            kernel = ["--kernel", nestor] if nestor else ["--bare"]
            subprocess.run([os.path.join(SCRIPTS, "mkiso"), *kernel, iso, config], check=True)
            command = [os.path.join(SCRIPTS, "bochs-run"), *([] if nestor else ["--bare"])]
            command += ["--model", self.model, "--memory", str(self.memory)]
            command += ["--timeout", str(self.time_limit), *bochs, iso]
            with open(log, "wb") as out:
                done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, cwd=place)
        with open(log, encoding="latin-1", newline="") as out:
            text = out.read().replace("\r", "")
        if done.returncode and not cut_off:
            parse(text)
            raise BenchError(f"the run ended with status {done.returncode}, see {log}")
        return text


def machine(arguments="bench", model=HASWELL):
    """The benchmark itself, as L1 of Nestor or bare."""
    return Machine(CONFIGURATION.format(arguments=arguments), {"bench.elf": BENCH}, model)
