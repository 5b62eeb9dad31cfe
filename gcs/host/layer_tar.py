"""Read a tar stream one entry at a time, in bounded memory, believing nothing in it.

It decodes ustar, GNU (long names, sparse files, base-256 numbers) and pax headers; names and
values stay bytes, since a Linux file name is bytes. It decides nothing about paths: what an
entry may do to a tree is the business of `layer_tree`.

Why not `tarfile`: tried on Python 3.11, its stream mode takes a damaged or cut-off header in
the middle of an archive for the end of it and reports success with half of the files, and it
reads a pax or long-name record of any length that the archive claims into memory.

Source: pax(1) of POSIX.1-2017; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".
"""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from gcs.errors import GcsError

__all__ = ["Entry", "Kind", "TarError", "TarReader"]

BLOCK = 512

#: Longest pax record block or GNU long name. Linux paths end at 4 KiB and xattr values at
#: 64 KiB; 1 MiB is a sixteenfold margin, and containerd's and Go's readers stop there too.
MAX_RECORD_BYTES = 1 << 20

#: Most pax records of one entry, or of all global headers: each costs time with every entry.
#: Real entries have some twenty; xattrs of one ext4 block are at most a few hundred.
MAX_RECORDS = 1024

#: Most pieces of one sparse file: what a map of MAX_RECORD_BYTES can hold at its shortest.
MAX_SPARSE_PIECES = 1 << 18

#: Largest file ext4 can hold with 4 KiB blocks: 2^32 block numbers, the last one reserved.
MAX_FILE_BYTES = ((1 << 32) - 1) * 4096

_CHUNK = 1 << 18

_Pieces = tuple[tuple[int, int], ...]


class TarError(GcsError):
    """A tar stream is damaged, cut off, or uses something that can't be carried over."""


