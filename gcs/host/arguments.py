"""The command line of gcsctl. Verbs, options and their letters are docker's, if it has them."""

import argparse
import os
import re

from gcs.errors import InvalidArgumentError
from gcs.host import scratch, volumes
from gcs.host.artifacts import DEFAULT_FORM, BootForm
from gcs.host.image_arguments import add_images
from gcs.host.network import parse_tap
from gcs.host.observe_arguments import add_mounts, add_stats
from gcs.host.publish import parse_published
from gcs.host.signals import signal_number
from gcs.wire.container_storage import Scratch, Volume
from gcs.wire.control import NetworkMode, Tap

__all__ = ["DEFAULT_MEMORY_MIB", "default_cpus", "parser"]

#: Room for the agent, the page tables of layers and a container of some size.
DEFAULT_MEMORY_MIB = 256

_MAX_MEMORY_MIB = 1024 * 1024
_MAX_CPUS = 64
#: As docker's; it also keeps names apart from the beginnings of ids in a file system.
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}")
#: Before SIGKILL, as docker's.
_STOP_S = 10
#: A day: whoever wants to wait longer does not mean to stop it.
_MAX_STOP_S = 86400


def parser() -> argparse.ArgumentParser:
    """Return the parser; its result has the verb's name in `verb`."""
    top = argparse.ArgumentParser(prog="gcsctl", description="Containers in utility VMs.")
    verbs = top.add_subparsers(metavar="VERB", dest="verb", required=True)
    _add_run(verbs.add_parser("run", help="run a container in a VM of its own"))
    _add_exec(verbs.add_parser("exec", help="run a command in a container, or in its VM"))
    _add_ps(verbs.add_parser("ps", help="list containers"))
    add_images(verbs.add_parser("images", help="convert images ahead of time, and keep them"))
    add_mounts(verbs.add_parser("mounts", help="tell what is mounted in a container's VM"))
    add_stats(verbs.add_parser("stats", help="tell what VMs take of this machine's memory"))
    stop = verbs.add_parser("stop", help="let containers end, by force if need be")
    stop.add_argument(
        *("-t", "--time"),
        dest="seconds",
        type=_seconds,
        default=_STOP_S,
        metavar="SECONDS",
        help=f"before SIGKILL (default: {_STOP_S})",
    )
    kill = verbs.add_parser("kill", help="send a signal to containers")
    kill.add_argument(
        *("-s", "--signal"),
        dest="signal",
        type=_signal,
        default=_signal("KILL"),
        metavar="SIGNAL",
        help="a name or a number (default: KILL)",
    )
    remove = verbs.add_parser("rm", help="remove containers")
    remove.add_argument("-f", "--force", action="store_true", help="even if they run")
    wait = verbs.add_parser("wait", help="wait for containers, and print their exit statuses")
    for verb in (stop, kill, remove, wait):
        verb.add_argument(
            "containers", metavar="CONTAINER", nargs="+", help="a name, or how its id begins"
        )
    return top


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        *("-d", "--detach"),
        dest="detached",
        action="store_true",
        help="leave it running, and print its id",
    )
    run.add_argument(
        "--rm", action="store_true", help="keep no record of its end (unnamed ones never have)"
    )
    run.add_argument("--name", type=_name, help="what to call it")
    run.add_argument("--hostname", default="", help="its host name (default: part of its id)")
    run.add_argument("--entrypoint", metavar="PROGRAM", help="instead of the image's")
    _add_network_options(run)
    _add_storage_options(run)
    _add_process_options(run)
    _add_vm_options(run)
    run.add_argument(
        "image",
        metavar="IMAGE",
        help="an OCI layout or a docker archive, folder or tar, or an imported image's name",
    )
    run.add_argument(
        "command",
        metavar="CMD",
        nargs=argparse.REMAINDER,
        help="what to run, instead of the image's command",
    )


def _add_network_options(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--pod",
        type=_name,
        metavar="NAME",
        help="in the VM of that pod, and in its network; the first of its containers starts it",
    )
    run.add_argument(
        "--network",
        type=_network,
        metavar="NETWORK",
        help="user (QEMU's, without privileges), passt, none, or a tap device that is there: "
        "tap:NAME[,address=IP/PREFIX][,gateway=IP][,dns=IP], without an address by DHCP "
        "(default: none, user with -p)",
    )
    run.add_argument(
        *("-p", "--publish"),
        dest="ports",
        action="append",
        default=[],
        type=_published,
        metavar="[IP:]PORT:CONTAINER-PORT[/udp]",
        help="let a port of this machine lead to one of the container (default IP: 127.0.0.1)",
    )


def _add_storage_options(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        *("-v", "--volume"),
        dest="volumes",
        action="append",
        default=[],
        type=_volume,
        metavar="HOST:CONTAINER[:ro][:cache=MODE]",
        help="let it have a folder of this machine; both sides see each other's changes at "
        "once, unless it is cached: readahead, mmap or loose (docs/volumes.md)",
    )
    run.add_argument(
        "--scratch",
        type=_scratch,
        metavar="KIND[,size=SIZE][,path=FILE]",
        help="what it writes its root to: scsi (a disk; the default), tmpfs (its memory) or "
        "pmem (persistent memory); FILE keeps it",
    )


