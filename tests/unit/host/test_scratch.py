"""What containers write to: what is asked for, and the file."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gcs.errors import InvalidArgumentError, WrongStateError
from gcs.host import scratch
from gcs.wire.container_storage import Scratch, ScratchKind
from tests.support.stage import Stage, make_stage

MIB = 1024**2
SCSI, TMPFS, PMEM = ScratchKind.SCSI, ScratchKind.TMPFS, ScratchKind.PMEM


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("scsi", Scratch()),
        ("tmpfs", Scratch(kind=TMPFS)),
        ("pmem,size=64M", Scratch(kind=PMEM, size_mib=64)),
        ("scsi,size=1g", Scratch(size_mib=1024)),
        ("scsi,size=2TiB,path=a b", Scratch(size_mib=2 * 1024**2, path="a b")),
        ("pmem,path=/x,size=32GB", Scratch(kind=PMEM, size_mib=32768, path="/x")),
    ],
)
def test_a_scratch_is_a_kind_and_options(text: str, found: Scratch) -> None:
    """Options in any order."""
    assert scratch.parse(text) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected scsi|tmpfs|pmem"),
        ("disk", "expected scsi|tmpfs|pmem"),
        ("SCSI", "expected scsi|tmpfs|pmem"),
        ("scsi,", "expected size=512M or path=FILE"),
        ("scsi,size=", "expected size=512M or path=FILE"),
        ("scsi,size=1", "expected size=512M or path=FILE"),
        ("scsi,size=-1M", "expected size=512M or path=FILE"),
        ("scsi,path=", "expected size=512M or path=FILE"),
        ("scsi,ro", "expected size=512M or path=FILE"),
        ("scsi,size=15M", "the least is 16M, the most 16384G"),
        ("scsi,size=17T", "the least is 16M, the most 16384G"),
        ("tmpfs,size=0M", "the least is 1M"),
        ("pmem,size=33G", "the least is 16M, the most 32G"),
        ("pmem,size=17M", "multiple of 2M"),
    ],
)
def test_what_is_no_scratch_is_refused(text: str, words: str) -> None:
    """With the limits in the words."""
    with pytest.raises(InvalidArgumentError) as caught:
        scratch.parse(text)
    assert str(caught.value).startswith(repr(text))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "memory", "size"),
    [
        (Scratch(), 64, 16384),
        (Scratch(kind=TMPFS), 64, 0),
        (Scratch(kind=TMPFS, size_mib=64), 64, 64),
        (Scratch(kind=PMEM), 64, 512),
        (Scratch(kind=PMEM, size_mib=2048), 256, 2048),
    ],
)
def test_each_kind_has_a_size_of_its_own(wanted: Scratch, memory: int, size: int) -> None:
    """The smallest VM can have each of them."""
    assert scratch.check(wanted, memory).size_mib == size


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Scratch(kind=TMPFS, size_mib=65), "65M in memory: the VM has 64M of it"),
        (Scratch(kind=PMEM, size_mib=514), "takes 8M .* with 64M the most is 512M"),
        (Scratch(kind=TMPFS, path="x"), "scratch x: memory can't be kept in a file"),
        (Scratch(path="/nowhere/x"), "scratch /nowhere/x: there is no such folder"),
        (Scratch(path="/dev/null"), "scratch /dev/null: is no file"),
        (Scratch(path="/dev/null/x"), "scratch /dev/null/x: Not a directory"),
    ],
)
def test_what_a_vm_can_not_have_is_refused_in_words(wanted: Scratch, words: str) -> None:
    """Before anything is started."""
    with pytest.raises(InvalidArgumentError, match=words):
        scratch.check(wanted, 64)


def _file(folder: Path, size: int) -> Path:
    path = folder / "file"
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_a_kept_file_keeps_its_size(tmp_path: Path) -> None:
    """Another one is refused, and so is what no scratch could have left."""
    path = str(_file(tmp_path, 32 * MIB))
    assert scratch.check(Scratch(path=path), 64).size_mib == 32
    assert scratch.check(Scratch(path=path, size_mib=32), 64).size_mib == 32
    with pytest.raises(InvalidArgumentError, match="has 32M, and keeps that size"):
        scratch.check(Scratch(path=path, size_mib=64), 64)
    with pytest.raises(InvalidArgumentError, match="has 1048577 bytes, and was never"):
        scratch.check(Scratch(path=str(_file(tmp_path, MIB + 1))), 64)
    odd = str(_file(tmp_path, 33 * MIB))
    with pytest.raises(InvalidArgumentError, match="was never a scratch"):
        scratch.check(Scratch(kind=PMEM, path=odd), 64)


def test_a_kept_file_is_made_once_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in it is there the next time; nobody else can read it."""
    monkeypatch.chdir(tmp_path)
    wanted = scratch.check(Scratch(path="file", size_mib=16), 64)
    assert wanted.path == str(tmp_path / "file")
    with scratch.open_file(wanted) as fd:
        assert fd is not None
        os.pwrite(fd, b"mark", MIB)
    status = (tmp_path / "file").stat()
    assert (status.st_size, stat.S_IMODE(status.st_mode)) == (16 * MIB, 0o600)
    assert status.st_blocks * 512 < MIB
    with scratch.open_file(scratch.check(Scratch(path="file"), 64)) as fd:
        assert fd is not None
        assert os.pread(fd, 4, MIB) == b"mark"


