"""An exec may name its user."""

from pathlib import Path

import pytest
import trio

from gcs.errors import Hresult
from gcs.host.client import Client
from gcs.wire.messages import ExecuteProcess, ExecuteProcessSettings, ProcessParameters
from tests.support.agent import AgentHost, Streams, wait
from tests.support.scenario import play, refused

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


def as_user(**user: object) -> ProcessParameters:
    """Return the parameters of an exec that says who it is."""
    script = "id -u; id -g; id -G"
    process: dict[str, object] = {"cwd": "/", "args": ["sh", "-c", script]}
    return ProcessParameters(oci_process={**process, "env": ["PATH=/bin"], "user": user})


@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_a_name_is_looked_up_in_the_container_s_own_files(
    tmp_path: Path, runtime: str
) -> None:
    """Its numbers and groups are those of the files, and an unknown one fails the exec only."""

    async def scenario(host: AgentHost, client: Client) -> None:
        (host.rootfs / "etc").mkdir()
        (host.rootfs / "etc/passwd").write_text("neko:x:77:88::/:/bin/sh\n")
        (host.rootfs / "etc/group").write_text("neko:x:88:\ncats:x:50:neko\n")
        await host.create(client, "c", "sleep", "100")
        await client.call(ExecuteProcess(container_id="c"))
        for user, words in (
            ({"username": "neko"}, "77 88 88 50"),
            ({"username": "neko:cats", "uid": 5, "gid": 6}, "77 50 50"),
            ({"username": "4711"}, "4711 0 0"),
            ({"uid": 5, "gid": 6, "additionalGids": [9]}, "5 6 6 9"),
        ):
            streams = Streams()
            pid = await host.execute(client, "c", streams, as_user(**user))
            assert await wait(client, "c", pid) == 0, streams.stderr
            assert bytes(streams.stdout).decode().split() == words.split()
        for name, hresult, says in (
            ("spy", Hresult.ERR_INVALID_ARG, "'spy' is not in the container's /etc/passwd"),
            (7, Hresult.INVALID_JSON, "OciProcess.user.username: expected a string"),
        ):
            settings = ExecuteProcessSettings(process_parameters=as_user(username=name))
            request = ExecuteProcess(container_id="c", settings=settings)
            with trio.fail_after(60):
                error = await refused(client, request)
            assert error.result == hresult
            assert says in error.message

    await play(tmp_path, scenario, "-runtime", runtime)
