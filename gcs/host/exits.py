"""What a guest says unasked, sorted by the container that it is about."""

import trio

from gcs.wire.messages import ContainerNotification
from gcs.wire.schema import Notification

__all__ = ["Exits"]

#: What a guest says of nobody between one container and the next. The end of one that could
#: not be started comes when nobody waits for it any more; so much more is an attack.
_MAX_STRAYS = 256


class Exits:
    """A channel for each container that is expected to end; of others it is passed over."""

    def __init__(self) -> None:
        self._channels: dict[str, trio.MemorySendChannel[Notification]] = {}
        self._strays = 0

    def expect(self, container_id: str) -> trio.MemoryReceiveChannel[Notification]:
        """Return where a container's end will be told; to be called before it is created."""
        # It ends once: whatever else a guest says of it is dropped.
        send, receive = trio.open_memory_channel[Notification](1)
        self._channels[container_id] = send
        self._strays = 0
        return receive

    def forget(self, container_id: str) -> None:
        """Let go of a container; no effect on one that is not expected."""
        channel = self._channels.pop(container_id, None)
        if channel is not None:
            channel.close()

    async def read(self, notifications: trio.MemoryReceiveChannel[Notification]) -> None:
        """Sort what the guest says, until the bridge ends, or the guest says too much.

        All channels end then. Nothing more is taken of it, which ends the bridge.
        """
        async for one in notifications:
            if not self._pass_on(one):
                self._strays += 1
                if self._strays > _MAX_STRAYS:
                    break
        for container_id in list(self._channels):
            self.forget(container_id)

    def _pass_on(self, one: Notification) -> bool:
        """Give it to whom it is about; return False when there is nobody, or no need."""
        if not isinstance(one, ContainerNotification):
            return False
        channel = self._channels.get(one.container_id)
        if channel is None:
            return False
        try:
            channel.send_nowait(one)
        except (trio.WouldBlock, trio.BrokenResourceError):
            return False
        return True
