"""The annotations of a spec that mean something to the agent, and their values.

A boolean or a number that can't be read counts as absent, with a warning, as hosts in use are
served elsewhere. What makes no sense without its value is an error.

Source: PROTOCOL.md, "Annotations".
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gcs.errors import InvalidArgumentError
from gcs.guest.spec.document import PATH, Tree, below, named_map, text_of

__all__ = ["Annotations", "read"]

CONTAINER_TYPE: Final = "io.kubernetes.cri.container-type"
SANDBOX_ID: Final = "io.kubernetes.cri.sandbox-id"
VIRTUAL_POD_ID: Final = "io.microsoft.cri.virtual-pod-id"
SKIP_POD_NETWORKING: Final = "io.microsoft.cri.skip-pod-networking"
PRIVILEGED: Final = "io.microsoft.virtualmachine.lcow.privileged"
HOST_NETWORK: Final = "io.microsoft.virtualmachine.lcow.hostnetwork"
SHM_SIZE_KB: Final = "io.microsoft.lcow.shm.size-kb"
CORE_LIMIT: Final = "io.microsoft.lcow.rlimitcore"
LOG_PATH: Final = "io.microsoft.container.lcow.tee-log-path"
LOG_MOUNT: Final = "io.microsoft.container.lcow.tee-log-dir-mount"
GPU_CAPABILITIES: Final = "io.microsoft.container.gpu.capabilities"
SECURITY_CONTEXT: Final = "io.microsoft.virtualmachine.lcow.securitypolicy.env"
#: Hosts use the name of their Windows guests for this one in Linux guests too.
HOST_CERTIFICATE: Final = "io.microsoft.virtualmachine.wcow.amd-certificate"

#: What Go's strconv.ParseBool reads; hosts write annotations with its counterpart.
_BOOLEANS: Final = MappingProxyType(
    dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True)
    | dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False)
)
_MAX_U64 = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """What a spec's annotations ask for."""

    #: None when there is no such annotation, which is not the same as an empty one
    container_type: str | None
    sandbox_id: str
    virtual_pod_id: str
    skip_pod_networking: bool
    privileged: bool
    host_network: bool
    #: of /dev/shm; 0 when nothing is asked
    shm_size_kib: int
    #: soft and hard
    core_limit: tuple[int, int] | None
    #: of the file that gets a copy of the output, below the folder of logs; "" for none
    log_path: str
    #: where the container wants to see the folder of logs
    log_mount: str
    gpu_capabilities: tuple[str, ...]
    wants_security_context: bool
    host_certificate: str
    #: values that were not understood
    warnings: tuple[str, ...]


def read(spec: Tree) -> Annotations:
    """Read the annotations that are known; all others are left to whoever knows them.

    Raises InvalidRequestError for one that is no text, InvalidArgumentError for a limit that
    can't be read.
    """
    reader = _Reader(named_map(spec, "annotations"))
    return Annotations(
        container_type=reader.text(CONTAINER_TYPE) if reader.has(CONTAINER_TYPE) else None,
        sandbox_id=reader.text(SANDBOX_ID),
        virtual_pod_id=reader.text(VIRTUAL_POD_ID),
        skip_pod_networking=reader.text(SKIP_POD_NETWORKING).lower() == "true",
        privileged=reader.boolean(PRIVILEGED, default=False),
        host_network=reader.boolean(HOST_NETWORK, default=False),
        shm_size_kib=reader.number(SHM_SIZE_KB),
        core_limit=_core_limit(reader.text(CORE_LIMIT)),
        log_path=_log_path(reader.text(LOG_PATH)),
        log_mount=reader.text(LOG_MOUNT),
        gpu_capabilities=_words(reader.text(GPU_CAPABILITIES)),
        wants_security_context=reader.boolean(SECURITY_CONTEXT, default=True),
        host_certificate=reader.text(HOST_CERTIFICATE),
        warnings=tuple(reader.warnings),
    )


class _Reader:
    def __init__(self, annotations: Tree) -> None:
        self._annotations = annotations
        self.warnings: list[str] = []

    def has(self, name: str) -> bool:
        return self._annotations.get(name) is not None

    def text(self, name: str) -> str:
        return text_of(self._annotations, name, f"{PATH}.annotations")

    def boolean(self, name: str, *, default: bool) -> bool:
        text = self.text(name)
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if text:
            self.warnings.append(f"annotation {name}: {text[:80]!r} is neither true nor false")
        return default

    def number(self, name: str) -> int:
        text = self.text(name)
        found = _u64(text)
        if text and found is None:
            self.warnings.append(f"annotation {name}: {text[:80]!r} is no number")
        return found or 0


def _u64(text: str) -> int | None:
    # 20 digits are the longest of 64 bits; int() takes forever for very long ones.
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        return None
    number = int(text)
    return number if number <= _MAX_U64 else None


def _core_limit(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    soft, _, hard = text.partition(";")
    numbers = _u64(soft.strip()), _u64(hard.strip())
    if numbers[0] is None or numbers[1] is None:
        raise InvalidArgumentError(f"annotation {CORE_LIMIT}: {text[:80]!r} is not soft;hard")
    return numbers[0], numbers[1]


def _log_path(text: str) -> str:
    path = below(text, f"annotation {LOG_PATH}: {text[:200]!r}")
    if text and not path:
        raise InvalidArgumentError(f"annotation {LOG_PATH}: {text[:200]!r} names no file")
    return path


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for part in text.split(",") if (word := part.strip()))
