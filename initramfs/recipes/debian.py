"""Fetch Debian packages of exactly the pinned bytes, into a pool by their hash.

It will not install anything on this machine (``system`` does) and runs no package script.

Shape of ``initramfs/lock/debian.txt``: one ``package version sha256`` a line; ``#`` comments.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from initramfs.recipes import cache, system
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step, StepError

LOCK = "initramfs/lock/debian.txt"


@dataclass(frozen=True, slots=True)
class Package:
    """One .deb, known by its bytes."""

    name: str
    version: str
    sha256: str


def parse_lock(text: str) -> dict[str, Package]:
    """Return the pinned packages of a lock file, by name.

    Raises:
        StepError: when a line is not three words, a hash is no SHA-256, or a name is twice.
    """
    pins: dict[str, Package] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3 or len(words[2]) != 64 or set(words[2]) - set("0123456789abcdef"):
            raise StepError(f"{LOCK}:{number}: expected package, version and sha256: {line}")
        if words[0] in pins:
            raise StepError(f"{LOCK}:{number}: {words[0]} is pinned twice")
        pins[words[0]] = Package(*words)
    return pins


def format_lock(packages: list[Package]) -> str:
    """Return the lock file of these packages."""
    head = "# Debian packages that end up in an image; `make lock` writes this file.\n"
    lines = [f"{p.name} {p.version} {p.sha256}" for p in packages]
    return head + "\n".join(sorted(lines)) + "\n"


def pinned(engine: Engine) -> dict[str, Package]:
    """Return this checkout's pins."""
    return parse_lock((engine.repo / LOCK).read_text())


class Pool:
    """The packages that were fetched, and what stands in for those that are gone."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pins = pinned(engine)
        self._folder = engine.cache.root / "pool"
        self._folder.mkdir(parents=True, exist_ok=True)

    def resolve(self, names: tuple[str, ...]) -> list[Package]:
        """Return the packages really used for these names, fetching what is missing.

        A pinned version that the mirror has dropped is replaced by the one that apt offers
        and verifies, loudly; the replacement is remembered, so the next build needs no
        network and has the same key.
        """
        missing = [name for name in names if self._known(name) is None]
        if missing:
            engine = self._engine
            engine.progress.say(f"  fetching by apt: {', '.join(missing)}")
            with engine.progress.step("debian", engine.cache.log("debian")) as step:
                self._fetch(step, [self._pins[name] for name in missing])
        return [self._used(name) for name in names]

    def path(self, package: Package) -> Path:
        """Return the .deb of a package that ``resolve`` returned."""
        return self._folder / f"{package.sha256}.deb"

    def _used(self, name: str) -> Package:
        package = self._known(name)
        if package is None:
            raise StepError(f"debian: {name} vanished from {self._folder} during the build")
        pin = self._pins[name]
        if package != pin:
            self._engine.progress.say(
                f"WARNING: {name} {pin.version} is gone from the mirror; this build uses "
                f"{package.version} and is not the pinned one (`make lock` pins it)"
            )
        return package

    def _known(self, name: str) -> Package | None:
        if name not in self._pins:
            raise StepError(f"debian: {name} is not pinned in {LOCK}: run `make lock`")
        pin = self._pins[name]
        if self.path(pin).is_file():
            return pin
        note = self._substitute(pin)
        if note.is_file():
            package = Package(**json.loads(note.read_text()))
            if self.path(package).is_file():
                return package
        return None

    def _substitute(self, pin: Package) -> Path:
        return self._folder / f"instead-of-{pin.sha256}.json"

    def _fetch(self, step: Step, pins: list[Package]) -> None:
        """Fetch packages, each at its pinned version if the mirror still has it."""
        found = download(self._folder, step, [(pin.name, pin.version) for pin in pins])
        if len(found) < len(pins):
            # The lists may only be old: bring them up to date once, then ask for each.
            system.refresh_lists(step)
            for pin in pins:
                if pin.name not in found:
                    found |= download(self._folder, step, [(pin.name, pin.version)])
                if pin.name not in found:
                    found |= download(self._folder, step, [(pin.name, "")])
        for pin in pins:
            self._note(step, pin, found.get(pin.name))

    def _note(self, step: Step, pin: Package, package: Package | None) -> None:
        """Check what was fetched for a pin, and remember it if it is another version."""
        if package is None:
            raise StepError(f"debian: apt offers no {pin.name} (log: {step.log})")
        if package.version == pin.version and package.sha256 != pin.sha256:
            raise StepError(
                f"debian: {pin.name} {pin.version} has sha256 {package.sha256}, but "
                f"{LOCK} pins {pin.sha256}"
            )
        if package != pin:
            note = {"name": pin.name, "version": package.version, "sha256": package.sha256}
            self._substitute(pin).write_text(json.dumps(note))


def download(pool: Path, step: Step, wanted: list[tuple[str, str]]) -> dict[str, Package]:
    """Fetch packages by apt, which checks their signatures; an empty version is the newest.

    Returns what could be had, by name: all of them, or nothing when one is missing.

    Leaves: each .deb in the pool, named by its hash; nothing else.
    """
    names = [f"{name}={version}" if version else name for name, version in wanted]
    found: dict[str, Package] = {}
    with tempfile.TemporaryDirectory(dir=pool, prefix="fetch-") as scratch:
        folder = Path(scratch)
        # apt's own unprivileged user cannot write below a private cache folder.
        argv = ["apt-get", "-o", "APT::Sandbox::User=root", "download", *names]
        try:
            step.run(argv, cwd=folder)
        except StepError:
            return {}
        for deb in folder.glob("*.deb"):
            digest = cache.file_digest(deb)
            name, version = _identity(step, deb)
            shutil.move(deb, pool / f"{digest}.deb")
            found[name] = Package(name, version, digest)
    return found


def _identity(step: Step, deb: Path) -> tuple[str, str]:
    field = deb.with_suffix(".identity")
    form = "${Package} ${Version}"
    step.run(["dpkg-deb", "--show", f"--showformat={form}", deb], stdout=field)
    name, version = field.read_text().split()
    return name, version


def unpack(step: Step, deb: Path, target: Path, *members: str) -> None:
    """Unpack a package's files (or only the named ones) below a folder."""
    archive = target / ".data.tar"
    step.run(["dpkg-deb", "--fsys-tarfile", deb], stdout=archive)
    step.run(["tar", "-xf", archive, "-C", target, "--no-same-owner", *members])
    archive.unlink()
