"""The table of pods. State only, like the agent's own tables.

A pod is there from the Create of its sandbox until its last container is deleted. Only while
the sandbox is there can others join.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from gcs.errors import ContainerExistsError, GcsError, WrongStateError
from gcs.guest.spec.kinds import Identity, Kind

__all__ = ["Pod", "Pods"]


@dataclass(slots=True)
class Pod:
    """What the containers of a pod have in common."""

    pod_id: str
    #: id of its first container
    sandbox_id: str
    #: folder of the files and mounts that they share
    root: str
    cgroup: str
    #: whether they use the VM's own network namespace
    host_network: bool = False
    #: whether its sandbox has been created and is not deleted yet
    is_open: bool = False
    #: ids of its containers, the sandbox among them
    members: set[str] = field(default_factory=set)
    #: held while folders that its containers share are made or removed
    sharing: trio.Lock = field(default_factory=trio.Lock)

    def is_shared_by_others(self, container_id: str) -> bool:
        """Tell whether anybody but this workload and the sandbox is in the pod."""
        return bool(self.members - {container_id, self.sandbox_id})


@dataclass(slots=True)
class Pods:
    """All pods, by id."""

    table: dict[str, Pod] = field(default_factory=dict)

    @contextmanager
    def joined(self, identity: Identity, bundle: str, *, host_network: bool) -> Iterator[Pod]:
        """Hold a place in a pod while a container is made; it stays only on success.

        For a sandbox the pod is made. Raises GcsError when there is no such pod, and
        ContainerExistsError or WrongStateError when there is one that a sandbox can't make.
        """
        pod = self._reserve(identity, bundle, host_network=host_network)
        pod.members.add(identity.container_id)
        try:
            yield pod
        except BaseException:
            self.leave(pod, identity.container_id)
            raise
        if identity.kind is Kind.SANDBOX:
            pod.is_open = True

    def _reserve(self, identity: Identity, bundle: str, *, host_network: bool) -> Pod:
        pod = self.table.get(identity.pod_id)
        if identity.kind is Kind.WORKLOAD:
            if pod is None or not pod.is_open:
                raise GcsError(f"container {identity.container_id}: no pod {identity.pod_id!r}")
            return pod
        if pod is not None and not pod.is_open:
            others = ", ".join(sorted(pod.members))
            raise WrongStateError(f"pod {pod.pod_id} still has containers: {others}")
        if pod is not None:
            raise ContainerExistsError(f"pod {pod.pod_id} already exists")
        pod = Pod(
            pod_id=identity.pod_id,
            sandbox_id=identity.container_id,
            root=identity.root(bundle),
            cgroup=identity.pod_cgroup,
            host_network=host_network,
        )
        self.table[pod.pod_id] = pod
        return pod

    def leave(self, pod: Pod, container_id: str) -> None:
        """Take a container out of its pod; the pod goes with the last one."""
        pod.members.discard(container_id)
        if container_id == pod.sandbox_id:
            pod.is_open = False
        if not pod.members:
            self.table.pop(pod.pod_id, None)
