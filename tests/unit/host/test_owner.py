"""What a service answers while it ends."""

import socket
from pathlib import Path

import pytest
import trio

from gcs.errors import CallError
from gcs.host.client import open_client
from gcs.host.control import Conversation
from gcs.host.fdstream import FdStream
from gcs.host.owner import Owner
from gcs.host.state import StateFolder
from gcs.wire.codec import Encoding
from gcs.wire.control import CONTROL, Run, VmOptions, Wait


async def _serve(folder: StateFolder, ends: tuple[socket.socket, socket.socket]) -> None:
    """Serve the first client and a second one, as a service's process does."""
    async with trio.open_nursery() as nursery:
        owner = Owner(folder, nursery)
        nursery.start_soon(owner.serve_first, FdStream(ends[0]))
        nursery.start_soon(Conversation(FdStream(ends[1])).serve, owner.handle)


async def test_a_question_on_its_way_when_all_ends_is_answered(tmp_path: Path) -> None:
    """The client hears how it ended, not that the connection was reset."""
    folder = StateFolder.create(tmp_path, "a1")
    (ours, theirs), (our_second, their_second) = socket.socketpair(), socket.socketpair()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve, folder, (theirs, their_second))
            async with (
                open_client(FdStream(ours), CONTROL, Encoding.CBOR) as first,
                open_client(FdStream(our_second), CONTROL, Encoding.CBOR) as second,
            ):
                run = Run(vm=VmOptions(kernel="/k", initrd="/i"), image="/none", cache="/none")
                with pytest.raises(CallError, match="/none"):
                    await first.call(run)
                with pytest.raises(CallError, match="/none"):
                    await second.call(Wait())
    folder.remove()
