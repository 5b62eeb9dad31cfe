"""The images of a cache: what is kept of them, and what is done about damage."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from gcs.errors import GcsError, InvalidArgumentError, NotFoundError
from gcs.host import image_records, image_upkeep, packs
from gcs.host.contents import find_image, prepare
from gcs.host.image_records import RecordError, load, load_all
from gcs.host.images import Image, open_image
from gcs.host.layer_cache import Leases, temporary_of
from gcs.host.layers import LayerError, image_path, sums_of
from tests.support.oci import layer_tar, member, write_layout

TARS = [layer_tar([member(f"f{n}", b"%d" % n * 5000)]) for n in range(3)]
CONFIG = {"Cmd": ["true"], "Env": ["A=é"]}


async def say_nothing(_: str) -> None:
    pass


async def add(layout: Path, cache: Path, name: str) -> None:
    image = await open_image(layout)
    with Leases() as leases:
        await prepare(image, cache, leases, say_nothing)
        await image_records.store(image, name, layout, cache)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with the images "all" and "two/of:them", which share two layers."""
    for name, count in (("all", 3), ("two/of:them", 2)):
        layout = write_layout(tmp_path / f"{count}", TARS[:count], config=CONFIG)
        trio.run(add, layout, tmp_path / "cache", name)
    return tmp_path / "cache"


def check(cache: Path) -> list[str]:
    """Return what is wrong with a cache."""
    return trio.run(image_upkeep.check, cache, say_nothing).damages


def layer_files(cache: Path, name: str = "all") -> list[Path]:
    return [image_path(layer.diff_id, cache) for layer in load(cache, name).layers]