def _add_exec(execute: argparse.ArgumentParser) -> None:
    _add_process_options(execute)
    execute.add_argument("--vm", action="store_true", help="in the utility VM itself, as root")
    execute.add_argument("-u", "--user", default="", help="a name or a number, or two with ':'")
    execute.add_argument(
        *("-w", "--workdir"), dest="working_directory", default="", metavar="FOLDER"
    )
    execute.add_argument("container", metavar="CONTAINER", help="a name, or how its id begins")
    execute.add_argument("program", metavar="CMD")
    execute.add_argument("arguments", metavar="ARG", nargs=argparse.REMAINDER)


def _add_ps(ps: argparse.ArgumentParser) -> None:
    ps.add_argument("-a", "--all", action="store_true", help="ended ones too")
    form = ps.add_mutually_exclusive_group()
    form.add_argument("-q", "--quiet", action="store_true", help="ids only")
    form.add_argument("--json", action="store_true", help="a JSON object on each line")


def _add_process_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "-i", "--interactive", dest="stdin", action="store_true", help="connect stdin"
    )
    verb.add_argument(
        "-t", "--tty", dest="terminal", action="store_true", help="give it a terminal"
    )
    verb.add_argument(
        *("-e", "--env"),
        dest="environment",
        action="append",
        default=[],
        type=_variable,
        metavar="KEY=VALUE",
        help="set a variable; KEY alone passes ours on",
    )


def _add_vm_options(run: argparse.ArgumentParser) -> None:
    cpus = default_cpus()
    run.add_argument(
        "--memory", type=_memory, metavar="SIZE", help=f"default: {DEFAULT_MEMORY_MIB}M"
    )
    run.add_argument("--cpus", type=_cpus, metavar="N", help=f"default: {cpus}")
    run.add_argument(
        "--boot",
        choices=[form.value for form in BootForm],
        metavar="FORM",
        help="what the VM boots from: pmem, a root image that all VMs share, or initrd "
        f"(default: that of the image that is named, or {DEFAULT_FORM})",
    )
    run.add_argument("--kernel", metavar="PATH", help="default: $GCS_KERNEL, or what was built")
    run.add_argument("--initrd", metavar="PATH", help="default: $GCS_INITRD, or what was built")
    run.add_argument(
        "--root-image", metavar="PATH", help="default: $GCS_ROOT_IMAGE, or what was built"
    )
    run.add_argument(
        "--vhost-device-vsock",
        metavar="PATH",
        help="default: $GCS_VHOST_DEVICE_VSOCK, or what was built",
    )
    run.add_argument("--verbose", action="store_true", help="tell of every step")


def default_cpus() -> int:
    """Return how many processors a VM has unless it is told."""
    return min(2, os.cpu_count() or 1)


# -- values ------------------------------------------------------------------------------------


def _memory(text: str) -> int:
    """Return MiB of "256M" or "1G"."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})([MmGg])i?[Bb]?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a size such as 256M or 1G")
    mib = int(match[1]) * (1024 if match[2] in "Gg" else 1)
    if mib > _MAX_MEMORY_MIB:
        raise argparse.ArgumentTypeError(f"{text}: the most is 1024G")
    return mib


def _cpus(text: str) -> int:
    return _number(text, 1, _MAX_CPUS)


def _seconds(text: str) -> int:
    return _number(text, 0, _MAX_STOP_S)


def _number(text: str, least: int, most: int) -> int:
    # Bounded in length: int() refuses thousands of digits in words of its own.
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most))):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from {least} to {most}")
    if not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from {least} to {most}")
    return int(text)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected 2 to 128 letters, digits, '_', '.' or '-', "
            "and a letter or digit first"
        )
    return text


def _signal(text: str) -> int:
    try:
        return signal_number(text)
    except InvalidArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _network(text: str) -> NetworkMode | Tap:
    kind, colon, rest = text.partition(":")
    try:
        if kind == NetworkMode.TAP and colon:
            return parse_tap(rest)
    except InvalidArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if text not in (NetworkMode.USER, NetworkMode.PASST, NetworkMode.NONE):
        raise argparse.ArgumentTypeError(f"{text!r}: expected user, passt, none or tap:NAME")
    return NetworkMode(text)


def _published(text: str) -> str:
    try:
        return str(parse_published(text))
    except InvalidArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _volume(text: str) -> Volume:
    try:
        return volumes.parse(text)
    except InvalidArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _scratch(text: str) -> Scratch:
    try:
        return scratch.parse(text)
    except InvalidArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _variable(text: str) -> str:
    """Return KEY=VALUE; KEY alone gets our value, or is taken away when we have none."""
    key, equals, _ = text.partition("=")
    if not key:
        raise argparse.ArgumentTypeError(f"{text!r}: expected KEY=VALUE")
    if not equals and key in os.environ:
        return f"{key}={os.environ[key]}"
    return text
