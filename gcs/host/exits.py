"""What a guest says unasked, sorted by the container that it is about."""

import trio

from gcs.wire.messages import ContainerNotification
from gcs.wire.schema import Notification

__all__ = ["Exits"]


class Exits:
    """A channel for each container that is expected to end; of others it is passed over."""

    def __init__(self) -> None:
        self._channels: dict[str, trio.MemorySendChannel[Notification]] = {}

    def expect(self, container_id: str) -> trio.MemoryReceiveChannel[Notification]:
        """Return where a container's end will be told; to be called before it is created."""
        # It ends once: whatever else a guest says of it is dropped.
        send, receive = trio.open_memory_channel[Notification](1)
        self._channels[container_id] = send
        return receive

    def forget(self, container_id: str) -> None:
        """Let go of a container; no effect on one that is not expected."""
        channel = self._channels.pop(container_id, None)
        if channel is not None:
            channel.close()

    async def read(self, notifications: trio.MemoryReceiveChannel[Notification]) -> None:
        """Sort what the guest says, until the bridge ends; all channels end then."""
        async for one in notifications:
            if isinstance(one, ContainerNotification):
                self._pass_on(one)
        for container_id in list(self._channels):
            self.forget(container_id)

    def _pass_on(self, one: ContainerNotification) -> None:
        channel = self._channels.get(one.container_id)
        if channel is not None:
            try:
                channel.send_nowait(one)
            except (trio.WouldBlock, trio.BrokenResourceError):
                return
