"""Keep what was built, by the hash of what it was built from.

It will not hold recipes, and it deletes nothing but its own unfinished folders.

Shape: ``<root>/<step>/<sha256 of the inputs>/`` holds one finished result, never a part of
one: a builder fills a folder below ``<root>/unfinished`` which is renamed when it is done.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

#: Bytes hashed at a time: large enough that Python's share of the work vanishes.
CHUNK_BYTES = 1 << 20


def default_root() -> Path:
    """Return the cache folder by the XDG base directory rules."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification wants a relative path ignored.
    home = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return home / "gcs"


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def key_of(inputs: Mapping[str, str | bytes]) -> str:
    """Return the key of a result made from these named inputs, whatever their order.

    Each name and value is preceded by its length, so that moving a byte from one input to
    its neighbour always gives another key.
    """
    digest = hashlib.sha256()
    for name in sorted(inputs):
        value = inputs[name]
        data = value.encode() if isinstance(value, str) else value
        for part in (name.encode(), data):
            digest.update(f"{len(part)}:".encode())
            digest.update(part)
    return digest.hexdigest()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Keep an impatient second Ctrl-C waiting until what the first one left is gone."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Cache:
    """One cache folder on disk, shared by every checkout of this user."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entry(self, step: str, key: str) -> Path:
        """Return where a result is or would be."""
        return self.root / step / key

    def log(self, step: str) -> Path:
        """Return the file that a step's commands write to."""
        return self.root / "logs" / f"{step}.log"

    def build(self, step: str, key: str, builder: Callable[[Path], None]) -> Path:
        """Return the finished result, calling ``builder`` on an empty folder if there is none.

        Two builds of one key never run at once: the second waits and finds the first one's
        result.

        Leaves: the result; nothing at all when ``builder`` raises or is interrupted.
        """
        done = self.entry(step, key)
        if done.is_dir():
            return done
        with self.lock(f"{step}-{key}"):
            if not done.is_dir():
                self._build_locked(done, step, builder)
        return done

    def _build_locked(self, done: Path, step: str, builder: Callable[[Path], None]) -> None:
        unfinished = self.root / "unfinished" / f"{step}-{done.name}"
        # The lock is ours, so what is here was left by a build that was killed outright.
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            builder(unfinished)
            done.parent.mkdir(parents=True, exist_ok=True)
            unfinished.rename(done)
        finally:
            with _uninterrupted():
                shutil.rmtree(unfinished, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock of that name; the kernel drops it if this process dies."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield
