"""What the host types at a terminal: bytes, and a ^D for their end.

A connection ends as well when its host goes, which is not what somebody typed: a shell would
exit of it, and a VM that moved would have lost it. A host that goes takes the bridge along, so
an end counts only if the bridge stays.

Source: PROTOCOL.md, "Streams".
"""

import errno
import os
from collections.abc import Callable

import trio

from gcs.guest.redial import LOSS_S
from gcs.guest.splice import is_gone

__all__ = ["copy_input"]

#: Bytes per read.
_CHUNK = 65536
#: ^D, what a terminal makes an end-of-file of
_END_OF_TRANSMISSION = b"\x04"


async def copy_input(
    sock: trio.socket.SocketType, master: int, is_host_lost: Callable[[], bool]
) -> None:
    """Type what the host sends; its end-of-file becomes a ^D, unless the host is lost."""
    try:
        while data := await sock.recv(_CHUNK):
            await _type(master, data)
    except OSError as error:
        if not is_gone(error):
            raise
        return
    await trio.sleep(LOSS_S)
    if not is_host_lost():
        await _type(master, _END_OF_TRANSMISSION)


async def _type(master: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(master, data) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(master)
        except OSError as error:
            if error.errno == errno.EIO:
                return
            raise
