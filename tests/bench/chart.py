"""Bars in an SVG picture: rows of stacked segments on one scale, and lines to compare with.

Written by the standard library's XML writer: a bar is a rectangle and two texts, and a plotting
library would be larger than all that `make test` downloads otherwise. The same figures give the
same bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

__all__ = [
    "COLOURS",
    "Chart",
    "Line",
    "Row",
    "canvas",
    "draw",
    "number",
    "rectangle",
    "scale_step",
    "text",
    "write",
]

_WIDTH, _LEFT, _RIGHT, _TOP = 960, 250, 90, 78
_BAR, _GAP, _AXIS, _LEGEND = 22, 12, 34, 24
_PLOT = _WIDTH - _LEFT - _RIGHT
#: Told apart by the colour-blind too: Okabe and Ito's palette, without its yellow.
COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#999999", "#555555"),
)
_INK, _FAINT, _LINE = "#222222", "#dddddd", "#b00020"
_FONT = "DejaVu Sans, Verdana, sans-serif"
#: Rough width of a character of the legend's size, for texts are not measured here.
_CHARACTER = 6.6


@dataclass(frozen=True, slots=True)
class Row:
    """One bar: its label, and the length of each of its segments by name."""

    label: str
    segments: dict[str, float]
    #: where the bar begins
    start: float = 0.0

    @property
    def end(self) -> float:
        """Where it ends."""
        return self.start + sum(self.segments.values())


@dataclass(frozen=True, slots=True)
class Line:
    """A value to compare the bars with."""

    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Chart:
    """All that a picture shows."""

    title: str
    subtitle: str
    unit: str
    rows: Sequence[Row]
    lines: Sequence[Line] = field(default=())


def write(chart: Chart, path: Path) -> None:
    """Draw a chart into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(draw(chart))


def draw(chart: Chart) -> str:
    """Return the picture."""
    names = list(dict.fromkeys(name for row in chart.rows for name in row.segments))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    body = len(chart.rows) * (_BAR + _GAP) + _GAP
    lines = len(chart.lines) * 16
    top = _TOP + (_LEGEND * _legend_lines(names) if len(names) > 1 else 0) + lines
    height = top + body + _AXIS
    ends = [row.end for row in chart.rows] + [line.value for line in chart.lines]
    step = scale_step(max(ends, default=1.0) or 1.0)
    limit = math.ceil(max(ends, default=1.0) / step) * step or step
    scale = _PLOT / limit
    root = canvas(_WIDTH, height, chart.title)
    text(root, 16, 28, chart.title, size=17, weight="bold")
    text(root, 16, 48, chart.subtitle, size=10)
    if len(names) > 1:
        _legend(root, names, colours)
    _axis(root, top, body, step, limit, chart.unit)
    for order, row in enumerate(chart.rows):
        _row(root, row, top + _GAP + order * (_BAR + _GAP), scale, colours)
    for order, line in enumerate(chart.lines):
        _line(root, line, top - lines + order * 16, top + body, scale)
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode") + "\n"


def canvas(width: float, height: float, title: str) -> ET.Element:
    """Return an empty picture; it is white, for pages may be dark."""
    names = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}"}
    root = ET.Element("svg", names | {"font-family": _FONT, "font-size": "12"})
    ET.SubElement(root, "title").text = title
    rectangle(root, 0, 0, width, height, "#ffffff")
    return root


def scale_step(limit: float) -> float:
    """Return the distance of the scale's marks: 1, 2 or 5 times a power of ten, about six."""
    raw = limit / 6
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)


def number(value: float) -> str:
    """Return a value as it is shown."""
    return f"{value:.4g}"


def text(
    parent: ET.Element,
    x: float,
    y: float,
    words: str,
    *,
    size: int = 12,
    anchor: str = "start",
    weight: str = "normal",
    colour: str = _INK,
) -> None:
    """Add a text."""
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "font-size": str(size), "fill": colour}
    style = {"text-anchor": anchor, "font-weight": weight}
    ET.SubElement(parent, "text", place | style).text = words


def rectangle(
    parent: ET.Element, x: float, y: float, width: float, height: float, colour: str
) -> ET.Element:
    """Add a filled box, and return it."""
    box = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}"}
    return ET.SubElement(parent, "rect", box | {"fill": colour})


def _legend_places(names: Sequence[str]) -> list[tuple[float, int]]:
    """Return the x and the line of each name."""
    x, line, places = 16.0, 0, []
    for name in names:
        width = 30 + len(name) * _CHARACTER
        if x + width > _WIDTH - 16:
            x, line = 16.0, line + 1
        places.append((x, line))
        x += width
    return places


def _legend_lines(names: Sequence[str]) -> int:
    return _legend_places(names)[-1][1] + 1


def _legend(root: ET.Element, names: Sequence[str], colours: dict[str, str]) -> None:
    for name, (x, line) in zip(names, _legend_places(names), strict=True):
        y = 62 + line * _LEGEND
        rectangle(root, x, y, 12, 12, colours[name])
        text(root, x + 17, y + 10, name)


def _axis(
    root: ET.Element, top: float, body: float, step: float, limit: float, unit: str
) -> None:
    for mark in range(round(limit / step) + 1):
        x = _LEFT + mark * step * _PLOT / limit
        rectangle(root, x, top, 1, body, _FAINT)
        text(root, x, top + body + 16, number(mark * step), size=11, anchor="middle")
    text(root, _WIDTH - 16, top + body + 16, unit, size=11, anchor="end")


def _row(root: ET.Element, row: Row, y: float, scale: float, colours: dict[str, str]) -> None:
    text(root, _LEFT - 10, y + 15, row.label, anchor="end")
    x = _LEFT + row.start * scale
    for name, value in row.segments.items():
        bar = rectangle(root, x, y, value * scale, _BAR, colours[name])
        ET.SubElement(bar, "title").text = f"{name}: {number(value)}"
        x += value * scale
    text(root, x + 6, y + 15, number(sum(row.segments.values())))


def _line(root: ET.Element, line: Line, y: float, bottom: float, scale: float) -> None:
    x = _LEFT + line.value * scale
    rectangle(root, x, y, 1.5, bottom - y, _LINE)
    end = x > _WIDTH - _RIGHT - 160
    words = f"{line.label}: {number(line.value)}"
    at = x - 5 if end else x + 5
    text(root, at, y + 11, words, size=11, anchor="end" if end else "start", colour=_LINE)
