"""Modules that are found by a list, and those that are executed when they are first used."""

import importlib.util
import marshal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from initramfs.recipes import bytecode

AGENT = Path(__file__).resolve().parents[3] / "initramfs/agent"


def load(name: str) -> ModuleType:
    """Return one of the guest's modules."""
    spec = importlib.util.spec_from_file_location(f"guest_{name}", AGENT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Maker = Callable[[dict[str, str], frozenset[str]], None]
NONE = frozenset[str]()


@pytest.fixture
def finder() -> ModuleType:
    return load("finder")


@pytest.fixture
def make(
    finder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Maker]:
    """Write modules, and have them found; the names are of those executed when used."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    before = set(sys.modules)

    def write(texts: dict[str, str], late: frozenset[str]) -> None:
        places = {}
        for name, text in texts.items():
            place = tmp_path / f"{name}.pyc"
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(bytecode.bytecode(text.encode(), str(place)))
            places[name.removesuffix("/__init__").replace("/", ".")] = str(place)
        (tmp_path / "places").write_bytes(marshal.dumps(places))
        monkeypatch.setattr(finder, "_PLACE", str(tmp_path / "places"))
        monkeypatch.setattr(finder, "LATE", late)
        finder.use()
        sys.meta_path.insert(1, importlib.machinery.FrozenImporter)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_is_found_by_the_list_and_nowhere_else(make: Maker) -> None:
    make({"found_one": "x = 1", "found_two/__init__": "", "found_two/inner": "y = 2"}, NONE)
    from found_one import x  # type: ignore[import-not-found]
    from found_two.inner import y  # type: ignore[import-not-found]

    assert (x, y) == (1, 2)
    assert sys.modules["found_two.inner"].__file__
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("xdrlib")


def test_a_long_module_is_read_whole(make: Maker) -> None:
    make({"found_long": f"x = {'a' * 65536!r}; y = {'b' * 70000!r}; z = 3"}, NONE)
    assert importlib.import_module("found_long").z == 3


def test_a_late_module_is_executed_once_when_it_is_used(make: Maker) -> None:
    make(
        {
            "found_log": "said = []",
            "found_late": "import found_log as l; l.said.append(1); x = 2",
        },
        frozenset({"found_late"}),
    )
    late, log = (importlib.import_module(name) for name in ("found_late", "found_log"))
    assert log.said == []
    assert [late.x, late.x] == [2, 2]
    assert log.said == [1]
    with pytest.raises(AttributeError, match="has no attribute 'z'"):
        _ = late.z


def test_what_is_taken_from_a_late_module_executes_it(make: Maker) -> None:
    make({"found_late": "__all__ = ['x']; x = 2"}, frozenset({"found_late"}))
    scope: dict[str, object] = {}
    exec("from found_late import *", scope)
    assert scope["x"] == 2


def test_a_late_module_that_failed_is_tried_again(make: Maker) -> None:
    text = (
        "import found_log as l\nif not l.said: l.said.append(1); raise OSError('busy')\nx = 2"
    )
    make({"found_log": "said = []", "found_late": text}, frozenset({"found_late"}))
    late = importlib.import_module("found_late")
    with pytest.raises(OSError, match="busy"):
        _ = late.x
    assert late.x == 2


def test_threads_that_use_a_late_module_wait_for_all_of_it(make: Maker) -> None:
    make({"found_late": "import time; time.sleep(0.1); x = 2"}, frozenset({"found_late"}))
    late = importlib.import_module("found_late")
    seen = list[object]()
    threads = [threading.Thread(target=lambda: seen.append(late.x)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [2, 2, 2, 2]


def test_nothing_of_a_late_module_is_had_while_it_is_executed(make: Maker) -> None:
    """Not even what is there already: it may need what comes below it."""
    text = (
        "import time\ndef f(): return g()\nimport found_log as l; l.begun.set()\n"
        "time.sleep(0.2)\ndef g(): return 2"
    )
    log = "import threading; begun = threading.Event()"
    make({"found_log": log, "found_late": text}, frozenset({"found_late"}))
    late, begun = importlib.import_module("found_late"), importlib.import_module("found_log")
    thread = threading.Thread(target=lambda: late.g)
    thread.start()
    assert begun.begun.wait(30)
    assert late.f() == 2
    thread.join()


def test_modules_of_the_agent_are_late_and_the_rest_can_be_executed(
    make: Maker, finder: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the rest brings are part of it."""
    monkeypatch.setattr(finder, "_OURS", "found_our")
    monkeypatch.setattr(finder, "_NEEDED", frozenset({"found_stacks"}))
    make(
        {
            "found_log": "said = []",
            "found_our1": "import found_log as l, found_our2; l.said.append(1)",
            "found_our2": "import found_log as l; l.said.append(2)",
            "found_our3/__init__": "import found_log as l; l.said.append(3)",
            "found_stacks": "import found_log as l; l.said.append(4)",
            "found_other": "import found_log as l; l.said.append(5)",
        },
        frozenset({"found_stacks", "found_other"}),
    )
    log = importlib.import_module("found_log")
    importlib.import_module("found_our3")
    assert log.said == [3]  # a package is not late
    for name in ("found_our1", "found_stacks", "found_other"):
        importlib.import_module(name)
    assert log.said == [3]
    assert list(finder.execute_rest()) == ["found_our1", "found_stacks", "found_our2"]
    assert log.said == [3, 1, 4, 2]


def test_what_is_absent_has_every_name_and_can_not_be_used() -> None:
    absent = load("absent")
    assert isinstance(absent.Path, type)
    assert not isinstance(1, absent.Path)
    with pytest.raises(NotImplementedError, match="Path: left out"):
        absent.Path("/")
    with pytest.raises(AttributeError):
        _ = absent.__all__


def test_the_stand_ins_for_tracebacks_do_what_these_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import textwrap
    import traceback

    group = ExceptionGroup("two", [ValueError("a\n\nb"), KeyError(2)])
    expected = traceback.format_exception(group)
    monkeypatch.setattr(traceback, "textwrap", load("textwrap"))
    monkeypatch.setattr(traceback, "linecache", load("linecache"))
    assert traceback.format_exception(group) == expected
    assert load("textwrap").indent("a\n\nb", "> ") == textwrap.indent("a\n\nb", "> ")


def test_the_stand_in_for_datetime_has_what_that_has() -> None:
    import datetime

    made = load("datetime")
    assert made.datetime is datetime.datetime
    assert {name for name in datetime.__all__ if not hasattr(made, name)} == set()
