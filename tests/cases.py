"""The cases of `make test` but for host tests and fuzzers, which tests/run finds by itself."""

import os

from kinds import DEFAULT_MODEL, Boot, Command, Equivalence

LYNNFIELD = "corei5_lynnfield_750"  # EPT without unrestricted guest
PENRYN = "core2_penryn_t9600"  # VMX without EPT and VPID
ARRANDALE = "corei5_arrandale_m520"  # unrestricted guest, but neither EPT A/D nor VMCS shadowing
SANDY_BRIDGE = "corei7_sandy_bridge_2600k"
HASWELL = "corei7_haswell_4770"  # VMCS shadowing, no PML
ICELAKE = "corei7_icelake_u"  # monitor trap flag
NO_VMX = "p4_prescott_celeron_336"  # long mode, but no VMX

MODULE1 = b"hello, module\n"
MODULE2 = bytes((i * 7 + i // 256) & 0xFF for i in range(5000))


def l1(program):
    """Where the build leaves a test kernel."""
    return f"build/l1/{program}"


def vm(arguments="@ARGS@", memory="128M", extra="", kernel="k.elf"):
    """A configuration of one VM with a test kernel."""
    return (
        f"[vm test]\nkind = multiboot\nkernel = {kernel}\ncmdline = {arguments}\n"
        f"memory = {memory}\ndebug-exit = 0xf4\n{extra}"
    )


def equivalence(program, name=None, image=None, extra="", files=None, arguments="", **more):
    memory = more.pop("vm_memory", "128M")
    return Equivalence(
        name or program,
        program=program,
        config=vm(f"@ARGS@ {arguments}".rstrip(), memory, extra),
        files={"k.elf": l1(image or program + ".elf"), **(files or {})},
        **more,
    )


def on_models(program):
    """The program on the default model and on the others that Nestor runs on."""
    others = {"arrandale": ARRANDALE, "sandy-bridge": SANDY_BRIDGE, "haswell": HASWELL}
    return [equivalence(program, timeout=240)] + [
        equivalence(program, f"{program}-{name}", model=model, timeout=240)
        for name, model in others.items()
    ]


def boot_variant(name, image, **more):
    return equivalence(
        "boot",
        name,
        image,
        extra="module = m1 one two\nmodule = m2\n",
        files={"m1": MODULE1, "m2": MODULE2},
        arguments="first second number=0x1234 memory=128",
        bare_memory=128,
        **more,
    )


def robust(what, status=0, expect=(), **more):
    """The L1 that misbehaves in the way `what`."""
    return Boot(
        f"robust-{what}",
        config=vm(f"do={what}", extra=more.pop("extra", "")),
        files={"k.elf": l1("robust.elf")},
        status=status,
        expect=list(expect),
        forbid=[r"panic"],
        **more,
    )


def refused(name, config, expect, files=None, status=97, **more):
    """A configuration that no VM can be started of: the message, and Nestor ends."""
    return Boot(
        name,
        config=config,
        files={"k.elf": l1("boot.elf")} if files is None else files,
        status=status,
        expect=expect,
        forbid=["panic"],
        **more,
    )


CHECKS = [
    Command("includes", quick=True, command=["scripts/check-includes"]),
    Command("lint", timeout=600, quick=True, command=["scripts/lint"]),
]

L1 = [
    boot_variant("boot", "boot.elf", quick=True),
    boot_variant("boot-mb1", "boot-mb1.elf"),
    boot_variant("boot-mb1-elf64", "boot-mb1-64.elf"),
    boot_variant("boot-mb2", "boot-mb2.elf"),
    boot_variant("boot-kludge", "boot-kludge.bin"),
    *on_models("cpu"),
    *on_models("vmxinsn"),
    *on_models("nested"),
    equivalence("nested", "nested-no-ept", arguments="mmu=none", timeout=240),
    # A model that has the monitor trap flag, though the emulator does nothing for it: what L0 does
    # is to be seen on Nestor only.
    Boot(
        "nested-trap-flag",
        config=vm("nestor only=trap-flag,trap-injected"),
        files={"k.elf": l1("nested.elf")},
        model=ICELAKE,
        expect=[
            r"^ok nested\.trap-flag: HLT: exit 37",
            r"^nested: [1-9]\d* checks passed, 0 failed",
        ],
        forbid=["panic"],
    ),
    equivalence("nestedx"),
    equivalence("past"),
    equivalence("nestedx", "nestedx-haswell", model=HASWELL),
]

BAD_INPUT = [
    refused(
        "no-vmx",
        vm(),
        ["no VMX"],
        status=98,
        model=NO_VMX,
        quick=True,
    ),
    refused(
        "no-unrestricted-guest",
        vm(),
        ["VMX lacks what Nestor needs: .*unrestricted guest"],
        status=98,
        model=LYNNFIELD,
    ),
    refused("no-long-mode", vm(), ["no 64-bit mode"], status=98, model="atom_n270"),
    refused("no-ept", vm(), ["VMX lacks what Nestor needs: "], status=98, model=PENRYN),
    refused(  # packed as if it were a guest, Nestor gets no module
        "no-module",
        vm(""),
        [r"no module: .*nestor\.cfg"],
        files={"k.elf": "build/nestor.elf"},
        iso_options=["--bare"],
    ),
    refused(
        "no-vm",
        "console = com1 115200\n",
        [r"nestor\.cfg.*no VM"],
        files={},
    ),
    refused(
        "unknown-key",
        vm("x", extra="colour = blue\n"),
        [r"nestor\.cfg:7: .*unknown key 'colour'.*kernel"],
        quick=True,
    ),
    refused(
        "memory-out-of-range",
        vm("x", "3000000G"),
        [r"nestor\.cfg:5: memory = 3000000G: expected .*2M"],
    ),
    refused(
        "port-out-of-range",
        vm("x").replace("0xf4", "0x12345"),
        [r"nestor\.cfg:6: debug-exit = 0x12345: expected .*0xffff"],
    ),
    refused(
        "file-missing",
        vm("x", extra="module = absent.bin\n"),
        [r"nestor\.cfg:7: .*VM test.*absent\.bin.*not there"],
        files={"k.elf": l1("boot.elf"), "absent.bin": None},
    ),
    refused(
        "kernel-is-no-kernel",
        vm("x"),
        [r"nestor\.cfg:3: .*VM test.*k\.elf"],
        files={"k.elf": b"this is no kernel\n" * 300},
    ),
    refused(
        "kernel-is-empty",
        vm("x"),
        [r"nestor\.cfg:3: .*VM test.*k\.elf"],
        files={"k.elf": b"\n"},
    ),
    refused(
        "memory-too-little",
        vm("x", "2000M"),
        [r"nestor\.cfg:5: .*VM test.*too little memory"],
    ),
    refused(
        "memory-too-small-for-kernel",
        vm("x", "2M"),
        [r"nestor\.cfg:\d+: .*VM test is not started"],
    ),
    Boot(
        "mitigations-off",
        config="mitigations = off\n" + vm("only=entry"),
        files={"k.elf": l1("boot.elf")},
        expect=[r"speculation barriers: off", r"^exit: 0"],
    ),
    Boot(
        "one-vm-is-wrong",
        config="[vm bad]\nkernel = k.elf\nmemory = 64M\ncpus = 0\n" + vm("only=entry"),
        files={"k.elf": l1("boot.elf")},
        expect=[r"nestor\.cfg:4: cpus = 0: expected", r"^ok boot\.entry", r"^exit: 0"],
    ),
]

RANDOM_MODELS = (DEFAULT_MODEL, HASWELL, SANDY_BRIDGE)


def random_vmx(seed, count, model, **more):
    """An L1 that executes so many random VMX operations."""
    return Boot(
        f"random-{seed}",
        timeout=600,
        config=vm(f"seed={seed} count={count}"),
        files={"k.elf": l1("random.elf")},
        model=model,
        expect=[rf"^random: seed {seed:#x},", r"^exit: 0", r"; 0 lost"],
        forbid=["panic"],
        **more,
    )


ROBUST = [
    robust("triple-fault", 96, [r"VM test is stopped"]),
    robust("reset", 94),
    robust("power-off", 0),
    robust("debug-exit", 7),
    robust("unexpected-fault", 2, [r"^unexpected #UD,", r"^exit: 2"]),
    robust("absent", 0, [r"^exit: 0"]),
    robust("vmcs-nowhere", 0, [r"^exit: 0"]),
    robust("pointers-nowhere", 0, [r"^exit: 0"]),
    robust("msr-lists", 0, [r"^exit: 0"]),
    robust("ept-nowhere", 0, [r"^exit: 0"]),
    robust("vmcs-overwritten", 0, [r"^exit: 0"]),
    robust("many-vmcs", 0, [r"^exit: 0"]),
    robust("shutdown-in-vmx", 96, [r"VM test is stopped"]),
    robust("vmx-abort", 96, [r"VM test is stopped"]),
    *[random_vmx(seed, 60000, model) for seed, model in enumerate(RANDOM_MODELS, 1)],
]

# A million operations; SEED=N in the environment begins with another seed.
FIRST_SEED = int(os.environ.get("SEED", "100"))
FUZZ = [
    random_vmx(FIRST_SEED + n, 50000, RANDOM_MODELS[n % len(RANDOM_MODELS)], long=True)
    for n in range(20)
]

# Nestor as the guest, so that "firmware" can lock VMX off.
VMX_TAKEN_AWAY = [
    Boot(
        f"vmx-{state}",
        config=vm("x", extra=f"vmx = {state}\n"),
        files={"k.elf": "build/nestor.elf"},
        expect=[message, r"end: no-vmx 0"],
        forbid=["panic"],
    )
    for state, message in (
        ("locked", r"VMX \(VT-x\) is locked off by the firmware: enable"),
        ("off", r"this processor has no VMX"),
    )
]

ALPHABET = "abcdefghijklmnopqrstuvwxyz"

TYPED = [
    Boot(
        "typed",
        config=vm(f"bytes={26 * 24} wait=50000000"),
        files={"k.elf": l1("typed.elf")},
        run_options=["--type", "typed: ready", ALPHABET * 24 + r"\n"],
        expect=[r"^exit: 0"],
    ),
]

# What an L2 of Nestor on Nestor checks: all of `nested` but for groups that take too long there or
# have a known defect of the emulator among their checks.
NESTED_ON_NESTOR = (
    "round-trip,host-state,enables,io,msr-bitmaps,exceptions,page-faults,triple-fault,injection,"
    "vectoring,external,interrupt-window,preemption-timer,tsc,activity,nmi,entry-controls,"
    "entry-host,entry-guest,link-pointer,entry-order,msr-lists,ept-translation,ept-permissions,"
    "ept-accessed-dirty,ept-vectoring,invept,cr-masks,cr0-writes,cr4-writes,cr3-targets,"
    "compatibility,paged-32bit,pae,unpaged,real-mode,pat,efer,debug-controls,pending-debug,"
    "tpr-shadow,apic-access,monitor-trap,pause-loop"
)


def on_two_nestors(program, arguments):
    """A test kernel as the VM of a Nestor that is itself the VM of a Nestor."""
    return Boot(
        f"nestor-on-nestor-{program}",
        timeout=300,
        config="[vm outer]\nkind = multiboot\nkernel = nestor.elf\nmodule = inner.cfg\n"
        "module = k.elf\nmemory = 384M\n",
        files={
            "nestor.elf": "build/nestor.elf",
            "k.elf": l1(f"{program}.elf"),
            "inner.cfg": vm(arguments).encode(),
        },
        expect=[
            r"VM outer: ",
            r"booted by Nestor",
            rf"^{program}: [1-9]\d* checks passed, 0 failed",
            r"VM outer powered off",
        ],
        forbid=["panic", "stopped"],
    )


NESTOR_ON_NESTOR = [
    on_two_nestors("boot", "only=entry,acpi,ram,bios"),
    on_two_nestors("nested", f"nestor only={NESTED_ON_NESTOR}"),
]


def main_job(name, *options):
    return Command(
        name,
        timeout=1300,
        alone="main-job",
        command=["scripts/run-main-job", "--limit", "1200", *options],
    )


# The longest case goes first, and the main jobs, which exclude each other, stand apart.
CASES = (
    [main_job("main-job")]
    + CHECKS
    + L1
    + BAD_INPUT
    + VMX_TAKEN_AWAY
    + ROBUST
    + FUZZ
    + TYPED
    + NESTOR_ON_NESTOR
    + [Command("bench", timeout=300, command=["scripts/bench", "--repeat"])]
    + [Command("xen", timeout=900, command=["tests/xen/run"])]
    + [main_job("kvm-in-l2", "--l3")]
    + [main_job("nestor-on-nestor-linux", "--nestor-on-nestor", "--small")]
    + [main_job("main-job-shadow-on-ept", "--mmu", "shadow-on-ept")]
)