class Kind(Enum):
    """What an entry makes; the values are tar's type flags."""

    FILE = b"0"
    HARDLINK = b"1"
    SYMLINK = b"2"
    CHAR = b"3"
    BLOCK = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One member of the archive, extension headers already folded in."""

    #: As stored: may be absolute, hold `..` or end in a slash.
    path: bytes
    kind: Kind
    #: Permission bits only, set-id and sticky included.
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    #: Target of a symbolic or hard link.
    link: bytes
    device: tuple[int, int]
    #: Apparent size of a file, holes included.
    size: int
    #: (offset, length) of the file's data, ascending; what follows in the stream is their sum.
    pieces: tuple[tuple[int, int], ...]
    xattrs: tuple[tuple[bytes, bytes], ...]


class TarReader:
    """Iterate over the entries of a stream; between two of them `data` yields the contents.

    `read(n)` returns at most n bytes and b"" at the end. `skip(n)`, where given, moves a
    seekable source forward without reading. `offset` is the position in the stream: while
    an entry is current and `data` has not been asked for, that of its contents.
    """

    def __init__(
        self, read: Callable[[int], bytes], skip: Callable[[int], object] | None = None
    ) -> None:
        self._read = read
        self._skip = skip
        self._left = 0
        self._padding = 0
        self._globals: dict[bytes, bytes] = {}
        self.offset = 0

    def __iter__(self) -> Iterator[Entry]:
        """Yield each entry in turn; what `data` left unread is passed over.

        Raises TarError when the stream is damaged or ends before its end marker.
        """
        while True:
            self._pass_over()
            entry = self._next()
            if entry is None:
                return
            yield entry

    def data(self) -> Iterator[bytes]:
        """Yield the contents of the current entry, once; of a sparse file its pieces."""
        while self._left:
            chunk = self._read(min(self._left, _CHUNK))
            if not chunk:
                raise TarError(f"tar: ends at byte {self.offset}, inside an entry's contents")
            self._left -= len(chunk)
            self.offset += len(chunk)
            yield chunk

    def _pass_over(self) -> None:
        if self._skip is not None:
            self._skip(self._left + self._padding)
            self.offset += self._left + self._padding
        else:
            for _ in self.data():
                pass
            self._exactly(self._padding)
        self._left = self._padding = 0

    def _exactly(self, size: int) -> bytes:
        """Read size bytes or raise TarError."""
        parts = []
        while size:
            chunk = self._read(min(size, _CHUNK))
            if not chunk:
                raise TarError(f"tar: ends at byte {self.offset} without an end marker")
            size -= len(chunk)
            self.offset += len(chunk)
            parts.append(chunk)
        return b"".join(parts)

    def _record(self, size: int, what: str) -> bytes:
        if not 0 <= size <= MAX_RECORD_BYTES:
            raise TarError(f"tar: {what} of {size} bytes, the limit is {MAX_RECORD_BYTES}")
        return self._exactly(-(-size // BLOCK) * BLOCK)[:size]

    def _next(self) -> Entry | None:
        """Collect extension headers up to the entry that they describe."""
        pax: dict[bytes, bytes] = {}
        while True:
            at = self.offset
            header = self._exactly(BLOCK)
            if not header.strip(b"\0"):
                if pax:
                    raise TarError(f"tar: ends after an extension header, at byte {at}")
                return None
            _check_sum(header, at)
            size = _number(header, 124, 136, "size")
            match header[156:157]:
                case b"x" | b"X":
                    # Long names of GNU tar that came before keep their say where pax has none.
                    pax = _merged(pax, self._record(size, "pax header"))
                case b"g":
                    body = self._record(size, "global pax header")
                    self._globals = _merged(self._globals, body)
                case b"L":
                    pax.setdefault(b"path", _until_nul(self._record(size, "long name")))
                case b"K":
                    pax.setdefault(b"linkpath", _until_nul(self._record(size, "long link")))
                case _:
                    return self._entry(header, {**self._globals, **pax}, at)

    def _entry(self, header: bytes, pax: dict[bytes, bytes], at: int) -> Entry:
        path = pax.get(b"GNU.sparse.name") or pax.get(b"path") or _ustar_path(header)
        kind = _kind(header, path)
        stored = _override(pax, b"size", header, 124, 136)
        if stored > MAX_FILE_BYTES:
            raise TarError(f"tar: entry at byte {at} claims {stored} bytes")
        # POSIX: types 1 to 6 have no contents, whatever their size says.
        self._left = stored if kind is Kind.FILE else 0
        self._padding = -self._left % BLOCK
        size, pieces = self._layout(header, pax)
        if kind is not Kind.FILE:
            size, pieces = 0, ()
        return Entry(
            path=path,
            kind=kind,
            mode=_number(header, 100, 108, "mode") & 0o7777,
            uid=_override(pax, b"uid", header, 108, 116),
            gid=_override(pax, b"gid", header, 116, 124),
            mtime_ns=_mtime_ns(pax, header),
            link=pax.get(b"linkpath") or _until_nul(header[157:257]),
            device=_device(header) if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0),
            size=size,
            pieces=pieces,
            xattrs=tuple(
                (key.removeprefix(b"SCHILY.xattr."), value)
                for key, value in sorted(pax.items())
                if key.startswith(b"SCHILY.xattr.")
            ),
        )

    def _layout(self, header: bytes, pax: dict[bytes, bytes]) -> tuple[int, _Pieces]:
        """Return a file's apparent size and its pieces; reads a map that precedes the data."""
        if header[156:157] == b"S":
            size = _number(header, 483, 495, "real size")
            return size, self._checked(self._gnu_map(header), size)
        if b"GNU.sparse.major" in pax or b"GNU.sparse.map" in pax or b"GNU.sparse.size" in pax:
            size = _decimal(pax, b"GNU.sparse.realsize", b"GNU.sparse.size")
            return size, self._checked(self._pax_map(pax), size)
        return self._left, ((0, self._left),) if self._left else ()

    def _gnu_map(self, header: bytes) -> _Pieces:
        """Read an old GNU sparse map: 4 pieces in the header, 21 in each block that follows."""
        numbers: list[int] = []
        block, start, count, more = header, 386, 4, header[482]
        while True:
            for field in range(start, start + count * 24, 12):
                if block[field] == 0:
                    break
                numbers.append(_number(block, field, field + 12, "sparse map"))
            if not more:
                return _pairs(numbers)
            if len(numbers) > 2 * MAX_SPARSE_PIECES:
                raise TarError(f"tar: sparse map of over {MAX_SPARSE_PIECES} pieces")
            block, start, count = self._exactly(BLOCK), 0, 21
            more = block[504]

    def _pax_map(self, pax: dict[bytes, bytes]) -> _Pieces:
        if b"GNU.sparse.map" in pax:
            return _pairs([_ascii_int(part) for part in pax[b"GNU.sparse.map"].split(b",")])
        if pax.get(b"GNU.sparse.major") != b"1" or pax.get(b"GNU.sparse.minor", b"0") != b"0":
            raise TarError("tar: sparse format is neither 0.1 nor 1.0")
        # Version 1.0: lines of decimals (a count, then pairs) before the data, padded to a
        # block.
        text = io.BytesIO()
        lines, wanted = 0, 1
        while lines < wanted:
            if self._left < BLOCK or text.tell() > MAX_RECORD_BYTES:
                raise TarError("tar: sparse map does not end")
            block = self._exactly(BLOCK)
            self._left -= BLOCK
            text.write(block)
            lines += block.count(b"\n")
            if wanted == 1 and lines:
                wanted += 2 * _ascii_int(text.getvalue().split(b"\n", 1)[0])
        return _pairs([_ascii_int(line) for line in text.getvalue().split(b"\n")[1:wanted]])

    def _checked(self, pieces: _Pieces, size: int) -> _Pieces:
        """Return the pieces that hold data; they must ascend and add up to what is stored."""
        end = 0
        for offset, length in pieces:
            if offset < end:
                raise TarError("tar: sparse map does not ascend")
            end = offset + length
        if not end <= size <= MAX_FILE_BYTES:
            raise TarError(f"tar: sparse map reaches byte {end} of a file of {size}")
        if sum(length for _, length in pieces) != self._left:
            raise TarError(f"tar: sparse map does not add up to the {self._left} bytes stored")
        return tuple(piece for piece in pieces if piece[1])


