"""gcsctl: containers in utility VMs, from the command line.

stdout carries the container's bytes, or what was asked for, and nothing else; what we have to
say goes to stderr, with everything that comes from a guest or an image made printable. The exit
status of `run` and `exec` is the command's (128 + N after signal N); 125 means that `run` has
failed, 126 and 127 that the command could not be executed or found. When anything else fails,
the status is 1.
"""

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from gcs.errors import CallError, ContainerNotFoundError, GcsError, InvalidArgumentError
from gcs.host import containers, scratch, volumes
from gcs.host.arguments import DEFAULT_MEMORY_MIB, default_cpus, parser
from gcs.host.artifacts import (
    BootForm,
    BootImage,
    find_boot_image,
    find_kernel,
    find_vsock_program,
)
from gcs.host.attach import Ending
from gcs.host.containers import Known, all_containers, find
from gcs.host.display import ProgressDisplay, say_failure, show_containers, write_line
from gcs.host.foreground import (
    PodChangedError,
    execute_in_foreground,
    run_detached,
    run_in_foreground,
)
from gcs.host.image_verbs import act_on_images, named_image
from gcs.host.layers import default_cache_dir
from gcs.host.observe_verbs import show_mounts, show_stats
from gcs.host.passt import find_passt
from gcs.host.state import find_pod, remove_stale, root_folder
from gcs.host.terminal import size
from gcs.host.vm import find_vhost_vsock
from gcs.wire.container_storage import Scratch
from gcs.wire.control import (
    DescribeReply,
    Execute,
    NetworkMode,
    Run,
    ServiceState,
    Tap,
    VmOptions,
)

__all__ = ["main"]

#: We could not run it, as docker has it.
_NOT_RUN = 125
#: Any other verb.
_FAILED = 1
_STDERR = 2
_INTERRUPTED = 128 + 2
#: What a container of seven layers was seen to run with. With a root image and 56 MiB its
#: runtime is killed, with 48 the agent is; with an initrd and 64 the kernel ends while it
#: unpacks that.
_LEAST_MEMORY_MIB = {BootForm.PMEM: 64, BootForm.INITRD: 96}
#: A pod that is ending is waited for; one that then comes at the same moment is joined.
_POD_TRIES = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run gcsctl and return its exit status."""
    _fill_standard_descriptors()
    options = parser().parse_args(arguments)
    verbs = {
        "run": _run,
        "exec": _execute,
        "ps": _list,
        "images": act_on_images,
        "mounts": _mounts,
        "stats": _stats,
    }
    act = verbs.get(options.verb, _act_on_each)
    try:
        return trio.run(act, options)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BaseExceptionGroup as group:
        # trio raises a Ctrl-C that came too late to be handled where it stops handling it.
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
        return _INTERRUPTED
    except (GcsError, OSError) as error:
        say_failure(_sentence(error))
        return _NOT_RUN if options.verb == "run" else _FAILED


def _fill_standard_descriptors() -> None:
    """Open /dev/null where stdin, stdout or stderr are closed: a socket must not get 0 to 2."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)


def _sentence(error: GcsError | OSError) -> str:
    if isinstance(error, CallError):
        # What was asked of the service is no news to the user; what it says is.
        return error.message
    if isinstance(error, OSError):
        return f"{error.filename or 'gcsctl'}: {error.strerror}"
    return "; ".join([str(error), *getattr(error, "__notes__", ())])


async def _root(display: ProgressDisplay | None = None) -> Path:
    """Return the folder of all VMs, cleared of what services that died have left behind."""
    root = root_folder()
    for vm_id in await remove_stale(root):
        (display or ProgressDisplay(verbose=False)).say(
            f"removed what VM {vm_id} had left behind"
        )
    return root


# -- run and exec ------------------------------------------------------------------------------


