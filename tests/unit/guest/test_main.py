"""The agent's start: what fails before the first container ends nothing."""

from pathlib import Path

import pytest

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
