"""Do things to a cache of images in processes that are killed: at each step, or at any moment.

A step is what Python's audit hooks tell of: a file opened, locked, cut, renamed or removed.
What a killed process has left must harm nobody: `verify` says so, or fails.

`python -m tests.support.cache_worker loop CACHE LAYOUT ACTION` repeats an action until it is
killed, and prints a line after each; `each-step` does it again and again, killed one step later
each time, verifies in between, and prints at how many steps it was killed.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import trio

from gcs.errors import GcsError, NotFoundError
from gcs.host import image_records, image_upkeep, packs
from gcs.host.contents import find_image, prepare
from gcs.host.images import open_image
from gcs.host.layer_cache import Leases

__all__ = ["ACTIONS", "NAME", "verify"]

#: Of the image that all actions are about.
NAME = "nyan"
_STEPS = frozenset(
    {"open", "fcntl.flock", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.truncate"}
)
#: No action has so many.
_MOST_STEPS = 1000


async def _say_nothing(_: str) -> None:
    pass


async def _import(cache: Path, layout: Path) -> None:
    image = await open_image(layout)
    with Leases() as leases:
        await prepare(image, cache, leases, _say_nothing)
        await image_records.store(image, NAME, layout, cache)


async def _remove(cache: Path, layout: Path) -> None:
    try:
        await image_records.remove(cache, NAME)
    except NotFoundError:
        return


async def _prune(cache: Path, layout: Path) -> None:
    await image_upkeep.prune(cache)


async def _remove_and_prune(cache: Path, layout: Path) -> None:
    await _remove(cache, layout)
    await _prune(cache, layout)


async def _use(cache: Path, layout: Path) -> None:
    """Do what a VM does: have the layers, and find them whole and in place until the end."""
    try:
        image = await find_image(NAME, cache)
    except NotFoundError:
        image = await find_image(str(layout), cache)
    with Leases() as leases:
        contents = await prepare(image, cache, leases, _say_nothing)
        await image_upkeep.prune(cache)
        for place in contents.places:
            assert place.file.exists(), f"{place.file} was removed while it was in use"
        found = await image_upkeep.check(cache, _say_nothing)
        assert not found.damages, found.damages


async def verify(cache: Path, layout: Path) -> None:
    """Fail unless all is whole, can be had again and can be removed to the last byte."""
    await trio.Path(cache).mkdir(exist_ok=True)
    found = await image_upkeep.check(cache, _say_nothing)
    assert not found.damages, found.damages
    await _import(cache, layout)
    await _use(cache, layout)
    await _remove_and_prune(cache, layout)
    left = [path.name for path in sorted(cache.rglob("*")) if path.name != ".lock"]  # noqa: ASYNC240
    assert left == ["images"], left


#: What can be done: a name → a function of the cache's folder and the image's.
ACTIONS: Mapping[str, Callable[[Path, Path], Callable[[], object]]] = {
    "import": lambda cache, layout: partial(trio.run, _import, cache, layout),
    "prune": lambda cache, layout: partial(trio.run, _prune, cache, layout),
    "rm": lambda cache, layout: partial(trio.run, _remove, cache, layout),
    "rm and prune": lambda cache, layout: partial(trio.run, _remove_and_prune, cache, layout),
    "use": lambda cache, layout: partial(trio.run, _use, cache, layout),
    "verify": lambda cache, layout: partial(trio.run, verify, cache, layout),
}


def _in_a_child(work: Callable[[], object]) -> int:
    """Do something in a process of its own; return its wait status."""
    # A fork, since imports take longer than the work. Threads there are none yet.
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except (GcsError, OSError, AssertionError) as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def _dying(work: Callable[[], object], cache: Path, step: int) -> None:
    """Do something, and be killed before the given step of it in the cache's folder."""
    left = step

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event not in _STEPS or not _is_about(cache, arguments[0]):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    work()


def _is_about(cache: Path, argument: object) -> bool:
    if isinstance(argument, int):
        return Path(f"/proc/self/fd/{argument}").readlink().is_relative_to(cache)
    return isinstance(argument, str | Path) and str(argument).startswith(str(cache))


def _each_step(cache: Path, layout: Path, action: str) -> int:
    """Kill an action at each of its steps; return at how many it was killed."""
    for step in range(1, _MOST_STEPS):
        if action != "import":
            assert _in_a_child(ACTIONS["import"](cache, layout)) == 0
        status = _in_a_child(partial(_dying, ACTIONS[action](cache, layout), cache, step))
        assert _in_a_child(ACTIONS["verify"](cache, layout)) == 0, f"{action}, step {step}"
        if status != signal.SIGKILL:
            assert status == 0, f"{action}, step {step}: status {status}"
            return step - 1
    raise AssertionError(f"{action}: over {_MOST_STEPS} steps")


def main() -> None:
    """Do what the command line says."""
    mode, cache, layout, action = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    # So that three layers have a pack.
    packs.MAX_DEVICES = 2
    if mode == "each-step":
        sys.stdout.write(f"{_each_step(cache, layout, action)}\n")
        return
    work = ACTIONS[action](cache, layout)
    while True:
        work()
        sys.stdout.write(f"{action}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
