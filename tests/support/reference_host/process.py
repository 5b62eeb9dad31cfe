"""A process of the guest, as hosts hold it: streams, one wait without an end, an exit code."""

from collections.abc import Mapping
from dataclasses import dataclass

import trio

from tests.support.reference_host.bridge import Bridge, Call
from tests.support.reference_host.frames import Hresult, Rpc
from tests.support.reference_host.shapes import GuestError
from tests.support.reference_host.streams import Input, Output

__all__ = ["FOREVER", "Process", "SavedProcess", "Streams"]

#: A wait without a limit.
FOREVER = 0xFFFFFFFF
#: How long the rest of the output may take after the exit. Hosts allow a second; a machine
#: that emulates several VMs at once gets more.
_COPY_S = 30.0
_ALREADY_STOPPED = (
    Hresult.SYSTEM_ALREADY_STOPPED,
    Hresult.INVALID_STATE,
    0x8037011F - 2**32,
)


@dataclass
class Streams:
    """What of a process is relayed; a terminal has no stderr of its own."""

    stdin: Input | None = None
    stdout: Output | None = None
    stderr: Output | None = None

    def ports(self) -> dict[str, object]:
        """Return the ports as hosts write them: what is not there is left out."""
        named = {"StdIn": self.stdin, "StdOut": self.stdout, "StdErr": self.stderr}
        return {name: stream.port for name, stream in named.items() if stream}

    def flags(self) -> dict[str, object]:
        """Return the members that say which of the ports to dial."""
        named = {
            "CreateStdInPipe": self.stdin,
            "CreateStdOutPipe": self.stdout,
            "CreateStdErrPipe": self.stderr,
        }
        return {name: True for name, stream in named.items() if stream}

    def open(self) -> list[Input | Output]:
        """Return the streams that there are."""
        return [one for one in (self.stdin, self.stdout, self.stderr) if one is not None]

    async def aclose(self) -> None:
        """Close all of them."""
        for stream in self.open():
            await stream.aclose()


@dataclass(frozen=True)
class SavedProcess:
    """What one host tells another of a process when the VM moves."""

    container_id: str
    pid: int
    wait_id: int
    ports: Mapping[str, object]


class Process:
    """A process that has been started."""

    def __init__(
        self, bridge: Bridge, container_id: str, pid: int, streams: Streams, wait: Call
    ) -> None:
        self.bridge = bridge
        self.container_id = container_id
        self.pid = pid
        self.streams = streams
        self._wait = wait

    @property
    def stdin(self) -> Input:
        """The process's stdin, which it must have."""
        assert self.streams.stdin is not None
        return self.streams.stdin

    @property
    def stdout(self) -> Output:
        """The process's stdout, which it must have."""
        assert self.streams.stdout is not None
        return self.streams.stdout

    @property
    def stderr(self) -> Output:
        """The process's stderr, which it must have."""
        assert self.streams.stderr is not None
        return self.streams.stderr

    async def exit_code(self) -> int:
        """Wait for the end; hosts take 0 for a process that the guest doesn't know.

        Afterwards the output is complete and all streams are closed.
        """
        try:
            code = (await self._wait.result()).number("ExitCode")
        except GuestError as error:
            if error.result != Hresult.NOT_FOUND:
                raise
            code = 0
        outputs = [one for one in (self.streams.stdout, self.streams.stderr) if one]
        with trio.fail_after(_COPY_S):
            for output in outputs:
                await output.ended.wait()
        await self.streams.aclose()
        return code

    async def wait_once_more(self, timeout_ms: int = FOREVER) -> int:
        """Wait by a request of its own."""
        reply = await self.bridge.call(
            Rpc.WAIT_FOR_PROCESS,
            self.container_id,
            ProcessId=self.pid,
            TimeoutInMs=timeout_ms,
        )
        return reply.number("ExitCode")

    async def signal(self, number: int | None = None) -> bool:
        """Send a signal, by default none in words: SIGKILL; return whether it was delivered."""
        options = {} if number is None else {"Options": {"Signal": number}}
        try:
            await self.bridge.call(
                Rpc.SIGNAL_PROCESS, self.container_id, ProcessId=self.pid, **options
            )
        except GuestError as error:
            if error.result == Hresult.NOT_FOUND:
                return False
            if error.result not in _ALREADY_STOPPED:
                raise
        return True

    async def resize(self, height: int, width: int) -> None:
        """Give its terminal a size."""
        await self.bridge.call(
            Rpc.RESIZE_CONSOLE,
            self.container_id,
            ProcessId=self.pid,
            Height=height,
            Width=width,
        )

    def save(self) -> SavedProcess:
        """Return what another host needs to go on with it."""
        wait_id = self._wait.message_id
        return SavedProcess(self.container_id, self.pid, wait_id, self.streams.ports())