def refuse(wanted: Scratch) -> None:
    with pytest.raises(WrongStateError, match="VM has it"), scratch.open_file(wanted):
        pass


def test_a_kept_file_has_one_vm_at_a_time(tmp_path: Path) -> None:
    """It is free again when whoever has it, QEMU too, has closed it."""
    wanted = Scratch(path=str(tmp_path / "file"), size_mib=16)
    with scratch.open_file(wanted) as fd:
        assert fd is not None
        heir = os.dup(fd)
        with (
            pytest.raises(WrongStateError, match="another VM has it"),
            scratch.open_file(wanted),
        ):
            pass
    with pytest.raises(WrongStateError, match="another VM has it"), scratch.open_file(wanted):
        pass
    os.close(heir)
    with scratch.open_file(wanted):
        pass


def test_a_file_that_is_not_kept_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no name at any time that counts, and the size that was asked for."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with scratch.open_file(Scratch(kind=PMEM, size_mib=20)) as fd:
        assert fd is not None
        assert os.fstat(fd).st_size == 20 * MIB
        assert list(tmp_path.iterdir()) == []
    with scratch.open_file(Scratch(kind=TMPFS)) as fd:
        assert fd is None


def test_a_file_that_no_disk_can_hold_is_said(tmp_path: Path) -> None:
    """Some file systems have smaller files than ext4."""
    wanted = Scratch(path=str(tmp_path / "file"), size_mib=2**32 - 1)
    with (
        pytest.raises(InvalidArgumentError, match="a scratch of 4294967295M: File too large"),
        scratch.open_file(wanted),
    ):
        pass


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage in a folder with a short name, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as folder:
        yield make_stage(Path(folder))


@pytest.mark.parametrize("kind", ["scsi", "tmpfs", "pmem,size=20M"])
def test_a_container_has_the_scratch_that_is_asked_for(stage: Stage, kind: str) -> None:
    """And leaves nothing of it."""
    done = stage.run("run", "--scratch", kind, str(stage.image), "echo", "x")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n", b"")
    assert stage.leftovers() == []
    assert list((stage.runtime.parent / "tmp").iterdir()) == []


def test_a_scratch_is_kept_on_request(stage: Stage, tmp_path: Path) -> None:
    """As a file of the size that was asked for, that the next container can have."""
    words = ("run", "--scratch", f"pmem,size=20M,path={tmp_path / 'file'}", str(stage.image))
    for _ in range(2):
        done = stage.run(*words, "true")
        assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "file").stat().st_size == 20 * MIB


def test_a_scratch_that_can_not_be_is_refused_at_once(stage: Stage) -> None:
    """Before anything is started."""
    done = stage.run("run", "--scratch", "pmem,size=8G", str(stage.image), "true")
    assert done.returncode == 125
    assert b"with 256M the most is 2048M" in done.stderr
    assert stage.leftovers() == []


def test_the_scratch_of_a_pod_is_not_kept(stage: Stage, tmp_path: Path) -> None:
    """Two containers of one image would write to one folder of it."""
    wanted = f"scsi,path={tmp_path / 'file'}"
    done = stage.run("run", "--pod", "web", "--scratch", wanted, str(stage.image), "true")
    assert done.returncode == 125
    assert b"a pod's can't be kept" in done.stderr
    assert not (tmp_path / "file").exists()
