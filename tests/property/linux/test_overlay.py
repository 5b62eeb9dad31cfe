"""overlayfs option strings lead back to the paths that they were made of.

The reader is the kernel's, line by line: ovl_next_opt(), ovl_parse_param_split_lowerdirs() and
ovl_unescape() of fs/overlayfs/params.c.
"""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from gcs.linux import overlay

paths = st.text(
    st.sampled_from(":,\\=ab /\u00e9\udcff") | st.characters(exclude_characters="\0"),
    min_size=1,
    max_size=20,
)


def _next_options(data: str) -> Iterator[str]:
    start = position = 0
    while position < len(data):
        if data[position] == "\\":
            position += 1
        elif data[position] == ",":
            yield data[start:position]
            start = position + 1
        position += 1
    yield data[start:]


def _split_lowerdirs(value: str) -> list[str]:
    layers, position = [""], 0
    while position < len(value):
        if value[position] == "\\":
            layers[-1] += value[position]
            position += 1
        elif value[position] == ":":
            layers.append("")
            position += 1
            continue
        layers[-1] += value[position]
        position += 1
    assert "" not in layers, "the kernel refuses these"
    return layers


def _unescape(path: str) -> str:
    characters = iter(path)
    return "".join(next(characters) if c == "\\" else c for c in characters)


def _read(data: str) -> dict[str, list[str]]:
    """Return the paths by the name of their option."""
    options = dict(option.split("=", 1) for option in _next_options(data))
    found = {
        "lowerdir": [_unescape(path) for path in _split_lowerdirs(options.pop("lowerdir"))]
    }
    return found | {name: [_unescape(value)] for name, value in options.items()}


@given(st.lists(paths, min_size=1, max_size=5), paths, paths)
def test_any_paths_are_read_back(lowerdirs: list[str], upperdir: str, workdir: str) -> None:
    """Separators and backslashes in them change nothing, and the order of the layers stays."""
    assert _read(overlay.options(lowerdirs, upperdir, workdir)) == {
        "lowerdir": lowerdirs,
        "upperdir": [upperdir],
        "workdir": [workdir],
    }


@given(st.lists(paths, min_size=1, max_size=5))
def test_without_an_upperdir_there_are_only_layers(lowerdirs: list[str]) -> None:
    """Such an overlay is read-only."""
    assert _read(overlay.options(lowerdirs)) == {"lowerdir": lowerdirs}
