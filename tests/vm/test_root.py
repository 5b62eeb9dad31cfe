"""The VM's own root in both boot forms: small, the image's to the byte, nobody's to write."""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from initramfs.recipes import kernel
from tests.support.stage import ROOT, Stage

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

#: What a VM of each form runs the seven-layer container with.
_MEMORY = {"initrd": "128M", "pmem": "64M"}
#: File systems of the kernel, and where state may be.
_WRITABLE = ("/dev", "/proc", "/run", "/sys", "/tmp")
_SCRIPT = (ROOT / "tests/support/covered_root.py").read_text()
_PYTHON = ("/usr/bin/python3.11", "-ISBc")


@dataclass(frozen=True)
class Booted:
    """A VM of one form in which the seven-layer container runs."""

    form: str
    stage: Stage

    def vm(self, *words: str) -> str:
        """Run a program of the VM itself, as root."""
        done = self.stage.run("exec", "--vm", "nyan", *words, timeout_s=200)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()


@pytest.fixture(scope="module", params=_MEMORY)
def booted(gcsctl_for_module: Stage, request: pytest.FixtureRequest) -> Iterator[Booted]:
    """A VM with room for what tests run in it."""
    with _running(gcsctl_for_module, str(request.param), "192M") as booted:
        yield booted


@contextmanager
def _running(stage: Stage, form: str, memory: str) -> Iterator[Booted]:
    words = ("run", "-d", "--name", "nyan", "--boot", form, "--memory", memory)
    done = stage.run(*words, str(stage.image), "sleep", "3000", timeout_s=300)
    assert done.returncode == 0, done.stderr
    yield Booted(form, stage)
    stage.run("rm", "-f", "nyan")
    assert stage.leftovers() == []


@pytest.mark.parametrize("form", _MEMORY)
def test_the_seven_layer_container_runs_in_a_small_vm(gcsctl: Stage, form: str) -> None:
    """Seven layers, each by DAX, and one more process beside its init."""
    with _running(gcsctl, form, _MEMORY[form]) as booted:
        mounts = booted.vm("cat", "/proc/mounts")
        layers = re.findall(r"^/dev/pmem\d+ /run/layers/p\d+ .*\bdax", mounts, re.MULTILINE)
        assert len(layers) == 7
        done = gcsctl.run("exec", "nyan", "sh", "-c", "echo $((6 * 7))", timeout_s=200)
        assert (done.returncode, done.stdout) == (0, b"42\n")
        assert "Out of memory" not in booted.vm("dmesg")


def test_the_root_is_of_its_form_and_read_only(booted: Booted) -> None:
    """By the kernel's own words; with DAX the VM has no copy of it."""
    (root,) = re.findall(r"^\S+ / (\S+) (\S+) ", booted.vm("cat", "/proc/mounts"), re.M)
    assert root[0] == {"initrd": "overlay", "pmem": "erofs"}[booted.form]
    options = root[1].split(",")
    assert {"ro", "nosuid", "nodev"} <= set(options)
    assert (booted.form == "pmem") == ("dax=always" in options)


def test_root_can_write_nowhere_but_where_state_may_be(booted: Booted) -> None:
    """Every mount in the VM's namespace is read-only, the kernel's, or a container's."""
    found = re.findall(r"^\S+ (\S+) \S+ rw\b", booted.vm("cat", "/proc/mounts"), re.M)
    assert found
    strange = [at for at in found if not re.match(rf"({'|'.join(_WRITABLE)})(/|$)", at)]
    assert strange == []
    # A folder for each place that programs like to write to.
    script = (
        "for d in / /etc /var /root /usr/lib/gcs /bin /mnt; do touch $d/x && echo $d; done; :"
    )
    assert booted.vm("sh", "-c", f"({script}) 2>/dev/null") == ""


def test_no_remount_and_no_covered_root_can_be_written(booted: Booted) -> None:
    """Nor is anything of the image left below it, where the kernel has unpacked an initrd."""
    found = json.loads(booted.vm(*_PYTHON, _SCRIPT))
    refusal = "Read-only file system"
    for what in ("as it is", "after remount", "after remount bind", "below"):
        assert found[what] == refusal, found
    assert found["root taken off"] == found["to what was below"] == "done"
    assert found["files below"] == []


def test_nothing_is_suid_and_no_file_is_for_all_to_write(booted: Booted) -> None:
    """There is no second user in the VM, and no way to become one."""
    script = "find / -xdev -perm /6000; find / -xdev ! -type l -perm /0022 ! -path /tmp"
    assert booted.vm("sh", "-c", script) == ""


def test_state_is_in_memory_that_nothing_runs_from(booted: Booted) -> None:
    """/run and /tmp have limits, and are noexec."""
    mounts = dict(
        re.findall(r"^\S+ (/run|/tmp) tmpfs (\S+)", booted.vm("cat", "/proc/mounts"), re.M)
    )
    for options in mounts.values():
        assert {"nosuid", "nodev", "noexec"} <= set(options.split(","))
        assert re.search(r"\bsize=\d+k\b", options)
    assert set(mounts) == {"/run", "/tmp"}