async def _run(options: argparse.Namespace) -> int:
    display = ProgressDisplay(verbose=bool(options.verbose))
    root = await _root(display)
    try:
        for _ in range(_POD_TRIES):
            vm_folder = find_pod(root, options.pod) if options.pod else None
            request = _run_request(options, is_joining=vm_folder is not None)
            try:
                return await _run_in(vm_folder, request, display)
            except PodChangedError:
                if vm_folder is not None:
                    await containers.wait_gone(vm_folder)
    finally:
        display.stop()
    raise GcsError(f"pod {options.pod}: it comes and goes; try again")


async def _run_in(vm_folder: Path | None, run: Run, display: ProgressDisplay) -> int:
    """Run a container in a pod's VM, or a new one. Raises PodChangedError."""
    if not run.detached:
        ending = await run_in_foreground(run, vm_folder, display.show)
        display.stop()
        return _told(ending)
    ending, container_id = await run_detached(run, vm_folder, display.show)
    display.stop()
    if container_id:
        write_line(container_id)
    return _told(ending)


def _told(ending: Ending) -> int:
    if ending.refusal:
        say_failure(ending.refusal)
    return ending.exit_status


def _run_request(options: argparse.Namespace, *, is_joining: bool) -> Run:
    if is_joining:
        _refuse_options_of_vm(options)
    cache = default_cache_dir()
    image = named_image(options.image, cache)
    height, width = size() if options.terminal else (0, 0)
    network, tap = _network(options)
    return Run(
        vm=None if is_joining else _vm_options(options),
        pod=options.pod or "",
        image=image,
        cache=str(cache),
        arguments=tuple(options.command),
        entrypoint=(options.entrypoint,) if options.entrypoint else (),
        environment=tuple(options.environment),
        name=options.name or "",
        hostname=options.hostname,
        network=network,
        tap=tap,
        ports=tuple(options.ports),
        volumes=volumes.check(options.volumes),
        terminal=options.terminal,
        height=height,
        width=width,
        stdin=options.stdin,
        detached=options.detached,
        # Nobody could ask for one that has no name and whose id was never told.
        keep=not options.rm and bool(options.detached or options.name),
    )


def _refuse_options_of_vm(options: argparse.Namespace) -> None:
    """Raise InvalidArgumentError for what only the first container of a pod can have."""
    of_vm = {
        "--memory": options.memory,
        "--cpus": options.cpus,
        "--boot": options.boot,
        "--kernel": options.kernel,
        "--initrd": options.initrd,
        "--root-image": options.root_image,
        "--vhost-device-vsock": options.vhost_device_vsock,
        "--network": options.network,
        "-p": options.ports,
        "--hostname": options.hostname,
        "--scratch": options.scratch,
    }
    given = [name for name, value in of_vm.items() if value]
    if given:
        raise InvalidArgumentError(
            f"{', '.join(given)}: pod {options.pod} is there already; "
            "what all its containers share is chosen by the first one"
        )


def _network(options: argparse.Namespace) -> tuple[NetworkMode, Tap | None]:
    """Return what was asked for; a published port needs somebody who forwards it."""
    wanted = options.network
    if wanted is None:
        return NetworkMode.USER if options.ports else NetworkMode.NONE, None
    if wanted is NetworkMode.PASST:
        find_passt()
    elif options.ports and wanted is not NetworkMode.USER:
        name = "none" if wanted is NetworkMode.NONE else "tap"
        raise InvalidArgumentError(f"-p {options.ports[0]}: --network {name} has no such ports")
    if isinstance(wanted, Tap):
        return NetworkMode.TAP, wanted
    return wanted, None


def _vm_options(options: argparse.Namespace) -> VmOptions:
    program = "" if find_vhost_vsock() else str(find_vsock_program(options.vhost_device_vsock))
    image = find_boot_image(options.boot, options.initrd, options.root_image)
    memory_mib = _memory(options, image)
    return VmOptions(
        kernel=str(find_kernel(options.kernel)),
        initrd=str(image.initrd or ""),
        root_image=str(image.root_image or ""),
        vsock_program=program,
        memory_mib=memory_mib,
        cpus=options.cpus or default_cpus(),
        scratch=_scratch(options, memory_mib),
    )


