"""The agent's start: what fails before the first container ends nothing."""

from pathlib import Path

import pytest
import trio
import trio.testing

from gcs.guest import main
from gcs.linux import cgroup, procfs
from tests.unit.guest.test_flags import DEFAULTS


def test_clients_that_can_not_be_looked_for_are_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever /proc says, the agent serves its host."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    main._prepare(DEFAULTS)
    assert "DHCP clients may be left" in caplog.text


async def test_what_can_wait_waits_for_a_moment_and_lets_others_run() -> None:
    """One step at a time."""
    said = list[str]()
    moment = trio.Event()

    async def others() -> None:
        while "last" not in said:
            said.append("other")
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(main._take, map(said.append, ("first", "second", "last")), moment)
        await trio.testing.wait_all_tasks_blocked()
        assert said == []
        moment.set()
        nursery.start_soon(others)
    assert "other" in said[said.index("first") : said.index("last")]
