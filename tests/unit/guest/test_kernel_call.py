"""Work in threads that may hang: its limit, and what becomes of what ends too late."""

import threading

import pytest
import trio

from gcs.errors import DeadlineError
from gcs.guest import kernel_call
from gcs.guest.kernel_call import in_kernel
from gcs.linux.undo import Undo


async def test_the_result_is_returned_and_can_still_be_undone() -> None:
    """By whoever asked to be able to."""
    undone, outer = list[str](), Undo()

    def work(undo: Undo) -> int:
        undo.add(undone.append, "x")
        return 7

    assert await in_kernel(trio.CapacityLimiter(1), "working", work, outer) == 7
    assert undone == []
    outer.run(OSError())
    assert undone == ["x"]


async def test_an_error_is_raised_and_undone() -> None:
    """As if there were no thread."""
    undone = list[str]()

    def work(undo: Undo) -> None:
        undo.add(undone.append, "x")
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await in_kernel(trio.CapacityLimiter(1), "working", work)
    assert undone == ["x"]


async def test_what_ends_too_late_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own thread, after the error is out."""
    monkeypatch.setattr(kernel_call, "_TIMEOUT_S", 0.05)
    answer, was_undone, outer = threading.Event(), threading.Event(), Undo()

    def work(undo: Undo) -> None:
        answer.wait(60)
        undo.add(was_undone.set)

    with pytest.raises(DeadlineError, match="working: the kernel has not answered within"):
        await in_kernel(trio.CapacityLimiter(1), "working", work, outer)
    assert not was_undone.is_set()
    answer.set()
    assert await trio.to_thread.run_sync(was_undone.wait, 10)
    assert outer.steps == []


async def test_a_cancelled_request_waits_for_its_work() -> None:
    """So that its record and the kernel agree; the next checkpoint ends it."""
    started, answer = threading.Event(), threading.Event()

    def work(_: Undo) -> int:
        started.set()
        answer.wait(60)
        return 7

    results = list[int]()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                results.append(await in_kernel(trio.CapacityLimiter(1), "working", work))

            nursery.start_soon(ask)
            await trio.to_thread.run_sync(started.wait, 10)
            scope.cancel()
            answer.set()
    assert results == [7]
