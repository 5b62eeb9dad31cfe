"""Whether KVM runs a guest here; found out by running one.

/dev/kvm may open, answer, and even run a firmware, and still not run a guest: nested
virtualisation that is switched off or emulated in part. So the probe boots the very kernel that
is to be used, with an init of a few bytes that powers the machine off, and only that power-off
counts. A working KVM needs part of a second, one that does not work may cost ten: the answer is
kept until the next boot. It is in the user's cache: a runtime folder may go with a logout.

What says nothing of KVM is not kept: a QEMU that is not installed, or that somebody killed.
"""

import hashlib
import logging
import os
import shutil
import signal
import struct
from dataclasses import dataclass
from pathlib import Path

import trio

from gcs.host.child import ChildError, spawn
from gcs.host.qemu import cpu_model

__all__ = ["probe_kvm"]

_log = logging.getLogger("gcs.host.accelerator")

_QEMU = "qemu-system-x86_64"
#: A working KVM needs half a second; a broken one may spin for ever.
_DEADLINE_S = 10.0
#: What the kernel prints on the way out, on every log level.
_POWERED_OFF = "reboot: Power down"
#: How somebody else, or the kernel for want of memory, ends QEMU. When it aborts, that is for
#: what KVM has refused it.
_BY_OTHERS = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
#: What it prints of the latter three when it already handles them; its status is 0 then.
_TOLD_TO_END = b"terminating on signal"
#: Address that the init's ELF file is loaded at: any page above the lowest megabytes.
_BASE = 0x400000
#: reboot(LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF), then a trap.
#: Source: reboot(2); 169 is its number on x86-64.
_CODE = (
    b"\xb8"
    + struct.pack("<I", 169)
    + b"\xbf"
    + struct.pack("<I", 0xFEE1DEAD)
    + b"\xbe"
    + struct.pack("<I", 672274793)
    + b"\xba"
    + struct.pack("<I", 0x4321FEDC)
    + b"\x0f\x05\x0f\x0b"
)


@dataclass(frozen=True, slots=True)
class _Answer:
    why_not: str
    #: whether a second try would say the same
    is_lasting: bool


async def probe_kvm(
    kernel: Path, folder: Path, *, accelerator: str = "kvm", device: Path = Path("/dev/kvm")
) -> str:
    """Return "" when a guest runs under KVM, else why not.

    Args:
        kernel: The kernel to boot.
        folder: Where the answer is kept, by boot, kernel and QEMU; those of former boots go.
            One that can't be used costs a probe each time, and no VM.
        accelerator: QEMU's word; a test uses "tcg" to see a guest that does run.
        device: The device node that has to be there.
    """
    if not os.access(device, os.F_OK):
        return f"{device} does not exist"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device} may not be opened by this user"
    boot = _boot()
    kept = folder / f"{accelerator}-{boot}-{_key(kernel, device)}"
    try:
        return kept.read_text()
    except OSError:
        answer = await _run_guest(kernel, accelerator)
    if answer.is_lasting:
        try:
            _keep(kept, answer.why_not)
            _forget_other_boots(folder, boot)
        except OSError as error:
            _log.warning("the probe's answer is not kept", extra={"error": str(error)})
    return answer.why_not


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _keep(kept: Path, answer: str) -> None:
    """Write the answer, whole or not at all."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_name(f".{kept.name}-{os.getpid()}")
    try:
        unfinished.write_text(answer)
        unfinished.replace(kept)
    finally:
        unfinished.unlink(missing_ok=True)


def _forget_other_boots(folder: Path, boot: str) -> None:
    for path in folder.iterdir():
        if boot not in path.name:
            path.unlink(missing_ok=True)


def _key(kernel: Path, device: Path) -> str:
    status = kernel.stat()
    identity = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    # KVM that is loaded anew, with nesting switched on perhaps, has a new node.
    identity += f" {device.stat().st_ino}"
    if qemu := shutil.which(_QEMU):
        program = Path(qemu).stat()
        identity += f" {program.st_size} {program.st_mtime_ns} {qemu}"
    return hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]


async def _run_guest(kernel: Path, accelerator: str) -> _Answer:
    initrd, output = os.memfd_create("kvm-probe-initrd"), os.memfd_create("kvm-probe")
    cpu = cpu_model(accelerator)
    argv = (
        *(_QEMU, "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", f"q35,accel={accelerator}", "-cpu", cpu, "-m", "128M", "-no-reboot"),
        *("-kernel", str(kernel), "-initrd", f"/proc/self/fd/{initrd}"),
        *("-append", "console=ttyS0 panic=-1 quiet", "-serial", "stdio"),
    )
    try:
        os.write(initrd, _archive("init", _program(_CODE)) + _archive("TRAILER!!!", b""))
        async with spawn("the KVM probe", argv, output=output, inherit=[initrd]) as qemu:
            with trio.move_on_after(_DEADLINE_S):
                await qemu.wait()
            printed = os.pread(output, 64 * 1024, 0)
            is_ended = qemu.exit_status in _BY_OTHERS or _TOLD_TO_END in printed
            return _Answer(_judge(printed, qemu.describe_end()), is_lasting=not is_ended)
    except ChildError as error:
        return _Answer(str(error), is_lasting=False)
    finally:
        os.close(initrd)
        os.close(output)


def _judge(printed: bytes, end: str) -> str:
    text = printed.decode(errors="replace")
    if _POWERED_OFF in text:
        return ""
    telling = [line for line in text.splitlines() if "warning" not in line and line.strip()]
    what = f"no guest ran: QEMU {end}"
    return f"{what}: {telling[0].strip()}" if telling else what


def _program(code: bytes) -> bytes:
    """Return a static ELF program of one segment. Source: elf(5)."""
    size = 64 + 56 + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01", 2, 62, 1, _BASE + 64 + 56, 64, 0, 0),
        *(64, 56, 1, 0, 0, 0),
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


def _archive(name: str, data: bytes) -> bytes:
    """Return one member of a "newc" cpio archive. Source: cpio(5)."""
    fields = (0, 0o100755, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(header + name.encode() + b"\0") + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
