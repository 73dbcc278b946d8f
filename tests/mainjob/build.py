#!/usr/bin/env python3
"""Makes build/mainjob/{vmlinuz,l1.img,l2.img} from what scripts/fetch-debs unpacked.

Both images are initramfs archives. L1's holds busybox, the KVM modules, QEMU with its libraries and
firmware, and L2's kernel and image; L2's holds busybox and our own work program. L1's is compressed
with LZ4: an emulated machine reads half as much from its CD, and unpacking takes it less time.

The output is a function of the packages and of this directory: no times, no owners, entries in
sorted order. If it is newer than both, nothing is done.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(TOP, "tests"))

from initramfs import Archive  # noqa: E402

PACKAGES = os.path.join(TOP, "build", "cache", "root", "mainjob")
OUT = os.path.join(TOP, "build", "mainjob")
OUTPUTS = ("vmlinuz", "l1.img", "l2.img")

LIBRARY_DIRECTORIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
LOADER = "lib64/ld-linux-x86-64.so.2"
QEMU = "usr/bin/qemu-system-x86_64"
# What QEMU's `pc` machine reads when it starts a Linux kernel without any other device.
FIRMWARE = (
    "usr/share/seabios/bios-256k.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/qemu/kvmvapic.bin",
)
MODULES = ("irqbypass", "kvm", "kvm-intel")


def package_file(path):
    full = os.path.join(PACKAGES, path)
    if not os.path.exists(full):
        sys.exit(f"build.py: no {path} in {os.path.relpath(PACKAGES, TOP)}: run scripts/fetch-debs")
    return full


def base(archive, init):
    """What both images have: mount points, busybox, our init."""
    for directory in ("bin", "dev", "proc", "sys", "tmp"):
        archive.directory(directory)
    archive.program("bin/busybox", package_file("bin/busybox"))
    archive.link("bin/sh", "busybox")
    archive.program("init", os.path.join(HERE, init))


def find_library(name):
    for directory in LIBRARY_DIRECTORIES:
        if os.path.exists(os.path.join(PACKAGES, directory, name)):
            return os.path.join(directory, name)
    sys.exit(f"build.py: no library {name} among the packages")


def libraries(program):
    """Paths of all libraries that the program needs, directly or through other libraries."""
    found, todo = set(), [program]
    while todo:
        dynamic = subprocess.run(
            ["readelf", "-d", package_file(todo.pop())], capture_output=True, text=True, check=True
        ).stdout
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
        fresh = {find_library(name) for name in needed} - found
        found |= fresh
        todo += fresh
    return sorted(found)


def add_modules(archive, release):
    """The KVM modules and the index that busybox's modprobe reads."""
    tree = os.path.join("lib/modules", release)
    paths = []
    for name in MODULES:
        match = glob.glob(os.path.join(PACKAGES, tree, "kernel/**", name + ".ko"), recursive=True)
        if len(match) != 1:
            sys.exit(f"build.py: {len(match)} modules {name}.ko in {tree}")
        paths.append(os.path.relpath(match[0], PACKAGES))
        archive.file(paths[-1], match[0])
    names = [os.path.relpath(path, tree) for path in paths]
    # each needs those before it; the nearest dependency comes first
    lines = [f"{name}: {' '.join(reversed(names[:i]))}\n" for i, name in enumerate(names)]
    archive.add(os.path.join(tree, "modules.dep"), 0o100644, "".join(lines).encode())


def build_l2(target, directory, release):
    flags = ["-std=gnu11", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror"]
    archive = Archive()
    base(archive, "l2-init")
    add_modules(archive, release)
    for name in ("l2work", "l3"):
        program = os.path.join(directory, name)
        subprocess.run(["gcc", *flags, os.path.join(HERE, name + ".c"), "-o", program], check=True)
        archive.program("bin/" + name, program)
    archive.write(target)


def build_l1(target, directory, release, kernel, l2_image):
    archive = Archive()
    base(archive, "l1-init")
    archive.program("bin/l2", os.path.join(HERE, "l2"))
    add_modules(archive, release)
    archive.program(QEMU, package_file(QEMU))
    archive.link(LOADER, "/lib/x86_64-linux-gnu/" + os.path.basename(LOADER))
    for library in libraries(QEMU):
        archive.program(library, package_file(library))
    for path in FIRMWARE:
        archive.file(path, package_file(path))
    archive.file("l2/vmlinuz", kernel)
    archive.file("l2/l2.img", l2_image)
    plain = os.path.join(directory, "l1.cpio")
    archive.write(plain)
    # the legacy format (-l) is the one that Linux reads
    subprocess.run(["lz4", "-l", "-9", "-q", "-f", plain, target], check=True)


def up_to_date():
    sources = glob.glob(os.path.join(HERE, "*")) + [os.path.join(PACKAGES, ".recipe")]
    sources.append(os.path.join(TOP, "tests", "initramfs.py"))
    outputs = [os.path.join(OUT, name) for name in OUTPUTS]
    if not all(os.path.exists(path) for path in sources + outputs):
        return False
    return max(map(os.path.getmtime, sources)) < min(map(os.path.getmtime, outputs))


def build(directory):
    kernels = glob.glob(os.path.join(PACKAGES, "boot/vmlinuz-*"))
    if len(kernels) != 1:
        sys.exit(f"build.py: {len(kernels)} kernels among the packages: run scripts/fetch-debs")
    release = os.path.basename(kernels[0]).partition("-")[2]
    kernel, l1, l2 = (os.path.join(directory, name) for name in OUTPUTS)
    shutil.copyfile(kernels[0], kernel)
    build_l2(l2, directory, release)
    build_l1(l1, directory, release, kernel, l2)


def main():
    if up_to_date():
        return
    os.makedirs(OUT, exist_ok=True)
    # on the side first, so that whoever reads the old files meanwhile reads whole ones
    with tempfile.TemporaryDirectory(dir=OUT) as directory:
        build(directory)
        for name in OUTPUTS:
            path = os.path.join(OUT, name)
            os.replace(os.path.join(directory, name), path)
            print(f"{os.path.relpath(path, TOP)}: {os.path.getsize(path):,} bytes")


if __name__ == "__main__":
    main()
