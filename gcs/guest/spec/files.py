"""The files of a pod that every container in it sees: hostname, hosts and resolv.conf.

Source: PROTOCOL.md, "Generated files"; hosts(5), resolv.conf(5).
"""

import posixpath
import re
from collections.abc import Sequence

from gcs.errors import InvalidArgumentError
from gcs.guest.spec.document import Tree, map_of, mounts_of, text_of

__all__ = ["add_mounts", "hostname_of", "hosts", "resolv_conf", "texts"]

#: As long as a name can be in DNS, in the characters that hosts in use allow.
_HOSTNAME = re.compile(r"[A-Za-z0-9_.-]{0,255}")
#: What the resolver of glibc took before 2.26, and others still do.
_MAX_SEARCH_DOMAINS = 6
_IPV6 = (
    "# names of IPv6",
    "::1     localhost ip6-localhost ip6-loopback",
    "fe00::0 ip6-localnet",
    "ff00::0 ip6-mcastprefix",
    "ff02::1 ip6-allnodes",
    "ff02::2 ip6-allrouters",
)
#: in the folder of the pod, and in /etc of a container
_NAMES = ("hostname", "hosts", "resolv.conf")


def hostname_of(spec: Tree) -> str:
    """Return the hostname that a spec asks for, or "". Raises InvalidArgumentError."""
    name = text_of(spec, "hostname")
    if not _HOSTNAME.fullmatch(name):
        raise InvalidArgumentError(f"hostname {name[:80]!r} is not acceptable")
    return name


def texts(hostname: str) -> dict[str, str]:
    """Return the content of each file, by its name.

    The name servers come with the network adapters; a pod that has none has no name server.
    """
    return {
        "hostname": f"{hostname}\n",
        "hosts": hosts(hostname),
        "resolv.conf": resolv_conf((), ()),
    }


def hosts(hostname: str) -> str:
    """Return the content of a hosts file; the first label of a dotted name is an alias."""
    label, dot, _ = hostname.partition(".")
    names = f"{hostname} {label}" if dot and label else hostname
    own = [f"127.0.0.1 {names}"] if hostname else []
    return "\n".join(["127.0.0.1 localhost", *own, "", *_IPV6, ""])


def resolv_conf(search: Sequence[str], servers: Sequence[str]) -> str:
    """Return the content of a resolv.conf. Raises InvalidArgumentError: too many domains."""
    if len(search) > _MAX_SEARCH_DOMAINS:
        raise InvalidArgumentError(
            f"{len(search)} search domains are over the {_MAX_SEARCH_DOMAINS} that work"
        )
    lines = [f"search {' '.join(search)}"] if search else []
    lines += [f"nameserver {server}" for server in servers]
    return "".join(f"{line}\n" for line in lines)


def add_mounts(draft: Tree, root: str) -> None:
    """Bind the files of a pod's folder into /etc, but where the spec has a mount already."""
    mounts = mounts_of(draft)
    taken = {posixpath.normpath(text_of(mount, "destination")) for mount in mounts}
    readonly = map_of(draft, "root").get("readonly") is True
    options = ["bind", "ro"] if readonly else ["bind"]
    added: list[Tree] = [
        {
            "destination": f"/etc/{name}",
            "type": "bind",
            "source": f"{root}/{name}",
            "options": list(options),
        }
        for name in _NAMES
        if f"/etc/{name}" not in taken
    ]
    if added:
        draft["mounts"] = [*mounts, *added]
