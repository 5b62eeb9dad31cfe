"""Hypothesis strategies for layer trees, and what each should look like in its image."""

import stat
import struct
import tarfile
from dataclasses import dataclass, field

from hypothesis import strategies as st

from tests.support.oci import Members, member

__all__ = ["Spec", "expected", "layer_trees", "members"]


@dataclass(frozen=True, slots=True)
class Spec:
    """One file or folder of a tree that was drawn."""

    kind: bytes
    mode: int
    owner: tuple[int, int]
    mtime: int
    content: bytes = b""
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)


# Any byte but the two that no name can have; whiteouts are another test's.
_names = st.binary(min_size=1, max_size=40).map(
    lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"0")
).filter(lambda name: name not in (b".", b"..") and not name.startswith(b".wh."))  # fmt: skip

_owners = st.tuples(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2))
# From 1901 to 2310: what an image keeps.
_times = st.integers(-(2**31), 3 * 2**32 - 2**31 - 1)
# The kernel reads a capability only if it is one: version 2, then two pairs of 32 bits.
_capabilities = st.tuples(*[st.integers(0, 2**32 - 1)] * 4).map(
    lambda sets: struct.pack("<5I", 0x02000001, *sets)
)
_xattrs = st.builds(
    lambda plain, capability: plain | capability,
    st.dictionaries(
        st.sampled_from(["user.a", "user.long.name", "trusted.t"]),
        st.binary(max_size=300) | st.just(b"\n\0 =="),
        max_size=3,
    ),
    st.dictionaries(st.just("security.capability"), _capabilities, max_size=1),
)


def _spec(kind: bytes) -> st.SearchStrategy[Spec]:
    extra: dict[str, st.SearchStrategy[bytes]] = {}
    if kind == tarfile.REGTYPE:
        extra["content"] = st.binary(max_size=50) | st.integers(0, 20_000).map(_filler)
    if kind == tarfile.SYMTYPE:
        targets = st.binary(min_size=1, max_size=100).map(lambda raw: raw.replace(b"\0", b"/"))
        extra["link"] = targets | st.just(b"l" * 4095)
    is_device = kind in (tarfile.CHRTYPE, tarfile.BLKTYPE)
    return st.builds(
        Spec,
        kind=st.just(kind),
        mode=st.integers(0, 0o7777),
        owner=_owners,
        mtime=_times,
        # A device 0:0 is a whiteout, which is another test's subject.
        device=st.tuples(st.integers(1, 4095), st.integers(0, 2**20 - 1))
        if is_device
        else st.just((0, 0)),
        # Linux keeps user attributes on files and folders only.
        xattrs=_xattrs if kind in (tarfile.REGTYPE, tarfile.DIRTYPE) else st.just({}),
        **extra,
    )


def _filler(size: int) -> bytes:
    return b"".join(struct.pack("<I", number) for number in range(size // 4 + 1))[:size]


_LEAVES = [
    tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
]  # fmt: skip


@st.composite
def layer_trees(draw: st.DrawFn) -> dict[bytes, Spec]:
    """Draw a tree as its paths in an order that names folders before what is in them."""
    tree: dict[bytes, Spec] = {}
    folders = [b""]
    for _ in range(draw(st.integers(0, 12))):
        parent = draw(st.sampled_from(folders))
        path = parent + draw(_names)
        if path in tree:
            continue
        kind = draw(st.sampled_from([tarfile.DIRTYPE, *_LEAVES]))
        tree[path] = draw(_spec(kind))
        if kind == tarfile.DIRTYPE:
            folders.append(path + b"/")
    files = [path for path, spec in tree.items() if spec.kind != tarfile.DIRTYPE]
    has_link = draw(st.integers(0, 1))
    if files and has_link:
        target = draw(st.sampled_from(files))
        name = draw(st.sampled_from(folders)) + draw(_names)
        if name not in tree:
            tree[name] = Spec(tarfile.LNKTYPE, 0, (0, 0), 0, link=target)
    return tree


def members(tree: dict[bytes, Spec]) -> Members:
    """Return the tar entries of a tree."""
    return [
        member(
            path,
            spec.content,
            kind=spec.kind,
            mode=spec.mode,
            link=spec.link,
            owner=spec.owner,
            mtime=spec.mtime,
            device=spec.device,
            xattrs=spec.xattrs,
        )
        for path, spec in tree.items()
    ]


_FORMATS = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


def expected(tree: dict[bytes, Spec]) -> dict[bytes, object]:
    """Return what each path should be: mode, owner, time, contents, device, xattrs, links."""
    linked = {spec.link for spec in tree.values() if spec.kind == tarfile.LNKTYPE}
    found: dict[bytes, object] = {}
    for path, spec in tree.items():
        real = tree[spec.link] if spec.kind == tarfile.LNKTYPE else spec
        links = 1 + (path in linked or real is not spec)
        if spec.kind == tarfile.DIRTYPE:
            inside = [p for p in tree if p.rpartition(b"/")[0] == path]
            links = 2 + sum(tree[p].kind == tarfile.DIRTYPE for p in inside)
        found[path] = (
            _FORMATS[real.kind] | real.mode,
            real.owner,
            real.mtime * 10**9,
            real.content or real.link,
            real.device,
            real.xattrs,
            links,
        )
    return found
