"""From a layer's tar to ext4 and back, and the cache that keeps the result."""

import fcntl
import hashlib
import os
import signal
import stat
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import trio

from gcs.errors import DeadlineError
from gcs.host import layer_cache, layers, unpack
from gcs.host.blob import Blob
from gcs.host.images import Layer, open_image
from gcs.host.layers import LayerError, convert, ensure_layers
from tests.support.ext4_reader import read_tree
from tests.support.layer_image import check, image_of, layer_of, tree_of
from tests.support.oci import Members, compress, layer_tar, member, write_layout

#: A process that converts the layers of one layout (first argument) into a cache (second).
ENSURE = """
import sys, trio
from pathlib import Path
from gcs.host import images, layers
async def main():
    image = await images.open_image(Path(sys.argv[1]))
    await layers.ensure_layers(image, Path(sys.argv[2]), progress=lambda text: None)
trio.run(main)
"""

DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def test_an_empty_layer_is_an_empty_folder(tmp_path: Path) -> None:
    """A tar of nothing becomes an image with a root of 0755 and nothing else, no lost+found."""
    tree = tree_of(layer_tar([]), tmp_path)
    assert list(tree) == [b""]
    assert tree[b""].mode == stat.S_IFDIR | 0o755


def test_every_kind_of_file_arrives(tmp_path: Path) -> None:
    """Type, mode bits, owner, time, target and device number are the tar's."""
    tar = layer_tar(
        [
            member("d", kind=DIR, mode=0o1777, owner=(1, 2), mtime=3),
            member("d/f", b"data", mode=0o4755, owner=(70_000, 4_000_000_000), mtime=2**32),
            member("short", kind=LINK, link="x" * 59, mode=0o777),
            member("long", kind=LINK, link="y" * 60, mode=0o777),
            member("longest", kind=LINK, link="z" * 4095, mode=0o777),
            member("null", kind=tarfile.CHRTYPE, device=(1, 3), mode=0o666),
            member("big", kind=tarfile.BLKTYPE, device=(4095, (1 << 20) - 1)),
            member("pipe", kind=tarfile.FIFOTYPE),
        ]
    )
    tree = tree_of(tar, tmp_path)
    assert tree[b"d"].mode == stat.S_IFDIR | 0o1777
    assert (tree[b"d"].uid, tree[b"d"].gid, tree[b"d"].mtime_ns) == (1, 2, 3 * 10**9)
    file = tree[b"d/f"]
    assert (file.mode, file.content) == (stat.S_IFREG | 0o4755, b"data")
    assert (file.uid, file.gid, file.mtime_ns) == (70_000, 4_000_000_000, 2**32 * 10**9)
    assert tree[b"short"].content == b"x" * 59
    assert tree[b"long"].content == b"y" * 60
    assert tree[b"longest"].content == b"z" * 4095
    assert (tree[b"null"].mode, tree[b"null"].device) == (stat.S_IFCHR | 0o666, (1, 3))
    assert tree[b"big"].device == (4095, (1 << 20) - 1)
    assert stat.S_ISFIFO(tree[b"pipe"].mode)


def test_implied_folders_are_made(tmp_path: Path) -> None:
    """A path whose folders no entry names gets them, as root's 0755."""
    tree = tree_of(layer_tar([member("a/b/c", b"x")]), tmp_path)
    assert {path: oct(found.mode) for path, found in tree.items()} == {
        b"": "0o40755",
        b"a": "0o40755",
        b"a/b": "0o40755",
        b"a/b/c": "0o100644",
    }


def test_hard_links_share_an_inode(tmp_path: Path) -> None:
    """Two names are one inode with a link count of 2, also when the link is absolute."""
    tar = layer_tar([member("a", b"x"), member("d/b", kind=HARD, link="/a")])
    tree = tree_of(tar, tmp_path)
    assert tree[b"a"] == tree[b"d/b"]
    assert tree[b"a"].links == 2


def test_a_replaced_name_of_a_hard_link_leaves_the_other(tmp_path: Path) -> None:
    """Replacing one of two names leaves the other, with a link count of 1."""
    tar = layer_tar([member("a", b"1"), member("b", kind=HARD, link="a"), member("a", b"2")])
    tree = tree_of(tar, tmp_path)
    assert (tree[b"a"].content, tree[b"b"].content) == (b"2", b"1")
    assert (tree[b"a"].links, tree[b"b"].links) == (1, 1)


