"""Every test at its full count, and a page that says how it went: `python -m tests.soak`.

The page is docs/soak.md. It names the commit, so this refuses to run on a tree with changes,
and the machine. What a test records as a property (`record_property`) is shown beside it.
"""

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

_ROOT = Path(__file__).resolve().parent.parent
_PAGE = _ROOT / "docs" / "soak.md"
#: What is run, each in a process of its own: a suite that is stuck does not hide the next.
#: As in the Makefile, two runs side by side where nothing is timed.
_SUITES = {
    "the VM": ("-m", "vm and not alone", "-n", "2", "--dist", "loadfile", "tests/vm"),
    "the VM, how fast": ("-m", "vm and alone", "tests/vm"),
    "the real kernel and runtimes": ("-m", "root", "tests/root"),
    "fuzzing": ("tests/fuzz",),
    "properties, 2,000 examples each": (
        "-n",
        "logical",
        "--dist",
        "worksteal",
        "tests/property",
    ),
}
_ENVIRONMENT = {"CI": "true", "GCS_SOAK": "1", "HYPOTHESIS_PROFILE": "soak"}


@dataclass(frozen=True)
class Case:
    """A test that has run."""

    name: str
    seconds: float
    has_failed: bool
    figures: str


def main() -> int:
    """Run all suites and write the page; return 1 when something failed."""
    if _git("status", "--porcelain"):
        sys.exit("soak: the tree has changes; the page could not name a commit")
    results: dict[str, list[Case]] = {}
    for name, arguments in _SUITES.items():
        results[name] = _run(arguments)
        # What is known is written at once: the last suites take longest.
        _PAGE.parent.mkdir(exist_ok=True)
        _PAGE.write_text("\n".join(_page(results)))
    return int(any(case.has_failed for cases in results.values() for case in cases))


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _run(arguments: tuple[str, ...]) -> list[Case]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # The newer form of the report has no place for properties.
        form = ("-o", "junit_family=xunit1", f"--junitxml={report}")
        command = [sys.executable, "-m", "pytest", *form, *arguments]
        subprocess.run(command, cwd=_ROOT, env={**os.environ, **_ENVIRONMENT}, check=False)
        return list(_cases(ElementTree.parse(report)))


def _cases(report: "ElementTree.ElementTree[ElementTree.Element]") -> Iterator[Case]:
    for case in report.iter("testcase"):
        figures = [f"{each.get('name')} {each.get('value')}" for each in case.iter("property")]
        failed = case.find("failure") is not None or case.find("error") is not None
        module = case.get("classname", "").removeprefix("tests.")
        yield Case(
            f"{module}.{case.get('name', '')}",
            float(case.get("time", "0")),
            failed,
            ", ".join(figures),
        )


def _page(results: dict[str, list[Case]]) -> Iterator[str]:
    yield "# The last soak\n"
    commit, when = _git("rev-parse", "HEAD"), datetime.now(UTC)
    yield f"Commit {commit}, {when:%Y-%m-%d %H:%M} UTC, by `make soak`."
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    kvm = "with" if Path("/dev/kvm").exists() else "without"
    yield (
        f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} processors, "
        f"{memory_gib:.0f} GiB, {kvm} /dev/kvm.\n"
    )
    yield "| Suite | Tests | Failed | Minutes |\n|---|---|---|---|"
    for name in _SUITES:
        if name not in results:
            yield f"| {name} | not run | | |"
            continue
        cases = results[name]
        failed = sum(case.has_failed for case in cases)
        minutes = sum(case.seconds for case in cases) / 60
        yield f"| {name} | {len(cases)} | {failed} | {minutes:.1f} |"
    every = [case for cases in results.values() for case in cases]
    for title, chosen in (
        ("Figures", [case for case in every if case.figures]),
        ("Failed", [case for case in every if case.has_failed]),
    ):
        if chosen:
            yield f"\n## {title}\n"
            yield from (_line(case) for case in chosen)
    yield ""


def _line(case: Case) -> str:
    return f"- `{case.name}` ({case.seconds:.0f} s) {case.figures}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
