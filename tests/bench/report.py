"""What the benchmark shows: a table, JSON, a picture."""

import json
import os

import chart

# Operation, the way that the aim is for, the most ticks that it may take.
AIMS = {
    "cpuid": ("nestor", 120),
    "l2-vmcall": ("nestor", 900),
    "l2-cpuid": ("nestor-unshadowed", 3500),
    "vmread-rare": ("nestor", 110),
    "vmwrite-rare": ("nestor", 110),
    "l2-fresh-page": ("nestor", 1600),
    "invept": ("nestor", 200),
    "invvpid": ("nestor", 200),
    "unmap-1-of-512": ("nestor", 8000),
    "vmptrld-and-back": ("nestor", 900),
    "vmclear-vmptrld-vmlaunch": ("nestor", 4000),
}
COUNTS = ("exits", "vmreads", "vmwrites", "vmptrlds")


def operations(results):
    """All names, in the order of the benchmark."""
    names = {}
    for operation in results.values():
        names.update(dict.fromkeys(operation))
    return list(names)


def verdict(results, name):
    """(aim, "met" or "missed") or two empty texts."""
    way, aim = AIMS.get(name, (None, None))
    ticks = results.get(way, {}).get(name, {}).get("ticks")
    if ticks is None:
        return "", ""
    return str(aim), "met" if ticks <= aim else "missed"


def row(results, name):
    def number(way, what):
        return results.get(way, {}).get(name, {}).get(what, "")

    ways = [way for way in results]
    cells = [name] + [number(way, "ticks") for way in ways]
    kvm, nestor = number("kvm", "ticks"), number("nestor", "ticks")
    cells.append(f"{kvm / nestor:.1f}" if kvm and nestor else "")
    cells += [number("nestor" if "nestor" in results else "nestor-unshadowed", what)
              for what in COUNTS]
    return [str(cell) for cell in cells + list(verdict(results, name))]


def table(results):
    """Prints one line for each operation."""
    head = ["operation", *results, "kvm/nestor", *COUNTS, "aim", ""]
    rows = [head] + [row(results, name) for name in operations(results)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    for r in rows:
        print("  ".join(c.rjust(w) if i else c.ljust(w)
                        for i, (c, w) in enumerate(zip(r, widths))).rstrip())


def save(results, directory):
    """bench.json ({way: {operation: {what: number}}}) and bench.svg."""
    paths = [os.path.join(directory, "bench." + ending) for ending in ("json", "svg")]
    with open(paths[0], "w") as out:
        json.dump(results, out, indent=1)
        out.write("\n")
    with open(paths[1], "w") as out:
        out.write(chart.draw(results, operations(results)))
    return paths


# The tables of docs/performance.md: (KVM's way, Nestor's way, its counts).
DOCUMENTED = (
    ("kvm", "nestor", ("exits", "vmreads", "vmwrites", "vmptrlds", "vmclears", "invepts")),
    ("kvm-unshadowed", "nestor-unshadowed", COUNTS),
)


def markdown_row(results, name, kvm, nestor, counts):
    def number(way, what):
        return results.get(way, {}).get(name, {}).get(what, "")

    theirs, ours = number(kvm, "ticks"), number(nestor, "ticks")
    cells = [number("bare", "ticks"), theirs, ours]
    cells += [f"{theirs / ours:.1f}" if theirs and ours else ""]
    cells += [number(nestor, what) for what in counts]
    aim = " ".join(verdict(results, name)) if AIMS.get(name, ("",))[0] == nestor else ""
    cells = [f"{cell:,}" if isinstance(cell, int) else cell for cell in cells]
    return "| " + " | ".join([f"`{name}`", *cells, aim]) + " |"


def markdown(path):
    """Prints the tables for the documentation from a bench.json."""
    with open(path) as text:
        results = json.load(text)
    for kvm, nestor, counts in DOCUMENTED:
        head = ["operation", "bare", kvm, nestor, "ratio", *counts, "aim"]
        print("| " + " | ".join(head) + " |\n|---|" + "--:|" * (len(head) - 1))
        for name in operations(results):
            print(markdown_row(results, name, kvm, nestor, counts))
        print()
