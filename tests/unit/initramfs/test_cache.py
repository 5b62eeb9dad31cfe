from pathlib import Path

import pytest

from initramfs.recipes import cache
from initramfs.recipes.cache import Cache


def test_the_key_does_not_depend_on_the_order_of_the_inputs() -> None:
    assert cache.key_of({"a": "1", "b": "2"}) == cache.key_of({"b": "2", "a": "1"})


@pytest.mark.parametrize(
    "other",
    [
        {"a": "1", "b": "3"},
        {"a": "1", "c": "2"},
        {"a": "12", "b": ""},
        {"a": "1"},
        {"a1": "b2"},
    ],
)
def test_any_change_of_the_inputs_changes_the_key(other: dict[str, str]) -> None:
    assert cache.key_of({"a": "1", "b": "2"}) != cache.key_of(other)


def test_text_and_its_bytes_have_one_key() -> None:
    assert cache.key_of({"a": "é"}) == cache.key_of({"a": "é".encode()})


def test_the_key_of_known_inputs_is_this_one() -> None:
    """A key that changes by accident costs every user a kernel build."""
    wanted = "4016e0316f40793b933598c4fcbcd0b472413e3ffe9f725829aef85184e9b679"
    assert cache.key_of({"a": "1", "b": "2"}) == wanted


def test_a_result_is_published_whole(tmp_path: Path) -> None:
    store = Cache(tmp_path)

    def build(folder: Path) -> None:
        (folder / "part").write_text("1")
        assert not store.entry("step", "key").exists()
        (folder / "rest").write_text("2")

    done = store.build("step", "key", build)
    assert done == store.entry("step", "key")
    assert sorted(path.name for path in done.iterdir()) == ["part", "rest"]
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_a_finished_result_is_not_built_again(tmp_path: Path) -> None:
    store = Cache(tmp_path)

    def build(folder: Path) -> None:
        (folder / "a").write_text("1")

    store.build("step", "key", build)

    def again(folder: Path) -> None:
        pytest.fail("built a second time")

    assert (store.build("step", "key", again) / "a").read_text() == "1"


@pytest.mark.parametrize("reason", [OSError("disk full"), KeyboardInterrupt()])
def test_a_build_that_does_not_end_leaves_nothing(
    tmp_path: Path, reason: BaseException
) -> None:
    store = Cache(tmp_path)

    def build(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise reason

    with pytest.raises(type(reason)):
        store.build("step", "key", build)
    assert not store.entry("step", "key").exists()
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    store = Cache(tmp_path)
    stale = tmp_path / "unfinished" / "step-key"
    stale.mkdir(parents=True)
    (stale / "half").write_text("1")
    done = store.build("step", "key", lambda folder: None)
    assert list(done.iterdir()) == []


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.default_root() == Path("/somewhere/gcs")


def test_a_relative_xdg_folder_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.default_root() == Path.home() / ".cache/gcs"