def alter(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file that is read-only, in place."""
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))


def flip(content: bytes) -> bytes:
    """Alter one bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_an_image_comes_back_as_it_was(cache: Path, tmp_path: Path) -> None:
    """All that a container needs to know of it, and where its layers were."""
    before: Image = trio.run(open_image, tmp_path / "3")
    after = trio.run(find_image, "all", cache)
    assert (after.config, after.layers, after.config_digest, after.digest) == (
        before.config,
        before.layers,
        before.config_digest,
        before.digest,
    )


def test_names_are_dockers_references(cache: Path) -> None:
    """A name with slashes and colons is a file of its own; what leads elsewhere is refused."""
    assert sorted(load_all(cache).whole) == ["all", "two/of:them"]
    with pytest.raises(NotFoundError, match="image two: not imported"):
        load(cache, "two")
    for name in ("", "../x", "/x", "-q", "a b", "a\x1b", "n" * 250, "a" * 100 + "/" * 60):
        with pytest.raises(InvalidArgumentError):
            image_records.check_name(name)
        assert not image_records.is_known(cache, name)


def test_a_later_image_of_a_name_replaces_the_first(cache: Path, tmp_path: Path) -> None:
    """As a tag moves with docker."""
    trio.run(add, tmp_path / "2", cache, "all")
    assert len(load(cache, "all").layers) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace(b'"name":"all"', b'"name":"ally"'), "its content has the"),
        (lambda text: text[:-20], "truncated"),
        (lambda _: b"", "truncated"),
        (flip, "damaged"),
        (lambda _: b"{}", "missing required"),
    ],
    ids=["altered", "cut", "empty", "flipped", "another"],
)
def test_a_damaged_record_is_named_and_never_believed(
    cache: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    """Its image can't be run, check tells it, prune does not guess, and it can be removed."""
    record = cache / "images" / "all.json"
    alter(record, change)
    with pytest.raises(RecordError, match=f"image all: its record {record} is.*{reason}"):
        load(cache, "all")
    assert len(check(cache)) == 1
    with pytest.raises(GcsError, match=r"image all: .*remove that image first"):
        trio.run(image_upkeep.prune, cache)
    assert all(path.exists() for path in layer_files(cache, "two/of:them"))
    trio.run(image_records.remove, cache, "all")
    assert len(trio.run(image_upkeep.prune, cache).names) == 1
    assert check(cache) == []


def test_a_record_under_another_name_is_refused(cache: Path) -> None:
    """A copy is not an image of its own."""
    (cache / "images" / "copy.json").write_bytes((cache / "images" / "all.json").read_bytes())
    with pytest.raises(RecordError, match="is that of all"):
        load(cache, "copy")


def test_check_names_what_is_damaged_and_nothing_else(cache: Path) -> None:
    """A layer's content, its note, both together, and one that is missing."""
    assert check(cache) == []
    content, note, both = layer_files(cache)
    alter(content, flip)
    alter(sums_of(note), lambda text: b"0" * 64 + text[64:])
    alter(both, flip)
    sums_of(both).unlink()
    users = " (of all, two/of:them)"
    expected = (
        f"{content}{users}: has the sha256 ",
        f"{sums_of(note)}{users}: says {'0' * 64}",
        f"{both} (of all): has the sha256 ",
        f"{sums_of(both)} (of all): says nothing",
    )
    found = check(cache)
    assert len(found) == len(expected)
    for start in expected:
        assert sum(each.startswith(start) for each in found) == 1, found
    content.unlink()
    assert f"{content}{users}: is missing" in check(cache)


def test_check_looks_at_layers_that_no_image_has(cache: Path) -> None:
    """They have their note; a damaged one would be used by the next run of a path."""
    layer = layer_files(cache)[2]
    trio.run(image_records.remove, cache, "all")
    alter(layer, flip)
    (sentence,) = check(cache)
    assert sentence.startswith(f"{layer}: has the sha256 ")


def test_check_looks_at_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part that is damaged is named by its layer; so is a note, and a wrong length."""
    monkeypatch.setattr(packs, "MAX_DEVICES", 2)
    layout, cache = write_layout(tmp_path / "l", TARS), tmp_path / "cache"
    trio.run(add, layout, cache, "all")
    (pack,) = cache.glob("*.pack")
    note = packs.note_of(pack)
    assert check(cache) == []
    part = json.loads(note.read_bytes())[1]
    alter(pack, lambda content: content[: part["offset"]] + flip(content[part["offset"] :]))
    (sentence,) = check(cache)
    assert sentence.startswith(f"{pack}: the part of {part['layer']} has the sha256 ")
    os.truncate(pack, part["offset"])
    assert len(check(cache)) == 2
    alter(note, lambda _: b"[")
    (sentence,) = check(cache)
    assert sentence.startswith(f"{note}: is damaged: ")
    note.unlink()
    assert check(cache) == [f"{note}: No such file or directory"]


def test_prune_takes_what_nobody_has(cache: Path) -> None:
    """The layer that only the removed image had goes; what the other has stays."""
    shared, alone = layer_files(cache)[:2], layer_files(cache)[2]
    assert trio.run(image_upkeep.prune, cache).names == []
    trio.run(image_records.remove, cache, "all")
    pruned = trio.run(image_upkeep.prune, cache)
    assert pruned.names == [alone.name]
    assert pruned.freed_bytes > 0
    assert not sums_of(alone).exists()
    assert all(path.exists() and sums_of(path).exists() for path in shared)


def test_a_layer_in_use_can_not_be_removed(cache: Path) -> None:
    """Whoever has a lease keeps it, image or not; without one it goes."""
    layer = layer_files(cache)[2]

    async def main() -> None:
        await image_records.remove(cache, "all")
        with Leases() as leases:
            assert await leases.hold(layer)
            assert (await image_upkeep.prune(cache)).names == []
        assert (await image_upkeep.prune(cache)).names == [layer.name]

    trio.run(main)


def test_prune_takes_leftovers_of_the_dead_and_nothing_else(cache: Path) -> None:
    """Temporary files and notes without a file go; what is none of the cache's stays."""
    layer = layer_files(cache)[0]
    gone = [
        temporary_of(layer),
        temporary_of(sums_of(layer)),
        temporary_of(cache / "images" / "x.json"),
        cache / f"{'0' * 64}-v1.ext4.sha256",
        cache / f".{'1' * 64}-v1.pack.tmp",
    ]
    kept = [cache / "notes.txt", cache / ".hidden.tmp"]
    for path in (*gone, *kept):
        path.write_bytes(b"x" * 5000)
    pruned = trio.run(image_upkeep.prune, cache)
    assert pruned.names == []
    assert pruned.freed_bytes >= 4 * 5000
    assert [path.name for path in gone if path.exists()] == []
    assert all(path.exists() for path in kept)
    assert check(cache) == []


def test_a_deleted_layer_is_made_again_from_where_it_came(cache: Path, tmp_path: Path) -> None:
    """Without the image's source that is a sentence, with the layer and the file in it."""
    layer = layer_files(cache)[1]

    async def use() -> None:
        image = await find_image("all", cache)
        with Leases() as leases:
            await prepare(image, cache, leases, say_nothing)

    layer.unlink()
    trio.run(use)
    assert layer.exists()
    assert check(cache) == []
    layer.unlink()
    blob = load(cache, "all").layers[1]
    Path(blob.path).unlink()
    with pytest.raises(LayerError, match=f"{blob.digest}: blob .*{blob.path}: No such file"):
        trio.run(use)
