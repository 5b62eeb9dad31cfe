"""The network namespace of a spec is read, joined and left out."""

import pytest

from gcs.errors import InvalidRequestError
from gcs.guest.spec import network
from gcs.guest.spec.document import Tree
from gcs.guest.spec.network import Use


def of(*namespaces: object) -> Tree:
    return {"linux": {"namespaces": list(namespaces)}}


def test_the_host_s_network_namespace_is_named_in_the_windows_section() -> None:
    """It is read before the section is dropped."""
    spec: Tree = {"windows": {"network": {"networkNamespace": "guid"}}}
    assert network.namespace_of(spec) == "guid"
    assert network.namespace_of({}) == ""
    with pytest.raises(InvalidRequestError, match="networkNamespace"):
        network.namespace_of({"windows": {"network": {"networkNamespace": 1}}})


@pytest.mark.parametrize(
    ("spec", "use"),
    [
        (of({"type": "pid"}, {"type": "network"}), Use.OWN),
        (of({"type": "network", "path": ""}), Use.OWN),
        (of({"type": "network", "path": "/proc/7/ns/net"}), Use.JOINED),
        (of({"type": "pid"}, "network", 7), Use.VM),
        ({"linux": {}}, Use.VM),
    ],
)
def test_a_namespace_is_made_joined_or_the_vm_s(spec: Tree, use: Use) -> None:
    """What counts is the entry of that type, and whether it has a path."""
    assert network.use_of(spec) is use


def test_a_container_joins_what_is_there_in_place_of_a_new_one() -> None:
    """Entries with a path and those of other types stay as they are."""
    joined = {"type": "network", "path": "/theirs"}
    draft = of({"type": "pid"}, {"type": "network"}, dict(joined))
    network.join(draft, "/ours")
    assert draft == of({"type": "pid"}, {"type": "network", "path": "/ours"}, joined)


def test_the_vm_s_network_is_used_by_naming_none() -> None:
    """Only entries of that type are left out."""
    draft = of({"type": "network"}, "odd", {"type": "pid"}, {"type": "network", "path": "/x"})
    network.drop(draft)
    assert draft == of("odd", {"type": "pid"})
