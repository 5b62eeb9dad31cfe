"""Ask an agent in the same process, without a bridge."""

from gcs.guest import dispatch
from gcs.guest.agent import Agent
from gcs.wire.schema import Reply, Request

__all__ = ["call"]


async def call(agent: Agent, request: Request[Reply]) -> Reply | None:
    """Return the reply, at once or when it comes. Raises what the handler does."""
    answer = dispatch.dispatch(agent, request)
    return answer if isinstance(answer, Reply) else await answer