REPLACED: dict[str, tuple[Members, dict[bytes, bytes]]] = {
    "file by file": ([member("a", b"old" * 9999), member("a", b"new")], {b"a": b"new"}),
    "folder by file": (
        [member("a", kind=DIR), member("a/b", b"old"), member("a", b"new")],
        {b"a": b"new"},
    ),
    "folder by folder": (
        [member("a/b", b"kept"), member("a", kind=DIR, mode=0o700)],
        {b"a": b"", b"a/b": b"kept"},
    ),
    "link by file": ([member("a", kind=LINK, link="b"), member("a", b"f")], {b"a": b"f"}),
}


@pytest.mark.parametrize("name", REPLACED)
def test_the_last_entry_of_a_name_wins(tmp_path: Path, name: str) -> None:
    """An entry replaces what stands there; a folder over a folder keeps its files."""
    members, wanted = REPLACED[name]
    tree = tree_of(layer_tar(members), tmp_path)
    assert {path: found.content for path, found in tree.items() if path} == wanted


def test_a_folder_over_a_file_hides_the_folder_below(tmp_path: Path) -> None:
    """A file had hidden the lower folder of its name, so the folder after it does too."""
    tree = tree_of(layer_tar([member("a", b"x"), member("a", kind=DIR)]), tmp_path)
    assert tree[b"a"].xattrs == {"trusted.overlay.opaque": b"y"}


def test_whiteouts_become_devices(tmp_path: Path) -> None:
    """`.wh.NAME` becomes a character device 0:0 called NAME, its folders implied."""
    tree = tree_of(layer_tar([member("d/.wh.gone")]), tmp_path)
    assert set(tree) == {b"", b"d", b"d/gone"}
    assert (tree[b"d/gone"].mode, tree[b"d/gone"].device) == (stat.S_IFCHR, (0, 0))


def test_opaque_folders_are_marked(tmp_path: Path) -> None:
    """`.wh..wh..opq` marks its folder, before or after the folder's own entry."""
    early = [member("d/.wh..wh..opq"), member("d", kind=DIR, mode=0o750)]
    for members in (early, early[::-1]):
        tree = tree_of(layer_tar(members), tmp_path)
        assert set(tree) == {b"", b"d"}
        assert tree[b"d"].mode == stat.S_IFDIR | 0o750
        assert tree[b"d"].xattrs == {"trusted.overlay.opaque": b"y"}


@pytest.mark.parametrize("order", [1, -1])
def test_a_whiteout_beside_its_name_means_the_layers_below(tmp_path: Path, order: int) -> None:
    """With `.wh.d` and a folder d in one layer, d is opaque; a file f simply replaces."""
    members = [member(".wh.d"), member("d/x"), member(".wh.f"), member("f", b"new")]
    tree = tree_of(layer_tar(members[::order]), tmp_path)
    assert set(tree) == {b"", b"d", b"d/x", b"f"}
    assert tree[b"d"].xattrs == {"trusted.overlay.opaque": b"y"}
    assert tree[b"f"].content == b"new"


def test_aufs_leftovers_vanish(tmp_path: Path) -> None:
    """`.wh..wh.plnk` and its like are no files and no whiteouts."""
    tar = layer_tar([member(".wh..wh.plnk", kind=DIR), member(".wh..wh.aufs")])
    assert set(tree_of(tar, tmp_path)) == {b""}


def test_xattrs_arrive(tmp_path: Path) -> None:
    """Binary, empty and large values survive, in the inode and in a block of their own."""
    xattrs = {
        "security.capability": bytes(range(20)),
        "user.empty": b"",
        "user.small": b"\0\xff\n",
        "user.large": bytes(range(256)) * 12,
        "trusted.t": b"t",
    }
    tree = tree_of(layer_tar([member("f", xattrs=xattrs)]), tmp_path)
    assert tree[b"f"].xattrs == xattrs


