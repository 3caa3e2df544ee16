"""Two kinds of plots, as text: bars beside each other, and lines over logarithmic axes."""

import math
import statistics
from dataclasses import dataclass
from html import escape
from typing import Dict, List

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.head { font-weight: 600 }
.small { font-size: 11px; fill: #59636e }
.ground { fill: #ffffff }
.ours { fill: #0b7285; stroke: #0b7285 }
.native { fill: #b8860b; stroke: #b8860b }
.fourth { fill: #862e9c; stroke: #862e9c }
.other { fill: #868e96; stroke: #868e96 }
.bar { stroke: none }
.line { fill: none; stroke-width: 2 }
.grid { fill: none; stroke: #d0d7de }
.axis { fill: none; stroke: #868e96 }
.whisker { fill: none; stroke: #1f2328 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9198a1 }
  .ground { fill: #0d1117 }
  .ours { fill: #3bc9db; stroke: #3bc9db }
  .native { fill: #fab005; stroke: #fab005 }
  .fourth { fill: #da77f2; stroke: #da77f2 }
  .bar { stroke: none }
  .line { fill: none }
  .grid { stroke: #30363d }
  .whisker { stroke: #e6edf3 }
}
"""
WIDTH = 760
NAMES = 150
BAR, GAP = 16, 6
# A bar that is longer than so many times the middle one is cut, or nothing could be told of the others.
LONGEST = 4


@dataclass
class Bars:
    title: str
    unit: str
    # Name and figure of each, top to bottom.
    bars: List[tuple]


@dataclass
class Lines:
    title: str
    unit: str
    # Points of each line, by its name.
    lines: Dict[str, List[tuple]]


def drawing(height: float, parts: List[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}">'
    return "\n".join([head, f"<style>{STYLE}</style>", f'<rect class="ground" width="{WIDTH}" height="{height:.0f}"/>', *parts, "</svg>\n"])


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def kind(name: str) -> str:
    if name.startswith(("receive", "apply", "follow", "archive")):
        return "ours"
    return "native" if name.startswith("native") else "other"


def bars(panels: List[Bars]) -> str:
    """Panels above each other, each with a scale of its own from zero. The thin line is from the least to the greatest."""
    parts, top = [], 8.0
    for panel in (panel for panel in panels if panel.bars):
        parts.append(text(10, top + 14, f"{panel.title}, {panel.unit}", "head"))
        top += 24
        middle_one = statistics.median(figure.median for _, figure in panel.bars)
        most = min(max(figure.high for _, figure in panel.bars), LONGEST * middle_one) or 1.0
        scale = (WIDTH - NAMES - 110) / most
        for name, figure in panel.bars:
            middle = top + BAR / 2
            low, end, high = (NAMES + min(edge, most) * scale for edge in (figure.low, figure.median, figure.high))
            parts.append(text(NAMES - 8, middle + 4, name, anchor="end"))
            parts.append(f'<rect class="bar {kind(name)}" x="{NAMES}" y="{top:.1f}" width="{max(1.0, end - NAMES):.1f}" height="{BAR}" rx="2"/>')
            if high - low >= 1:
                parts.append(f'<path class="whisker" d="M{low:.1f} {middle:.1f}H{high:.1f}"/>')
            parts.append(text(max(end, high) + 6, middle + 4, number(figure.median) + (" …" if figure.median > most else ""), "small"))
            top += BAR + GAP
        top += 14
    return drawing(top, parts)


def lines(panels: List[Lines], across: str) -> str:
    """Panels above each other; both axes are logarithmic, so what is linear rises by one decade with one decade."""
    height, left, right = 230.0, 70.0, WIDTH - 150.0
    parts = []
    for at, panel in enumerate(panel for panel in panels if panel.lines):
        top, bottom = at * height + 34, (at + 1) * height - 40
        points = [point for line in panel.lines.values() for point in line]
        x_axis = Axis([x for x, _ in points], left, right)
        y_axis = Axis([y for _, y in points], bottom, top)
        parts.append(text(10, top - 14, f"{panel.title}, {panel.unit}", "head"))
        for value in x_axis.decades():
            x = x_axis.at(value)
            parts.append(f'<path class="grid" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>' + text(x, bottom + 16, number(value), "small", "middle"))
        for value in y_axis.decades():
            y = y_axis.at(value)
            parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{right:.1f}"/>' + text(left - 8, y + 4, number(value), "small", "end"))
        parts.append(f'<path class="axis" d="M{left:.1f} {top:.1f}V{bottom:.1f}H{right:.1f}"/>')
        parts.append(text((left + right) / 2, bottom + 32, across, "small", "middle"))
        colors = dict(zip(sorted(panel.lines), ("ours", "native", "fourth", "other") * 4))
        beside = None
        for name, line in sorted(panel.lines.items(), key=lambda line: -line[1][-1][1]):
            color = colors[name]
            path = "L".join(f"{x_axis.at(x):.1f} {y_axis.at(y):.1f}" for x, y in line)
            parts.append(f'<path class="{color} line" d="M{path}"/>')
            parts += [f'<circle class="{color}" cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="3"/>' for x, y in line]
            y = y_axis.at(line[-1][1])
            beside = y if beside is None else max(y, beside + 15)
            parts.append(f'<circle class="{color}" cx="{right + 14:.1f}" cy="{beside:.1f}" r="3"/>')
            parts.append(text(right + 22, beside + 4, f"{name}: {number(line[-1][1])}"))
    return drawing(height * len(panels), parts)


class Axis:
    """Whole decades around some values, laid out between two places."""

    def __init__(self, values: List[float], begin: float, end: float):
        self._low = math.floor(math.log10(min(values)))
        self._high = max(self._low + 1, math.ceil(math.log10(max(values))))
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        part = (math.log10(value) - self._low) / (self._high - self._low)
        return self._begin + part * (self._end - self._begin)

    def decades(self) -> List[float]:
        return [10.0**power for power in range(self._low, self._high + 1)]


def number(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g} M" if value % 1e5 == 0 else f"{value / 1e6:.1f} M"
    if value >= 1e3 and value % 1e3 == 0:
        return f"{value / 1e3:g} k"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
