"""Pictures of bars: what is drawn is what was given."""

from xml.etree import ElementTree as ET

from tests.bench import icicle
from tests.bench.chart import Chart, Line, Row, draw

_SVG = "{http://www.w3.org/2000/svg}"
_ROWS = (Row("ours", {"a < b": 3.0, "rest": 1.0}), Row("floor", {"rest": 2.0}, start=1.0))


def _drawn(chart: Chart) -> ET.Element:
    return ET.fromstring(draw(chart))


def _bars(chart: Chart) -> list[tuple[str, float, float]]:
    """Return each segment's tooltip, place and width."""
    return [
        (
            bar.findtext(f"{_SVG}title") or "",
            float(bar.get("x", "")),
            float(bar.get("width", "")),
        )
        for bar in _drawn(chart).iter(f"{_SVG}rect")
        if bar.find(f"{_SVG}title") is not None
    ]


def test_bars_have_the_lengths_of_their_values() -> None:
    """All on one scale, segments behind each other, from where the row begins."""
    first, second, third = _bars(Chart("t", "s", "ms", _ROWS))
    unit = second[2]
    assert [name for name, _, _ in (first, second, third)] == ["a < b: 3", "rest: 1", "rest: 2"]
    assert abs(first[2] - 3 * unit) < 0.3
    assert abs(third[2] - 2 * unit) < 0.3
    assert abs(second[1] - (first[1] + first[2])) < 0.2
    assert abs(third[1] - (first[1] + unit)) < 0.2


def test_a_line_stands_at_its_value() -> None:
    """It can be compared with the bars, longer ones than all of them too."""
    chart = Chart("t", "s", "ms", _ROWS, (Line("Go agent", 8.0),))
    first = _bars(chart)[0]
    (line,) = (
        float(box.get("x", ""))
        for box in _drawn(chart).iter()
        if box.get("fill") == "#b00020" and box.tag == f"{_SVG}rect"
    )
    assert abs((line - first[1]) - first[2] * 8 / 3) < 1
    texts = [text.text for text in _drawn(chart).iter(f"{_SVG}text")]
    assert "Go agent: 8" in texts


def test_everything_is_inside_the_picture() -> None:
    """Nothing is cut off."""
    chart = Chart("t", "s", "ms", _ROWS * 9, (Line("far", 90.0), Line("near", 0.1)))
    root = _drawn(chart)
    width, height = (float(number) for number in root.get("viewBox", "").split()[2:])
    for box in root.iter(f"{_SVG}rect"):
        assert float(box.get("x", "")) + float(box.get("width", "")) <= width
        assert float(box.get("y", "")) + float(box.get("height", "")) <= height
    for text in root.iter(f"{_SVG}text"):
        assert 0 < float(text.get("x", "")) < width
        assert 0 < float(text.get("y", "")) < height


def test_the_same_figures_give_the_same_bytes() -> None:
    """A picture changes in a commit only when its figures do."""
    chart = Chart("t", "s", "ms", _ROWS)
    assert draw(chart) == draw(chart)


def test_spans_lie_below_what_they_belong_to() -> None:
    """Each has its place and length on one scale, and its name where it can be pointed at."""
    spans = [icicle.Span("whole", 1.0, 4.0, 0), icicle.Span("part", 2.0, 1.0, 1)]
    root = ET.fromstring(icicle.draw("t", "s", spans))
    boxes = {
        (box.findtext(f"{_SVG}title") or "").partition(":")[0]: box
        for box in root.iter(f"{_SVG}rect")
    }
    whole, part = boxes["whole"], boxes["part"]
    second = float(whole.get("width", "")) / 4
    assert abs(float(part.get("width", "")) - second) < 1
    assert abs(float(part.get("x", "")) - float(whole.get("x", "")) - second) < 1
    assert float(part.get("y", "")) > float(whole.get("y", ""))
