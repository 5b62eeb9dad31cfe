"""Every deliberate failure, and the HRESULT that it carries on the wire.

An error names the call and the object; context is added on the way up with `add_note` and
travels in the reply. What the kernel refuses stays an `OSError` until the edge.

```
GcsError                       Fail
 ├─ ProtocolError              the connection is over
 │   ├─ LocalProtocolError       this side tried something illegal: a bug
 │   └─ RemoteProtocolError      the peer broke framing, order or size
 ├─ InvalidRequestError        a member, named by its path          InvalidJSON
 ├─ UnsupportedVersionError    the peers share no protocol version  UnsupportedProtocolVersion
 ├─ ContainerNotFoundError     no container of that id              SystemNotFound
 ├─ ContainerExistsError       the id is taken                      SystemAlreadyExists
 ├─ ContainerStoppedError      its init has exited                  SystemAlreadyStopped
 ├─ WrongStateError            not now                              InvalidState
 ├─ NotFoundError              no such process or mount             ErrNotFound
 ├─ InvalidArgumentError       well-formed, but not acceptable      ErrInvalidArg
 ├─ UnsupportedError           this guest cannot                    NotImpl
 ├─ RuncError                  the OCI runtime's own sentence       by its text
 ├─ DeadlineError              what was waited for, and how long    Timeout
 ├─ CallError                  (host) the request and the error reply to it
 └─ DisconnectedError          (host) the connection ended before the reply
```

Source of the numbers: winerror.h and the HCS error range (0xC0370100…).
"""

from enum import IntEnum
from typing import ClassVar

__all__ = [
    "CallError",
    "ContainerExistsError",
    "ContainerNotFoundError",
    "ContainerStoppedError",
    "DeadlineError",
    "DisconnectedError",
    "GcsError",
    "Hresult",
    "InvalidArgumentError",
    "InvalidRequestError",
    "LocalProtocolError",
    "NotFoundError",
    "ProtocolError",
    "RemoteProtocolError",
    "RuncError",
    "UnsupportedError",
    "UnsupportedVersionError",
    "WrongStateError",
]


class Hresult(IntEnum):
    """The codes of a reply's `Result`, as the signed 32-bit numbers that JSON carries."""

    OK = 0
    NOT_IMPL = 0x80004001 - 2**32
    FAIL = 0x80004005 - 2**32
    ERR_INVALID_ARG = 0x80070057 - 2**32
    ERR_NOT_FOUND = 0x80070490 - 2**32
    INVALID_STATE = 0x80370105 - 2**32
    TIMEOUT = 0xC0370109 - 2**32
    UNKNOWN_MESSAGE = 0xC037010B - 2**32
    UNSUPPORTED_PROTOCOL_VERSION = 0xC037010C - 2**32
    INVALID_JSON = 0xC037010D - 2**32
    SYSTEM_NOT_FOUND = 0xC037010E - 2**32
    SYSTEM_ALREADY_EXISTS = 0xC037010F - 2**32
    SYSTEM_ALREADY_STOPPED = 0xC0370110 - 2**32


class GcsError(Exception):
    """A failure that was foreseen; `str()` is one line in lower case that names its object."""

    hresult: ClassVar[Hresult] = Hresult.FAIL


class ProtocolError(GcsError):
    """The connection can't go on."""


class LocalProtocolError(ProtocolError):
    """This side tried something that the protocol forbids; never caused by the peer."""


class RemoteProtocolError(ProtocolError):
    """The peer broke framing, order or size."""


class InvalidRequestError(GcsError):
    """A message, or a document in it, can't be read; the text names the member by path."""

    hresult = Hresult.INVALID_JSON


class UnsupportedVersionError(GcsError):
    """The version range of the host does not include ours."""

    hresult = Hresult.UNSUPPORTED_PROTOCOL_VERSION


class ContainerNotFoundError(GcsError):
    """No container has that id."""

    hresult = Hresult.SYSTEM_NOT_FOUND


class ContainerExistsError(GcsError):
    """A container with that id is known already."""

    hresult = Hresult.SYSTEM_ALREADY_EXISTS


class ContainerStoppedError(GcsError):
    """The container's init has exited."""

    hresult = Hresult.SYSTEM_ALREADY_STOPPED


class WrongStateError(GcsError):
    """The object exists, but is not in the state that the request needs."""

    hresult = Hresult.INVALID_STATE


class NotFoundError(GcsError):
    """No process, device or mount answers to that name."""

    hresult = Hresult.ERR_NOT_FOUND


class InvalidArgumentError(GcsError):
    """The request is well-formed, but a value in it is not acceptable."""

    hresult = Hresult.ERR_INVALID_ARG


class UnsupportedError(GcsError):
    """This guest can't do that at all."""

    hresult = Hresult.NOT_IMPL


class RuncError(GcsError):
    """The OCI runtime failed; the text is its own sentence."""


class DeadlineError(GcsError):
    """Something did not come in time; the text says what, and how long it was waited for."""

    hresult = Hresult.TIMEOUT


class CallError(GcsError):
    """The guest answered a request with an error (host side).

    `request` is the name of the request, `result` the HRESULT as a signed number, `message` the
    guest's text.
    """

    def __init__(self, request: str, result: int, message: str) -> None:
        super().__init__(f"{request}: {message or hex(result & 0xFFFFFFFF)}")
        self.request = request
        self.result = result
        self.message = message


class DisconnectedError(GcsError):
    """The connection ended before the reply came; `__cause__` has the reason, if known."""
