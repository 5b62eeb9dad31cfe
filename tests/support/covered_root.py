"""What root can do to the VM's root, tried in the VM: it prints a JSON object of outcomes.

It is run by the guest's interpreter, which has no more than the agent imports, in a name space
of its own, whose root it takes away.
"""

import ctypes
import json
import os
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)
_REMOUNT, _BIND, _DETACH, _NEW_NAMESPACE = 32, 4096, 2, 0x20000


def _call(name: str, *arguments: object) -> str:
    """Call the C library; return the name of the error, or "done"."""
    made = getattr(_LIBC, name)(*arguments)
    return "done" if made == 0 else os.strerror(ctypes.get_errno())


def _write(path: str) -> str:
    try:
        with open(path, "w") as file:  # noqa: PTH123 - there is no pathlib to spare
            file.write("x")
    except OSError as error:
        return error.strerror or "failed"
    return "written"


def _files() -> list[str]:
    return sorted(
        f"{top}/{name}".replace("//", "/")
        for top, _, names in os.walk("/")
        for name in names
        if top != "/dev"
    )


def main() -> int:
    """Try one after the other, each worse than the one before."""
    found: dict[str, object] = {"as it is": _write("/written")}
    found["own namespace"] = _call("unshare", _NEW_NAMESPACE)
    # What is not named is taken back, for the other name spaces as well.
    options = b"dax=always" if " / erofs " in open("/proc/mounts").read() else None  # noqa: PTH123, SIM115
    for what, flags in (("remount", _REMOUNT), ("remount bind", _REMOUNT | _BIND)):
        found[what] = _call("mount", None, b"/", None, flags, options)
        found[f"after {what}"] = _write("/written")
    here = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    found["root taken off"] = _call("umount2", b"/", _DETACH)
    found["to what was below"] = _call("setns", here, _NEW_NAMESPACE)
    found["files below"] = _files()
    found["below"] = _write("/written")
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
