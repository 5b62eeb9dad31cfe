"""The table of pods: who is in which, and who may come."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gcs.errors import ContainerExistsError, GcsError, Hresult, WrongStateError
from gcs.guest.pods import Pods
from gcs.guest.spec.kinds import Identity, Kind


def sandbox(pod_id: str, container_id: str = "") -> Identity:
    return Identity(container_id or pod_id, Kind.SANDBOX, pod_id, bool(container_id))


def workload(container_id: str, pod_id: str) -> Identity:
    return Identity(container_id, Kind.WORKLOAD, pod_id)


def join(pods: Pods, identity: Identity, *, host_network: bool = False) -> None:
    with pods.joined(identity, f"/run/{identity.container_id}", host_network=host_network):
        pass


def test_a_pod_is_made_by_its_sandbox_and_found_by_its_workloads() -> None:
    """They share its root, its cgroup and its network."""
    pods = Pods()
    join(pods, sandbox("p"), host_network=True)
    with pods.joined(workload("w", "p"), "/run/w", host_network=False) as pod:
        assert (pod.root, pod.cgroup, pod.host_network) == ("/run/p", "/pods/p", True)
    assert pod.members == {"p", "w"}


@pytest.mark.parametrize("pod_id", ["p", "", "w", "../p"])
def test_a_workload_of_no_pod_is_refused(pod_id: str) -> None:
    """With the result that other guests give; nothing is left of it."""
    pods = Pods()
    with pytest.raises(GcsError, match="no pod") as caught:
        join(pods, workload("w", pod_id))
    assert caught.value.hresult == Hresult.FAIL
    assert pods == Pods()


def test_nobody_joins_a_pod_before_its_sandbox_is_created() -> None:
    """Nor one whose sandbox could not be created, which leaves nothing."""
    pods = Pods()
    with (
        pytest.raises(GcsError, match="no pod"),
        pods.joined(sandbox("p"), "/run/p", host_network=False),
    ):
        join(pods, workload("w", "p"))
    assert pods == Pods()


def test_a_workload_that_could_not_be_made_leaves_its_pod() -> None:
    """The pod stays as it was."""
    pods = Pods()
    join(pods, sandbox("p"))
    with (
        pytest.raises(ZeroDivisionError),
        pods.joined(workload("w", "p"), "/run/w", host_network=False),
    ):
        raise ZeroDivisionError
    assert pods.table["p"].members == {"p"}


def test_a_pod_without_its_sandbox_stays_for_its_containers_only() -> None:
    """Nobody joins it, no sandbox takes its id, and the last container takes it along."""
    pods = Pods()
    join(pods, sandbox("p"))
    join(pods, workload("w", "p"))
    pods.leave(pods.table["p"], "p")
    with pytest.raises(GcsError, match="no pod"):
        join(pods, workload("v", "p"))
    with pytest.raises(WrongStateError, match="still has containers: w"):
        join(pods, sandbox("p"))
    pods.leave(pods.table["p"], "w")
    assert pods == Pods()
    join(pods, sandbox("p"))
    assert pods.table["p"].is_open


def test_two_sandboxes_do_not_share_a_pod() -> None:
    """As two containers of a virtual pod's id would."""
    pods = Pods()
    join(pods, sandbox("v", "a"))
    with pytest.raises(ContainerExistsError, match="pod v"):
        join(pods, sandbox("v", "b"))
    assert pods.table["v"].members == {"a"}


class PodMachine(RuleBasedStateMachine):
    """Containers come and go in any order; the table is what a simple model says."""

    def __init__(self) -> None:
        super().__init__()
        self.pods = Pods()
        #: (pod, container) of everything that was made, and pods that have their sandbox
        self.made: set[tuple[str, str]] = set()
        self.open: set[str] = set()

    @rule(pod=st.sampled_from("ab"), fails=st.booleans())
    def add_sandbox(self, pod: str, fails: bool) -> None:
        """Make a pod, unless anything of one is there."""
        is_free = not any(name == pod for name, _ in self.made)
        self.attempt(sandbox(pod), is_free, fails)
        if is_free and not fails:
            self.made.add((pod, pod))
            self.open.add(pod)

    @rule(pod=st.sampled_from("ab"), container=st.sampled_from("xyz"), fails=st.booleans())
    def add_workload(self, pod: str, container: str, fails: bool) -> None:
        """Join a pod that has its sandbox. Ids in use are refused before that."""
        if (pod, container) in self.made:
            return
        self.attempt(workload(container, pod), pod in self.open, fails)
        if pod in self.open and not fails:
            self.made.add((pod, container))

    def attempt(self, identity: Identity, is_possible: bool, fails: bool) -> None:
        try:
            with self.pods.joined(identity, "/run", host_network=False):
                assert is_possible
                assert 1 // (not fails)
        except GcsError:
            assert not is_possible
        except ZeroDivisionError:
            assert fails

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Delete any container that there is."""
        if not self.made:
            return
        pod, container = data.draw(st.sampled_from(sorted(self.made)))
        self.pods.leave(self.pods.table[pod], container)
        self.made.remove((pod, container))
        if pod == container:
            self.open.remove(pod)

    @invariant()
    def the_table_is_the_model(self) -> None:
        """Every pod has a container, and knows whether others may join."""
        found = {(p.pod_id, name) for p in self.pods.table.values() for name in p.members}
        assert found == self.made
        assert {p.pod_id for p in self.pods.table.values() if p.is_open} == self.open


TestPods = PodMachine.TestCase
TestPods.settings = settings(max_examples=50, stateful_step_count=20)
