"""What is made in the VM for a container, and that nothing of it stays, on the kernel."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gcs.errors import InvalidArgumentError, NotFoundError
from gcs.guest import provision
from gcs.guest.spec import annotations, fixups
from gcs.guest.spec.fixups import Place
from gcs.guest.spec.kinds import Identity, Kind
from gcs.linux import cgroup, mounts, syscall
from tests.support.namespace import private_mounts

pytestmark = pytest.mark.root

Tree = dict[str, object]

SANDBOX = Identity("p", Kind.SANDBOX, "provision-test")
WORKLOAD = Identity("w", Kind.WORKLOAD, "provision-test")
STANDALONE = Identity("c", Kind.STANDALONE)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder of its own, in namespaces with nothing but version 2 cgroups."""
    with private_mounts():
        syscall.mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
        syscall.mount("tmpfs", str(tmp_path), "tmpfs")
        yield tmp_path
        assert not cgroup.folder("/pods/provision-test").exists()


def spec(**members: object) -> Tree:
    return {"process": {}, "linux": {}, "root": {"path": "rootfs"}, **members}


def lay_out(tree: Tree, identity: Identity, folder: Path) -> provision.Layout:
    place = Place(identity, str(folder / "pods/bundle"), str(folder / "pods/bundle"))
    asked = annotations.read(tree)
    wanted = fixups.wanted(tree, asked, identity)
    return provision.lay_out(tree, place, wanted, asked)


def laid_out(tree: Tree, identity: Identity, folder: Path) -> provision.Layout:
    """Do the same, and what follows on a success of the runtime."""
    layout = lay_out(tree, identity, folder)
    layout.unpin.close()
    return layout


def content(folder: Path) -> dict[str, str]:
    """Return the modes of everything below a folder."""
    return {
        str(path.relative_to(folder)): stat.filemode(path.lstat().st_mode)
        for path in sorted(folder.rglob("*"))
    }


def mounted(folder: Path) -> list[str]:
    return [str(Path(m.target).relative_to(folder)) for m in mounts.below(str(folder))][::-1]


def test_a_sandbox_gets_folders_files_and_mounts(folder: Path) -> None:
    """With the modes that containers need, whatever the umask says."""
    umask = os.umask(0o077)
    try:
        layout = lay_out(spec(hostname="box"), SANDBOX, folder)
    finally:
        os.umask(umask)
    root = folder / "pods/bundle"
    assert content(root) == {
        "hostname": "-rw-r--r--",
        "hosts": "-rw-r--r--",
        "hugepages": "drwxr-xr-x",
        "logs": "drwxrwxrwx",
        "resolv.conf": "-rw-r--r--",
        "sandboxMounts": "drwxr-xr-x",
        "sandboxTmpfsMounts": "drwxr-xr-x",
    }
    assert (root / "hostname").read_text() == "box\n"
    assert "127.0.0.1 box\n" in (root / "hosts").read_text()
    assert mounted(root) == [
        "sandboxMounts",
        "sandboxTmpfsMounts",
        "sandboxTmpfsMounts",
        "hugepages",
    ]
    assert cgroup.folder("/pods/provision-test").is_dir()
    layout.undo.close()
    assert content(folder) == {}
    assert mounted(folder) == ["."]


def test_without_a_hostname_it_is_the_vm_s(folder: Path) -> None:
    """A standalone container gets its files in its bundle, and no folders."""
    with lay_out(spec(), STANDALONE, folder).undo:
        name = (folder / "pods/bundle/hostname").read_text()
        assert name == f"{socket.gethostname()}\n"
        assert len(content(folder / "pods/bundle")) == 3


def test_a_workload_gets_what_its_mounts_ask_for(folder: Path) -> None:
    """What is there already stays when this is undone."""
    root = folder / "pods/bundle"
    sources = ["sandbox://old/new", "sandbox-tmp://t", "hugepages://2M/h", "sandbox://file"]
    tree = spec(mounts=[{"destination": "/d", "source": source} for source in sources])
    with lay_out(spec(), SANDBOX, folder).undo:
        (root / "sandboxMounts/old").mkdir(mode=0o700)
        (root / "sandboxMounts/file").write_text("x")
        layout = laid_out(tree, WORKLOAD, folder)
        made = ("sandboxMounts/old/new", "sandboxTmpfsMounts/t", "hugepages/2M/h")
        assert {content(root)[path] for path in made} == {"drwxrwxrwx"}
        assert mounts.at(f"{root}/hugepages/2M/h")[0].fstype == "hugetlbfs"
        laid_out(tree, WORKLOAD, folder)  # a second one finds all of it
        assert len(mounts.at(f"{root}/hugepages/2M/h")) == 1
        layout.undo.close()
        assert set(made) <= set(content(root))  # for whoever else has found them
        layout.undo_shared.close()
        assert not set(made) & set(content(root))
        assert content(root)["sandboxMounts/old"] == "drwx------"
        (root / "sandboxMounts/old").rmdir()
        (root / "sandboxMounts/file").unlink()
    assert content(folder) == {}


