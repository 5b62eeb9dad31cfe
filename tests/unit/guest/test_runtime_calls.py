"""Calls of an OCI runtime that is a script."""

from collections.abc import Awaitable, Callable
from itertools import accumulate
from pathlib import Path

import pytest
import trio
import trio.testing

from gcs.errors import ContainerNotFoundError, RuncError
from gcs.guest import runc
from gcs.guest.gate import Gate
from gcs.guest.reaper import Children
from gcs.guest.runc import Runc

#: It fails twice and explains itself once; the log is the second argument.
_SCRIPT = """#!/bin/sh
test -e {seen} || echo '{{"level":"error","msg":"the first error"}}' >"$2"
touch {seen}
exit 3
"""


async def test_an_error_is_never_that_of_an_earlier_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call has a log of its own, and none is left."""
    scratch, script = tmp_path / "scratch", tmp_path / "runtime"
    monkeypatch.setattr(runc, "_SCRATCH", scratch)
    script.write_text(_SCRIPT.format(seen=tmp_path / "seen"))
    script.chmod(0o755)
    runtime = Runc(Children(), str(script))
    with pytest.raises(RuncError, match="the first error"):
        await runtime.delete("c")
    with pytest.raises(RuncError, match="exit status 3, and no word in its log"):
        await runtime.delete("c")
    assert list(scratch.iterdir()) == []


async def test_new_limits_go_to_the_runtime_as_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file, whatever is in them."""
    monkeypatch.setattr(runc, "_SCRATCH", tmp_path / "scratch")
    script, seen = tmp_path / "runtime", tmp_path / "seen"
    script.write_text(f'#!/bin/sh\nshift 4; echo "$1 $2 $4" >{seen}; cat "$3" >>{seen}\n')
    script.chmod(0o755)
    resources: dict[str, object] = {"memory": {"limit": 1}, "unified": {"x": "<&>"}}
    await Runc(Children(), str(script)).update("c", resources)
    assert seen.read_text() == (
        'update --resources c\n{"memory":{"limit":1},"unified":{"x":"<&>"}}'
    )


async def test_deletions_are_made_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call takes a dozen MiB: a pod that goes must not take its VM along."""
    monkeypatch.setattr(runc, "_SCRATCH", tmp_path / "scratch")
    script, seen = tmp_path / "runtime", tmp_path / "seen"
    script.write_text(f"#!/bin/sh\necho + >>{seen}\nsleep 0.05\necho - >>{seen}\n")
    script.chmod(0o755)
    runtime = Runc(Children(), str(script), ending=trio.CapacityLimiter(2))
    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(runtime.delete, f"c{number}")
    running = list(accumulate(1 if line == "+" else -1 for line in seen.read_text().split()))
    assert len(running) == 12
    assert max(running) == 2


async def test_a_call_that_waited_for_its_turn_until_its_container_went_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then another container may have the id. Nobody waits for it before it begins."""
    monkeypatch.setattr(runc, "_SCRATCH", tmp_path / "scratch")
    script, seen = tmp_path / "runtime", tmp_path / "seen"
    script.write_text(f'#!/bin/sh\nshift 4; echo "$1" >>{seen}\n')
    script.chmod(0o755)
    places = trio.CapacityLimiter(1)
    runtime, gate = Runc(Children(), str(script), places, places), Gate("c")
    refused = []

    async def late(name: str, call: Callable[[], Awaitable[None]]) -> None:
        with pytest.raises(ContainerNotFoundError, match="container c is being deleted"):
            await call()
        refused.append(name)

    async with trio.open_nursery() as nursery, places:
        nursery.start_soon(late, "start", lambda: runtime.start("c", gate.entered))
        nursery.start_soon(late, "update", lambda: runtime.update("c", {}, gate.entered))
        await trio.testing.wait_all_tasks_blocked()
        async with gate.closed():
            assert refused == []
    assert sorted(refused) == ["start", "update"]
    await runtime.delete("c")
    assert seen.read_text() == "delete\n"


async def test_a_deletion_waits_for_calls_that_have_begun() -> None:
    """One that fails lets calls in again."""
    gate, steps = Gate("c"), list[str]()

    async def delete() -> None:
        async with gate.closed():
            steps.append("deletion")
            raise RuncError("no")

    async def fail() -> None:
        with pytest.raises(RuncError):
            await delete()

    async with trio.open_nursery() as nursery:
        with gate.entered(), gate.entered():
            nursery.start_soon(fail)
            await trio.testing.wait_all_tasks_blocked()
            steps.append("call")
    assert steps == ["call", "deletion"]
    with gate.entered():
        steps.append("call")