def test_acls_are_stored_as_ext4_has_them(tmp_path: Path) -> None:
    """An ACL's ids are kept for named users and groups only, in version 1."""
    entries = [(1, 6, 0xFFFFFFFF), (2, 4, 1000), (4, 4, 0xFFFFFFFF), (0x10, 4, 0xFFFFFFFF)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    tar = layer_tar([member("f", xattrs={"system.posix_acl_access": value})])
    stored = tree_of(tar, tmp_path)[b"f"].xattrs["system.posix_acl_access"]
    assert stored == struct.pack("<I4HI4H", 1, 1, 6, 2, 4, 1000, 4, 4, 0x10, 4)


def test_foreign_xattrs_are_left_out(tmp_path: Path) -> None:
    """macOS's attributes and other unions' marks don't reach the image."""
    xattrs = {"com.apple.quarantine": b"x", "trusted.overlay.redirect": b"/etc"}
    assert tree_of(layer_tar([member("f", xattrs=xattrs)]), tmp_path)[b"f"].xattrs == {}


def test_go_zero_time_is_moved_inside(tmp_path: Path) -> None:
    """A time before 1901, such as Go's year 1, becomes ext4's first."""
    info, _ = member("f")
    info.pax_headers = {"mtime": "-62135596800"}
    tree = tree_of(layer_tar([(info, b"")]), tmp_path)
    assert tree[b"f"].mtime_ns == -(2**31) * 10**9


def test_far_times_are_moved_inside(tmp_path: Path) -> None:
    """A time after 2310, where e2fsck suspects a bug, becomes the last one before."""
    tree = tree_of(layer_tar([member("f", mtime=2**40)]), tmp_path)
    assert tree[b"f"].mtime_ns == (3 * 2**32 - 2**31 - 1) * 10**9


def test_a_sparse_file_keeps_its_holes(tmp_path: Path) -> None:
    """A file of 5 GiB with three pieces, two sharing a block, reads back in a small image."""
    info, content = member("s", b"a" * 100 + b"b" * 5000 + b"c" * 10)
    info.pax_headers = {
        "GNU.sparse.map": f"10,100,3000,5000,{40 << 20},10",
        "GNU.sparse.size": str(5 << 30),
    }
    image = image_of(layer_tar([(info, content)]), tmp_path)
    tree = read_tree(image)
    whole = bytearray(64 << 20)
    whole[10:110] = b"a" * 100
    whole[3000:8000] = b"b" * 5000
    whole[40 << 20 : (40 << 20) + 10] = b"c" * 10
    assert (tree[b"s"].size, tree[b"s"].content) == (5 << 30, bytes(whole))
    assert image.stat().st_size == 2 << 20


def test_a_fragmented_file_gets_an_extent_tree(tmp_path: Path) -> None:
    """2,000 pieces need a tree two levels deep, and all of them read back."""
    pieces = [(number * 8192, 1) for number in range(2000)]
    info, content = member("s", b"".join(bytes([n % 251 + 1]) for n in range(2000)))
    info.pax_headers = {
        "GNU.sparse.map": ",".join(f"{offset},{length}" for offset, length in pieces),
        "GNU.sparse.size": str(2000 * 8192),
    }
    found = tree_of(layer_tar([(info, content)]), tmp_path)[b"s"].content
    assert found[::8192] == content
    assert found.count(0) == 2000 * 8191


def test_a_large_folder_has_many_blocks(tmp_path: Path) -> None:
    """3,000 long names in one folder all read back."""
    names = {f"{number:0>200}".encode() for number in range(3000)}
    tree = tree_of(layer_tar([member(b"d/" + name) for name in names]), tmp_path)
    assert {path for path in tree if b"/" in path} == {b"d/" + name for name in names}


def test_more_inodes_than_a_group_holds(tmp_path: Path) -> None:
    """33,000 empty files need a second group, though their blocks don't."""
    tar = layer_tar([member(f"{n % 200}/{n}") for n in range(33_000)], tarfile.GNU_FORMAT)
    assert len(tree_of(tar, tmp_path)) == 33_201


def test_the_same_tar_gives_the_same_image(tmp_path: Path) -> None:
    """Compression, umask and place of the cache leave no trace in the image."""
    tar = layer_tar([member("a", b"x" * 5000, xattrs={"user.x": b"y"}), member("b/c")])
    found = set()
    for number, form in enumerate(["plain", "gzip", "zstd"]):
        folder = tmp_path / form
        folder.mkdir()
        before = os.umask(0o77 * (number % 2))
        try:
            found.add(hashlib.sha256(image_of(tar, folder, form).read_bytes()).digest())
        finally:
            os.umask(before)
    assert len(found) == 1


def test_the_format_of_version_1_is_fixed(tmp_path: Path) -> None:
    """A known tar gives a known image: if this changes, CONVERTER_VERSION must be raised."""
    tar = layer_tar(
        [
            member("a", b"x", xattrs={"user.x": b"y" * 200}),
            member("b/.wh.c"),
            member("d", kind=DIR),
        ]
    )
    digest = hashlib.sha256(image_of(tar, tmp_path).read_bytes()).hexdigest()
    assert (layers.CONVERTER_VERSION, digest) == (
        1,
        "7e3b4c5d503a6fcfe468296977146e5ade3f913ab853b293e835de3fd98c64fb",
    )


HOSTILE: dict[str, tuple[Members, str]] = {
    "dotdot": ([member("../etc/passwd")], r"'\.\./etc/passwd'.*'\.\.'"),
    "dotdot inside": ([member("a/../../b")], "leaves its folder"),
    "hard link outside": ([member("a", kind=HARD, link="../../etc/shadow")], "leaves"),
    "hard link to nothing": ([member("a", kind=HARD, link="etc/shadow")], "no such file"),
    "hard link to a folder": (
        [member("d", kind=DIR), member("a", kind=HARD, link="d")],
        "folder",
    ),
    "hard link to itself": ([member("a", kind=HARD, link="a")], "no such file"),
    "below a link": (
        [member("l", kind=LINK, link="/etc"), member("l/passwd")],
        "symbolic link 'l'",
    ),
    "link through a link": (
        [member("l", kind=LINK, link="/"), member("a", kind=HARD, link="l/x")],
        "symbolic link",
    ),
    "below a file": ([member("f"), member("f/x")], "goes through the file 'f'"),
    "root as a file": ([member("./", b"", kind=tarfile.FIFOTYPE)], "root"),
    "whiteout of nothing": ([member("d/.wh.")], "whiteout of no name"),
    "whiteout of the folder": ([member("d/.wh..")], "whiteout of no name"),
    "below a whiteout": ([member(".wh.d/x")], "whiteout"),
    "opaque root": ([member(".wh..wh..opq")], "opaque root"),
    "too deep": ([member("d/" * 300 + "x")], "301 folders deep"),
    "path too long": ([member("/".join(["d" * 200] * 30))], "limit is 4096"),
    "name too long": ([member("n" * 256)], "over 255"),
    "empty link": ([member("l", kind=LINK, link="")], "target of 0 bytes"),
    "endless link": ([member("l", kind=LINK, link="x" * 4096)], "target of 4096 bytes"),
    "device number": ([member("n", kind=tarfile.CHRTYPE, device=(4096, 0))], "4096:0 is out"),
    "nobody's owner": ([member("n", owner=(0xFFFFFFFF, 0))], "out of range"),
    "xattrs over a block": ([member("x", xattrs={"user.x": b"x" * 4096})], "do not fit"),
    "xattrs over all bounds": ([member("x", xattrs={"user.x": b"x" * 99_999})], "do not fit"),
    "damaged ACL": ([member("x", xattrs={"system.posix_acl_access": b"x"})], "ACL"),
}  # fmt: skip


def leftovers(cache: Path) -> list[str]:
    """Return what a cache holds, hidden files too."""
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


@pytest.mark.parametrize(("members", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_entry_is_named(tmp_path: Path, members: Members, reason: str) -> None:
    """What can't have a place is an error with its blob and name, and nothing stays."""
    layer = layer_of(layer_tar(members), tmp_path)
    with pytest.raises(LayerError, match=f"{layer.digest}: entry .*{reason}"):
        trio.run(convert, layer, tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_an_absolute_path_is_below_the_layers_root(tmp_path: Path) -> None:
    """A leading slash means the layer's own root; the host's is out of reach."""
    assert set(tree_of(layer_tar([member("/etc/x")]), tmp_path)) == {b"", b"etc", b"etc/x"}


@pytest.mark.parametrize("form", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("damage", ["cut", "flip", "append"])
def test_a_damaged_blob_is_an_error(tmp_path: Path, form: str, damage: str) -> None:
    """A blob that is cut off, has a wrong bit or too much at its end leaves nothing behind."""
    content = os.urandom(5000)
    blob, _ = compress(layer_tar([member("a", content)]), form)
    layer = layer_of(layer_tar([member("a", content)]), tmp_path, form)
    changed = {
        "cut": blob[:-20],
        "flip": blob[:2000] + bytes([blob[2000] ^ 1]) + blob[2001:],
        "append": blob + b"more",
    }[damage]
    layer.blob.path.write_bytes(changed)
    bad = Blob(digest=layer.digest, path=layer.blob.path, offset=0, size=len(changed))
    for size in (layer.blob, bad):
        if damage == "append" and size is layer.blob:
            continue
        broken = Layer(media_type=layer.media_type, diff_id=layer.diff_id, blob=size)
        with pytest.raises(LayerError, match=layer.digest):
            trio.run(convert, broken, tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_a_cut_off_stream_with_a_true_digest_is_an_error(tmp_path: Path, form: str) -> None:
    """A truncated gzip or zstd stream is refused even if the digest is of the truncated one."""
    tar = layer_tar([member("a", os.urandom(5000))])
    blob = compress(tar, form)[0][:-20]
    path = tmp_path / "blob"
    path.write_bytes(blob)
    place = Blob(
        digest=f"sha256:{hashlib.sha256(blob).hexdigest()}", path=path, offset=0, size=len(blob)
    )
    diff_id = f"sha256:{hashlib.sha256(tar).hexdigest()}"
    with pytest.raises(LayerError):
        trio.run(convert, Layer(media_type="", diff_id=diff_id, blob=place), tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_a_wrong_diff_id_is_an_error(tmp_path: Path) -> None:
    """A blob that is whole but not the tar that the config names is refused."""
    layer = layer_of(layer_tar([member("a")]), tmp_path, "gzip")
    wrong = Layer(media_type="", diff_id=f"sha256:{'0' * 64}", blob=layer.blob)
    with pytest.raises(LayerError, match=f"not to sha256:{'0' * 64}"):
        trio.run(convert, wrong, tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_a_tar_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that unpacks to far more than its size allows is refused before the end."""
    monkeypatch.setattr(unpack, "FREE_BYTES", 1 << 20)
    layer = layer_of(layer_tar([member("zeros", bytes(16 << 20))]), tmp_path, "zstd")
    with pytest.raises(LayerError, match="unpacks to over"):
        trio.run(convert, layer, tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Implied folders count as much as entries, so deep paths can't multiply."""
    monkeypatch.setattr("gcs.host.layer_tree.MAX_NODES", 1000)
    layer = layer_of(layer_tar([member(f"{n}/" + "d/" * 200) for n in range(6)]), tmp_path)
    with pytest.raises(LayerError, match="over 1000 entries"):
        trio.run(convert, layer, tmp_path / "cache")


def test_too_much_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, targets and attributes are held in memory, so their sum is bounded."""
    monkeypatch.setattr("gcs.host.layer_tree.MAX_TEXT_BYTES", 10_000)
    links = [member(f"{n}", kind=LINK, link="x" * 1000) for n in range(20)]
    layer = layer_of(layer_tar(links), tmp_path)
    with pytest.raises(LayerError, match="over 10000 bytes of names"):
        trio.run(convert, layer, tmp_path / "cache")


def test_the_cache_holds_the_image_and_its_sum(tmp_path: Path) -> None:
    """Beside an image lies its sha256 in sha256sum's form; both are read-only, nothing else."""
    image = image_of(layer_tar([member("a")]), tmp_path)
    sums = image.with_name(image.name + ".sha256")
    assert (
        sums.read_text() == f"{hashlib.sha256(image.read_bytes()).hexdigest()}  {image.name}\n"
    )
    assert leftovers(image.parent) == sorted([image.name, sums.name])
    assert {stat.S_IMODE(path.stat().st_mode) for path in (image, sums)} == {0o444}


def test_a_cached_layer_is_not_converted_again(tmp_path: Path) -> None:
    """A second call returns the same file, without needing the blob."""
    layer = layer_of(layer_tar([member("a")]), tmp_path)
    image = trio.run(convert, layer, tmp_path / "cache")
    before = image.stat()
    layer.blob.path.unlink()
    assert trio.run(convert, layer, tmp_path / "cache") == image
    assert image.stat().st_mtime_ns == before.st_mtime_ns


def test_a_killed_conversions_leftover_is_overwritten(tmp_path: Path) -> None:
    """A temporary file that nobody holds is taken over, and its content is gone."""
    layer = layer_of(layer_tar([member("a")]), tmp_path)
    clean = trio.run(convert, layer, tmp_path / "clean")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f".{clean.name}.tmp").write_bytes(b"\xff" * (5 << 20))
    image = trio.run(convert, layer, tmp_path / "cache")
    assert image.read_bytes() == clean.read_bytes()
    assert len(leftovers(image.parent)) == 2


def test_tasks_that_want_the_same_layer_share_one_conversion(tmp_path: Path) -> None:
    """Eight tasks at once all get the image, and one inode was made."""
    layer = layer_of(layer_tar([member("a", b"x" * 1000)]), tmp_path)
    found: set[tuple[Path, int]] = set()

    async def one() -> None:
        image = await convert(layer, tmp_path / "cache")
        found.add((image, image.stat().st_ino))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one)

    trio.run(main)
    assert len(found) == 1
    assert len(leftovers(tmp_path / "cache")) == 2
    check(found.pop()[0])


def test_processes_that_want_the_same_layer_are_safe(tmp_path: Path) -> None:
    """Four processes at once all succeed and leave one whole image."""
    tar = layer_tar([member(f"f{n}", os.urandom(20_000)) for n in range(200)])
    write_layout(tmp_path / "layout", [tar])

    async def one() -> None:
        await trio.run_process(
            [sys.executable, "-c", ENSURE, tmp_path / "layout", tmp_path / "cache"]
        )

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)

    trio.run(main)
    (image,) = (tmp_path / "cache").glob("*.ext4")
    assert len(leftovers(tmp_path / "cache")) == 2
    check(image)


async def _growing(cache: Path) -> None:
    """Wait until a conversion has begun to write."""
    with trio.fail_after(60):
        # No event tells of it: the writer is a thread that knows nothing of tests.
        while not _has_data(cache):  # noqa: ASYNC110
            await trio.sleep(0.001)


def _has_data(cache: Path) -> bool:
    return any(path.stat().st_size for path in cache.glob(".*.tmp"))


def test_a_cancelled_conversion_leaves_nothing(tmp_path: Path) -> None:
    """Cancelling in the middle ends the thread at once and removes the temporary file."""
    layer = layer_of(layer_tar([member("a", bytes(200 << 20))]), tmp_path, "zstd")

    async def main() -> bool:
        cache = tmp_path / "cache"
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(convert, layer, cache)
                await _growing(cache)
                scope.cancel()
        return scope.cancelled_caught

    assert trio.run(main)
    assert leftovers(tmp_path / "cache") == []


def test_an_interrupted_process_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a conversion ends the process at once, with an empty cache."""
    write_layout(tmp_path / "layout", [layer_tar([member("a", bytes(400 << 20))])], form="zstd")
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", ENSURE, str(tmp_path / "layout"), str(cache)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        trio.run(_growing, cache)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in said
    assert leftovers(cache) == []


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """A write that the system refuses names layer and file, and what was written is gone."""
    write_layout(tmp_path / "layout", [layer_tar([member("a", os.urandom(9 << 20))])])
    cache = tmp_path / "cache"
    # A limit on the size of files: the same error path as a full disk, without filling one.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, 5 << 20))\n"
    command = [sys.executable, "-c", limit + ENSURE, str(tmp_path / "layout"), str(cache)]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("gcs.host.layers.LayerError: layer sha256:")
    assert last.endswith("File too large")
    assert leftovers(cache) == []


def test_long_conversions_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Percentages come while a layer is read, ascending."""
    monkeypatch.setattr(layers, "REPORT_INTERVAL_S", 0.0)
    layer = layer_of(layer_tar([member("a", bytes(8 << 20))]), tmp_path)
    said: list[str] = []

    async def main() -> None:
        await convert(layer, tmp_path / "cache", progress=said.append)

    trio.run(main)
    parts = [int(text.removesuffix("%")) for text in said]
    assert len(parts) > 4
    assert parts == sorted(parts)
    assert parts[-1] == 100


def test_a_held_lock_ends_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another process holds a layer past the deadline, that is what the error says."""
    monkeypatch.setattr(layer_cache, "LOCK_DEADLINE_S", 0.2)
    layer = layer_of(layer_tar([]), tmp_path)
    (tmp_path / "cache").mkdir()
    name = f".{layer.diff_id.partition(':')[2]}-v{layers.CONVERTER_VERSION}.ext4.tmp"
    with (tmp_path / "cache" / name).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DeadlineError, match="not free after"):
            trio.run(convert, layer, tmp_path / "cache")


def test_layers_come_back_bottom_first(tmp_path: Path) -> None:
    """`ensure_layers` returns one path per layer in the image's order, equal layers equal."""
    tars = [layer_tar([member(name)]) for name in ("bottom", "middle", "bottom")]
    layout = write_layout(tmp_path / "layout", tars)
    said: list[str] = []

    async def main() -> tuple[Path, ...]:
        image = await open_image(layout)
        return await ensure_layers(image, tmp_path / "cache", progress=said.append)

    paths = trio.run(main)
    assert [path.name[:64] for path in paths] == [
        hashlib.sha256(tar).hexdigest() for tar in tars
    ]
    assert [text.partition(": ")[2][:10] for text in said] == [
        "converting",
        "converting",
        "in the cac",
    ]
