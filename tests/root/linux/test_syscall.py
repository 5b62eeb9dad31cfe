"""Errors of system calls name the call, its object and the errno."""

import errno
import os
import select
import subprocess
import time
from pathlib import Path

import pytest

from gcs.linux import abi, cgroup, syscall, uevent

pytestmark = pytest.mark.root


def test_mount_names_type_source_and_target(folder: Path) -> None:
    """All that the call was about, and the kernel's reason."""
    with pytest.raises(OSError, match="mount") as caught:
        syscall.mount("src", f"{folder}/missing", "tmpfs")
    assert caught.value.errno == errno.ENOENT
    assert caught.value.strerror == (
        f"mount tmpfs src on {folder}/missing: No such file or directory"
    )


def test_a_bind_mount_is_called_so(folder: Path) -> None:
    """It has no type."""
    with pytest.raises(OSError, match=rf"mount bind {folder}/a on {folder}/b: No such file"):
        syscall.mount(f"{folder}/a", f"{folder}/b", None, abi.MountFlag.BIND)


def test_umount_names_the_target(folder: Path) -> None:
    """And says EINVAL for what is no mount."""
    with pytest.raises(OSError, match=rf"umount2 {folder}/x: ") as caught:
        syscall.umount(f"{folder}/x")
    assert caught.value.errno == errno.ENOENT


def test_prctl_names_the_option() -> None:
    """By its number."""
    with pytest.raises(OSError, match="prctl 99999: Invalid argument"):
        syscall.prctl(99999, 0)


def test_statx_tells_attributes_and_names_the_path(folder: Path) -> None:
    """A tmpfs has no DAX; a mount's root says that it is one (STATX_ATTR_MOUNT_ROOT)."""
    attributes = syscall.statx_attributes(str(folder))
    assert attributes & 0x2000
    assert not attributes & abi.STATX_ATTR_DAX
    with pytest.raises(OSError, match=rf"statx {folder}/x: No such file"):
        syscall.statx_attributes(f"{folder}/x")


@pytest.mark.parametrize("place", ["source", "target", "data"])
def test_a_zero_byte_is_refused_and_not_cut_off_at(folder: Path, place: str) -> None:
    """C strings end there, and a part of a path is another path."""
    arguments = {"source": "tmpfs", "target": str(folder), "data": "size=1m"}
    arguments[place] += "\0x"
    with pytest.raises(OSError, match="mount") as caught:
        syscall.mount(arguments["source"], arguments["target"], "tmpfs", data=arguments["data"])
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="umount2") as caught:
        syscall.umount(f"{folder}\0x")
    assert caught.value.errno == errno.EINVAL
    assert folder.is_mount()


def test_the_kernel_s_announcements_arrive() -> None:
    """The socket becomes readable with one, and is empty until then."""
    with uevent.listen() as listener:
        assert not listener.getblocking()
        assert not os.get_inheritable(listener.fileno())
        Path("/sys/devices/virtual/mem/null/uevent").write_text("change")
        found = b""
        while b"change@/devices/virtual/mem/null" not in found:
            assert select.select([listener], [], [], 5)[0], "no announcement came"
            found = listener.recv(65536)


@pytest.fixture
def cgroups(folder: Path) -> Path:
    """Return the root of the version 2 hierarchy, mounted where the floor looks for it."""
    assert folder.is_mount()  # so this is not the machine's own namespace
    syscall.mount("cgroup2", str(cgroup.ROOT), "cgroup2")
    return cgroup.ROOT


def test_a_cgroup_s_processes_are_listed_and_killed_with_those_below(cgroups: Path) -> None:
    """Two levels, a process in each; afterwards none is left."""
    name = f"gcs-test-{os.getpid()}"
    top, below = cgroups / name, cgroups / name / "below"
    below.mkdir(parents=True)
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    try:
        for group, sleeper in zip((top, below), sleepers, strict=True):
            (group / "cgroup.procs").write_text(str(sleeper.pid))
        assert sorted(cgroup.processes(f"/{name}")) == sorted(s.pid for s in sleepers)
        assert cgroup.processes(f"/{name}/below") == (sleepers[1].pid,)
        cgroup.kill(f"/{name}")
        assert [sleeper.wait(10) for sleeper in sleepers] == [-9, -9]
        assert cgroup.processes(f"/{name}") == ()
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
        below.rmdir()
        top.rmdir()


@pytest.mark.usefixtures("cgroups")
def test_a_missing_cgroup_has_no_processes() -> None:
    """To list and to kill none is no error."""
    assert cgroup.processes("/gcs-test-missing/x") == ()
    cgroup.kill("/gcs-test-missing/x")


def test_a_cgroup_may_vanish_while_it_is_read(cgroups: Path) -> None:
    """It has no processes then, at whichever step it goes; the rest is listed and removed."""
    name = f"gcs-test-{os.getpid()}"
    top = cgroups / name
    top.mkdir()
    come_and_go = "while mkdir a a/b; do rmdir a/b a; done"
    going = subprocess.Popen(["sh", "-c", come_and_go], cwd=top)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert cgroup.processes(f"/{name}") == ()
    assert going.poll() is None
    going.kill()
    going.wait()
    assert cgroup.remove_all(f"/{name}")
    assert not top.exists()


def test_a_cgroup_is_removed_with_all_that_is_in_it(cgroups: Path) -> None:
    """Not while its processes are dying, and then with those below."""
    name = f"gcs-test-{os.getpid()}"
    below = cgroups / name / "a/b"
    below.mkdir(parents=True)
    sleeper = subprocess.Popen(["sleep", "60"])
    (below / "cgroup.procs").write_text(str(sleeper.pid))
    while not cgroup.remove_all(f"/{name}"):
        assert below.exists()
    assert sleeper.wait(10) == -9
    assert not (cgroups / name).exists()
    assert cgroup.remove_all(f"/{name}")
