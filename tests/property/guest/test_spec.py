"""The spec goes through: only what PROTOCOL.md names is changed."""

import copy
import posixpath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcs.errors import GcsError, InvalidArgumentError, InvalidRequestError
from gcs.guest.spec import annotations, fixups, kinds, mounts
from gcs.guest.spec.fixups import Facts, Place, Prepared
from gcs.guest.spec.kinds import Identity, Kind
from gcs.linux.nodes import DeviceNode
from tests.support.strategies import json_trees, text

Tree = dict[str, object]

_maps = st.dictionaries(text, json_trees, max_size=3)
_namespaces = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["pid", "mount", "network"])},
        optional={"path": st.sampled_from(["", "/proc/1/ns/pid"])},
    )
    | json_trees,
    max_size=4,
)
_NODE = DeviceNode("/dev/null", "c", 1, 3, 0, 0)
_IDENTITIES = {
    Kind.STANDALONE: Identity("c1", Kind.STANDALONE),
    Kind.SANDBOX: Identity("c1", Kind.SANDBOX, "c1"),
    Kind.WORKLOAD: Identity("c1", Kind.WORKLOAD, "p1"),
}
_ETC = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]

#: A tree takes 30 ms to draw, and a test has thirty seconds on a machine that may be busy.
_few = settings(max_examples=100)


@st.composite
def specs(draw: st.DrawFn) -> Tree:
    """Return a spec that has what every container needs, and anything else."""
    tree: Tree = dict(draw(_maps))
    tree["process"], tree["root"] = draw(_maps), draw(_maps)
    linux = draw(_maps)
    linux |= draw(st.fixed_dictionaries({}, optional={"namespaces": _namespaces | json_trees}))
    tree["linux"] = linux
    if draw(st.booleans()):
        tree["windows"] = {"network": draw(json_trees)}
    return tree


def prepare(tree: Tree, kind: Kind = Kind.STANDALONE, facts: Facts | None = None) -> Prepared:
    identity = _IDENTITIES[kind]
    place = Place(identity, "/run/c1", "/run/root")
    return fixups.prepare(tree, annotations.read(tree), place, facts or Facts())


def map_in(tree: Tree, name: str) -> Tree:
    value = tree[name]
    assert isinstance(value, dict)
    return value


@_few
@given(specs(), st.sampled_from(Kind))
def test_every_other_member_goes_through(tree: Tree, kind: Kind) -> None:
    """The cgroup is set, `windows` dropped, files are mounted, and all else is what it was."""
    prepared = prepare(tree, kind)
    expected = {key: value for key, value in tree.items() if key != "windows"}
    cgroup = _IDENTITIES[kind].cgroup
    expected["linux"] = {**map_in(tree, "linux"), "cgroupsPath": cgroup}
    found = dict(prepared.spec)
    if kind is not Kind.SANDBOX:
        added = found.pop("mounts")
        assert isinstance(added, list)
        assert [mount["destination"] for mount in added] == _ETC
    assert found == expected
    assert list(found) == list(expected)
    assert prepared.cgroup == cgroup


@_few
@given(specs(), st.sampled_from(Kind))
def test_the_host_s_tree_is_not_changed(tree: Tree, kind: Kind) -> None:
    """Nor can it be through the prepared one."""
    before = copy.deepcopy(tree)
    prepared = prepare(tree, kind).spec
    for member in ("process", "root", "linux"):
        map_in(prepared, member)["added"] = True
    assert tree == before


@_few
@given(specs(), st.sampled_from(Kind))
def test_a_prepared_spec_is_prepared(tree: Tree, kind: Kind) -> None:
    """Doing it again changes nothing."""
    asked = {annotations.SHM_SIZE_KB: "64", annotations.CORE_LIMIT: "1;2"}
    tree["annotations"] = asked
    map_in(tree, "linux")["devices"] = [{"path": "/dev/null"}]
    facts = Facts(nodes={"/dev/null": _NODE})
    once = prepare(tree, kind, facts)
    assert prepare(once.spec, kind, facts) == once


