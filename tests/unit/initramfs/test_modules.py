import marshal
from pathlib import Path

import pytest

from initramfs.recipes import bytecode, modules, python

REPO = Path(__file__).resolve().parents[3]


def imported(
    text: str, name: str = "a.b", *, is_package: bool = False, late: bool = False
) -> set[str]:
    return modules.imported(text.encode(), name, is_package=is_package, late=late)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import x.y as z", {"x.y"}),
        ("from x import y", {"x", "x.y"}),
        ("from . import c", {"a", "a.c"}),
        ("from .c import d", {"a.c", "a.c.d"}),
        ("try:\n import x\nexcept ImportError:\n import y\nelse:\n import z", {"x", "y", "z"}),
        ("if TYPE_CHECKING:\n import x\nelse:\n import y", {"y"}),
        ("if __name__ == '__main__':\n import x", set()),
        ("class C:\n import x", {"x"}),
        ("with a:\n import x", {"x"}),
        ("match a:\n case 1:\n  import x", {"x"}),
        ("def f():\n import x", set()),
    ],
)
def test_what_a_module_imports_when_it_is_imported(text: str, names: set[str]) -> None:
    assert imported(text) == names


def test_imports_in_functions_count_for_our_own_modules() -> None:
    assert imported("class C:\n def f(self):\n  async def g():\n   import x", late=True) == {
        "x"
    }


def test_relative_names_start_at_the_package() -> None:
    assert imported("from . import c", "a.b", is_package=True) == {"a.b", "a.b.c"}
    assert imported("from ..c import d", "a.b.e") == {"a.c", "a.c.d"}


def test_names_of_modules_are_those_of_their_files() -> None:
    paths = ["p/a/__init__.py", "p/a/b.py", "p/lib-dynload/_c.cpython-311.so"]
    assert modules.names_in("p", [*paths, "p/a/d.txt", "q/e.py"]) == {
        "a": "p/a/__init__.py",
        "a.b": "p/a/b.py",
        "_c": "p/lib-dynload/_c.cpython-311.so",
    }


def test_what_is_imported_brings_its_packages_and_what_they_import() -> None:
    texts = {"a": b"import c", "a.b": b"", "c": b"import asyncio.x", "d": b"", "asyncio.x": b""}
    paths = {name: f"{name}.py" for name in texts}
    sources = {paths[name]: text for name, text in texts.items()}
    assert modules.closure(["a.b"], paths, sources) == {"a", "a.b", "c"}


def test_what_is_asked_for_itself_is_never_left_out() -> None:
    texts = {"a": b"import hashlib", "hashlib": b"", "b": b"def f():\n import a"}
    paths = {name: f"{name}.py" for name in texts}
    sources = {paths[name]: text for name, text in texts.items()}
    assert modules.closure(["a"], paths, sources) == {"a"}
    assert modules.closure(["a", "hashlib"], paths, sources) == {"a", "hashlib"}
    assert modules.closure(["b"], paths, sources) == {"b"}
    assert modules.closure(["b"], paths, sources, late=True) == {"a", "b"}


def test_of_our_own_modules_those_are_in_the_image_that_the_agent_imports() -> None:
    """Not the host's, nor what only hosts and their services say to each other."""
    names = modules.names_in(python.OURS, python.agent_modules(REPO))
    assert {"gcs", "gcs.guest.main", "gcs.linux.link", "gcs.wire.extensions"} <= set(names)
    strange = ("gcs.host", "gcs.wire.control", "gcs.wire.container_storage")
    assert [name for name in names if name.startswith(strange)] == []


def test_the_agent_imports_what_it_is_known_to() -> None:
    names = python.agent_imports(REPO)
    assert {"trio", "msgspec", "cbor2", "psutil", "pyroute2.netlink.rtnl.rtmsg"} <= names
    assert not [name for name in names if name.startswith("gcs")]


def test_bytecode_has_few_docstrings_and_keeps_lines_and_assertions() -> None:
    source = b'"""Module."""\n"""Twice."""\nfrom __future__ import annotations\n'
    source += b'def f():\n    """Function."""\nclass C:\n    """Class."""\n'
    source += b'@repr\nclass D:\n    """Decorated."""\n    assert False\n'
    made = bytecode.bytecode(source, "/usr/lib/x.py")
    assert made[4] == bytecode.UNCHECKED_HASH
    assert b"Twice" not in made
    assert b"Function" not in made
    assert b"Class" not in made
    assert b"Decorated" in made
    scope: dict[str, object] = {"__name__": "x"}
    with pytest.raises(AssertionError) as caught:
        exec(marshal.loads(made[16:]), scope)
    entry = caught.traceback[-1]
    assert (str(entry.path), entry.lineno + 1) == ("/usr/lib/x.py", 11)


def test_bytecode_has_the_types_of_a_class_and_not_those_of_functions() -> None:
    source = b"from __future__ import annotations\nclass C:\n    field: kept\n"
    source += (
        b"    async def m(self, a: gone, /, *b: gone, c: gone = 1, **d: gone) -> gone: 0\n"
    )
    source += b"f = lambda: 0\ndef g(x: gone = lambda y: y) -> gone: ...\n"
    scope: dict[str, object] = {"__name__": "x"}
    made = bytecode.bytecode(source, "/usr/lib/x.py")
    exec(marshal.loads(made[16:]), scope)
    assert vars(scope["C"])["__annotations__"] == {"field": "kept"}
    assert scope["g"].__annotations__ == {}
    assert b"gone" not in made


def test_bytecode_is_the_same_for_the_same_source(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr/x.py").write_text("x = {1, 2, 3}\n")
    bytecode.main(tmp_path)
    made = (tmp_path / "usr/x.pyc").read_bytes()
    # Where it was compiled does not show.
    assert made == bytecode.bytecode(b"x = {1, 2, 3}\n", "/usr/x.py")