def _memory(options: argparse.Namespace, image: BootImage) -> int:
    """Return MiB. Raises InvalidArgumentError for so few that the VM would not come up."""
    memory_mib: int = options.memory or DEFAULT_MEMORY_MIB
    least = _LEAST_MEMORY_MIB[image.form]
    if memory_mib < least:
        other = _LEAST_MEMORY_MIB[BootForm.PMEM]
        # An initrd that is named is no root image.
        has_way_out = other < least and not options.initrd
        way_out = f", and {other}M with --boot pmem" if has_way_out else ""
        what = "an initrd" if image.initrd else "a root image"
        raise InvalidArgumentError(
            f"--memory {memory_mib}M: the least for a VM that boots from {what} is "
            f"{least}M{way_out}"
        )
    return memory_mib


def _scratch(options: argparse.Namespace, memory_mib: int) -> Scratch:
    wanted: Scratch = options.scratch or Scratch()
    if wanted.path and options.pod:
        raise InvalidArgumentError(
            f"scratch {wanted.path}: a pod's can't be kept, as several containers write to it"
        )
    return scratch.check(wanted, memory_mib)


async def _execute(options: argparse.Namespace) -> int:
    known = containers.running(find(await _root(), options.container))
    height, width = size() if options.terminal else (0, 0)
    request = Execute(
        container_id=known.container_id,
        arguments=(options.program, *options.arguments),
        environment=tuple(options.environment),
        working_directory=options.working_directory,
        user=options.user,
        terminal=options.terminal,
        height=height,
        width=width,
        stdin=options.stdin,
        in_vm=options.vm,
    )
    return _told(await execute_in_foreground(known.vm_folder, request))


# -- lists -------------------------------------------------------------------------------------


async def _list(options: argparse.Namespace) -> int:
    found: list[DescribeReply] = []

    async def ask(known: Known) -> None:
        told = await containers.describe(known)
        if told is not None:
            found.append(told)

    async with trio.open_nursery() as nursery:
        for known in all_containers(await _root()):
            nursery.start_soon(ask, known)
    alive = (ServiceState.STARTING, ServiceState.RUNNING)
    shown = [each for each in found if options.all or each.state in alive]
    form = "ids" if options.quiet else "json" if options.json else "table"
    show_containers(shown, form)
    return 0


async def _mounts(options: argparse.Namespace) -> int:
    known = containers.running(find(await _root(), options.container))
    return await show_mounts(known, is_json=options.json)


async def _stats(options: argparse.Namespace) -> int:
    root = await _root()
    known = [containers.running(find(root, text)) for text in options.containers]
    return await show_stats(known or all_containers(root), is_json=options.json)


# -- stop, kill, rm, wait ----------------------------------------------------------------------


async def _act_on_each(options: argparse.Namespace) -> int:
    """Do the same for each container that is named, in their order, whatever fails."""
    act = _action(options)
    root, status = await _root(), 0
    for text in options.containers:
        try:
            write_line(await act(find(root, text)) or text)
        except ContainerNotFoundError as error:
            say_failure(str(error))
            # Docker's: what is not there is as good as removed.
            status = status if options.verb == "rm" and options.force else _FAILED
        except (GcsError, OSError) as error:
            say_failure(_sentence(error))
            status = _FAILED
    return status


def _action(options: argparse.Namespace) -> Callable[[Known], Awaitable[str | None]]:
    """Return what to do; what it returns is printed, or else the name as it was given."""
    match options.verb:
        case "stop":
            return partial(containers.stop, seconds=options.seconds)
        case "kill":
            return partial(containers.kill, number=options.signal)
        case "rm":
            return partial(containers.remove, force=options.force)
        case _:
            return _wait


async def _wait(known: Known) -> str:
    return str(await containers.wait(known))


if __name__ == "__main__":
    sys.exit(main())
