"""The probe for KVM, with the kernel that is really used."""

from functools import partial
from pathlib import Path

import pytest
import trio

from gcs.host.accelerator import probe_kvm
from gcs.host.artifacts import find_kernel

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]


def probe(folder: Path, accelerator: str) -> str:
    kernel = find_kernel(None)
    return trio.run(partial(probe_kvm, kernel, folder, accelerator=accelerator, device=folder))


def test_a_guest_that_runs_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under emulation a guest always runs, so the probe's guest must be seen to power off."""
    monkeypatch.setattr("gcs.host.accelerator._DEADLINE_S", 100.0)
    assert probe(tmp_path, "tcg") == ""
    assert [path.read_text() for path in tmp_path.iterdir()] == [""]


def test_an_accelerator_that_does_not_exist_is_told_with_qemus_words(tmp_path: Path) -> None:
    """The reason is kept for the rest of this boot, and found again without a guest."""
    reason = probe(tmp_path, "no-such")
    assert reason.startswith("no guest ran: QEMU ended with status 1: ")
    (kept,) = tmp_path.iterdir()
    kept.write_text("as it was found")
    assert probe(tmp_path, "no-such") == "as it was found"


def test_an_answer_of_a_former_boot_goes(tmp_path: Path) -> None:
    """As soon as there is one of this boot."""
    (tmp_path / "kvm-of-a-former-boot").write_text("")
    reason = probe(tmp_path, "no-such")
    assert [path.read_text() for path in tmp_path.iterdir()] == [reason]
