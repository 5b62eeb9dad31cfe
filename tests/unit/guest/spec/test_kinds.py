"""Which kind a container is, and where it is."""

import pytest

from gcs.errors import GcsError, Hresult, InvalidArgumentError
from gcs.guest.spec import annotations, kinds
from gcs.guest.spec.kinds import Identity, Kind

TYPE, SANDBOX, VIRTUAL = (
    annotations.CONTAINER_TYPE,
    annotations.SANDBOX_ID,
    annotations.VIRTUAL_POD_ID,
)


def identify(given: dict[str, str], container_id: str = "c") -> Identity:
    return kinds.identify(annotations.read({"annotations": dict(given)}), container_id)


@pytest.mark.parametrize(
    ("given", "kind", "pod", "cgroup"),
    [
        ({}, Kind.STANDALONE, "", "/pods/c"),
        ({SANDBOX: "s"}, Kind.STANDALONE, "", "/pods/c"),
        ({TYPE: "sandbox"}, Kind.SANDBOX, "c", "/pods/c/c"),
        ({TYPE: "sandbox", SANDBOX: "other"}, Kind.SANDBOX, "c", "/pods/c/c"),
        ({TYPE: "container", SANDBOX: "s"}, Kind.WORKLOAD, "s", "/pods/s/c"),
        ({VIRTUAL: "c"}, Kind.SANDBOX, "c", "/pods/c/c"),
        ({TYPE: "container", VIRTUAL: "c", SANDBOX: "s"}, Kind.SANDBOX, "c", "/pods/c/c"),
        ({TYPE: "sandbox", VIRTUAL: "v"}, Kind.SANDBOX, "v", "/pods/v/c"),
        ({TYPE: "container", VIRTUAL: "v", SANDBOX: "s"}, Kind.WORKLOAD, "v", "/pods/v/c"),
        ({TYPE: "container", VIRTUAL: "v"}, Kind.WORKLOAD, "v", "/pods/v/c"),
    ],
)
def test_annotations_tell_the_kind_the_pod_and_the_cgroup(
    given: dict[str, str], kind: Kind, pod: str, cgroup: str
) -> None:
    """A virtual pod goes before the pod that its VM was made for."""
    identity = identify(given)
    assert (identity.kind, identity.pod_id, identity.cgroup) == (kind, pod, cgroup)
    assert identity.pod_cgroup == (f"/pods/{pod}" if pod else "")
    assert identity.is_virtual is (VIRTUAL in given)


@pytest.mark.parametrize("text", ["", "Sandbox", "pod", "sandbox "])
def test_a_container_type_that_is_not_known_is_refused(text: str) -> None:
    """With the result that other guests give: hosts know no better one."""
    with pytest.raises(GcsError, match="container-type") as caught:
        identify({TYPE: text})
    assert caught.value.hresult == Hresult.FAIL


@pytest.mark.parametrize("given", [{TYPE: "container"}, {TYPE: "container", SANDBOX: ""}])
def test_a_workload_names_its_pod(given: dict[str, str]) -> None:
    """Without a name it is refused."""
    with pytest.raises(GcsError, match="sandbox-id is empty") as caught:
        identify(given)
    assert caught.value.hresult == Hresult.FAIL


@pytest.mark.parametrize("text", ["..", ".", "/etc", "../x", "a/b", "a\0"])
def test_a_virtual_pod_s_id_is_a_folder_s_name(text: str) -> None:
    """It becomes the name of a folder and of a cgroup."""
    with pytest.raises(InvalidArgumentError, match="virtual-pod-id"):
        identify({VIRTUAL: text})


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ({}, "/run/gcs/pods/p/c"),
        ({TYPE: "sandbox"}, "/run/gcs/pods/p/c"),
        ({VIRTUAL: "c"}, "/run/gcs/pods/p/virtual-pods/c"),
    ],
)
def test_files_are_in_the_bundle_or_beside_those_of_virtual_pods(
    given: dict[str, str], root: str
) -> None:
    """Both layouts of bundles are a host's choice; nothing is derived from an id."""
    assert identify(given).root("/run/gcs/pods/p/c") == root
    v1 = "/run/gcs/c/virtual-pods/c" if VIRTUAL in given else "/run/gcs/c/c"
    assert identify(given).root("/run/gcs/c/c") == v1
