"""Disks that nobody can read once they are unmounted: LUKS2 with a key that is never kept.

The key is random, goes to cryptsetup through pipes and is forgotten: what is left of it is in
the kernel, for as long as the disk is mounted. Each sector has a tag, so that what the host
changes is an error when it is read, and never other data.

Source: cryptsetup(8); Documentation/admin-guide/device-mapper/dm-integrity.rst; PROTOCOL.md,
"MappedVirtualDisk".
Needs: CONFIG_DM_CRYPT, CONFIG_DM_INTEGRITY, CONFIG_CRYPTO_AES, CONFIG_CRYPTO_XTS,
CONFIG_CRYPTO_HMAC, CONFIG_CRYPTO_AUTHENC
"""

import os
import shutil
from pathlib import Path
from typing import Final

import trio

from gcs.errors import UnsupportedError
from gcs.guest.agent import Agent
from gcs.linux import devmapper, probe
from gcs.linux.undo import Undo

__all__ = ["encrypt"]

_PROGRAM: Final = "cryptsetup"
#: Nothing here makes links to devices: without it libdevmapper waits for who does.
_COMMAND: Final = ("env", "DM_DISABLE_UDEV=1", _PROGRAM, "--batch-mode", "--key-file=-")
#: More than the cipher's own key has, so that nobody finds it before that one. It is no
#: password: there is nothing to be gained by hashing it a million times.
_KEY_SIZE: Final = 64
_FORMAT: Final = (
    *("luksFormat", "--type=luks2", "--cipher=aes-xts-plain64", "--sector-size=4096"),
    *("--integrity=hmac-sha256", "--integrity-no-wipe"),
    *("--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"),
)
#: A journal of the tags would have everything written twice. What a power cut tears is an error
#: when it is read, of a disk whose key has gone with the power.
_OPEN: Final = ("luksOpen", "--type=luks2", "--integrity-no-journal")
#: Programs that look for a file system read the first block, which has no valid tag before it
#: is written.
_FIRST_BLOCK: Final = bytes(4096)


async def encrypt(agent: Agent, source: str, undo: Undo) -> tuple[str, tuple[str, ...]]:
    """Encrypt a disk with a new key; return the plain device, and device-mapper's names.

    The names are the lowest first. Raises UnsupportedError when the VM has no program for it,
    GcsError with that program's words. Undone, the disk counts as blank again.
    """
    if shutil.which(_PROGRAM) is None:
        text = f"{_PROGRAM} is not in this image of the utility VM; the full image has it"
        raise UnsupportedError(f"{source}: can't be encrypted: {text}")
    name = f"dm-crypt-{Path(source).name}"
    names = (f"{name}_dif", name)
    key = os.urandom(_KEY_SIZE)
    undo.add(probe.blank, source)
    await agent.children.check_output((*_COMMAND, *_FORMAT, source), stdin=key)
    for mapped in names:
        undo.add(devmapper.remove, mapped)
    await agent.children.check_output((*_COMMAND, *_OPEN, source, name), stdin=key)
    return await trio.to_thread.run_sync(_settle, names), names


def _settle(names: tuple[str, ...]) -> str:
    """Return the node that devtmpfs has for the plain device.

    Those that the program has made itself go: who removes the devices knows nothing of them.
    """
    nodes = [Path("/dev/mapper", name) for name in names]
    minor = os.minor(nodes[-1].stat().st_rdev)
    for node in nodes:
        node.unlink()
    plain = Path(f"/dev/dm-{minor}")
    with plain.open("r+b", buffering=0) as device:
        device.write(_FIRST_BLOCK)
        os.fsync(device.fileno())
    return str(plain)
