"""What a report says of the tree that was measured."""

import subprocess
from pathlib import Path

from tests.bench.machine import _commit


def test_a_commit_is_named_and_so_are_changes(tmp_path: Path) -> None:
    """Whoever the tree belongs to."""
    git = ("git", "-c", "user.name=n", "-c", "user.email=n@example.org", "-C", str(tmp_path))
    (tmp_path / "file").write_text("one")
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "one")):
        subprocess.run([*git, *words], check=True)
    argv = [*git, "rev-parse", "HEAD"]
    head = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    named = _commit(tmp_path)
    assert head.startswith(named)
    (tmp_path / "file").write_text("two")
    assert _commit(tmp_path) == f"{named}-dirty"


def test_a_tree_without_history_is_measured_all_the_same(tmp_path: Path) -> None:
    """It can't be named."""
    assert _commit(tmp_path) == "unknown"
