"""Whole workloads (linux/work.c): Linux as L1 and as L2 on its KVM, on Nestor or KVM as L0."""

import os
import re
import subprocess
import tempfile

import kvm
import runs

TIME_LIMIT = 1200
# So that the kernel's timer, at 250 Hz, comes every 400,000 instructions: with the emulator's usual
# 10 million in a second two levels of timer interrupts would leave hardly any for programs.
SPEED = ["--ips", "100000000"]
# Linux as L0 reads MSRs that Bochs does not have; so both kinds of L0 run on a processor on which
# those read 0, IA32_DEBUGCTL among them, which each real one with VT-x has.
PROCESSOR = ["--ignore-bad-msrs"]

CONFIGURATION = """\
[vm linux]
kind = linux
kernel = vmlinuz
initrd = image
cmdline = {parameters} level={level} ept={ept}
memory = {memory}
"""

LINE = re.compile(r"^work (L\d|alone) (\S+) ticks (\d+)", re.M)


def add_next(archive, kernel, image):
    archive.file("next/vmlinuz", kernel)
    archive.file("next/next.img", image)


def build_images(place, kernel):
    """Paths of the images for L2, for L1, and for Linux as L0 of either."""
    work = os.path.join(place, "work")
    flags = ["-std=gnu11", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror"]
    source = os.path.join(kvm.HERE, "linux", "work.c")
    subprocess.run(["gcc", *flags, source, "-o", work], check=True)
    guest, l1, l0, alone = (os.path.join(place, name) for name in ("l2", "l1", "l0", "alone"))
    archive = kvm.base_archive("work-init")
    archive.program("bin/work", work)
    archive.write(guest)
    archive = kvm.qemu_archive("work-init", kernel)
    archive.program("bin/work", work)
    add_next(archive, kernel, guest)
    kvm.write_compressed(archive, l1)
    for image, above in ((l0, l1), (alone, guest)):
        archive = kvm.qemu_archive("work-init", kernel)
        add_next(archive, kernel, above)
        kvm.write_compressed(archive, image)
    return guest, l1, l0, alone


def run_one(kernel, image, level, ept, nestor, log, memory="768M"):
    """{(level, workload): ticks} of one boot."""
    config = CONFIGURATION.format(parameters=kvm.PARAMETERS, level=level, ept=ept, memory=memory)
    machine = runs.Machine(config, {"vmlinuz": kernel, "image": image},
                           memory=1280 if nestor else 768, time_limit=TIME_LIMIT)
    if not nestor:
        machine.memory = 1536
    console = machine.boot(log, nestor, SPEED + PROCESSOR)
    results = {(where, name): int(n) for where, name, n in LINE.findall(console)}
    if not any(where in ("L2", "alone") for where, _ in results):
        raise runs.BenchError(f"no figures of L2, see {log}")
    return results


def boot_alone(kernel, images, nestor, log):
    """The same kernel, image and memory as L2's, as L1, for `boot` only."""
    guest, _, _, l0 = images
    if nestor:
        alone = run_one(kernel, guest, "alone", 1, nestor, log, "256M")
    else:
        alone = run_one(kernel, l0, "below-alone", 1, None, log)
    return {("L1", "boot"): alone["alone", "boot"]}


def run(out, mmus, below):
    """{"nestor, EPT on EPT": results, ...} for the MMU designs and the kinds of L0 asked for."""
    kernel = kvm.find_kernel()
    results = {}
    with tempfile.TemporaryDirectory(prefix="bench-work.") as place:
        images = build_images(place, kernel)
        for who in below:
            image, level, nestor = ((images[1], "L1", runs.NESTOR) if who == "nestor"
                                    else (images[2], "below", None))
            alone = boot_alone(kernel, images, nestor, os.path.join(out, f"work-{who}-alone.log"))
            for mmu in mmus:
                name = f"{who}-{mmu}"
                log = os.path.join(out, f"work-{name}.log")
                results[name] = run_one(kernel, image, level, int(mmu == "ept"), nestor, log)
                results[name].update(alone)  # L1's own image is many times as large as L2's
    return results


def show(results):
    """A table: for each run the ticks in L1 and in L2, their ratio and their difference."""
    print(f"{'workload':<16} {'L0, MMU':<18} {'L1':>12} {'L2':>12} {'L2:L1':>7} {'L2-L1':>12}")
    names = dict.fromkeys(name for numbers in results.values() for _, name in numbers)
    for name in names:
        for run_name, numbers in results.items():
            l1, l2 = numbers.get(("L1", name)), numbers.get(("L2", name))
            if l1 and l2:
                print(f"{name:<16} {run_name:<18} {l1:12,} {l2:12,} {l2 / l1:7.3f} {l2 - l1:12,}")
