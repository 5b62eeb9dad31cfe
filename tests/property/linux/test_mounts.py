"""Any path survives the way through mountinfo."""

from hypothesis import given
from hypothesis import strategies as st

from gcs.linux import mounts

paths = st.text(st.characters(exclude_characters="\0"), max_size=20)


def _mangle(path: str) -> str:
    """Escape as mangle_path() of fs/seq_file.c does for mountinfo."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in path)


@given(st.lists(st.tuples(paths, paths), max_size=4))
def test_targets_and_sources_are_read_back(given_mounts: list[tuple[str, str]]) -> None:
    """Whatever they hold, each line is one mount."""
    text = "".join(
        f"{number} 1 0:1 / /{_mangle(target)} rw shared:{number} - tmpfs {_mangle(source)} rw\n"
        for number, (target, source) in enumerate(given_mounts)
    )
    found = [(mount.target, mount.source) for mount in mounts.parse(text)]
    assert found == [(f"/{target}", source) for target, source in given_mounts]
