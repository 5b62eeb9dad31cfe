"""``python3 -m initramfs.recipes TARGET…``: build what the Makefile's targets name.

It will not hold recipes: this is the table of them, and the one place that catches a failure.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from initramfs.recipes import (
    cache,
    demo,
    initrd,
    kernel,
    linuxkit,
    locks,
    nyancat,
    reproduce,
    sbom,
    steps,
    system,
    toolbox,
    venv,
    vhost_device_vsock,
    why,
)
from initramfs.recipes.engine import Engine

#: Shells report a program that Ctrl-C ended as 128 + SIGINT.
INTERRUPTED = 130


def _venv(engine: Engine) -> None:
    venv.make(engine)


def _kernel(engine: Engine) -> None:
    built = kernel.make(engine)
    for name, file in kernel.FILES.items():
        engine.link(built / file, name)


def _kernel_debug(engine: Engine) -> None:
    engine.link(kernel.make(engine, debug=True) / "vmlinux", "vmlinux-debug")


def _kernel_check(engine: Engine) -> None:
    for debug in (False, True):
        kernel.check(engine, debug=debug)


def _initrd(engine: Engine) -> None:
    engine.link(linuxkit.make(engine) / "linuxkit", "linuxkit")
    _guest(engine, full=False)


def _initrd_full(engine: Engine) -> None:
    _guest(engine, full=True)


def _guest(engine: Engine, *, full: bool) -> None:
    suffix = "-full" if full else ""
    engine.link(initrd.make(engine, full=full) / "initrd", f"initrd{suffix}")
    engine.link(initrd.make_root_image(engine, full=full) / "root-image", f"root-image{suffix}")


def _images(engine: Engine) -> None:
    engine.link(nyancat.make(engine), "nyancat")
    engine.link(toolbox.make(engine), "toolbox")


def _tools(engine: Engine) -> None:
    if vhost_device_vsock.needed():
        program = vhost_device_vsock.make(engine) / "bin/vhost-device-vsock"
        engine.link(program, "vhost-device-vsock")


def _setup(engine: Engine) -> None:
    for make in (system.ensure, _venv, _images, _initrd, _initrd_full, _sbom, _tools, _kernel):
        make(engine)


def _sbom(engine: Engine) -> None:
    engine.link(sbom.make(engine) / "sbom.spdx.json", "sbom.spdx.json")
    engine.link(sbom.make(engine, full=True) / "sbom.spdx.json", "sbom-full.spdx.json")


def _kernel_why(engine: Engine) -> None:
    print(why.tell(engine.repo, os.environ.get("OPTION", "")))


def _run(engine: Engine) -> int:
    _setup(engine)
    return demo.run(engine)


#: Each returns an exit status, or nothing for success.
TARGETS: dict[str, Callable[[Engine], int | None]] = {
    "deps": system.ensure,
    "venv": _venv,
    "kernel": _kernel,
    "kernel-debug": _kernel_debug,
    "kernel-check": _kernel_check,
    "initrd": _initrd,
    "initrd-full": _initrd_full,
    "images": _images,
    "tools": _tools,
    "kernel-why": _kernel_why,
    "sbom": _sbom,
    "reproduce": reproduce.prove,
    "reproduce-kernel": reproduce.prove_kernel,
    "setup": _setup,
    "run": _run,
    "lock": locks.refresh,
}


def main(names: list[str]) -> int:
    """Build the named targets in order; return the exit status."""
    unknown = [name for name in names if name not in TARGETS]
    if unknown or not names:
        print(f"usage: python3 -m initramfs.recipes {{{','.join(TARGETS)}}}…", file=sys.stderr)
        return 2
    engine = Engine(
        Path(__file__).resolve().parents[2],
        cache.Cache(cache.default_root()),
        steps.Progress(),
    )
    steps.interrupt_on_sigterm()
    status = 0
    try:
        for name in names:
            status = status or TARGETS[name](engine) or 0
    except steps.StepError as error:
        engine.progress.say(f"error: {error}")
        status = 1
    except KeyboardInterrupt:
        engine.progress.say("interrupted: nothing unfinished was kept")
        status = INTERRUPTED
    engine.progress.say(engine.progress.table())
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