@pytest.mark.parametrize("source", ["sandbox://link", "sandbox://link/etc", "sandbox://a/link"])
def test_a_link_that_a_container_made_does_not_lead_out_of_the_pod(
    folder: Path, source: str
) -> None:
    """The next container would see the VM's files at its mount."""
    root = folder / "pods/bundle"
    with lay_out(spec(), SANDBOX, folder).undo:
        (root / "sandboxMounts/a").mkdir()
        links = (root / "sandboxMounts/link", root / "sandboxMounts/a/link")
        for link in links:
            link.symlink_to("/")
        tree = spec(mounts=[{"destination": "/d", "source": source}])
        with pytest.raises(OSError, match="link"):
            lay_out(tree, WORKLOAD, folder)
        for link in links:
            link.unlink()
        (root / "sandboxMounts/a").rmdir()


def test_a_folder_is_mounted_as_it_was_whatever_takes_its_place(folder: Path) -> None:
    """A container may swap it for a link just before the runtime comes to it."""
    root = folder / "pods/bundle"
    with lay_out(spec(), SANDBOX, folder).undo:
        tree = spec(mounts=[{"destination": "/d", "source": "sandbox://a"}])
        layout = lay_out(tree, WORKLOAD, folder)
        (pin,) = map(Path, layout.pins.values())
        assert not pin.is_relative_to(root / "sandboxMounts")
        (root / "sandboxMounts/a/file").write_text("x")
        (root / "sandboxMounts/a").rename(root / "sandboxMounts/b")
        (root / "sandboxMounts/a").symlink_to("/")
        assert [path.name for path in pin.iterdir()] == ["file"]
        before = mounted(root)
        layout.unpin.close()
        assert set(before) - set(mounted(root)) == {"pins/0"}
        assert not pin.parent.exists()
        (root / "sandboxMounts/a").unlink()
        (root / "sandboxMounts/b/file").unlink()
        (root / "sandboxMounts/b").rmdir()


def test_a_size_of_pages_that_the_machine_lacks_leaves_nothing(folder: Path) -> None:
    """The kernel refuses it after its folder was made."""
    root = folder / "pods/bundle"
    with lay_out(spec(), SANDBOX, folder).undo:
        before = content(root)
        tree = spec(mounts=[{"destination": "/d", "source": "hugepages://3M/h"}])
        with pytest.raises(OSError, match="hugetlbfs"):
            lay_out(tree, WORKLOAD, folder)
        assert content(root) == before


def test_a_hostname_of_a_workload_is_refused(folder: Path) -> None:
    """It would differ from the file that it shares."""
    with pytest.raises(InvalidArgumentError, match="hostname 'other'"):
        lay_out(spec(hostname="other"), WORKLOAD, folder)


def test_limits_that_can_not_be_set_fail_the_sandbox(folder: Path) -> None:
    """There are no controllers here. Nothing of the sandbox stays."""
    tree = spec(linux={"resources": {"memory": {"limit": 1 << 30}}})
    with pytest.raises(OSError, match=r"memory\.max"):
        lay_out(tree, SANDBOX, folder)
    assert content(folder) == {}
    assert mounted(folder) == ["."]


def test_a_kernel_without_swap_keeps_any_limit_of_it(folder: Path) -> None:
    """Hosts give one with each limit of memory; here is no file for it."""
    for swap in (-1, 1 << 20, 1 << 30):
        tree = spec(linux={"resources": {"memory": {"swap": swap}}})
        layout = laid_out(tree, SANDBOX, folder)
        assert not (cgroup.folder("/pods/provision-test") / "memory.swap.max").exists()
        layout.undo.close()


