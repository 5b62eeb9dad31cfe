"""Tie the parts of a build together: this checkout, the cache, and what the user sees.

It will not hold recipes; each of those is a module that takes an ``Engine``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from initramfs.recipes.cache import Cache
from initramfs.recipes.steps import Progress, Step


@dataclass(frozen=True, slots=True)
class Engine:
    """What every recipe needs."""

    #: The top folder of this checkout.
    repo: Path
    cache: Cache
    progress: Progress

    def make(self, name: str, key: str, recipe: Callable[[Step, Path], None]) -> Path:
        """Return the cached result of a step, running its recipe if there is none yet."""
        done = self.cache.entry(name, key)
        if done.is_dir():
            self.progress.found(name)
            return done
        with self.progress.step(name, self.cache.log(name)) as step:
            return self.cache.build(name, key, lambda folder: recipe(step, folder))

    def link(self, target: Path, name: str) -> None:
        """Point ``build/<name>`` of this checkout at a result."""
        link = self.repo / "build" / name
        link.parent.mkdir(exist_ok=True)
        fresh = link.with_name(f".{name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        # A rename, so that a reader sees the old result or the new one.
        fresh.replace(link)