@_few
@given(specs(), st.sampled_from(["process", "root", "linux"]), st.data())
def test_what_every_container_needs_must_be_a_map(
    tree: Tree, member: str, data: st.DataObject
) -> None:
    """Missing or anything else is refused by its path."""
    del tree[member]
    if data.draw(st.booleans()):
        tree[member] = data.draw(json_trees.filter(lambda value: not isinstance(value, dict)))
    for kind, identity in _IDENTITIES.items():
        with pytest.raises(
            InvalidRequestError, match=rf"OciSpecification\.{member}: expected a map"
        ):
            fixups.wanted(tree, annotations.read(tree), identity)
        with pytest.raises(InvalidRequestError, match="expected a map"):
            prepare({**tree, "linux": []}, kind)


@_few
@given(
    st.fixed_dictionaries(
        {"process": json_trees, "root": json_trees, "linux": json_trees},
        optional={
            name: json_trees | st.lists(st.dictionaries(st.just("path"), json_trees))
            for name in ("mounts", "annotations", "windows", "hostname", "hooks")
        },
    )
)
def test_any_tree_is_prepared_or_refused_in_words(tree: Tree) -> None:
    """No type anywhere ends in another exception."""
    try:
        asked = annotations.read(tree)
        identity = kinds.identify(asked, "c1")
        fixups.wanted(tree, asked, identity)
        fixups.prepare(tree, asked, Place(identity, "/b", "/r"), Facts())
    except GcsError as error:
        assert str(error)  # noqa: PT017 - either outcome is fine


_names = st.sampled_from(["", ".", "..", "a", "sandboxMounts", "sandboxMountsX", "b c", "..."])


@given(
    st.sampled_from(["sandbox://", "sandbox-tmp://"]),
    st.lists(_names, max_size=6).map("/".join),
)
def test_a_shared_folder_is_in_the_pod_s_or_refused(prefix: str, path: str) -> None:
    """Wherever `..` stands: what is mounted never leaves the folder."""
    tree: Tree = {"mounts": [{"destination": "/d", "source": prefix + path}], "linux": {}}
    top = "sandboxMounts" if prefix == "sandbox://" else "sandboxTmpfsMounts"
    try:
        (folder,) = mounts.shared_folders(tree)
    except InvalidArgumentError:
        assert ".." in path.split("/")
        return
    assert folder.top == top
    assert not folder.relative.startswith("/")
    assert not {".", ".."} & set(folder.relative.split("/"))
    below = path.lstrip("/")
    assert posixpath.normpath(f"/{below}") == posixpath.normpath(f"/{folder.relative}")


@pytest.mark.parametrize(
    ("namespaces", "owns"),
    [
        (None, False),
        ("pid", False),
        ([], False),
        ([{"type": "mount"}], False),
        ([{"type": "pid"}], True),
        ([{"type": "pid", "path": ""}], True),
        ([{"type": "pid", "path": "/proc/1/ns/pid"}], False),
        ([{"type": "pid", "path": "/x"}, {"type": "pid"}], True),
        ([{"type": "pid"}, {"type": "pid", "path": "/x"}], False),
        (["pid", 7, None, {"type": "pid"}], True),
    ],
)
def test_a_pid_namespace_is_the_container_s_own_without_a_path(
    namespaces: object, owns: bool
) -> None:
    """The last of the list counts, as for the runtime."""
    tree: Tree = {"process": {}, "root": {}, "linux": {"namespaces": namespaces}}
    assert prepare(tree).owns_pid_namespace is owns


@pytest.mark.parametrize(
    ("terminal", "has"),
    [(True, True), (False, False), (None, False), ("true", False), (1, False)],
)
def test_only_true_is_a_terminal(terminal: object, has: bool) -> None:
    """Whatever else stands there is the runtime's to refuse."""
    tree: Tree = {"process": {"terminal": terminal}, "root": {}, "linux": {}}
    assert prepare(tree).has_terminal is has


def test_limits_are_kept_for_execs() -> None:
    """As they stand, or None."""
    limits = [{"type": "RLIMIT_NOFILE", "hard": 7, "soft": 7}]
    tree: Tree = {"process": {"rlimits": limits}, "root": {}, "linux": {}}
    assert prepare(tree).rlimits == limits
    tree["process"] = {}
    assert prepare(tree).rlimits is None
