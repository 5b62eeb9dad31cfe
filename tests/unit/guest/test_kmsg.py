"""The kernel's messages, read from a socket that keeps records apart as /dev/kmsg does."""

import logging
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from gcs.guest import kmsg
from gcs.guest.kmsg import Record


@pytest.fixture
def device() -> Iterator[tuple[int, socket.socket]]:
    """Return what is read from, and the kernel's end."""
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 1024 * 1024)
    ours.setblocking(False)
    with ours, kernel:
        yield ours.fileno(), kernel


def records(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [getattr(record, "fields", {}) for record in caplog.records]


@pytest.mark.parametrize(
    ("data", "record"),
    [
        (b"4,17,900,-;a; b\n KEY=v\n", Record(4, 0, 17, 900, "-", "a; b")),
        (b"30,1,2,c,caller=T1;x\n", Record(6, 3, 1, 2, "c", "x")),
        (b"3,1,2,-;\n", Record(3, 0, 1, 2, "-", "")),
        (b"3,1,2,-;\xff\n", Record(3, 0, 1, 2, "-", "\ufffd")),
        (b"3,1,2;no flags\n", None),
        (b"x,1,2,-;y\n", None),
        (b"", None),
        (b"3,1,2,-", None),
    ],
)
def test_a_record_is_taken_apart(data: bytes, record: Record | None) -> None:
    """Priority and facility share a number; lines of keys are left out."""
    assert kmsg.parse(data) == record


async def test_what_matters_is_logged_with_its_particulars(
    device: tuple[int, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    """Up to the level that was asked for, as an error, a warning or less."""
    caplog.set_level(logging.DEBUG)
    descriptor, kernel = device
    for data in (b"3,1,10,-;bad\n", b"12,2,20,-;odd\n", b"5,3,30,-;less\n", b"what?"):
        kernel.send(data)
    kernel.shutdown(socket.SHUT_WR)
    await kmsg.relay(descriptor, 4)
    assert [(r.getMessage(), r.levelname) for r in caplog.records] == [
        ("kmsg read", "ERROR"),
        ("kmsg read", "WARNING"),
        ("odd message of the kernel", "WARNING"),
    ]
    assert records(caplog)[1] == {
        "priority": "warning",
        "facility": 1,
        "seq": 2,
        "timesincebootmicro": 20,
        "flags": "-",
        "message": "odd",
    }


async def test_a_flood_is_cut_and_counted(
    device: tuple[int, socket.socket],
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The first 200 go through, then 20 a second, and how many are missing is said."""
    descriptor, kernel = device
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kmsg.relay, descriptor, 7)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(250):
            kernel.send(b"3,%d,1,-;flood\n" % number)
            await trio.testing.wait_all_tasks_blocked()
        assert len(caplog.records) == 200
        await trio.sleep(1)
        kernel.send(b"3,250,1,-;later\n")
        await trio.testing.wait_all_tasks_blocked()
        kernel.shutdown(socket.SHUT_WR)
    lost, later = records(caplog)[200:]
    assert lost == {"count": 50}
    assert later["message"] == "later"
