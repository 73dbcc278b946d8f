"""Kinds of test cases: a command, a boot in the emulator, and an equivalence of two boots.

Each has a name, `quick` (part of `make check`) or `long` (of `make fuzz` only), a time limit in
seconds, and run(place), which works in the directory `place` of its own, leaves `place`.log and
returns None or what is wrong.
"""

import fnmatch
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEFAULT_MODEL = "corei7_skylake_x"
# How much longer than the emulator's own time limit a boot may take, for making the image.
SLACK = 60


def run_command(command, log, timeout, place=TOP):
    """Exit status of the command, whose output is added to the file `log`; None after a time-out.

    It runs in the directory `place`.
    """
    with open(log, "ab") as out:
        try:
            done = subprocess.run(
                command,
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return None
        except OSError as error:
            out.write(f"{command[0]}: {error.strerror}\n".encode())
            return 127
    return done.returncode


@dataclass
class Case:
    name: str
    quick: bool = False
    long: bool = False
    timeout: int = 120
    # Cases with the same word run one after the other.
    alone: str = ""


@dataclass
class Command(Case):
    """A command that is fine when it ends with `status`."""

    command: list = field(default_factory=list)
    status: int = 0

    def run(self, place):
        got = run_command(self.command, place + ".log", self.timeout)
        if got is None:
            return f"time-out after {self.timeout} s"
        return None if got == self.status else f"exit status {got}, should be {self.status}"


@dataclass
class Machine(Case):
    """What the emulator boots: a configuration, with the files that it names.

    files maps names in the configuration to paths from the top of the tree, or to their content
    (bytes). None there: the file is missing on purpose.
    """

    config: str = ""
    files: dict = field(default_factory=dict)
    model: str = DEFAULT_MODEL
    memory: int = 512
    cpus: int = 1
    bare: bool = False
    # For the emulator and for packing, if need be.
    run_options: list = field(default_factory=list)
    iso_options: list = field(default_factory=list)

    def prepare(self, place):
        shutil.rmtree(place, ignore_errors=True)
        os.makedirs(place)
        with open(os.path.join(place, "nestor.cfg"), "w") as out:
            out.write(self.config)
        for name, source in self.files.items():
            path = os.path.join(place, name)
            if isinstance(source, bytes):
                with open(path, "wb") as out:
                    out.write(source)
            elif source is not None:
                shutil.copy(os.path.join(TOP, source), path)

    def boot(self, place):
        """Boots; returns the exit status of bochs-run, or None, and the console's lines."""
        self.prepare(place)
        iso, log = os.path.join(place, "boot.iso"), place + ".log"
        bare = ["--bare"] if self.bare else []
        missing = ["--allow-missing"] if None in self.files.values() else []
        packed = run_command(
            [
                "scripts/mkiso",
                *bare,
                *missing,
                *self.iso_options,
                iso,
                os.path.join(place, "nestor.cfg"),
            ],
            log,
            SLACK,
        )
        if packed != 0:
            return "mkiso failed", []
        # The emulator's devices leave files where it runs.
        command = [os.path.join(TOP, "scripts/bochs-run"), *bare, *self.run_options]
        command += ["--model", self.model, "--memory", str(self.memory), "--cpus", str(self.cpus)]
        command += ["--timeout", str(self.timeout), iso]
        status = run_command(command, log, self.timeout + SLACK, place)
        os.unlink(iso)
        with open(log, encoding="latin-1") as text:
            return status, [line.rstrip() for line in text]


def line_that_matches(pattern, lines):
    return any(re.search(pattern, line) for line in lines)


# What Nestor says only when it has a bug: memory that a VM's end does not give back, and a rule of
# VM entry that its own checks do not know.
NEVER = [r"pages of L0 .*; [1-9]\d* lost", r"the processor refused vmcs02"]


@dataclass
class Boot(Machine):
    """A boot that ends with `status` and whose console has the expected lines and no forbidden one.

    The expressions are searched in each line.
    """

    status: int = 0
    expect: list = field(default_factory=list)
    forbid: list = field(default_factory=list)

    def run(self, place):
        status, lines = self.boot(place)
        if status != self.status:
            return f"exit status {status}, should be {self.status}"
        for pattern in self.expect:
            if not line_that_matches(pattern, lines):
                return f"no line matches /{pattern}/"
        for pattern in self.forbid + NEVER:
            if line_that_matches(pattern, lines):
                return f"a line matches /{pattern}/"
        return None


# ------------------------------------------------------------------------------------- equivalence

CHECK_LINE = re.compile(r"(ok|FAIL|val|skip) ([a-z0-9-]+\.[a-z0-9-]+: .*)")
# What a check found out, after its text: a number, else an outcome.
NUMBER = re.compile(r" is 0x[0-9a-f]+(, should be 0x[0-9a-f]+)?$")
OUTCOME = re.compile(
    r": (\".*\"|VMsucceed|VMfailInvalid|VMfailValid \d+|flags 0x[0-9a-f]+|#[A-Z]{2}|NMI|no fault"
    r"|vector \d+|exit \d+( of a failed entry)?)(, should be [^:]+)?$"
)


def without_result(text):
    """The text of a check, by which two runs are compared."""
    return NUMBER.sub("", text) if NUMBER.search(text) else OUTCOME.sub("", text)


def read_checks(lines):
    """The checks that a program printed: {text with a number for repetitions: (verdict, line)}."""
    checks = {}
    for line in lines:
        match = CHECK_LINE.fullmatch(line)
        if not match:
            continue
        section, _, text = match[2].partition(": ")
        plain = f"{section}: {without_result(text)}"
        key, n = plain, 1
        while key in checks:
            n += 1
            key = f"{plain} #{n}"
        checks[key] = (match[1], match[2])
    return checks


def read_differences(path):
    """The rows (program, model, where, pattern, reason) of the list of known differences."""
    rows = []
    with open(path) as text:
        for number, line in enumerate(text, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            row = [part.strip() for part in line.split("|")]
            if len(row) != 5 or row[2] not in ("bare", "nestor", "both", "differ") or not row[4]:
                right = "program | model | where | text | reason"
                raise ValueError(f"{path}:{number}: expected {right}")
            rows.append(row)
    return rows


@dataclass
class Equivalence(Machine):
    """A program's checks bare and on Nestor: all good and the same but for the known differences.

    With bare_only, only the bare run is judged.
    """

    program: str = ""
    bare_only: bool = False
    bare_memory: int = 512
    # In place of @ARGS@ in the configuration.
    bare_arguments: str = "bare"
    nestor_arguments: str = "nestor"

    def one(self, place, bare, arguments):
        machine = Machine(
            self.name,
            timeout=self.timeout,
            config=self.config.replace("@ARGS@", arguments),
            files=self.files,
            model=self.model,
            memory=self.bare_memory if bare else self.memory,
            cpus=self.cpus,
            bare=bare,
            run_options=self.run_options,
        )
        log = place + ".log"
        start = os.path.getsize(log) if os.path.exists(log) else 0
        status, _ = machine.boot(place)
        with open(log, encoding="latin-1") as text:
            text.seek(start)
            lines = [line.rstrip() for line in text]
        for pattern in NEVER:
            if line_that_matches(pattern, lines):
                return f"a line matches /{pattern}/", {}
        complete = status in (0, 1) and line_that_matches(r"^exit: [01]$", lines)
        return (None if complete else f"exit status {status}"), read_checks(lines)

    def known(self, text, where):
        """Is this check on the list, for a run of this kind ("differ": for their comparison)?"""
        for program, model, place, pattern, _ in self.differences:
            if (
                fnmatch.fnmatchcase(self.program, program)
                and fnmatch.fnmatchcase(self.model, model)
                and fnmatch.fnmatchcase(text.partition(".")[2], pattern)
                and (place in (where, "both") or where == "differ")
            ):
                return True
        return False

    def failures(self, checks, where):
        return [
            f"{where}: FAIL {line}"
            for text, (verdict, line) in checks.items()
            if verdict == "FAIL" and not self.known(text, where)
        ]

    def compare(self, bare, nestor):
        wrong = []
        for text in list(bare) + [text for text in nestor if text not in bare]:
            a, b = bare.get(text), nestor.get(text)
            if a == b or self.known(text, "differ"):
                continue
            if a and b and "FAIL" in (a[0], b[0]):
                continue  # said already
            wrong.append(f"bare: {' '.join(a or ('absent:', text))}")
            wrong.append(f"nestor: {' '.join(b or ('absent:', text))}")
        return wrong

    def run(self, place):
        self.differences = read_differences(os.path.join(TOP, "tests/l1/differences.txt"))
        error, bare = self.one(place, True, self.bare_arguments)
        if error:
            return f"bare: {error}"
        if not bare:
            return "bare: no check was made"
        wrong = self.failures(bare, "bare")
        if not self.bare_only:
            error, nestor = self.one(place, False, self.nestor_arguments)
            if error:
                return f"on Nestor: {error}"
            wrong += self.failures(nestor, "nestor") + self.compare(bare, nestor)
        if not wrong:
            return None
        with open(place + ".log", "a") as log:
            log.write("\nwhat is not on the list of known differences:\n" + "\n".join(wrong) + "\n")
        return f"{len(wrong)} lines that no known difference explains"
