"""The VM's clock follows the host's, where there is one."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from gcs.guest import timesync
from gcs.linux import ptp

SECOND = 1_000_000_000


@dataclass
class Made:
    """Two clocks that stand still unless they are moved."""

    host: int = 1_000 * SECOND
    ours: int = 0
    fails: bool = False
    steps: list[int] = field(default_factory=list)
    slews: list[int] = field(default_factory=list)

    def clocks(self) -> ptp.Clocks:
        return ptp.Clocks(self._host, lambda: self.ours, self._step, self.slews.append)

    def _host(self) -> int:
        if self.fails:
            raise OSError(5, "the host's clock has gone")
        return self.host

    def _step(self, now: int) -> None:
        self.steps.append(now)
        self.ours = now


async def keep_for(made: Made, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await timesync.keep(made.clocks())


async def test_a_clock_far_off_is_set_and_a_near_one_slewed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The limit is a tenth of a second, either way."""
    made = Made()
    await keep_for(made, 9)
    assert (made.steps, made.slews) == ([1_000 * SECOND], [])
    made.host -= SECOND // 20
    await keep_for(made, 1)
    assert (made.steps, made.slews) == ([1_000 * SECOND], [-SECOND // 20])
    made.host -= SECOND
    await keep_for(made, 1)
    assert made.steps[1:] == [made.host]


async def test_a_clock_that_cannot_be_read_is_said_once_and_tried_again(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """At the usual pace: no loop runs hot, and nothing ends."""
    made = Made(fails=True)
    started = trio.current_time()
    await keep_for(made, 3600)
    assert trio.current_time() - started == pytest.approx(3600)
    assert [r.getMessage() for r in caplog.records] == ["the host's clock is not followed"]
    made.fails = False
    await keep_for(made, 1)
    assert made.ours == made.host


@pytest.mark.parametrize(
    ("names", "device"),
    [
        ((), None),
        (("igb_ptp",), None),
        (("hyperv",), "/dev/ptp0"),
        (("igb_ptp", "KVM virtual PTP"), "/dev/ptp1"),
    ],
)
def test_only_a_clock_of_the_host_is_taken(
    tmp_path: Path, names: tuple[str, ...], device: str | None
) -> None:
    """A NIC's clock may show anything."""
    for number, name in enumerate(names):
        folder = tmp_path / f"class/ptp/ptp{number}"
        folder.mkdir(parents=True)
        (folder / "clock_name").write_text(f"{name}\n")
    assert ptp.find(tmp_path) == device


async def test_a_vm_without_such_a_clock_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether there is none or it can't be opened."""
    for device in (None, "/nowhere/ptp0"):
        monkeypatch.setattr(ptp, "find", lambda device=device: device)
        await timesync.run()
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "the host's clock is not followed"
    ]
