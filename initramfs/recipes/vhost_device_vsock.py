"""Build vhost-device-vsock, where this kernel has no vhost-vsock of its own.

It will not start it: the host tool does, with the flags that lose no packet.
"""

from pathlib import Path

from initramfs.recipes import cache, toolchain
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step

#: ``cargo install --locked`` checks every crate against the lock that this version carries.
VERSION = "0.3.0"
DEVICE = Path("/dev/vhost-vsock")


def needed() -> bool:
    """Say whether QEMU has no vsock device of the kernel's to use."""
    return not DEVICE.exists()


def make(engine: Engine) -> Path:
    """Return the folder of ``bin/vhost-device-vsock``."""
    key = cache.key_of({"version": VERSION})
    name = "vhost-device-vsock"
    if engine.cache.entry(name, key).is_dir():
        engine.progress.found(name)
        return engine.cache.entry(name, key)
    cargo = toolchain.find(engine, toolchain.CARGO)

    def build(step: Step, folder: Path) -> None:
        engine.progress.say(f"  fetching by cargo, from crates.io: {name} {VERSION}")
        install: list[str | Path] = [cargo, "install", "--locked", "--no-track"]
        target = folder / "target"
        step.run(
            [*install, "--version", VERSION, "--root", folder, name],
            env={"CARGO_TARGET_DIR": str(target)},
        )
        step.run(["rm", "-r", target])

    return engine.make(name, key, build)
