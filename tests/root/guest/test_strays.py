"""Execs whose runtime was killed after it had started them, and before it said which."""

from pathlib import Path

import pytest
import trio

from gcs.errors import CallError
from gcs.host.client import Client
from gcs.wire.messages import ProcessParameters, SignalProcess
from tests.root.guest.test_failures import (
    RUNTIMES,
    runtime_that,
    touch,
    wait_for_file,
    wait_until,
)
from tests.support.agent import AgentHost, Streams, wait
from tests.support.scenario import logged, play

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

#: The next exec starts its process, and nobody hears of its pid: the runtime is killed.
_KILLED_TOO_EARLY = """
if [ "$verb" = exec ] && [ -e /run/broken ]; then
  rm /run/broken
  count=$#
  for word; do
    [ "$last" = --pid-file ] && word=/run/elsewhere
    set -- "$@" "$word"
    last=$word
  done
  shift $count
  real "$@"
  kill -KILL $$
fi
"""
#: The next one has been started, and is the agent's child, long before its pid is said: what
#: crun does, slowly.
_SLOW_TO_END = """
if [ "$verb" = exec ] && [ -e /run/slow ]; then
  rm /run/slow
  count=$#
  for word; do
    [ "$last" = --pid-file ] && pid_file=$word word=/run/started
    set -- "$@" "$word"
    last=$word
  done
  shift $count
  real "$@"
  until [ -e /run/enough ]; do sleep 0.05; done
  mv /run/started "$pid_file"
  exit 0
fi
"""
_SCRIPT = _KILLED_TOO_EARLY + _SLOW_TO_END
#: However little memory is free on the machine.
_TWO_AT_ONCE = "from gcs.guest import runc; runc._starts_at_once = lambda: 2"


def _exec(*args: str) -> ProcessParameters:
    process = {"cwd": "/", "args": list(args), "env": ["PATH=/bin"]}
    return ProcessParameters(oci_process={**process, "user": {"uid": 0, "gid": 0}})


async def _lose_one(host: AgentHost, client: Client, *args: str) -> None:
    """Have an exec that runs, and whose runtime is killed before it says so."""
    await touch(host, client, "/run/broken")
    with pytest.raises(CallError, match="exit status -9"):
        await host.execute(client, "c", Streams(), _exec(*args))
    await wait_for_file(host, client, "/run/elsewhere")  # it did start


@RUNTIMES
async def test_an_exec_that_no_runtime_told_of_does_not_run_on(
    tmp_path: Path, runtime: str
) -> None:
    """Nobody could wait for it, nor end it. Those that are known run on."""

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "c", "sleep", "100")
        await host.execute(client, "c", Streams())
        pid = await host.execute(client, "c", Streams(), _exec("sleep", "5678"))
        await _lose_one(host, client, "sleep", "4321")
        await wait_until(host, client, "! ps -e -o args= | grep '^[s]leep 4321'")
        await client.call(SignalProcess(container_id="c", process_id=pid))
        assert await wait(client, "c", pid) == 128 + 9

    await play(tmp_path, scenario, "-runtime", runtime_that(tmp_path, runtime, _SCRIPT))


@RUNTIMES
async def test_an_exec_that_is_being_told_of_is_none_of_them(
    tmp_path: Path, runtime: str
) -> None:
    """While a runtime is at work, nothing tells what it has started from what another lost."""

    async def scenario(host: AgentHost, client: Client) -> None:
        pids = []

        async def execute_slowly() -> None:
            parameters = _exec("sleep", "5678")
            pids.append(await host.execute(client, "c", Streams(), parameters))

        await host.create(client, "c", "sleep", "100")
        await host.execute(client, "c", Streams())
        async with trio.open_nursery() as nursery:
            await touch(host, client, "/run/slow")
            nursery.start_soon(execute_slowly)
            await wait_for_file(host, client, "/run/started")
            await _lose_one(host, client, "sleep", "4321")
            await touch(host, client, "/run/enough")
        await wait_until(host, client, "! ps -e -o args= | grep '^[s]leep 4321'")
        await wait_until(host, client, "ps -e -o args= | grep '^[s]leep 5678'")
        await client.call(SignalProcess(container_id="c", process_id=pids[0]))
        assert await wait(client, "c", pids[0]) == 128 + 9

    slow = runtime_that(tmp_path, runtime, _SCRIPT)
    await play(tmp_path, scenario, "-runtime", slow, before=_TWO_AT_ONCE)
    killed = [r for r in logged(tmp_path) if r["msg"] == "stray process killed"]
    assert len(killed) == 1


async def test_what_an_exec_leaves_running_is_none_of_them(tmp_path: Path) -> None:
    """In the VM's own pid namespace it becomes a child of the agent's, as a lost exec does."""

    async def scenario(host: AgentHost, client: Client) -> None:
        spec = host.spec("sleep", "100")
        linux = spec["linux"]
        assert isinstance(linux, dict)
        linux["namespaces"] = [{"type": kind} for kind in ("mount", "ipc", "uts")]
        await client.call(host.create_request("c", spec))
        await host.execute(client, "c", Streams())
        daemon = _exec("sh", "-c", "sleep 5678 >/dev/null 2>&1 & true")
        assert await wait(client, "c", await host.execute(client, "c", Streams(), daemon)) == 0
        await _lose_one(host, client, "sleep", "4321")
        await wait_until(host, client, "ps -e -o args= | grep '^[s]leep 5678'")

    await play(tmp_path, scenario, "-runtime", runtime_that(tmp_path, "runc", _SCRIPT))
    assert not [r for r in logged(tmp_path) if r["msg"] == "stray process killed"]
