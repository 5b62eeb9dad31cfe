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


#: Every request but NegotiateProtocol, which changes the connection and is answered there.
HANDLERS: Final[Mapping[type[Request[Reply]], Handler]] = MappingProxyType(
    dict(
        [
            _row(messages.Create, create.create),
            _row(messages.Start, container.start),
            _row(messages.ShutdownGraceful, container.shutdown_graceful),
            _row(messages.ShutdownForced, container.shutdown_forced),
            _row(messages.DeleteContainerState, container.delete_state),
            _row(messages.ExecuteProcess, process.execute),
            _row(messages.WaitForProcess, process.wait),
            _row(messages.SignalProcess, process.signal_process),
            _row(messages.ResizeConsole, process.resize_console),
            _row(messages.GetProperties, properties.get_properties),
            _row(messages.DumpStacks, diagnostics.dump_stacks),
            _row(messages.ModifySettings, settings.modify),
            _row(extensions.ReportMounts, reports.report_mounts),
            _row(extensions.WaitForOutOfMemory, reports.wait_for_out_of_memory),
        ]
    )
)


def dispatch(agent: Agent, request: Request[Reply]) -> Answer:
    """Answer a request, or say what will; whatever it raises is the error edge's."""
    if agent.denies:
        raise UnsupportedError("the initial policy stance is deny: everything is refused")
    return HANDLERS[type(request)](agent, request)
