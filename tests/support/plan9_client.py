"""A client of 9P2000.L that asks for whatever a test wants, as a guest of the worst kind can.

It holds to none of what a kernel holds to: names with slashes, "..", links as folders, devices.
"""

import errno
import os
import socket
import struct
from dataclasses import dataclass
from typing import Self

__all__ = ["Plan9Client"]

_TVERSION, _TATTACH, _TWALK, _TREAD, _TWRITE, _TCLUNK = 100, 104, 110, 116, 118, 120
_TLOPEN, _TLCREATE, _TSYMLINK, _TMKNOD, _TGETATTR, _TSETATTR, _TREADDIR = (
    12,
    14,
    16,
    18,
    24,
    26,
    40,
)
_RLERROR = 7
_NO_TAG, _NO_FID = 0xFFFF, 0xFFFFFFFF
_SIZE = 65536
#: What a read asks for; the server refuses more than fits into a message.
_COUNT = 32768
_ANSWER_S = 30.0
#: Lengths of what comes before the names in a reply to readdir: qid, offset, type.
_ENTRY = struct.Struct("<13sQB")


@dataclass(frozen=True)
class Attributes:
    """What a file is like."""

    mode: int
    uid: int
    gid: int


class Plan9Client:
    """A connection that has attached to a share; fid 0 is its root."""

    def __init__(self, sock: socket.socket, share: str) -> None:
        self._sock = sock
        self._fids = 0
        sock.settimeout(_ANSWER_S)
        self._call(_TVERSION, struct.pack("<I", _SIZE) + _text("9P2000.L"), _NO_TAG)
        attach = struct.pack("<II", 0, _NO_FID) + _text("root") + _text(share)
        self._call(_TATTACH, attach + struct.pack("<I", 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def walk(self, *names: str) -> int:
        """Return a fid of what is there. Raises OSError, for a part of the way as well."""
        self._fids += 1
        count = struct.pack("<IIH", 0, self._fids, len(names))
        reply = self._call(_TWALK, count + b"".join(map(_text, names)))
        if struct.unpack_from("<H", reply)[0] != len(names):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/".join(names))
        return self._fids

    def read(self, *names: str) -> bytes:
        """Return the beginning of a file. Raises OSError."""
        fid = self.walk(*names)
        self._call(_TLOPEN, struct.pack("<II", fid, os.O_RDONLY))
        reply = self._call(_TREAD, struct.pack("<IQI", fid, 0, _COUNT))
        self._call(_TCLUNK, struct.pack("<I", fid))
        return reply[4:]

    def create(self, name: str, data: bytes, *folders: str) -> None:
        """Make a file in a folder, and write into it. Raises OSError."""
        fid = self.walk(*folders)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        create = struct.pack("<I", fid) + _text(name) + struct.pack("<III", flags, 0o644, 0)
        self._call(_TLCREATE, create)
        self._call(_TWRITE, struct.pack("<IQI", fid, 0, len(data)) + data)
        self._call(_TCLUNK, struct.pack("<I", fid))

    def symlink(self, name: str, target: str) -> None:
        """Make a link in the root. Raises OSError."""
        fid = self.walk()
        link = struct.pack("<I", fid) + _text(name) + _text(target)
        self._call(_TSYMLINK, link + struct.pack("<I", 0))

    def mknod(self, name: str, mode: int, device: int = 0) -> None:
        """Make a device or a pipe in the root. Raises OSError."""
        fid = self.walk()
        numbers = struct.pack("<IIII", mode, os.major(device), os.minor(device), 0)
        self._call(_TMKNOD, struct.pack("<I", fid) + _text(name) + numbers)

    def attributes(self, *names: str) -> Attributes:
        """Return what a file is like. Raises OSError."""
        fid = self.walk(*names)
        reply = self._call(_TGETATTR, struct.pack("<IQ", fid, 0x7FF))
        return Attributes(*struct.unpack_from("<8x13xIII", reply))

    def chown(self, uid: int, *names: str) -> None:
        """Give a file to a user and the group of that number. Raises OSError."""
        owners = struct.pack("<IIIII", self.walk(*names), 0b110, 0, uid, uid)
        self._call(_TSETATTR, owners + bytes(5 * 8))

    def names(self, *folders: str) -> set[str]:
        """Return what is in a folder, as far as one message tells. Raises OSError."""
        fid = self.walk(*folders)
        self._call(_TLOPEN, struct.pack("<II", fid, os.O_RDONLY | os.O_DIRECTORY))
        reply = self._call(_TREADDIR, struct.pack("<IQI", fid, 0, _COUNT))[4:]
        found = set()
        while reply:
            (length,) = struct.unpack_from("<H", reply, _ENTRY.size)
            end = _ENTRY.size + 2 + length
            found.add(reply[_ENTRY.size + 2 : end].decode())
            reply = reply[end:]
        return found - {".", ".."}

    def wait_closed(self) -> bool:
        """Wait for the other end to close; return whether it did."""
        try:
            return self._sock.recv(1) == b""
        except ConnectionError:
            return True

    def _call(self, kind: int, body: bytes, tag: int = 1) -> bytes:
        self._sock.sendall(struct.pack("<IBH", 7 + len(body), kind, tag) + body)
        length, answer, _ = struct.unpack("<IBH", self._receive(7))
        reply = self._receive(length - 7)
        if answer == _RLERROR:
            (number,) = struct.unpack("<I", reply)
            raise OSError(number, os.strerror(number))
        assert answer == kind + 1, answer
        return reply

    def _receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            if not (part := self._sock.recv(length - len(data))):
                raise ConnectionResetError("the server has closed")
            data += part
        return data


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<H", len(raw)) + raw
