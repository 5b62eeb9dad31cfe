"""The tar reader: what it decodes and what it refuses."""

import io
import os
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from gcs.host.layer_tar import Entry, Kind, TarError, TarReader
from tests.support.oci import layer_tar, member


def entries(tar: bytes) -> list[tuple[Entry, bytes]]:
    """Return all entries with their stored contents."""
    reader = TarReader(io.BytesIO(tar).read)
    return [(entry, b"".join(reader.data())) for entry in reader]


def raw_header(**fields: bytes) -> bytes:
    """Return a ustar header for an empty file `a`, some fields replaced, checksum right."""
    places = {"name": 0, "mode": 100, "uid": 108, "size": 124, "mtime": 136, "type": 156}
    header = bytearray(tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT))
    for name, value in fields.items():
        header[places[name] : places[name] + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


END = bytes(1024)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_links_arrive_whole(form: int) -> None:
    """Names of 300 bytes and link targets of 4000 survive pax and GNU encoding."""
    name, target = "d/" * 100 + "x" * 100, "t" * 4000
    tar = layer_tar([member(name, kind=tarfile.SYMTYPE, link=target)], form)
    ((entry, _),) = entries(tar)
    assert (entry.path, entry.link) == (name.encode(), target.encode())


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_are_bytes(form: int) -> None:
    """A name that is not UTF-8 keeps its bytes."""
    name = b"caf\xe9\n\"'\\ " + b"\xff" * 120
    ((entry, content),) = entries(layer_tar([member(name, b"x")], form))
    assert (entry.path, content) == (name, b"x")


def test_binary_xattrs_and_times_are_exact() -> None:
    """An xattr's NULs, newlines and high bytes survive, and mtime has its nanoseconds."""
    value = bytes(range(256))
    info, _ = member("a", xattrs={"user.b": value, "security.capability": b""})
    info.pax_headers = {**info.pax_headers, "mtime": "1700000000.123456789"}
    ((entry, _),) = entries(layer_tar([(info, b"")]))
    assert dict(entry.xattrs) == {b"user.b": value, b"security.capability": b""}
    assert entry.mtime_ns == 1_700_000_000_123_456_789


def test_times_before_1970_are_negative() -> None:
    """pax writes -1.5 for one and a half seconds before 1970."""
    info, _ = member("a")
    info.pax_headers = {"mtime": "-1.5"}
    assert entries(layer_tar([(info, b"")]))[0][0].mtime_ns == -1_500_000_000


def test_base256_numbers_are_read() -> None:
    """An owner above 2097151 and a negative time are base 256 in GNU tars."""
    tar = layer_tar([member("a", owner=(4_000_000_000, 7), mtime=-5)], tarfile.GNU_FORMAT)
    ((entry, _),) = entries(tar)
    assert (entry.uid, entry.gid, entry.mtime_ns) == (4_000_000_000, 7, -5_000_000_000)


def test_a_global_header_holds_until_overridden() -> None:
    """What a global pax header says applies to every entry that does not say otherwise."""
    body = b"13 uid=12345\n"
    head = raw_header(type=b"g", size=b"%011o\0" % len(body))
    tar = head + body.ljust(512, b"\0") + raw_header() + END
    assert entries(tar)[0][0].uid == 12345


@pytest.mark.parametrize(
    "flag",
    ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"],
)
def test_gnu_tar_sparse_files_give_their_pieces(tmp_path: Path, flag: str) -> None:
    """Each of GNU tar's four sparse forms yields the same size, pieces and data."""
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        for offset in range(0, 30 << 20, 1 << 20):
            file.seek(offset)
            file.write(b"%08d" % offset * 512)
        file.truncate(64 << 20)
    form = [flag] if flag == "--format=gnu" else ["--format=pax", flag]
    subprocess.run(
        ["tar", "--sparse", *form, "-cf", "s.tar", "sparse"], cwd=tmp_path, check=True
    )
    ((entry, content),) = entries((tmp_path / "s.tar").read_bytes())
    whole = bytearray(entry.size)
    at = 0
    for offset, length in entry.pieces:
        whole[offset : offset + length] = content[at : at + length]
        at += length
    assert entry.path == b"sparse"
    assert len(content) < 1 << 20
    assert bytes(whole) == sparse.read_bytes()


def test_old_folders_are_files_with_a_slash() -> None:
    """Before ustar, a folder was an empty file whose name ends in a slash."""
    tar = raw_header(name=b"d/", type=b"\0") + END
    assert entries(tar)[0][0].kind is Kind.DIRECTORY


def test_unread_contents_are_passed_over() -> None:
    """Not asking for an entry's contents does not disturb the next entry."""
    tar = layer_tar([member("a", b"x" * 1000), member("b", b"y")])
    assert [entry.path for entry in TarReader(io.BytesIO(tar).read)] == [b"a", b"b"]


def test_offsets_find_the_contents() -> None:
    """`offset` is where an entry's contents start, with skipping as without."""
    tar = layer_tar([member("a", b"x" * 1000), member("b" * 200, b"found")])
    file = io.BytesIO(tar)
    reader = TarReader(file.read, lambda count: file.seek(count, os.SEEK_CUR))
    offset = [reader.offset for _ in reader][1]
    assert tar[offset : offset + 5] == b"found"


DAMAGED = {
    "cut in a header": raw_header()[:300],
    "cut before the end marker": raw_header(),
    "cut in contents": raw_header(size=b"00000001000\0") + b"x" * 100,
    "nothing at all": b"",
    "flipped bit": b"b" + raw_header()[1:] + END,
    "garbage after an entry": raw_header() + b"garbage!" * 64 + END,
    "negative size": raw_header(size=b"\xff" * 12) + END,
    "size beyond ext4": raw_header(size=b"\x80" + b"\x7f" * 11) + END,
    "size that is no number": raw_header(size=b"12x45678901\0") + END,
    "unknown type": raw_header(type=b"Z") + END,
    "long name of a gigabyte": raw_header(type=b"L", size=b"10000000000\0") + END,
    "pax header of a gigabyte": raw_header(type=b"x", size=b"10000000000\0") + END,
    "pax record of length 0": raw_header(type=b"x", size=b"00000000012\0")
    + b"0 path=ab\n".ljust(512, b"\0")
    + raw_header()
    + END,
    "pax record past its end": raw_header(type=b"x", size=b"00000000012\0")
    + b"99 path=a\n".ljust(512, b"\0")
    + raw_header()
    + END,
    "pax header of nothing": raw_header(type=b"x", size=b"00000000012\0")
    + b"10 path=a\n".ljust(512, b"\0")
    + END,
    "pax size that is no number": raw_header(type=b"x", size=b"00000000013\0")
    + b"11 size=-1\n".ljust(512, b"\0")
    + raw_header()
    + END,
}


def header_of(flag: bytes, records: bytes) -> bytes:
    """Return a pax header, x or g, with its records."""
    head = raw_header(type=flag, size=b"%011o\0" % len(records))
    return head + records + bytes(-len(records) % 512)


DAMAGED |= {
    "too many records": header_of(b"x", b"".join(b"9 %04d=x\n" % n for n in range(1025)))
    + raw_header()
    + END,
    "global headers that pile up": b"".join(
        header_of(b"g", b"800010 k%d=" % n + b"x" * (800010 - 11) + b"\n") for n in range(2)
    )
    + raw_header()
    + END,
}


@pytest.mark.parametrize("tar", DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_an_error(tar: bytes) -> None:
    """A stream that is damaged anywhere raises TarError instead of ending early."""
    with pytest.raises(TarError):
        entries(tar)


def test_a_sparse_map_must_fit_its_file() -> None:
    """Pieces that overlap, or reach past the file's end, are refused."""
    for pieces in ("0,10,5,10", "0,10,90,20", "0,10", "0"):
        info, content = member("a", b"x" * 20)
        info.pax_headers = {"GNU.sparse.map": pieces, "GNU.sparse.size": "100"}
        with pytest.raises(TarError, match="sparse map"):
            entries(layer_tar([(info, content)]))


def test_sums_of_signed_characters_are_taken() -> None:
    """Old writers summed signed bytes; their archives can still be read."""
    header = bytearray(raw_header(name=b"\xe9"))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(struct.unpack("512b", header))
    assert entries(bytes(header) + END)[0][0].path == b"\xe9"
