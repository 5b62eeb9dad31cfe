"""passt is started with a connected socket and the ports that it is to publish."""

from pathlib import Path

import pytest
import trio

from gcs.errors import GcsError
from gcs.host.passt import find_passt, open_passt
from gcs.host.publish import Published
from gcs.host.state import StateFolder

_PORTS = (Published("127.0.0.1", 8080, 80), Published("::1", 8081, 81))
#: Prints what it was started with, or fails in words as passt does.
_STAND_IN = """#!/bin/sh
[ -n "$FAIL" ] && echo "Failed to bind port 8080" && exit 1
echo "$@"
exec sleep 100
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    """A state folder, and a passt in the path."""
    program = tmp_path / "bin" / "passt"
    program.parent.mkdir()
    program.write_text(_STAND_IN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return StateFolder.create(tmp_path, "a1")


async def test_ports_of_both_protocols_are_told(folder: StateFolder) -> None:
    """What is not published is closed, which is not passt's default."""
    with trio.fail_after(60):
        async with open_passt(_PORTS, folder) as passt:
            while not passt.log.tail():  # noqa: ASYNC110 - another's state
                await trio.sleep(0.01)
            await passt.check()
    words = "--tcp-ports 127.0.0.1/8080:80 --tcp-ports ::1/8081:81 --udp-ports none"
    assert words in (folder.path / "network.log").read_text()
    assert passt.child.exit_status is not None


async def test_why_it_has_ended_is_told(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its own words."""
    monkeypatch.setenv("FAIL", "1")
    with trio.fail_after(60):
        async with open_passt(_PORTS, folder) as passt:
            await passt.child.wait()
            with pytest.raises(GcsError, match=r"passt ended with status 1; .* bind port 8080"):
                await passt.check()


def test_without_the_program_it_is_said_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started."""
    monkeypatch.setenv("PATH", "/none")
    with pytest.raises(GcsError, match="the package passt has it"):
        find_passt()
