"""Spans of time in an SVG picture: the whole on top, and below each span what it is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from tests.bench.chart import COLOURS, canvas, number, rectangle, scale_step, text

__all__ = ["Span", "draw"]

_WIDTH, _MARGIN, _TOP, _ROW, _AXIS = 1200, 16, 62, 20, 30
_PLOT = _WIDTH - 2 * _MARGIN
#: Narrower ones have no room for a name; pointing at them shows it.
_NAMED = 36
_CHARACTER = 6.2


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time, and what it belongs to."""

    name: str
    start: float
    length: float
    #: 0 is on top
    depth: int


def draw(title: str, subtitle: str, spans: Sequence[Span]) -> str:
    """Return the picture; starts and lengths are seconds."""
    end = max(span.start + span.length for span in spans)
    depth = 1 + max(span.depth for span in spans)
    bottom = _TOP + depth * _ROW
    root = canvas(_WIDTH, bottom + _AXIS, title)
    text(root, _MARGIN, 28, title, size=17, weight="bold")
    text(root, _MARGIN, 48, subtitle, size=10)
    scale = _PLOT / end
    for order, span in enumerate(spans):
        _span(root, span, scale, COLOURS[order % len(COLOURS)])
    step = scale_step(end)
    for mark in range(int(end / step) + 1):
        x = _MARGIN + mark * step * scale
        text(root, x, bottom + 18, f"{number(mark * step)} s", size=11, anchor="middle")
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode") + "\n"


def _span(root: ET.Element, span: Span, scale: float, colour: str) -> None:
    x, y = _MARGIN + span.start * scale, _TOP + span.depth * _ROW
    # A hair of white between neighbours.
    width = max(0.3, span.length * scale - 0.5)
    box = rectangle(root, x, y, width, _ROW - 1, colour)
    what = f"{span.name}: {number(span.length * 1000)} ms"
    ET.SubElement(box, "title").text = what
    if width >= _NAMED:
        room = int((width - 6) / _CHARACTER)
        label = what if len(what) <= room else span.name[:room]
        text(root, x + 3, y + 14, label, size=10, colour="#ffffff")
