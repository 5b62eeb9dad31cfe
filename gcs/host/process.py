"""A process in a utility VM, as the host sees it: its streams, its signals, its end.

Source: PROTOCOL.md, "ExecuteProcess" and "Streams".
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import trio
from msgspec.structs import replace

from gcs.errors import GcsError
from gcs.host.bridge import call
from gcs.host.client import Client
from gcs.host.deadline import deadline
from gcs.host.vsock import Listener, Vsock
from gcs.wire import messages
from gcs.wire.control import StreamName

__all__ = ["Process", "Streams", "start_process"]

Streams = Mapping[StreamName, trio.SocketStream]

#: A stream's connection is there when ExecuteProcess is answered, or as good as; the rest is
#: for a machine that has other things to do.
_ACCEPT_S = 30.0
_MAX_STATUS = 255
#: 0xFFFFFFFF: no limit.
_FOR_EVER = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has been started."""

    client: Client
    #: of its container; the null id for a process of the VM
    container_id: str
    #: in the VM
    process_id: int

    async def wait(self) -> int:
        """Wait until it has exited and its output is on its way; return the exit status.

        Raises GcsError for a status that no process has: whoever exits with it would cut it to
        eight bits, and 256 would be a success.
        """
        request = messages.WaitForProcess(
            container_id=self.container_id,
            process_id=self.process_id,
            timeout_in_ms=_FOR_EVER,
        )
        status = (await self.client.call(request)).exit_code
        if status > _MAX_STATUS:
            text = f"process {self.process_id} of {self.container_id}: exit status {status}"
            raise GcsError(f"{text}: the guest reports what no process has")
        return status

    async def signal(self, number: int) -> None:
        """Send it a signal."""
        request = messages.SignalProcess(
            container_id=self.container_id,
            process_id=self.process_id,
            options=messages.SignalOptions(signal=number),
        )
        await call(self.client, request)

    async def resize(self, height: int, width: int) -> None:
        """Set the size of its terminal."""
        request = messages.ResizeConsole(
            container_id=self.container_id,
            process_id=self.process_id,
            height=height,
            width=width,
        )
        await call(self.client, request)


async def start_process(
    vsock: Vsock,
    client: Client,
    container_id: str,
    parameters: messages.ProcessParameters,
    ports: Mapping[StreamName, int],
) -> tuple[Process, Streams]:
    """Start a process and return it with the connections of its streams.

    Args:
        vsock: Where the guest dials the ports.
        client: The bridge.
        container_id: Where it runs; the null id for the VM itself.
        parameters: What to run; which streams it has is set here.
        ports: A port for each stream that is wanted.

    Raises CallError when the guest refuses, DeadlineError when a stream does not come. Leaves
    no listener behind.
    """
    with ExitStack() as stack:
        listeners: dict[StreamName, Listener] = {}
        for name, port in ports.items():
            listeners[name] = stack.enter_context(await vsock.listen(port))
        request = messages.ExecuteProcess(
            container_id=container_id, settings=_settings(parameters, ports)
        )
        reply = await call(client, request)
        streams = await _accept_all(listeners, container_id)
    return Process(client, container_id, reply.process_id), streams


async def _accept_all(listeners: Mapping[StreamName, Listener], container_id: str) -> Streams:
    streams: dict[StreamName, trio.SocketStream] = {}
    try:
        for name, listener in listeners.items():
            with deadline(_ACCEPT_S, f"{name} of a process in {container_id}: its connection"):
                streams[name] = await listener.accept()
    except BaseException:
        for stream in streams.values():
            stream.socket.close()
        raise
    return streams


def _settings(
    parameters: messages.ProcessParameters, ports: Mapping[StreamName, int]
) -> messages.ExecuteProcessSettings:
    return messages.ExecuteProcessSettings(
        process_parameters=replace(
            parameters,
            create_std_in_pipe=StreamName.STDIN in ports,
            create_std_out_pipe=StreamName.STDOUT in ports,
            create_std_err_pipe=StreamName.STDERR in ports,
        ),
        vsock_stdio_relay_settings=messages.VsockStdioRelaySettings(
            std_in=ports.get(StreamName.STDIN, 0),
            std_out=ports.get(StreamName.STDOUT, 0),
            std_err=ports.get(StreamName.STDERR, 0),
        ),
    )
