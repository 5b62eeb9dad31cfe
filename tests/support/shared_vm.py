"""One VM for many tests: it lives in a trio run of its own thread, and tests call into it."""

import os
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import trio

from gcs.host.bridge import accept_bridge, open_bridge
from gcs.host.container import Container
from gcs.host.images import Image, open_image
from gcs.host.journal import open_journal
from gcs.host.layer_mounts import LayerMounts
from gcs.host.layers import default_cache_dir, ensure_layers
from gcs.host.place import whole
from gcs.host.qemu import VmConfig
from gcs.host.scratch import open_scratch
from gcs.host.vm import Vm, VmError, open_vm
from gcs.host.vsock import BRIDGE_PORT
from tests.support.mounting import mount_layers

if TYPE_CHECKING:
    from gcs.host.client import Client

__all__ = ["SharedVm"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: A boot under emulation on a loaded machine takes half a minute.
_BOOT_S = 180.0
_CALL_S = 120.0
_END_S = 60.0


class SharedVm:
    """A VM with an image's layers mounted, once `start` has returned."""

    def __init__(
        self, config: VmConfig, folder: Path, vsock_program: str | None, image: Path
    ) -> None:
        self.config = config
        self.folder = folder
        self.client: Client
        self.vm: Vm
        self.mounts: LayerMounts
        self.image: Image
        self.vsock_program = vsock_program
        self.image_path = image
        self._token: trio.lowlevel.TrioToken
        self._stop: trio.Event
        self._booted = threading.Event()
        self._connected = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    # -- the ladder, as the tests see it --

    def boot(self) -> None:
        """Start the VM and wait until its agent has dialled."""
        self._thread.start()
        self._wait(self._booted)

    def connect(self) -> None:
        """Wait until the agent has negotiated, and the layers and the scratch are mounted."""
        self._wait(self._connected)

    def stop(self) -> None:
        """End the VM."""
        if self._thread.is_alive():
            self.call(self._end)
            self._thread.join(_END_S)
        assert not self._thread.is_alive(), "the VM did not end"

    def cut_power(self) -> None:
        """Kill QEMU, as a power cut would end a machine."""
        os.kill(self.vm.qemu.pid, signal.SIGKILL)
        self._thread.join(_END_S)
        assert isinstance(self._failure, VmError), f"it ended by {self._failure!r}"

    def call(self, function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """Run a coroutine function in the VM's trio run, bounded, and return its result."""
        return self.call_long(function, *arguments, timeout_s=_CALL_S)

    def call_long(
        self, function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts, timeout_s: float = 1800
    ) -> T:
        """Run a coroutine function that does the work of many calls."""

        async def bounded() -> T:
            with trio.fail_after(timeout_s):
                return await function(*arguments)

        return trio.from_thread.run(bounded, trio_token=self._token)

    def container(self, cid: str) -> Container:
        """Return a container of this VM that is yet to be created."""
        return Container(self.vm, self.client, cid)

    def _wait(self, event: threading.Event) -> None:
        in_time = event.wait(_BOOT_S)
        if self._failure is not None:
            raise self._failure
        assert in_time, f"the VM was not there within {_BOOT_S:g} s"

    # -- the thread --

    def _run(self) -> None:
        try:
            with open_journal(self.folder / "service.log"):
                trio.run(self._live)
        except BaseException as failure:  # noqa: BLE001 - raised in the tests' thread
            self._failure = failure
        finally:
            self._booted.set()
            self._connected.set()

    async def _live(self) -> None:
        self._token, self._stop = trio.lowlevel.current_trio_token(), trio.Event()
        self.image = await open_image(self.image_path)
        layers = await ensure_layers(self.image, default_cache_dir(), progress=lambda _: None)
        with ExitStack() as stack:
            scratch_fd = stack.enter_context(open_scratch())
            opening = open_vm(
                self.config,
                self.folder,
                vsock_program=self.vsock_program,
                scratch_fd=scratch_fd,
            )
            async with opening as self.vm:
                with await self.vm.vsock.listen(BRIDGE_PORT) as listener:
                    await self.vm.start()
                    stream = await accept_bridge(listener)
                self._booted.set()
                async with open_bridge(stream) as self.client:
                    self.mounts = LayerMounts(self.vm, self.client)
                    await mount_layers(self.mounts, whole(layers))
                    self._connected.set()
                    await self._stop.wait()

    async def _end(self) -> None:
        self._stop.set()
