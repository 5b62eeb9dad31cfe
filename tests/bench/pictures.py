"""The picture of each report: ours, its floor, and the Go agent where it was measured."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

from tests.bench import memory, sharing
from tests.bench.chart import Chart, Line, Row, write
from tests.bench.figures import Figure, Report
from tests.bench.phases import PHASES

__all__ = ["draw"]

#: The Go agent of hosts in use, in a VM of the same kind; measured once, by hand.
_GO_BOOT_S = 2.1
_GO_RESIDENT_MB = (12.8, 13.3, 15.9)
_GO_ANONYMOUS_MB = (3.1, 3.4, 6.0)
#: issue 8, for the agent of a VM with a root image.
_AIM_IDLE_MB, _AIM_TEN_MB = 14.0, 18.0
_GO_REQUEST_MS = 2.2
_GO_EXEC_S = 0.62


def draw(report: Report, docs: Path) -> None:
    """Draw a report into the folder of the documentation."""
    chart = _CHARTS.get(report.name, _plain)(report)
    # This one's place was promised before there was a folder for the others.
    place = docs if report.name == "page-sharing" else docs / "bench"
    write(chart, place / f"{report.name}.svg")


def _pairs(figures: tuple[Figure, ...]) -> Iterator[Row]:
    """Yield the medians of each figure and its floor; a floor of several figures comes once."""
    floor = ""
    for each in figures:
        yield Row(f"{each.name} ({each.ratio:.2f}×)", {"ours": median(each.ours)})
        if each is figures[-1] or figures[figures.index(each) + 1].floor_is != each.floor_is:
            floor = each.floor_is
            yield Row(_cut(floor), {"floor": median(each.floor)})


def _cut(text: str) -> str:
    longest = 38
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _plain(report: Report) -> Chart:
    return Chart(
        _TITLES[report.name],
        report.machine.line(),
        report.figures[0].unit,
        list(_pairs(report.figures)),
        _LINES.get(report.name, ()),
    )


def _boot(report: Report) -> Chart:
    rows = list(_pairs(report.figures))
    phases = {phase: median(report.values[phase]) for phase in PHASES if phase in report.values}
    if phases:
        rows.insert(0, Row("by phase", phases))
    lines = _LINES["boot"]
    return Chart(_TITLES["boot"], report.machine.line(), "s", rows, lines)


def _memory(report: Report) -> Chart:
    rows = []
    for number, count in enumerate(memory.CONTAINERS):
        label = f"{count} container{'s' * (count != 1)}"
        for state in memory.STATES:
            if f"{state}, Rss" in report.values:
                rss, anonymous = (
                    report.values[f"{state}, {part}"][number] for part in ("Rss", "Anonymous")
                )
                rows.append(Row(f"{label}: {state}", _resident(rss, anonymous)))
        go = _resident(_GO_RESIDENT_MB[number], _GO_ANONYMOUS_MB[number])
        rows.append(Row(f"{label}: Go agent", go))
    rss, _, anonymous = report.values["pmem, floor"]
    rows.append(Row("interpreter and trio alone: pmem", _resident(rss, anonymous)))
    lines = _LINES["memory"]
    return Chart(_TITLES["memory"], report.machine.line(), "MB resident", rows, lines)


def _resident(rss: float, anonymous: float) -> dict[str, float]:
    return {"anonymous": anonymous, "files": round(rss - anonymous, 2)}


def _sharing(report: Report) -> Chart:
    rows = []
    kinds = [kind for kind in sharing.KINDS if f"{kind}, memory" in report.values]
    for number in range(len(report.values["shared, memory"])):
        for kind in kinds:
            segments = {
                title: report.values[f"{kind}, {part}"][number]
                for title, part in _SHARING_PARTS.items()
            }
            rows.append(Row(f"{number + 1} VM{'s' * (number > 0)}, {kind}", segments))
    return Chart(_TITLES["page-sharing"], report.machine.line(), "MiB (Pss)", rows)


_SHARING_PARTS: Mapping[str, str] = {
    "guests' memory": "memory",
    "pages of layers": "layers",
    "QEMU and helpers": "QEMU",
}
_TITLES: Mapping[str, str] = {
    "boot": "QEMU's start to the agent's connection",
    "memory": "Resident memory of the agent; pmem: with a root image; NIC: after the first one",
    "mitigations": "What fencing speculation costs: as it is, and with mitigations=off",
    "ports": "QEMU's start to the agent's connection, by root ports",
    "exec": "exec of true in a running container",
    "requests": "Request latency, median",
    "streams": "64 MiB of stdout, container to host",
    "page-sharing": "Host memory of VMs whose layers are copied or shared; pmem: the root, too",
}
_LINES: Mapping[str, tuple[Line, ...]] = {
    "boot": (Line("Go agent", _GO_BOOT_S),),
    "exec": (Line("Go agent", _GO_EXEC_S),),
    "memory": (Line("aim, pmem, idle", _AIM_IDLE_MB), Line("ten containers", _AIM_TEN_MB)),
    "requests": (Line("Go agent, a request", _GO_REQUEST_MS),),
}
_CHARTS: Mapping[str, Callable[[Report], Chart]] = {
    "boot": _boot,
    "memory": _memory,
    "page-sharing": _sharing,
}
