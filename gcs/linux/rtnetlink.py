"""Requests to the kernel's routing socket, one at a time, each with its answer.

What is in a message is the caller's: here are its header, its number and the kernel's verdict.
The kernel answers before send(2) returns, so nothing here waits.

Source: netlink(7), Documentation/userspace-api/netlink/intro.rst.
Needs: CONFIG_NET
"""

import os
import socket
import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag

__all__ = ["Flag", "Kind", "RoutingSocket"]


class Kind(IntEnum):
    """Kinds of requests. Source: linux/rtnetlink.h."""

    GETLINK = 18
    SETLINK = 19
    NEWADDR = 20
    DELADDR = 21
    NEWROUTE = 24
    DELROUTE = 25
    NEWRULE = 32
    DELRULE = 33


class Flag(IntFlag):
    """Flags of a request. Source: linux/netlink.h."""

    REQUEST = 1
    ACK = 4
    EXCL = 0x200
    CREATE = 0x400


#: A length, a kind, flags, a number and a port; then the message, padded. Source: struct
#: nlmsghdr and struct nlattr in linux/netlink.h
_HEADER, _ATTRIBUTE, _ERRNO = struct.Struct("=IHHII"), struct.Struct("=HH"), struct.Struct("=i")
_ALIGNMENT = 4
_NLMSG_ERROR = 2
#: The kernel's words follow its error number and the header of what it is about.
_ACK_TLVS, _WORDS_AT, _ATTR_MSG = 0x200, _ERRNO.size + _HEADER.size, 1
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
#: One answer: a link with all that it has is some 2 KiB.
_MAX_ANSWER = 64 * 1024
#: Never taken, as said above; but no wait is without a limit.
_TIMEOUT_S = 10.0


class RoutingSocket:
    """A routing socket of the namespace that the thread which opens it is in, for good."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._number = 0
        try:
            self._socket.settimeout(_TIMEOUT_S)
            for option in (_CAP_ACK, _EXT_ACK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def ask(self, kind: Kind, flags: Flag, body: bytes) -> bytes:
        """Send a request; return the body of what answers it, empty if that is yes.

        Raises OSError with the kernel's own words if it has any.
        """
        self._number += 1
        length = _HEADER.size + len(body)
        header = _HEADER.pack(length, kind, flags | Flag.REQUEST, self._number, 0)
        self._socket.send(header + body)
        while True:
            for answer, answer_flags, number, content in _messages(self._receive()):
                if number == self._number:
                    return (
                        _checked(content, answer_flags) if answer == _NLMSG_ERROR else content
                    )

    def _receive(self) -> bytes:
        return self._socket.recv(_MAX_ANSWER)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield kind, flags, number and body of each message."""
    while len(data) >= _HEADER.size:
        length, kind, flags, number, _ = _HEADER.unpack_from(data)
        yield kind, flags, number, data[_HEADER.size : length]
        data = data[_padded(max(length, _HEADER.size)) :]


def _checked(verdict: bytes, flags: int) -> bytes:
    (number,) = _ERRNO.unpack_from(verdict)
    if number:
        words = _words(verdict[_WORDS_AT:]) if flags & _ACK_TLVS else ""
        raise OSError(-number, words or os.strerror(-number))
    return b""


def _words(attributes: bytes) -> str:
    """Return what the kernel says of an error."""
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _ATTR_MSG:
            return attributes[_ATTRIBUTE.size : length].rstrip(b"\0").decode(errors="replace")
        attributes = attributes[_padded(max(length, _ATTRIBUTE.size)) :]
    return ""


def _padded(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT
