"""What a service answers while it ends."""

import json
import os
import socket
import tempfile
from pathlib import Path

import pytest
import trio

from gcs.errors import CallError
from gcs.host.client import open_client
from gcs.host.control import Conversation
from gcs.host.fdstream import FdStream
from gcs.host.launch import open_service
from gcs.host.owner import Owner
from gcs.host.state import StateFolder
from gcs.wire.codec import Encoding
from gcs.wire.control import CONTROL, Run, VmOptions, Wait
from tests.support.stage import make_stage


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
    with trio.fail_after(60):
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


async def test_a_client_that_asks_late_hears_how_it_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The container was over, and its VM gone, before its client came to ask."""
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as folder:
        stage = make_stage(Path(folder))
        for name, value in stage.environment.items():
            monkeypatch.setenv(name, value)
        run = Run(
            vm=VmOptions(
                kernel=stage.environment["GCS_KERNEL"],
                initrd=stage.environment["GCS_INITRD"],
                vsock_program=stage.environment["GCS_VHOST_DEVICE_VSOCK"],
            ),
            image=str(stage.image),
            cache=f"{folder}/layers",
            arguments=("sh", "-c", "exit 7"),
        )
        async with open_service(is_shared=False) as handle:
            service = handle.service
            reply = await service.client.call(run)
            streams = service.take_streams(reply.streams)
            await _wait_until_ended(stage.runtime / "gcs" / reply.container_id[:12])
            wait = Wait(container_id=reply.container_id)
            assert (await service.client.call(wait)).exit_status == 7
            for stream in streams.values():
                await stream.aclose()
        assert stage.leftovers() == []


async def _wait_until_ended(folder: Path) -> None:
    """Wait for the end of all programs of a VM."""
    recorded = json.loads(folder.joinpath("pids.json").read_text())
    with trio.fail_after(60):
        for one in recorded:
            while _runs(one["pid"]):  # noqa: ASYNC110 - another's child
                await trio.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
