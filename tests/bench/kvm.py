"""The benchmark on Linux's KVM as L0: Debian's kernel and QEMU in an initramfs of their own."""

import glob
import os
import re
import subprocess
import sys
import tempfile

import runs

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(runs.TOP, "tests", "mainjob"))

import build as mainjob  # noqa: E402

BENCH32 = os.path.join(runs.TOP, "build", "l1", "bench-mb1.elf")
MULTIBOOT_ROM = "usr/share/qemu/multiboot_dma.bin"
TIME_LIMIT = 400
# Bare in the emulator the kernel finds fast strings disabled: it would be another one than in a VM.
PARAMETERS = "console=ttyS0 quiet mitigations=off nokaslr tsc=reliable clearcpuid=rep_good,erms"

CONFIGURATION = """\
[vm kvm]
kind = linux
kernel = vmlinuz
initrd = kvm.img
cmdline = {parameters} bench.arguments={arguments}
memory = 768M
"""


def find_kernel():
    """Debian's kernel; fetches the packages first if need be."""
    subprocess.run([os.path.join(runs.SCRIPTS, "fetch-debs"), "mainjob"], check=True)
    found = glob.glob(mainjob.package_file("boot") + "/vmlinuz-*")
    if len(found) != 1:
        raise runs.BenchError(f"{len(found)} kernels among the packages: run scripts/fetch-debs")
    return found[0]


def base_archive(init):
    """busybox, with the script `init` as PID 1."""
    archive = mainjob.Archive()
    for directory in ("dev", "proc", "sys", "tmp"):
        archive.directory(directory)
    archive.program("bin/busybox", mainjob.package_file("bin/busybox"))
    archive.link("bin/sh", "busybox")
    archive.program("init", os.path.join(HERE, "linux", init))
    return archive


def qemu_archive(init, kernel):
    """The same with KVM and QEMU for a guest: what the main job's L1 has."""
    archive = base_archive(init)
    mainjob.add_modules(archive, os.path.basename(kernel).partition("-")[2])
    archive.program(mainjob.QEMU, mainjob.package_file(mainjob.QEMU))
    archive.link(mainjob.LOADER, "/lib/x86_64-linux-gnu/" + os.path.basename(mainjob.LOADER))
    for library in mainjob.libraries(mainjob.QEMU):
        archive.program(library, mainjob.package_file(library))
    for path in (*mainjob.FIRMWARE, MULTIBOOT_ROM):
        archive.file(path, mainjob.package_file(path))
    return archive


def write_compressed(archive, target):
    archive.write(target + ".cpio")
    subprocess.run(["lz4", "-l", "-9", "-q", "-f", target + ".cpio", target], check=True)
    os.unlink(target + ".cpio")


def run(arguments, log):
    """{way: results} of the two runs, with VMCS shadowing in KVM and without."""
    kernel = find_kernel()
    with tempfile.TemporaryDirectory(prefix="bench-kvm.") as place:
        image = os.path.join(place, "kvm.img")
        archive = qemu_archive("kvm-init", kernel)
        archive.file("bench.elf", BENCH32)
        write_compressed(archive, image)
        config = CONFIGURATION.format(parameters=PARAMETERS, arguments=arguments)
        machine = runs.Machine(config, {"vmlinuz": kernel, "kvm.img": image}, memory=1024,
                               time_limit=TIME_LIMIT)
        console = machine.boot(log, None, ["--ignore-bad-msrs"])
    found = re.findall(r"^kvm: (kvm\S*)$(.*?^bench exit: 0$)", console, re.M | re.S)
    if len(found) != 2:
        raise runs.BenchError(f"the benchmark did not end well on KVM, see {log}")
    return {way: runs.parse(text) for way, text in found}
