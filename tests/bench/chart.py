"""A bar chart as SVG: a group of bars for each operation, ticks on a logarithmic scale."""

import math
from xml.sax.saxutils import escape

COLOURS = {"bare": "#9aa5b1", "kvm": "#d9822b", "kvm-unshadowed": "#f0c08a",
           "nestor": "#1f6feb", "nestor-unshadowed": "#8ab8f5"}
LEFT, BAR, GAP, WIDTH, TOP, TEXT = 200, 9, 8, 640, 60, 11


def length(ticks, decades):
    return WIDTH * math.log10(max(ticks, 1)) / decades


def text(x, y, words, anchor="start"):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(str(words))}</text>'


def grid(decades, height):
    lines = []
    for power in range(decades + 1):
        x = LEFT + WIDTH * power / decades
        lines.append(f'<line x1="{x:.0f}" y1="{TOP - 6}" x2="{x:.0f}" y2="{height}" class="grid"/>')
        lines.append(text(x, TOP - 10, f"{10**power:,}", "middle"))
    return lines


def legend(ways):
    lines, x = [], LEFT
    for way in ways:
        lines.append(f'<rect x="{x}" y="14" width="10" height="10" fill="{COLOURS[way]}"/>')
        lines.append(text(x + 14, 23, way))
        x += 30 + 7 * len(way)
    return lines


def draw(results, names):
    """The chart of {way: {operation: {"ticks": n}}} as a text."""
    ways = [way for way in COLOURS if way in results]
    most = max(numbers.get("ticks", 1) for way in ways for numbers in results[way].values())
    decades = max(1, math.ceil(math.log10(most)))
    bars, y = [], TOP
    for name in names:
        bars.append(text(LEFT - 8, y + BAR * len(ways) / 2 + 4, name, "end"))
        for way in ways:
            ticks = results[way].get(name, {}).get("ticks")
            if ticks is not None:
                w = length(ticks, decades)
                bars.append(f'<rect x="{LEFT}" y="{y}" width="{w:.1f}" height="{BAR - 1}" '
                            f'fill="{COLOURS[way]}"/>')
                bars.append(text(LEFT + w + 4, y + BAR - 1, f"{ticks:,}"))
            y += BAR
        y += GAP
    style = (f"text{{font:{TEXT}px sans-serif;fill:#24292f}}"
             ".grid{stroke:#d0d7de}rect.back{fill:#fff}")
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 90}" height="{y + 10}">',
        f"<style>{style}</style>", '<rect class="back" width="100%" height="100%"/>',
        *legend(ways), *grid(decades, y), *bars, "</svg>", ""])