def test_the_host_s_certificate_is_shown_in_the_container_s_root(folder: Path) -> None:
    """Unless that is not wanted, and not without one."""
    rootfs = folder / "pods/bundle/rootfs"
    rootfs.mkdir(parents=True)
    certificate = {annotations.HOST_CERTIFICATE: "Y2VydA=="}
    layout = lay_out(spec(annotations=certificate), STANDALONE, folder)
    assert layout.security_context.startswith("security-context-")
    shown = rootfs / layout.security_context
    assert content(rootfs) == {
        layout.security_context: "drwxr-xr-x",
        f"{layout.security_context}/host-amd-cert-base64": "-rw-r--r--",
    }
    assert (shown / "host-amd-cert-base64").read_text() == "Y2VydA=="
    layout.undo.close()
    unwanted = {**certificate, annotations.SECURITY_CONTEXT: "false"}
    for given in (unwanted, {}):
        layout = lay_out(spec(annotations=given), STANDALONE, folder)
        assert layout.security_context == ""
        layout.undo.close()
    assert content(rootfs) == {}


def test_a_sandbox_is_torn_down_with_what_was_mounted_in_it(folder: Path) -> None:
    """By containers and by the host. It can be asked twice; files stay for their own end."""
    root = folder / "pods/bundle"
    layout = lay_out(spec(), SANDBOX, folder)
    for name in ("sandboxMounts/disk", "sandboxTmpfsMounts/t"):
        (root / name).mkdir()
        syscall.mount("tmpfs", str(root / name), "tmpfs")
    provision.tear_down(str(root))
    assert mounted(root) == []
    provision.tear_down(str(root))
    assert (root / "sandboxMounts/disk").is_dir()
    layout.undo.pop_all()
    cgroup.remove("/pods/provision-test")


def test_what_a_workload_names_in_the_vm_is_found_or_refused() -> None:
    """Devices by their nodes, block devices by their links, paths by being there."""
    tree = spec(
        linux={"devices": [{"path": "/dev/null"}]},
        mounts=[{"destination": "/d", "source": "uvm:///etc"}],
    )
    wanted = fixups.wanted(tree, annotations.read(tree), WORKLOAD)
    assert provision.find(wanted).nodes["/dev/null"].major == 1
    tree = spec(mounts=[{"destination": "/d", "source": "uvm:///nope"}])
    wanted = fixups.wanted(tree, annotations.read(tree), WORKLOAD)
    with pytest.raises(NotFoundError, match="/nope"):
        provision.find(wanted)
    tree = spec(annotations={annotations.PRIVILEGED: "1"})
    wanted = fixups.wanted(tree, annotations.read(tree), WORKLOAD)
    assert len(provision.find(wanted).nodes) > 3


GUID = "0a1b2c3d-0000-4000-8000-0123456789ab"


def test_an_assigned_device_is_found_by_its_guid_or_its_address(tmp_path: Path) -> None:
    """Once it is there; the nodes are those that its driver has made."""
    address = "0001:00:00.0"
    assert provision.find_function(GUID, tmp_path) is None
    assert provision.find_function(address, tmp_path) is None
    with pytest.raises(OSError, match="no GUID"):
        provision.find_function("../../etc", tmp_path)
    function = tmp_path / f"bus/vmbus/devices/{GUID}/pci0001:00/{address}"
    function.mkdir(parents=True)
    (tmp_path / "bus/pci/devices").mkdir(parents=True)
    (tmp_path / "bus/pci/devices" / address).symlink_to(function)
    assert provision.find_function(GUID, tmp_path) == address
    assert provision.find_function(address, tmp_path) == address
    assert provision.find_nodes(address, tmp_path) is None
    (tmp_path / "dev/char").mkdir(parents=True)
    (tmp_path / "dev/char/1:3").symlink_to(function)
    (null,) = provision.find_nodes(address, tmp_path) or ()
    assert null.path == "/dev/null"


def test_a_pod_s_folder_goes_with_its_last_container(folder: Path) -> None:
    """Both layouts of bundles; the folder above is a host's own otherwise."""
    syscall.mount("tmpfs", "/run", "tmpfs")
    for name in ("gcs/pods/p/a", "gcs/pods/p/b", "gcs/c/x", "gcs/c/virtual-pods/v"):
        Path("/run", name).mkdir(parents=True)
    assert provision.remove_folder("/run/gcs/pods/p/a")
    assert provision.remove_folder("/run/gcs/c/x")
    assert set(content(Path("/run/gcs"))) == {
        "c",
        "c/virtual-pods",
        "c/virtual-pods/v",
        "pods",
        "pods/p",
        "pods/p/b",
    }
    assert provision.remove_folder("/run/gcs/pods/p/b")
    assert provision.remove_folder("/run/gcs/c/virtual-pods/v")
    assert set(content(Path("/run/gcs"))) == {"c", "pods"}
