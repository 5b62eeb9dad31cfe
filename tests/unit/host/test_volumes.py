"""Folders of this machine in containers: what is asked for, and gcsctl around stand-ins."""

import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gcs.errors import GcsError, InvalidArgumentError
from gcs.host import volumes
from gcs.host.state import StateFolder
from gcs.host.vsock import Ports
from gcs.linux import plan9
from gcs.wire.container_storage import CacheMode, Volume
from gcs.wire.resource import MappedDirectory
from tests.support.stage import Stage, make_stage
from tests.unit.host.test_container import world


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage in a folder with a short name, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as folder:
        yield make_stage(Path(folder))


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("/a:/b", Volume(source="/a", target="/b")),
        (".:/b/", Volume(source=".", target="/b")),
        ("/a:///b//./c", Volume(source="/a", target="/b/c")),
        ("/a b:/b c", Volume(source="/a b", target="/b c")),
        ("/a:/b:ro", Volume(source="/a", target="/b", read_only=True)),
        ("/a:/b:rw", Volume(source="/a", target="/b")),
        ("/a:/b:cache=none", Volume(source="/a", target="/b")),
        (
            "/a:/b:ro:cache=loose",
            Volume(source="/a", target="/b", read_only=True, cache=CacheMode.LOOSE),
        ),
        (
            "/a:/b:cache=mmap,ro",
            Volume(source="/a", target="/b", read_only=True, cache=CacheMode.MMAP),
        ),
    ],
)
def test_a_volume_is_spelt_as_docker_s(text: str, volume: Volume) -> None:
    """With a cache as one more option."""
    assert volumes.parse(text) == volume


@pytest.mark.parametrize(
    "text",
    [
        *("", "/a", "/a:", ":/b", "/a:b", "/a:./b", "/a:/", "/a://.", "/a:/b/../c", "/a:/.."),
        *("/a:/b:", "/a:/b:x", "/a:/b:cache", "/a:/b:cache=", "/a:/b:cache=all", "/a:/b:ro="),
    ],
)
def test_what_is_no_volume_is_refused(text: str) -> None:
    """Each with the text in the error."""
    with pytest.raises(InvalidArgumentError, match=r"^'"):
        volumes.parse(text)


def test_the_caches_are_those_of_the_guest() -> None:
    """By the names that the bridge has for them; none is the default of both."""
    assert tuple(CacheMode) == plan9.CACHES
    assert plan9.CACHES[0] == Volume(source="/a", target="/b").cache


def test_a_source_is_made_absolute_and_free_of_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    """The server is given what it is to serve, and no way to it."""
    monkeypatch.setenv("PATH", stage.environment["PATH"])
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    monkeypatch.chdir(tmp_path)
    asked = Volume(source="link", target="/b", read_only=True, cache=CacheMode.MMAP)
    (found,) = volumes.check([asked])
    assert found.source == str(tmp_path.resolve() / "folder")
    assert (found.target, found.read_only, found.cache) == ("/b", True, CacheMode.MMAP)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("/nowhere", "volume /nowhere: No such file or directory"),
        ("/", "another file system is mounted at /"),
    ],
)
def test_what_can_not_be_served_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, stage: Stage, source: str, words: str
) -> None:
    """Before a VM is started."""
    monkeypatch.setenv("PATH", stage.environment["PATH"])
    with pytest.raises(InvalidArgumentError, match=words):
        volumes.check([Volume(source=source, target="/b")])


def test_a_socket_is_no_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    """Nothing could be done with it through 9p."""
    monkeypatch.setenv("PATH", stage.environment["PATH"])
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(InvalidArgumentError, match="socket: neither a folder nor a file"):
            volumes.check([Volume(source="socket", target="/b")])