def test_the_only_programs_are_init_and_the_agent(booted: Booted) -> None:
    """No shell waits for anybody: what runs has been asked for, and nothing listens on TCP."""
    script = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null; echo; done"
    running = [line.split() for line in booted.vm("sh", "-c", script).splitlines() if line]
    asked_for = ("sleep", "sh", "tr", "runc", "crun")
    names = {words[0].rpartition("/")[2] for words in running} - set(asked_for)
    assert names == {"init", "python3.11"}, running
    listening = booted.vm("sh", "-c", "cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp")
    assert len(listening.splitlines()) == 3, listening


def test_there_is_no_package_manager_and_no_compiler(booted: Booted) -> None:
    """Nor a way in for somebody who has a terminal."""
    names = (
        *("apk", "apt", "apt-get", "dnf", "dpkg", "opkg", "pip", "pip3", "rpm", "yum"),
        *("as", "c99", "cc", "clang", "gcc", "go", "ld", "make", "perl", "tcc"),
        *("getty", "login", "su", "sudo", "sulogin", "telnetd", "sshd", "dropbear"),
    )
    script = f"for n in {' '.join(names)}; do which $n; done; which sh"
    assert booted.vm("sh", "-c", script) == "/bin/sh\n"


def test_the_only_interface_is_lo(booted: Booted) -> None:
    """No NIC, and none of those that a kernel may make by itself."""
    assert booted.vm("ls", "/sys/class/net") == "lo\n"


def test_the_kernel_has_what_its_fragments_ask_for(booted: Booted) -> None:
    """Each option, by what it says of itself; mitigations are on, and a copy is noticed."""
    got = kernel.parse_config(booted.vm("zcat", "/proc/config.gz"))
    wanted: dict[str, str] = {}
    for fragment in kernel.fragments(ROOT, debug=False):
        wanted |= kernel.parse_config(fragment.read_text())
    assert kernel.unmet(wanted, got) == []
    assert "mitigations=" not in booted.vm("cat", "/proc/cmdline")
    assert "vmgenid" in booted.vm("ls", "/sys/bus/platform/drivers").split()


def test_two_boots_of_one_image_end_with_the_same_root(
    booted: Booted, roots: dict[str, set[str]]
) -> None:
    """After all that was done in each: what there is, whose it may be, what is in it."""
    elsewhere = " ".join(f"! -path '{path}*'" for path in _WRITABLE)
    # A link's own mode means nothing, and each kind of image has another one.
    script = f"""find / -xdev {elsewhere} ! -type l -exec stat -c '%n %A %u %g' {{}} +
find / -xdev {elsewhere} -type l | while read -r l; do echo "$l $(readlink "$l")"; done
find / -xdev {elsewhere} -type f -exec sha256sum {{}} +"""
    said = booted.vm("sh", "-c", script).splitlines()
    assert len(said) > 1000
    roots[booted.form] = set(said)
    first, last = (*roots.values(), set(said))[:2]
    assert sorted(first ^ last) == []


@pytest.fixture(scope="module")
def roots() -> dict[str, set[str]]:
    """What is told of each boot's root, as far as there was one."""
    return {}


def test_each_file_is_the_image_s_and_belongs_to_a_listed_package(booted: Booted) -> None:
    """After all that was done in it, the root is to the byte what the list says."""
    script = "find / -xdev -type f -exec sha256sum {} +"
    told = (line.split(maxsplit=1) for line in booted.vm("sh", "-c", script).splitlines())
    assert {path: digest for digest, path in told} == _listed("sbom.spdx.json")


@pytest.mark.parametrize("suffix", ["", "-full"])
def test_the_list_has_each_file_of_both_images(tmp_path: Path, suffix: str) -> None:
    """Of the base image and of the full one, as they are before any boot."""
    top, image = tmp_path / "tree", (ROOT / f"build/root-image{suffix}").resolve()
    subprocess.run(("fsck.erofs", f"--extract={top}", image), check=True, capture_output=True)
    found = {
        f"/{path.relative_to(top)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in top.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    assert found == _listed(f"sbom{suffix}.spdx.json")


def _listed(name: str) -> Mapping[str, str]:
    """Return the digests of a list's files, each of which is in one package of it."""
    document = json.loads((ROOT / "build" / name).read_text())
    sums = {
        each["fileName"].removeprefix("."): each["checksums"][1]["checksumValue"]
        for each in document["files"]
    }
    names = {each["SPDXID"] for each in document["packages"]}
    contains = [r for r in document["relationships"] if r["relationshipType"] == "CONTAINS"]
    assert len(contains) == len(sums)
    assert {each["spdxElementId"] for each in contains} == names
    return sums


def test_the_image_is_as_small_as_promised() -> None:
    """12 MiB packed, 36 MiB unpacked; with what only some hosts ask for 18 MiB packed."""
    mib = 1024 * 1024
    sizes = {name: (ROOT / "build" / name).stat().st_size for name in ("initrd", "initrd-full")}
    assert sizes["initrd"] <= 12 * mib
    assert sizes["initrd-full"] <= 18 * mib
    assert (ROOT / "build/root-image").stat().st_size <= 36 * mib
