"""Words of a mount: flags, propagation, and what is for the file system."""

import pytest

from gcs.linux.abi import MountFlag
from gcs.linux.options import Options, parse


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ((), Options()),
        (("ro", "nosuid"), Options(MountFlag.RDONLY | MountFlag.NOSUID)),
        (("ro", "rw"), Options()),
        (("rw", "ro"), Options(MountFlag.RDONLY)),
        (("relatime", "noatime"), Options(MountFlag.NOATIME)),
        (("strictatime", "relatime"), Options(MountFlag.RELATIME)),
        (("defaults", "rbind", "bind", ""), Options()),
        (
            ("rprivate", "shared"),
            Options(propagation=(MountFlag.PRIVATE | MountFlag.REC, MountFlag.SHARED)),
        ),
        (
            ("data=ordered", "ro", "discard"),
            Options(MountFlag.RDONLY, (), "data=ordered,discard"),
        ),
        (("ROOT", "Ro"), Options(data="ROOT,Ro")),
    ],
    ids=str,
)
def test_each_word_has_its_meaning(words: tuple[str, ...], options: Options) -> None:
    """The later of two that contradict each other counts; what is unknown is passed on."""
    assert parse(words) == options
