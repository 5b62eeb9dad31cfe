"""From the type of a request to the function that answers it: one visible table."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from gcs.errors import UnsupportedError
from gcs.guest.agent import Agent
from gcs.guest.handlers import (
    container,
    create,
    diagnostics,
    process,
    properties,
    reports,
    settings,
)
from gcs.wire import extensions, messages
from gcs.wire.schema import Reply, Request

__all__ = ["HANDLERS", "Answer", "Handler", "dispatch"]

Q = TypeVar("Q", bound=Request[Reply])

#: The reply itself where nothing has to be waited for, else what is to be awaited for it. None
#: is no reply at all: the VM is going down.
Answer = Reply | Awaitable[Reply | None]
Handler = Callable[[Agent, Request[Reply]], Answer]
Row = tuple[type[Request[Reply]], Handler]


def _row(request: type[Q], handler: Callable[[Agent, Q], Answer]) -> Row:
    """Pair a handler with the request that it takes; the one place where they are matched."""

    def answer(agent: Agent, given: Request[Reply]) -> Answer:
        assert isinstance(given, request), "the table is looked up by this type"
        return handler(agent, given)

    return request, answer


#: Every request but NegotiateProtocol, which changes the connection and is answered there. The
#: handlers are looked up with each request: the guest executes their modules with the first.
HANDLERS: Final[Mapping[type[Request[Reply]], Handler]] = MappingProxyType(
    dict(
        [
            _row(messages.Create, lambda agent, asked: create.create(agent, asked)),
            _row(messages.Start, lambda agent, asked: container.start(agent, asked)),
            _row(
                messages.ShutdownGraceful,
                lambda agent, asked: container.shutdown_graceful(agent, asked),
            ),
            _row(
                messages.ShutdownForced,
                lambda agent, asked: container.shutdown_forced(agent, asked),
            ),
            _row(
                messages.DeleteContainerState,
                lambda agent, asked: container.delete_state(agent, asked),
            ),
            _row(messages.ExecuteProcess, lambda agent, asked: process.execute(agent, asked)),
            _row(messages.WaitForProcess, lambda agent, asked: process.wait(agent, asked)),
            _row(
                messages.SignalProcess,
                lambda agent, asked: process.signal_process(agent, asked),
            ),
            _row(
                messages.ResizeConsole,
                lambda agent, asked: process.resize_console(agent, asked),
            ),
            _row(
                messages.GetProperties,
                lambda agent, asked: properties.get_properties(agent, asked),
            ),
            _row(
                messages.DumpStacks, lambda agent, asked: diagnostics.dump_stacks(agent, asked)
            ),
            _row(messages.ModifySettings, lambda agent, asked: settings.modify(agent, asked)),
            _row(
                extensions.ReportMounts,
                lambda agent, asked: reports.report_mounts(agent, asked),
            ),
            _row(
                extensions.WaitForOutOfMemory,
                lambda agent, asked: reports.wait_for_out_of_memory(agent, asked),
            ),
        ]
    )
)


def dispatch(agent: Agent, request: Request[Reply]) -> Answer:
    """Answer a request, or say what will; whatever it raises is the error edge's."""
    if agent.denies:
        raise UnsupportedError("the initial policy stance is deny: everything is refused")
    return HANDLERS[type(request)](agent, request)
