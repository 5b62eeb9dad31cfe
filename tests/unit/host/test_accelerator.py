"""The probe for KVM, around stand-ins for QEMU: which of its answers are kept."""

import logging
from pathlib import Path

import pytest

from gcs.host.accelerator import probe_kvm

_WORKS = "echo 'reboot: Power down'"


class Probe:
    """A kernel, a folder for answers, and a QEMU that can be replaced."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.kernel = home / "kernel"
        self.kernel.touch()
        self.folder = home / "answers"

    def install(self, script: str, name: str = "bin") -> None:
        """Let QEMU be this, until it is another one."""
        qemu = self.home / name / "qemu-system-x86_64"
        qemu.parent.mkdir(exist_ok=True)
        qemu.write_text(f"#!/bin/sh\n{script}\n")
        qemu.chmod(0o755)

    def kept(self) -> list[str]:
        return [path.read_text() for path in self.folder.iterdir()]

    async def ask(self) -> str:
        return await probe_kvm(self.kernel, self.folder, device=self.home)


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Probe:
    # No setpriv, which is in a folder that may have a QEMU.
    monkeypatch.setenv("PATH", f"{tmp_path}/first:{tmp_path}/bin")
    return Probe(tmp_path)


async def test_a_qemu_that_is_not_installed_says_nothing_of_kvm(probe: Probe) -> None:
    """Once it is, the probe is made."""
    assert "qemu-system-x86_64: not found" in await probe.ask()
    assert not probe.folder.exists()
    probe.install(_WORKS)
    assert await probe.ask() == ""
    assert probe.kept() == [""]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("kill -KILL $$", "was killed by SIGKILL"),
        ("kill -TERM $$", "was killed by SIGTERM"),
        (
            "echo terminating on signal 15 from pid 1",
            "ended with status 0: terminating on signal 15 from pid 1",
        ),
    ],
)
async def test_a_qemu_that_is_killed_says_nothing_of_kvm(
    probe: Probe, end: str, words: str
) -> None:
    """By the kernel for want of memory, say; the next probe may get to an end."""
    flag = probe.home / "flag"
    probe.install(f"if [ -e {flag} ]; then {_WORKS}; else {end}; fi")
    assert await probe.ask() == f"no guest ran: QEMU {words}"
    assert not probe.folder.exists()
    flag.touch()
    assert await probe.ask() == ""


async def test_a_qemu_that_aborts_says_something_of_kvm(probe: Probe) -> None:
    """It does so when KVM does not take what it sets: its words are kept."""
    probe.install("echo failed to set MSR 0x10a; kill -ABRT $$")
    told = "no guest ran: QEMU was killed by SIGABRT: failed to set MSR 0x10a"
    assert await probe.ask() == told
    assert probe.kept() == [told]


async def test_a_guest_that_hangs_is_waited_for_once(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what costs so much that the answer is kept at all."""
    monkeypatch.setattr("gcs.host.accelerator._DEADLINE_S", 0.5)
    flag = probe.home / "flag"
    probe.install(f"[ -e {flag} ] && {_WORKS} && exit; : >{flag}; exec /bin/sleep 60")
    assert await probe.ask() == await probe.ask() == "no guest ran: QEMU is running"


@pytest.mark.parametrize("place", ["bin", "first"])
async def test_another_qemu_is_asked_anew(probe: Probe, place: str) -> None:
    """Whether it replaces the old one or is found before it."""
    probe.install("echo no KVM in this build; exit 1")
    told = "no guest ran: QEMU ended with status 1: no KVM in this build"
    assert await probe.ask() == await probe.ask() == told
    assert probe.kept() == [told]
    probe.install(_WORKS, place)
    assert await probe.ask() == ""


async def test_an_answer_that_can_not_be_kept_is_an_answer(
    probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a folder that is root's, or on a full disk."""
    probe.folder.touch()
    probe.install(_WORKS)
    with caplog.at_level(logging.WARNING):
        assert await probe.ask() == ""
    assert "the probe's answer is not kept" in caplog.text
