"""What a container needs of its pod and of the VM: made before it, and removed after it."""

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    ExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import replace
from functools import partial
from typing import TypeVar

import trio

from gcs.errors import ContainerExistsError, WrongStateError
from gcs.guest import devices, pod_network, provision, users
from gcs.guest.agent import Agent, Container
from gcs.guest.log import fields
from gcs.guest.spec import annotations, fixups, kinds, network
from gcs.guest.spec.annotations import Annotations
from gcs.guest.spec.document import Tree, rootfs_of
from gcs.guest.spec.fixups import Facts, Place, Prepared, Wanted
from gcs.guest.spec.kinds import Identity, Kind
from gcs.guest.spec.network import Use
from gcs.linux import cgroup
from gcs.linux.nodes import DeviceNode

__all__ = ["leave", "provisioned"]

_log = logging.getLogger("gcs.pod")

_Found = TypeVar("_Found")

#: For all assigned devices of a container. Their drivers may be loaded only now, and a GPU's
#: takes its time; other guests wait as long, and hosts wait five minutes for an answer.
_ASSIGNED_TIMEOUT_S = 60.0


@asynccontextmanager
async def provisioned(
    agent: Agent, container: Container, spec: Tree
) -> AsyncIterator[Prepared]:
    """Hold all that a container needs while it is made; yield its spec for the runtime.

    What was made stays only if the block succeeds.
    """
    asked = annotations.read(spec)
    for warning in asked.warnings:
        _log.warning(warning, extra=fields(cid=container.container_id))
    identity = kinds.identify(asked, container.container_id)
    wanted = fixups.wanted(spec, asked, identity)
    with ExitStack() as held:
        place = _join(agent, container, identity, asked, held)
        facts = await _find(wanted, rootfs_of(spec, container.bundle))
        async with _sharing(container):
            layout = await trio.to_thread.run_sync(
                provision.lay_out, spec, place, wanted, asked
            )
        try:
            facts = replace(
                facts,
                security_context=layout.security_context,
                shared_folders=layout.pins,
            )
            async with _network(agent, place, spec) as path:
                place = replace(place, network_path=path)
                prepared = fixups.prepare(spec, asked, place, facts)
                if asked.log_path:
                    container.log = (provision.logs_of(place.root), asked.log_path)
                yield prepared
        except BaseException as error:
            with trio.CancelScope(shield=True):  # system calls only
                await _undo(container, layout, error)
            raise
        layout.undo.pop_all()
        with trio.CancelScope(shield=True):  # the container is there by now, and stays
            await _unpin(container, layout)


def _join(
    agent: Agent,
    container: Container,
    identity: Identity,
    asked: Annotations,
    held: ExitStack,
) -> Place:
    """Find the container's place, in a pod of which it becomes a member."""
    _check_bundle(agent, container)
    _check_cgroup(agent, identity)
    bundle, host_network = container.bundle, asked.host_network
    if identity.kind is Kind.STANDALONE:
        return Place(identity, bundle, bundle, host_network)
    pod = held.enter_context(agent.pods.joined(identity, bundle, host_network=host_network))
    container.pod = pod
    return Place(identity, bundle, pod.root, pod.host_network)


def _check_bundle(agent: Agent, container: Container) -> None:
    """Raise WrongStateError if the bundle is another container's, which would lose it."""
    for other in agent.containers.values():
        if other is not container and other.bundle == container.bundle:
            raise WrongStateError(f"{other.bundle} is container {other.container_id}'s")


def _check_cgroup(agent: Agent, identity: Identity) -> None:
    """Raise ContainerExistsError if a pod's cgroup is a container's own, or the reverse."""
    own = identity.container_id
    if identity.pod_id not in ("", own) and identity.kind is Kind.SANDBOX:
        others, name = set(agent.containers), identity.pod_id
    else:
        others, name = {id_ for id_ in agent.pods.table if id_ != identity.pod_id}, own
    if name in others:
        raise ContainerExistsError(f"{name} is the id of a container and of a pod")


