"""The network namespace of a container that brings one: its own, or that of its pod.

Adapters may be there before the container, and then its namespace is; or come later, into the
one that the runtime has made for it.

Source: PROTOCOL.md, "Networks".
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from gcs.errors import WrongStateError
from gcs.guest import adapters
from gcs.guest.agent import Agent
from gcs.guest.log import fields
from gcs.guest.networks import Namespace

__all__ = ["claimed", "path_of", "release"]

_log = logging.getLogger("gcs.network")


@asynccontextmanager
async def claimed(
    agent: Agent, container_id: str, namespace_id: str, root: str, *, is_vm: bool
) -> AsyncIterator[Namespace | None]:
    """Hold a namespace for a container while it is made; it stays its own only on success.

    Yields None when another container has it: with adapters only if it is the nameless one, or
    the VM's own is used anyhow. Raises WrongStateError otherwise.

    Args:
        agent: Of all this.
        container_id: The container that is to be in it.
        namespace_id: The host's; "" is one as well.
        root: Folder of the container's resolv.conf.
        is_vm: Whether the container is in the VM's own namespace.
    """
    namespace = agent.networks.open(namespace_id)
    if namespace.owner:
        if namespace.adapters and namespace_id and not is_vm:
            raise WrongStateError(
                f"network namespace {namespace_id!r} is that of container {namespace.owner}"
            )
        yield None
        return
    namespace.owner, namespace.root = container_id, root
    try:
        async with namespace.lock:
            if is_vm:
                await _move_to_vm(agent, namespace)
            adapters.write_resolv_conf(namespace)
            yield namespace
    except BaseException:
        namespace.owner = namespace.root = ""
        agent.networks.forget_unused(namespace)
        raise


def path_of(namespace: Namespace | None) -> str:
    """Return where the runtime finds a namespace; "" if it is to make one."""
    if namespace is None or namespace.netns is None:
        return ""
    return f"/proc/{os.getpid()}/fd/{namespace.netns}"


async def _move_to_vm(agent: Agent, namespace: Namespace) -> None:
    """Set up in the VM's own namespace what was given to a pod that turns out to use it.

    When that fails, the adapters are forgotten.
    """
    try:
        moved = [
            (adapter, await adapters.withdraw(namespace, adapter))
            for adapter in namespace.adapters
            if adapter.attached
        ]
        namespace.close()
        namespace.is_vm = True
        for adapter, name in moved:
            await adapters.attach(agent, namespace, adapter, name)
    except BaseException:
        with trio.CancelScope(shield=True):  # system calls only
            await _withdraw_all(namespace)
        namespace.is_vm = False
        raise


async def _withdraw_all(namespace: Namespace) -> None:
    """Take all adapters out and forget them; those that are waited for find that out."""
    for adapter in list(namespace.adapters):
        if adapter.attached:
            await adapters.withdraw(namespace, adapter)
        namespace.adapters.remove(adapter)


async def release(agent: Agent, container_id: str) -> None:
    """Let go of the namespace that a container brought, and take its adapters back.

    Raises OSError when that fails; it can be asked again.
    """
    for namespace in list(agent.networks.table.values()):
        if namespace.owner == container_id:
            async with namespace.lock:
                await _withdraw_all(namespace)
                namespace.owner = namespace.root = ""
                agent.networks.forget_unused(namespace)
            _log.info("network released", extra=fields(namespace=namespace.namespace_id))
