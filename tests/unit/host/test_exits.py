"""What a guest says unasked gets to whom it is about, and to nobody else."""

import trio

from gcs.host.exits import Exits
from gcs.wire.messages import ContainerNotification, ExitType
from gcs.wire.schema import Notification


def ended(container_id: str) -> ContainerNotification:
    return ContainerNotification(
        container_id=container_id,
        activity_id="",
        type=ExitType.UNEXPECTED,
        operation="None",
        result=0,
    )


async def test_each_container_hears_of_its_own_end() -> None:
    """In whatever order they come; with the bridge all channels end."""
    send, receive = trio.open_memory_channel[Notification](10)
    exits = Exits()
    first, second = exits.expect("a"), exits.expect("b")
    for name in ("x", "b", "b", "a"):
        send.send_nowait(ended(name))
    send.close()
    with trio.fail_after(60):
        await exits.read(receive)
    assert [one async for one in first] == [ended("a")]
    assert [one async for one in second] == [ended("b")]


async def test_a_guest_that_goes_on_about_nobody_is_not_heard_any_more() -> None:
    """What it says then waits unread, by which the bridge ends."""
    send, receive = trio.open_memory_channel[Notification](600)
    exits = Exits()
    exits.expect("a")
    for _ in range(500):
        send.send_nowait(ended("x"))
    with trio.fail_after(60):
        await exits.read(receive)
    assert receive.statistics().current_buffer_used > 200
