"""Several processes at one cache of images, and what those that are killed leave in it."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio

from gcs.errors import DeadlineError
from gcs.host import layer_cache
from tests.support.cache_worker import verify
from tests.support.oci import layer_tar, member, write_layout

#: What is done at the same time; the second user and importer want what the first ones want.
AT_ONCE = ("import", "import", "prune", "rm", "use", "use")
KILLS = 12
SIGKILLED = -9


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An image of three layers, two of which share a file where there is room for two."""
    tars = [layer_tar([member(f"f{n}", b"%d" % n * 5000)]) for n in range(3)]
    return write_layout(tmp_path / "layout", tars)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty cache."""
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def worker(mode: str, cache: Path, layout: Path, action: str) -> "subprocess.Popen[str]":
    """Start a process that works at the cache."""
    # Without root's way around modes: it is users who have caches.
    as_user = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()
    program = (*as_user, sys.executable, "-m", "tests.support.cache_worker")
    return subprocess.Popen(
        [*program, mode, cache, layout, action],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("action", ["import", "rm and prune"])
def test_a_command_killed_at_any_step_leaves_nothing_that_harms(
    cache: Path, layout: Path, action: str
) -> None:
    """After each, all that is there is whole, and goes with the next import, rm and prune."""
    with worker("each-step", cache, layout, action) as process:
        steps, said = process.communicate()
    assert process.returncode == 0, said
    # It is no claim about a number, but that there were many.
    assert int(steps) > 20


@pytest.mark.timeout(300)
def test_commands_at_once_and_killed_at_random_never_harm_one_another(
    cache: Path, layout: Path
) -> None:
    """Nobody who has layers misses one or finds it damaged, and nothing is left in the end."""
    rng = random.Random(7)
    with running(cache, layout) as workers:
        for _ in range(KILLS):
            number = rng.randrange(len(workers))
            victim = workers[number]
            assert victim.stdout is not None
            victim.stdout.readline()
            # A moment of its next round; if it ended by itself, that is a failure below.
            time.sleep(rng.uniform(0, 0.1))
            victim.kill()
            ended(victim)
            workers[number] = worker("loop", cache, layout, AT_ONCE[number])
    trio.run(verify, cache, layout)


@contextmanager
def running(cache: Path, layout: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    """Have the workers for the length of the block; none of them may end by itself."""
    workers = [worker("loop", cache, layout, action) for action in AT_ONCE]
    with ExitStack() as ending:
        ending.callback(kill_all, workers)
        yield workers
        for each in workers:
            each.kill()
            ended(each)


def kill_all(workers: Sequence["subprocess.Popen[str]"]) -> None:
    for each in workers:
        each.kill()
        each.communicate()


def ended(process: "subprocess.Popen[str]") -> None:
    """Fail with what a worker has said unless it was killed."""
    _, said = process.communicate()
    assert process.returncode == SIGKILLED, said


def test_a_lock_of_the_cache_is_waited_for_only_so_long(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers share it; a writer that can't have it says which lock it is."""
    monkeypatch.setattr(layer_cache, "CACHE_DEADLINE_S", 0.1)

    async def main() -> None:
        async with (
            layer_cache.locked(cache, exclusively=False),
            layer_cache.locked(cache, exclusively=False),
        ):
            with pytest.raises(DeadlineError, match=f"lock {cache}: not free after"):
                async with layer_cache.locked(cache, exclusively=True):
                    raise AssertionError("locked twice")

    trio.run(main)
