"""DumpStacks."""

import sys
import traceback
from collections.abc import Iterator

import trio

from gcs.guest.agent import Agent
from gcs.wire.messages import DumpStacks, DumpStacksReply

__all__ = ["dump_stacks"]

#: A reply has 65,536 bytes, and JSON takes two for each quote, backslash and line end of a
#: stack.
_MAX_STACKS = 24 * 1024


async def dump_stacks(_agent: Agent, _request: DumpStacks) -> DumpStacksReply:
    """Return the stacks of all threads and tasks, the longest cut at the end."""
    return DumpStacksReply(guest_stacks="".join(_stacks())[:_MAX_STACKS])


def _stacks() -> Iterator[str]:
    for thread, frame in sys._current_frames().items():  # noqa: SLF001 - there is no other way
        yield f"thread {thread}\n"
        yield from traceback.format_stack(frame)
    root = trio.lowlevel.current_root_task()
    tasks = [root] if root is not None else []
    while tasks:
        task = tasks.pop()
        yield f"task {task.name}\n"
        yield from traceback.format_list(
            traceback.StackSummary.extract(iter(list(task.iter_await_frames())))
        )
        tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
