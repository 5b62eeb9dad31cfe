"""Whatever tree goes in comes out, and no bytes at all break the converter."""

import tarfile
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from gcs.errors import GcsError
from gcs.host.layers import LayerError, convert
from tests.support.ext4_reader import read_tree
from tests.support.layer_image import check, image_of, layer_of
from tests.support.layer_trees import Spec, expected, layer_trees, members
from tests.support.oci import layer_tar, member

# Every example makes an image and has e2fsck look at it: 50 to 80 ms.
pytestmark = pytest.mark.timeout(600)


def look(image: Path) -> dict[bytes, object]:
    """Return an image's tree in the form of `expected`, without the root."""
    return {
        path: (
            found.mode,
            (found.uid, found.gid),
            found.mtime_ns,
            found.content,
            found.device,
            found.xattrs,
            found.links,
        )
        for path, found in read_tree(image).items()
        if path
    }


@given(tree=layer_trees())
def test_any_tree_reads_back_as_it_was(tree: dict[bytes, Spec]) -> None:
    """A tree of any names, kinds, owners, times and attributes survives, and e2fsck agrees."""
    with tempfile.TemporaryDirectory() as folder:
        image = image_of(layer_tar(members(tree)), Path(folder))
        assert look(image) == expected(tree)


@given(tree=layer_trees())
def test_entries_may_come_again(tree: dict[bytes, Spec]) -> None:
    """A tar that says everything twice makes the tree of one that says it once."""
    twice = [*members(tree), *members(tree)]
    with tempfile.TemporaryDirectory() as folder:
        assert look(image_of(layer_tar(twice), Path(folder))) == expected(tree)


_PARTS = st.sampled_from(
    ["a", "b", "c", ".wh.a", ".wh.b", ".wh..wh..opq", "..", ".", "", ".wh."]
)
_PATHS = st.lists(_PARTS, min_size=1, max_size=4).map("/".join).filter(bool)
_KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE]
)


@given(entries=st.lists(st.tuples(_PATHS, _KINDS, _PATHS), max_size=12))
def test_any_order_of_entries_is_refused_or_sound(
    entries: list[tuple[str, bytes, str]],
) -> None:
    """Entries that replace, hide and link one another end in an error or a sound image."""
    tar = layer_tar([member(path, kind=kind, link=link) for path, kind, link in entries])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            image = trio.run(convert, layer_of(tar, folder), folder / "cache")
        except LayerError:
            assert not list((folder / "cache").iterdir())
            return
        check(image)
        assert not any(
            part in (b"..", b".") for path in read_tree(image) for part in path.split(b"/")
        )


@given(
    place=st.integers(0, 2**20),
    patch=st.binary(min_size=1, max_size=24),
    keep=st.floats(0, 1),
    tree=layer_trees(),
)
def test_damaged_archives_end_in_an_error_or_sound(
    place: int, patch: bytes, keep: float, tree: dict[bytes, Spec]
) -> None:
    """Any bytes changed and any tail cut off give LayerError or an image e2fsck accepts."""
    tar = layer_tar(members(tree))
    place %= len(tar)
    # Most draws keep everything; the rest is cut somewhere.
    end = len(tar) if keep > 0.5 else int(len(tar) * keep * 2)
    broken = (tar[:place] + patch + tar[place + len(patch) :])[:end]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            image = trio.run(convert, layer_of(broken, folder), folder / "cache")
        except GcsError:
            assert not list((folder / "cache").iterdir())
            return
        check(image)