def test_two_volumes_at_one_place_are_refused(
    monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    """One would hide the other."""
    monkeypatch.setenv("PATH", stage.environment["PATH"])
    volume = Volume(source="/bin", target="/b")
    with pytest.raises(InvalidArgumentError, match="two volumes at /b"):
        volumes.check([volume, replace_source(volume, "/lib")])


def replace_source(volume: Volume, source: str) -> Volume:
    return Volume(source=source, target=volume.target)


def test_a_machine_without_the_programs_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    """Only who wants a volume is told."""
    programs = stage.runtime.parent / "bin"
    (programs / "bwrap").unlink()
    monkeypatch.setattr("gcs.host.diod._SYSTEM_PATHS", ())
    monkeypatch.setenv("PATH", str(programs))
    assert volumes.check([]) == ()
    with pytest.raises(GcsError, match=r"bubblewrap .* apt-get install"):
        volumes.check([Volume(source="/bin", target="/b")])


def test_outer_volumes_are_mounted_first() -> None:
    """Else they would hide the inner ones."""
    spec: dict[str, object] = {"mounts": []}
    targets = ("/a/b", "/z", "/a/b/c", "/a")
    volumes.bind(
        spec,
        [
            volumes.Mounted(
                Volume(source="/", target=target, read_only=target == "/z"),
                MappedDirectory(mount_path=f"/run{target}"),
            )
            for target in targets
        ],
    )
    mounts = spec["mounts"]
    assert isinstance(mounts, list)
    places = [mount["destination"] for mount in mounts]
    assert places.index("/a") < places.index("/a/b") < places.index("/a/b/c")
    modes = {mount["source"]: mount["options"][-1] for mount in mounts}
    assert modes == {"/run/a": "rw", "/run/z": "ro", "/run/a/b": "rw", "/run/a/b/c": "rw"}


def test_ports_of_servers_fit_into_what_names_them() -> None:
    """They are signed and of 32 bits on the wire, and none is used twice."""
    ports = Ports.of_shares()
    taken = {ports.take() for _ in range(1000)}
    assert len(taken) == 1000
    assert all(0x41000000 <= port < 0x7FFFFFFF for port in taken)


def test_a_container_with_volumes_leaves_no_server(stage: Stage, tmp_path: Path) -> None:
    """Each has had one, which ended when it was taken off."""
    options = ("-v", f"{tmp_path}:/a", "-v", f"{tmp_path}:/b:ro")
    done = stage.run("run", "--verbose", *options, str(stage.image), "echo", "x")
    assert (done.returncode, done.stdout) == (0, b"x\n"), done.stderr
    assert b"mount the volumes" in done.stderr
    assert stage.leftovers() == []


def test_what_a_server_says_is_told(stage: Stage, tmp_path: Path) -> None:
    """In place of the guest's error, which knows nothing."""
    words = "bwrap: no name spaces here"
    failing = replace(stage, environment={**stage.environment, "GCS_TEST_SERVER": words})
    done = failing.run("run", "-v", f"{tmp_path}:/a", str(stage.image), "true")
    assert done.returncode == 125
    assert f"volume {tmp_path}: its server ended with status 1".encode() in done.stderr
    assert words.encode() in done.stderr
    assert stage.leftovers() == []


def test_a_folder_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked as who runs gcsctl; root may read everything, so the answer is made up here."""
    monkeypatch.setattr("gcs.host.diod.find_programs", lambda: None)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InvalidArgumentError, match="you may not read it"):
        volumes.check([Volume(source=str(tmp_path), target="/b")])


async def test_what_an_earlier_server_has_said_is_not_repeated(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have one log, and the words of one come a moment after its end."""
    monkeypatch.setenv("PATH", stage.environment["PATH"])
    async with world(stage.state) as here:
        folder = StateFolder.create(stage.state, "vm")
        async with volumes.open_volumes(here.vm, here.client, folder) as mounts:
            for words in ("first words", "second words"):
                monkeypatch.setenv("GCS_TEST_SERVER", words)
                with pytest.raises(GcsError, match=f"status 1; it printed: {words}$"):
                    await mounts.mount([Volume(source="/bin", target="/b")])
        folder.remove()
