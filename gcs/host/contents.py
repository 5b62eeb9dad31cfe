"""What a container's root is made of: an image, and its layers ready for a VM.

Ready means converted, packed if there are many, and kept from being removed.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from gcs.host.background import together
from gcs.host.image_records import image_of, load
from gcs.host.images import Image, open_image
from gcs.host.layer_cache import Leases
from gcs.host.layers import ensure_layers
from gcs.host.packs import pack
from gcs.host.place import Place

__all__ = ["Contents", "find_image", "prepare"]

#: Lines about layers that wait to be told; what is over is for the eye only, and dropped.
_PROGRESS_LINES = 256


@dataclass(frozen=True, slots=True)
class Contents:
    """An image and its layers."""

    image: Image
    #: as file systems, bottom first
    layers: Sequence[Path]
    #: where a VM finds them, bottom first
    places: Sequence[Place]


async def find_image(image: str, cache: Path) -> Image:
    """Return the image of an absolute path, or the one of that name in the cache.

    Raises GcsError when it is not there, or damaged.
    """
    if image.startswith("/"):
        return await open_image(Path(image))
    return image_of(load(cache, image))


async def prepare(
    image: Image,
    cache: Path,
    leases: Leases,
    tell: Callable[[str], Awaitable[None]],
) -> Contents:
    """Convert what the cache lacks, and pack many layers into few files.

    Args:
        image: Whose layers.
        cache: The folder of converted layers.
        leases: Keep what is returned from being removed.
        tell: Told of what happens, for a person to watch.

    Raises GcsError when a layer can't be converted, or the files not be written.
    """
    made: list[Contents] = []
    lines, told = trio.open_memory_channel[str](_PROGRESS_LINES)

    def say(line: str) -> None:
        try:
            lines.send_nowait(line)
        except trio.WouldBlock:
            return

    async def make() -> None:
        with lines:
            layers = await ensure_layers(image, cache, progress=say, leases=leases)
            places = await pack(layers, leases=leases, progress=say)
            made.append(Contents(image, layers, places))

    async def pass_on() -> None:
        async for line in told:
            await tell(line)

    await together(make, pass_on)
    return made[0]
