"""Stack folders with overlayfs.

Options of overlayfs are one string: layers are separated by `:`, options by `,`, and either of
them (and the backslash) is escaped by a backslash inside a path. The kernel takes the string
apart with the escapes in it and removes them once, from each path.

mount(2) takes one page of options, which some forty layers fill. What does not fit is given to
the kernel option by option. One of these has at most 255 bytes: a longer path goes by the link
that /proc has to an open descriptor, and /proc/mounts shows it so.

Source: Documentation/filesystems/overlayfs.rst; ovl_next_opt(),
ovl_parse_param_split_lowerdirs() and ovl_unescape() in fs/overlayfs/params.c;
fsopen(2), whose `lowerdir+` overlayfs has since 6.7.
Needs: CONFIG_OVERLAY_FS
"""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from gcs.linux import abi, mounts, syscall
from gcs.linux.undo import Undo, on_failure

__all__ = ["mount", "options"]

_TARGET_MODE = 0o755
#: A message of a mount's context; the kernel's are a line of text.
_MESSAGE_SIZE = 4096


def _escape(path: str) -> str:
    return "".join(f"\\{c}" if c in "\\:," else c for c in path)


def options(lowerdirs: Sequence[str], upperdir: str = "", workdir: str = "") -> str:
    """Return the option string; `lowerdirs` are topmost first."""
    parts = [f"lowerdir={':'.join(map(_escape, lowerdirs))}"]
    if upperdir:
        parts.append(f"upperdir={_escape(upperdir)}")
        parts.append(f"workdir={_escape(workdir)}")
    return ",".join(parts)


def mount(
    lowerdirs: Sequence[str],
    target: str,
    upperdir: str = "",
    workdir: str = "",
    outer: Undo | None = None,
) -> None:
    """Mount the layers, topmost first, at the target; without an upperdir read-only.

    Makes the target, upperdir and workdir when they are missing, and removes again, when it
    fails, those that it made.
    """
    data = options(lowerdirs, upperdir, workdir)
    with on_failure(outer) as undo:
        for folder in filter(None, (upperdir, workdir, target)):
            is_new = not os.path.lexists(folder)
            mounts.make_target(folder, _TARGET_MODE, undo)
            if folder == workdir and is_new:
                # The kernel makes this one before it looks at the layers.
                undo.add(mounts.remove_target, f"{workdir}/work")
        if len(lowerdirs) == 1 and not upperdir:
            _show(lowerdirs[0], target)
        elif len(os.fsencode(data)) <= abi.OVERLAY_OPTIONS_MAX:
            flags = abi.MountFlag(0) if upperdir else abi.MountFlag.RDONLY
            syscall.mount("overlay", target, "overlay", flags, data)
        else:
            _mount_one_by_one(lowerdirs, target, upperdir, workdir)
        undo.add(syscall.umount, target)


def _show(lowerdir: str, target: str) -> None:
    """Show one layer read-only, which overlayfs, with nothing to lay over it, refuses to."""
    with on_failure() as undo:
        syscall.mount(lowerdir, target, None, abi.MountFlag.BIND)
        undo.add(syscall.umount, target)
        read_only = abi.MountFlag.BIND | abi.MountFlag.REMOUNT | abi.MountFlag.RDONLY
        syscall.mount("none", target, None, read_only)


def _mount_one_by_one(
    lowerdirs: Sequence[str], target: str, upperdir: str, workdir: str
) -> None:
    """Mount layers that are given to the kernel each on its own, as many as it takes (500)."""
    context = syscall.fsopen("overlay")
    try:
        mounted = _configured(context, lowerdirs, upperdir, workdir)
        try:
            syscall.move_mount(mounted, target)
        finally:
            os.close(mounted)
    except OSError as error:
        text = f"mount overlay on {target}: {error.strerror}{_said(context)}"
        raise OSError(error.errno, text) from error
    finally:
        os.close(context)


def _configured(context: int, lowerdirs: Sequence[str], upperdir: str, workdir: str) -> int:
    """Return the descriptor of the overlay, which is not mounted anywhere yet."""
    with ExitStack() as opened:
        for path in lowerdirs:
            _set_path(context, "lowerdir+", path, opened)
        if upperdir:
            # These two the kernel unescapes; a layer that is added by itself it does not.
            _set_path(context, "upperdir", upperdir, opened, escape=_escape)
            _set_path(context, "workdir", workdir, opened, escape=_escape)
        else:
            syscall.fsconfig(context, abi.FsConfig.SET_FLAG, "ro")
        syscall.fsconfig(context, abi.FsConfig.CREATE)
    return syscall.fsmount(context, 0 if upperdir else abi.MOUNT_ATTR_RDONLY)


def _set_path(
    context: int,
    key: str,
    path: str,
    opened: ExitStack,
    *,
    escape: Callable[[str], str] = str,
) -> None:
    """Name a folder; one whose path is too long by a descriptor, open until the block's end."""
    value = escape(path)
    if len(os.fsencode(value)) > abi.FSCONFIG_VALUE_MAX:
        try:
            folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: {path}") from error
        opened.callback(os.close, folder)
        value = f"/proc/self/fd/{folder}"
    syscall.fsconfig(context, abi.FsConfig.SET_STRING, key, value)


def _said(context: int) -> str:
    """Return what the kernel has to say of a context, for the end of an error's text."""
    said = ""
    with suppress(OSError):  # ENODATA: that was all
        while line := os.read(context, _MESSAGE_SIZE):
            said += f"; {line.decode(errors='replace').strip()}"
    return said