def _check_sum(header: bytes, at: int) -> None:
    stated = _number(header, 148, 156, "checksum")
    counted = header[:148] + b" " * 8 + header[156:]
    # Some old writers summed signed characters; readers have always taken both.
    if stated != sum(counted) and stated != sum(memoryview(counted).cast("b")):
        raise TarError(f"tar: damaged header at byte {at}")


def _number(header: bytes, start: int, end: int, what: str) -> int:
    """Decode octal text, or base 256 when the first bit is set; only mtime may be negative."""
    field = header[start:end]
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        # 0xff leads a negative number in two's complement, 0x80 a positive one.
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
    else:
        text = field.split(b"\0", 1)[0].strip(b" ")
        if not re.fullmatch(rb"[0-7]*", text):
            raise TarError(f"tar: {what} {field!r} is not a number")
        value = int(text or b"0", 8)
    if value < 0 and what != "mtime":
        raise TarError(f"tar: negative {what} {value}")
    return value


def _ascii_int(text: bytes) -> int:
    # 20 digits hold 2^64; more would only cost time.
    if not re.fullmatch(rb"[0-9]{1,20}", text):
        raise TarError(f"tar: {text[:40]!r} is not a decimal number")
    return int(text)


def _decimal(pax: dict[bytes, bytes], *keys: bytes) -> int:
    for key in keys:
        if key in pax:
            return _ascii_int(pax[key])
    raise TarError(f"tar: pax header lacks {keys[0].decode()}")


def _override(pax: dict[bytes, bytes], key: bytes, header: bytes, start: int, end: int) -> int:
    """Return a number from the pax header if that has it, else from the ustar field."""
    return _ascii_int(pax[key]) if key in pax else _number(header, start, end, key.decode())


def _mtime_ns(pax: dict[bytes, bytes], header: bytes) -> int:
    """Return nanoseconds since 1970; pax has a decimal fraction of any length."""
    if b"mtime" not in pax:
        return _number(header, 136, 148, "mtime") * 10**9
    found = re.fullmatch(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?", pax[b"mtime"])
    if found is None:
        raise TarError(f"tar: mtime {pax[b'mtime'][:40]!r} is not a time")
    sign, seconds, fraction = found.groups(b"")
    nanoseconds = int(seconds) * 10**9 + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if sign else nanoseconds


def _until_nul(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _ustar_path(header: bytes) -> bytes:
    """Join name and prefix; only POSIX headers have a prefix, GNU keeps other things there."""
    name = _until_nul(header[:100])
    if header[257:263] != b"ustar\0":
        return name
    prefix = _until_nul(header[345 : 476 if header[508:512] == b"tar\0" else 500])
    return prefix + b"/" + name if prefix else name


def _kind(header: bytes, path: bytes) -> Kind:
    flag = header[156:157]
    if flag in (b"\0", b"0"):
        # Before ustar a folder was an empty file whose name ends in a slash.
        return Kind.DIRECTORY if path.endswith(b"/") else Kind.FILE
    # 7 is "contiguous", which POSIX lets a reader treat as plain; S is GNU's sparse file.
    if flag in (b"7", b"S"):
        return Kind.FILE
    try:
        return Kind(flag)
    except ValueError:
        raise TarError(f"tar: entry {path!r} has the unknown type {flag!r}") from None


def _device(header: bytes) -> tuple[int, int]:
    return (
        _number(header, 329, 337, "device major"),
        _number(header, 337, 345, "device minor"),
    )


def _pairs(numbers: list[int]) -> _Pieces:
    if len(numbers) % 2:
        raise TarError("tar: sparse map has an offset without a length")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _merged(old: dict[bytes, bytes], text: bytes) -> dict[bytes, bytes]:
    """Return records with those of one more header over them, bounded in sum."""
    records = old | _pax_records(text)
    size = sum(len(key) + len(value) for key, value in records.items())
    if len(records) > MAX_RECORDS or size > MAX_RECORD_BYTES:
        raise TarError(f"tar: {len(records)} pax records of {size} bytes")
    return records


def _pax_records(text: bytes) -> dict[bytes, bytes]:
    r"""Split `length key=value\n` records; the length counts the whole record.

    Shape: the sparse format 0.0 repeats two keys in turn; they are joined into the map of 0.1.
    """
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    start = 0
    while start < len(text):
        digits, _, _ = text[start : start + 8].partition(b" ")
        end = start + _ascii_int(digits)
        key, equals, value = text[start + len(digits) + 1 : end].partition(b"=")
        if end > len(text) or not equals or not value.endswith(b"\n"):
            raise TarError(f"tar: damaged pax record {text[start : start + 40]!r}")
        start = end
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse.append(value[:-1])
        else:
            records[key] = value[:-1]
    if sparse:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records
