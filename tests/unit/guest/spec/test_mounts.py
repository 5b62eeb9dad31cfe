"""Mounts with prefixes, and those that annotations ask for."""

import pytest

from gcs.errors import InvalidArgumentError, InvalidRequestError
from gcs.guest.spec import mounts
from gcs.guest.spec.mounts import SharedFolder
from gcs.linux.nodes import DeviceNode

Tree = dict[str, object]

DISK = DeviceNode("/dev/sda", "b", 8, 0, 0, 6)


def spec(*given: Tree) -> Tree:
    return {"mounts": [dict(mount) for mount in given], "linux": {}, "root": {}}


def source(text: str) -> Tree:
    return spec({"destination": "/d", "source": text})


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("sandbox://a/b", SharedFolder("sandboxMounts", "a/b")),
        ("sandbox:///a", SharedFolder("sandboxMounts", "a")),
        ("sandbox://", SharedFolder("sandboxMounts", "")),
        ("sandbox://a/../b/.", SharedFolder("sandboxMounts", "b")),
        ("sandbox-tmp://a", SharedFolder("sandboxTmpfsMounts", "a")),
        ("hugepages://2M/a", SharedFolder("hugepages", "2M/a", "2M")),
        ("hugepages://1G", SharedFolder("hugepages", "1G", "1G")),
    ],
)
def test_a_folder_of_the_pod_is_below_its_root(text: str, folder: SharedFolder) -> None:
    """What is after the prefix is a path below it; somebody else says where it is mounted."""
    draft = source(text)
    assert mounts.shared_folders(draft) == (folder,)
    mounts.redirect(draft, {folder: "/pins/0"}, {})
    assert draft == source("/pins/0")


@pytest.mark.parametrize(
    "text",
    [
        "sandbox://..",
        "sandbox://../sandboxMountsX/a",
        "sandbox://a/../../b",
        "sandbox:///../a",
        "sandbox-tmp://../sandboxMounts/a",
        "hugepages://2M/../../sandboxMounts",
        "hugepages://../2M",
        "sandbox://a\0b",
    ],
)
def test_a_path_that_leads_out_of_the_pod_is_refused(text: str) -> None:
    """Also to a folder beside it whose name only begins with its own."""
    with pytest.raises(InvalidArgumentError, match="leads out of"):
        mounts.shared_folders(source(text))


@pytest.mark.parametrize("text", ["hugepages://", "hugepages://a/2M", "hugepages://0M/a"])
def test_huge_pages_have_a_size(text: str) -> None:
    """The first name says it."""
    with pytest.raises(InvalidArgumentError, match="no size of pages"):
        mounts.shared_folders(source(text))


def test_a_page_size_is_not_that_of_a_name_that_goes_away() -> None:
    """The path is cleaned first."""
    assert mounts.shared_folders(source("hugepages://2M/../1G/a")) == (
        SharedFolder("hugepages", "1G/a", "1G"),
    )


@pytest.mark.parametrize(
    "text",
    ["/sandbox://a", "sandbox:/a", "Sandbox://a", "sandboxes://a", "uvm:/a", "", "tmpfs"],
)
def test_any_other_source_stays(text: str) -> None:
    """A prefix is a prefix, exactly."""
    draft = source(text)
    assert mounts.shared_folders(draft) == ()
    assert mounts.vm_paths(draft) == ()
    mounts.redirect(draft, {}, {})
    assert draft == source(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [("uvm:///run/x", "/run/x"), ("uvm://run/x/", "/run/x"), ("uvm:///a/../b", "/b")],
)
def test_a_path_of_the_vm_is_mounted_as_it_is(text: str, path: str) -> None:
    """It has to be there: somebody else looks."""
    draft = source(text)
    assert mounts.vm_paths(draft) == (path,)
    mounts.redirect(draft, {}, {})
    assert draft == source(path)


@pytest.mark.parametrize(
    ("options", "access"), [([], "rwm"), (["bind", "ro"], "r"), (None, "rwm"), (["rw"], "rwm")]
)
def test_a_block_device_loses_its_prefix_and_may_be_used(options: object, access: str) -> None:
    """The mount stays one of the link; the rule is that of the device."""
    mount: Tree = {"destination": "blockdev:///dev/x", "source": "/run/l", "options": options}
    draft = spec(mount)
    assert mounts.block_links(draft) == ("/run/l",)
    mounts.redirect(draft, {}, {"/run/l": DISK})
    assert draft["mounts"] == [{**mount, "destination": "/dev/x"}]
    assert draft["linux"] == {
        "resources": {
            "devices": [{"allow": True, "type": "b", "major": 8, "minor": 0, "access": access}]
        }
    }


def test_a_block_device_s_place_is_absolute() -> None:
    """Whatever the runtime would make of another."""
    draft = spec({"destination": "blockdev://dev/x", "source": "/run/l"})
    with pytest.raises(InvalidArgumentError, match="not an absolute path"):
        mounts.redirect(draft, {}, {"/run/l": DISK})


def test_the_size_of_shm_replaces_a_mount_in_its_place() -> None:
    """The order of mounts counts; a second one would hide the first."""
    before: Tree = {"destination": "/dev", "source": "tmpfs"}
    old: Tree = {"destination": "/dev/shm/", "source": "x", "options": ["size=1k"]}
    after: Tree = {"destination": "/sys"}
    shm = {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=64k"],
    }
    draft = spec(before, old, after, old)
    mounts.set_shm_size(draft, 64)
    assert draft["mounts"] == [before, shm, after]
    mounts.set_shm_size(draft, 64)
    assert draft["mounts"] == [before, shm, after]
    draft = spec(before)
    mounts.set_shm_size(draft, 64)
    assert draft["mounts"] == [before, shm]
    draft = spec(before, old)
    mounts.set_shm_size(draft, 0)
    assert draft == spec(before, old)


def test_the_logs_are_shown_where_the_container_wants_them() -> None:
    """An empty destination shows nothing."""
    draft = spec()
    mounts.add_log_mount(draft, "/p", "")
    assert draft == spec()
    mounts.add_log_mount(draft, "/p", "/var/log/pod/")
    assert draft["mounts"] == [
        {
            "destination": "/var/log/pod",
            "type": "bind",
            "source": "/p/logs",
            "options": ["bind"],
        }
    ]
    with pytest.raises(InvalidArgumentError, match="not an absolute path"):
        mounts.add_log_mount(draft, "/p", "logs")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({}, r"\.mounts: expected an array"),
        (["x"], r"\.mounts\[0\]: expected a map"),
        ([{"source": 7}], r"\.source: expected text"),
    ],
)
def test_mounts_of_the_wrong_type_are_refused_by_path(given: object, path: str) -> None:
    """Never an exception of another kind."""
    with pytest.raises(InvalidRequestError, match=path):
        mounts.shared_folders({"mounts": given})