async def _find(wanted: Wanted, rootfs: str) -> Facts:
    """Look up what a spec names in the VM and in the container's root."""
    facts = await trio.to_thread.run_sync(provision.find, wanted)
    if wanted.username:
        user = await trio.to_thread.run_sync(users.find, rootfs, wanted.username)
        facts = replace(facts, user=user)
    return await _find_assigned(wanted, facts) if wanted.assigned else facts


async def _find_assigned(wanted: Wanted, facts: Facts) -> Facts:
    """Wait for the devices that were assigned to the VM for a container."""
    gpus, found = list[str](), list[DeviceNode]()
    deadline = trio.current_time() + _ASSIGNED_TIMEOUT_S
    for device in wanted.assigned:
        find, what = partial(provision.find_function, device.instance_id), device.instance_id
        function = await _wait_for(find, f"assigned device {what}", deadline)
        if device.is_gpu:
            gpus.append(function)
            continue
        find_nodes = partial(provision.find_nodes, function)
        found += await _wait_for(find_nodes, f"device node of {what}", deadline)
    if gpus:
        program = await trio.to_thread.run_sync(provision.gpu_program)
        facts = replace(facts, gpu_program=program, gpu_locations=tuple(gpus))
    return replace(facts, assigned_nodes=tuple(found), environment=dict(os.environ))


async def _wait_for(find: Callable[[], _Found | None], what: str, deadline: float) -> _Found:
    return await devices.wait_for(find, what, max(0, deadline - trio.current_time()))


@asynccontextmanager
async def _network(agent: Agent, place: Place, spec: Tree) -> AsyncIterator[str]:
    """Hold the network namespace that a container brings; yield its path if it is there."""
    use = Use.VM if place.host_network else network.use_of(spec)
    if place.identity.kind is Kind.WORKLOAD or use is Use.JOINED:
        yield ""  # it uses that of another container
        return
    name, container_id = network.namespace_of(spec), place.identity.container_id
    claim = pod_network.claimed(agent, container_id, name, place.root, is_vm=use is Use.VM)
    async with claim as namespace:
        yield pod_network.path_of(namespace)


def _sharing(container: Container) -> AbstractAsyncContextManager[object]:
    return nullcontext() if container.pod is None else container.pod.sharing


async def _undo(container: Container, layout: provision.Layout, error: BaseException) -> None:
    """Remove what was made; folders that others may have found meanwhile stay."""
    pod = container.pod
    async with _sharing(container):
        if pod is not None and pod.is_shared_by_others(container.container_id):
            layout.undo_shared.pop_all()
        for stack in (layout.unpin, layout.undo, layout.undo_shared):
            try:
                await trio.to_thread.run_sync(stack.close)
            except OSError as failure:
                error.add_note(f"undoing it: {failure}")


async def _unpin(container: Container, layout: provision.Layout) -> None:
    try:
        await trio.to_thread.run_sync(layout.unpin.close)
    except OSError as error:
        members = fields(cid=container.container_id, error=str(error))
        _log.warning("a mount of a folder of the pod is left", extra=members)


async def leave(agent: Agent, container: Container) -> None:
    """Remove what a container has of its pod, and the pod with its last container.

    Raises OSError when something can't be removed; then it can be asked again. From the
    beginning of a sandbox's deletion nobody joins its pod.
    """
    pod = container.pod
    if pod is None:
        await pod_network.release(agent, container.container_id)
        return
    if container.container_id == pod.sandbox_id:
        pod.is_open = False
        await trio.to_thread.run_sync(provision.tear_down, pod.root)
        is_own = pod.root == container.bundle  # which is removed with the container
        if not (is_own or await trio.to_thread.run_sync(provision.remove_folder, pod.root)):
            agent.remains.add(pod.root)
    if pod.members == {container.container_id}:
        await pod_network.release(agent, pod.sandbox_id)
        await trio.to_thread.run_sync(cgroup.remove, pod.cgroup)
    agent.pods.leave(pod, container.container_id)
    container.pod = None
