"""Many layers in few files: which, where, and what is left when it is cut short."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from gcs.host.layer_cache import Leases
from gcs.host.layers import sums_of
from gcs.host.packs import MAX_DEVICES, PackError, note_of, pack, pack_of

MIB = 1 << 20

#: A process that packs the layers that are its arguments, as often as it is let.
PACK = """
import sys, trio
from pathlib import Path
from gcs.host.packs import pack
trio.run(pack, [Path(name) for name in sys.argv[1:]])
"""


def made(folder: Path, count: int, *large: int) -> list[Path]:
    """Make files of 2 MiB as layers, and larger ones at these places; most is holes."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"{number:03}-v1.ext4"
        size = (2 + 2 * (number in large)) * MIB
        with path.open("wb") as file:
            file.write(b"layer %d" % number)
            file.seek(size - 4096)
            file.write(os.urandom(4096))
        digest = sha256(path.read_bytes()).hexdigest()
        sums_of(path).write_text(f"{digest}  {path.name}\n")
        paths.append(path)
    return paths


def names(folder: Path) -> list[str]:
    """Return what is there besides layers."""
    return sorted(p.name for p in folder.iterdir() if ".ext4" not in p.name)


def content(paths: Sequence[Path]) -> list[bytes]:
    """Return what each layer is where `pack` says that it lies."""
    found = []
    for place in trio.run(pack, paths):
        with place.file.open("rb") as file:
            file.seek(place.offset)
            found.append(file.read(place.size or -1))
    return found


@pytest.mark.parametrize("count", [1, 7, MAX_DEVICES])
def test_as_many_layers_as_devices_keep_their_files(tmp_path: Path, count: int) -> None:
    """Nothing is copied, and nothing is made."""
    paths = made(tmp_path, count)
    assert [place.file for place in trio.run(pack, paths)] == paths
    assert names(tmp_path) == []


def test_128_layers_are_in_eight_files_and_unchanged(tmp_path: Path) -> None:
    """The largest have theirs; each part is what its layer is, and begins at 2 MiB."""
    large = (3, 50, 127)
    paths = made(tmp_path, 128, *large)
    places = trio.run(pack, paths)
    assert len({place.file for place in places}) == MAX_DEVICES
    assert all(places[number].file == paths[number] for number in large)
    assert content(paths) == [path.read_bytes() for path in paths]
    assert all(place.offset % (2 * MIB) == 0 for place in places)
    (shared,) = {place.file for place in places} - set(paths)
    assert shared.stat().st_size == (128 - MAX_DEVICES + 1) * 2 * MIB
    assert shared.stat().st_mode & 0o777 == 0o444


def test_holes_are_not_filled(tmp_path: Path) -> None:
    """A pack takes the room that its layers' data takes."""
    paths = made(tmp_path, 40)
    found = pack_of(paths)
    assert found is not None
    trio.run(pack, paths)
    target, packed = found
    used = sum(path.stat().st_blocks for path in packed)
    assert target.stat().st_blocks <= used * 2
    assert target.stat().st_blocks * 512 < target.stat().st_size // 4


def test_a_note_says_what_is_where(tmp_path: Path) -> None:
    """Each part by the name of its layer, with the digest that its layer has."""
    paths = made(tmp_path, 10)
    found = pack_of(paths)
    assert found is not None
    trio.run(pack, paths)
    target, packed = found
    note = json.loads(note_of(target).read_text())
    assert [part["layer"] for part in note] == [path.name for path in packed]
    whole = target.read_bytes()
    for part in note:
        data = whole[part["offset"] : part["offset"] + part["size"]]
        assert sha256(data).hexdigest() == part["sha256"]


def test_images_with_the_same_small_layers_share_a_pack(tmp_path: Path) -> None:
    """It is made once; another order is another pack, the same layer twice is one part."""
    paths = made(tmp_path, 12, 0, 1, 2, 3, 4, 5, 6)
    (pack_file,) = {place.file for place in trio.run(pack, paths)} - set(paths)
    before = pack_file.stat()
    other = [*reversed(paths[:7]), *paths[7:], paths[9]]
    places = trio.run(pack, other)
    assert places[-1] == places[9]
    assert {place.file for place in places} - set(paths) == {pack_file}
    assert pack_file.stat().st_mtime_ns == before.st_mtime_ns
    assert pack_of([*paths[:7], *reversed(paths[7:])]) != pack_of(paths)


def test_a_kernel_that_can_not_copy_is_helped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As between file systems of some kinds, where copy_file_range(2) refuses."""

    def refuse(*_arguments: int) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    paths = made(tmp_path / "layers", 12)
    assert content(paths) == [path.read_bytes() for path in paths]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    """The file is named, and what was written is gone."""
    paths = made(tmp_path, 20)
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({5 * MIB},) * 2)\n"
    command = [sys.executable, "-c", limit + PACK, *map(str, paths)]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("gcs.host.packs.PackError: write ")
    assert last.endswith("File too large")
    assert names(tmp_path) == []


def test_a_layer_without_its_digest_is_one_sentence(tmp_path: Path) -> None:
    """It is the note's, so that a pack can be checked."""
    paths = made(tmp_path, 10)
    for path in paths:
        sums_of(path).unlink()
    with pytest.raises(PackError, match="No such file"):
        trio.run(pack, paths)
    assert names(tmp_path) == []


def test_a_pack_that_was_killed_in_the_making_is_made_anew(tmp_path: Path) -> None:
    """Whatever the moment; who comes next finds it whole or makes it."""
    paths = made(tmp_path, 60)
    wanted = [path.read_bytes() for path in paths]
    command = [sys.executable, "-c", PACK, *map(str, paths)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".*.tmp")) and time.monotonic() < deadline:
            if process.poll() is not None:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert content(paths) == wanted


def test_a_pack_in_use_can_not_be_locked_by_another(tmp_path: Path) -> None:
    """Its lease is there as long as it is held."""
    paths = made(tmp_path, 10)

    async def main() -> bool:
        with Leases() as leases:
            places = await pack(paths, leases=leases)
            (file,) = {place.file for place in places} - set(paths)
            return is_free(file)

    def is_free(file: Path) -> bool:
        done = subprocess.run(["flock", "-n", "-x", file, "true"], check=False)
        return done.returncode == 0

    assert not trio.run(main)
    found = pack_of(paths)
    assert found is not None
    assert is_free(found[0])
