"""Pictures of reports: what was measured stands beside what it is to be compared with."""

from pathlib import Path
from xml.etree import ElementTree as ET

from tests.bench import memory, pictures, sharing
from tests.bench.figures import Report
from tests.support.machine import MACHINE


def _texts(report: Report, docs: Path, folder: str = "bench") -> list[str]:
    pictures.draw(report, docs)
    tree = ET.parse(docs / folder / f"{report.name}.svg")
    return [text.text or "" for text in tree.iter("{http://www.w3.org/2000/svg}text")]


def test_the_memory_of_the_agent_stands_beside_the_go_agent_s(tmp_path: Path) -> None:
    """Each state that was measured, for each number of containers; and the aims."""
    states = ("pmem", "initrd, NIC")
    values = {
        f"{state}, {part}": (10.0, 11.0, 14.0) for state in states for part in memory.PARTS
    }
    report = Report(
        name="memory",
        machine=MACHINE,
        values={**values, "pmem, floor": (5.0, 4.0, 3.0)},
    )
    texts = _texts(report, tmp_path)
    for count in ("0 containers", "1 container", "10 containers"):
        assert [text.partition(": ")[2] for text in texts if text.startswith(f"{count}: ")] == [
            *states,
            "Go agent",
        ]
    assert {"12.8", "13.3", "15.9"} <= {*texts}
    assert [text for text in texts if text.startswith("aim")] == ["aim, pmem, idle: 14"]
    assert "ten containers: 18" in texts


def test_shared_pages_are_shown_of_what_was_measured(tmp_path: Path) -> None:
    """A quick look leaves out the copies, which have no figure."""
    values: dict[str, tuple[float, ...]] = {
        f"{kind}, {part}": (1.0, 2.0)
        for kind in sharing.WITH_FIGURES
        for part in ("memory", "layers", "QEMU")
    }
    report = Report(name="page-sharing", machine=MACHINE, values=values)
    texts = _texts(report, tmp_path, ".")
    assert "2 VMs, shared" in texts
    assert not [text for text in texts if "copied" in text and "VM" in text[:5]]
