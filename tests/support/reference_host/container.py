"""A container of the guest, as hosts hold it: its end is a notification."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from tests.support.reference_host.frames import Hresult, Rpc, go_json
from tests.support.reference_host.process import Process
from tests.support.reference_host.shapes import GuestError

if TYPE_CHECKING:
    from tests.support.reference_host.guest import Guest

__all__ = ["Container", "config_document"]


def config_document(bundle: str, spec: Mapping[str, object], scratch: str) -> dict[str, object]:
    """Return the configuration of a container; a host sends it as a string."""
    return {
        "SchemaVersion": {"Major": 2, "Minor": 1},
        "OciBundlePath": bundle,
        "OciSpecification": spec,
        "ScratchDirPath": scratch,
    }


class Container:
    """A container that the guest has been asked to create."""

    def __init__(self, guest: "Guest", container_id: str) -> None:
        self.guest = guest
        self.container_id = container_id
        #: Set when the guest says that it has ended.
        self.exited = guest.bridge.register(container_id)

    async def create(self, bundle: str, spec: Mapping[str, object], scratch: str = "") -> None:
        """Create it; its end has been expected since before."""
        document = go_json(config_document(bundle, spec, scratch))
        await self.call(Rpc.CREATE, ContainerConfig=document)

    async def start(self, *, terminal: bool = False, streams: bool = True) -> Process:
        """Start its init: a Start that does nothing, and a process without a description."""
        await self.call(Rpc.START)
        return await self.guest.execute(
            self.container_id, {}, terminal=terminal, streams=streams
        )

    async def execute(self, process: Mapping[str, object], *, streams: bool = True) -> Process:
        """Start another process in it, described as in an OCI spec."""
        return await self.guest.execute(
            self.container_id,
            {"OciProcess": process},
            terminal=process.get("terminal") is True,
            streams=streams,
        )

    async def shut_down(self, rpc: Rpc = Rpc.SHUTDOWN_GRACEFUL) -> None:
        """Ask its init to end; hosts don't mind if the container is gone."""
        try:
            await self.call(rpc)
        except GuestError as error:
            if error.result != Hresult.SYSTEM_NOT_FOUND:
                raise

    async def processes(self) -> set[int]:
        """Return the pids in it."""
        query = go_json({"PropertyTypes": ["ProcessList"]})
        reply = await self.guest.bridge.call(Rpc.GET_PROPERTIES, self.container_id, Query=query)
        listed = reply.document("Properties")["ProcessList"]
        assert isinstance(listed, list)
        pids = [one["ProcessId"] for one in listed]
        assert len(set(pids)) == len(pids), f"a pid twice: {pids}"
        return set(pids)

    async def end(self, timeout_s: float = 30.0) -> str:
        """Wait for the notification, as long as hosts do; return the type of its end."""
        with trio.fail_after(timeout_s):
            await self.exited.wait()
        return self.guest.bridge.ended[self.container_id].exit_type

    async def delete(self) -> None:
        """Have the guest forget it."""
        await self.call(Rpc.DELETE_CONTAINER_STATE)

    async def call(self, rpc: Rpc, **members: object) -> None:
        """Make a request for it."""
        await self.guest.bridge.call(rpc, self.container_id, **members)
