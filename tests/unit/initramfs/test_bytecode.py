"""What the agent's modules take from each other when functions run, not at once."""

import ast
import importlib
import marshal
from pathlib import Path

import pytest

from initramfs.recipes import bytecode, python

REPO = Path(__file__).resolve().parents[3]
OURS = f"{bytecode.OWN}guest/x.py"


def run(source: str, path: str = OURS) -> dict[str, object]:
    """Return what a module has once its byte code was executed."""
    scope: dict[str, object] = {"__name__": "x"}
    exec(marshal.loads(bytecode.bytecode(source.encode(), path)[16:]), scope)
    return scope


IMPORTS = "from gcs.errors import GcsError, Hresult as H\nfrom gcs.linux import mounts\n"


@pytest.mark.parametrize(
    "used",
    [
        "def f(): return H.FAIL",
        "f = lambda: H.FAIL",
        "class C:\n    def f(self): return [H.FAIL for _ in 'a'][0]\nf = C().f",
    ],
)
def test_what_only_functions_use_is_looked_up_where_they_do(used: str) -> None:
    scope = run(f"{IMPORTS}class E(GcsError): ...\n{used}")
    assert "GcsError" in scope
    assert "mounts" in scope
    assert "H" not in scope
    assert scope["f"]() == importlib.import_module("gcs.errors").Hresult.FAIL  # type: ignore[operator] # it is one


@pytest.mark.parametrize(
    "used",
    [
        "x = H.FAIL",
        "class C(H.__class__): ...",
        "def f(x=H): ...",
        "@repr\ndef f(): return H\nclass C: x = H",
        "class C:\n    x: H = 1",
        "class C:\n    x: 'tuple[H, ...]' = 1",
        "__all__ = ['H']\ndef f(): return H",
        "def f(): return H\ndef g(H): return H",
        "def f():\n    try: return H\n    except OSError as H: ...",
        "def f():\n    import os as H\n    return H",
        "def f(x):\n    match x:\n        case {**H}: return H",
        "for H in (): ...\ndef f(): return H",
    ],
)
def test_a_name_with_another_use_or_meaning_is_imported_at_once(used: str) -> None:
    assert "H" in run(IMPORTS + used)


def test_what_nothing_uses_but_types_is_not_imported() -> None:
    text = "from gcs.no_such import A, B\ndef f(x: A) -> B: return x\n"
    text += "from dataclasses import dataclass\n@dataclass\nclass C:\n    x: A | None = None\n"
    scope = run(text)
    assert scope["f"](1) == 1  # type: ignore[operator] # it is one
    with pytest.raises(ModuleNotFoundError):
        run(text, "/usr/lib/gcs/other/x.py")


def test_a_dataclass_has_its_fields_and_no_others() -> None:
    text = "from dataclasses import dataclass, KW_ONLY\nfrom typing import ClassVar\n"
    text += "@dataclass(frozen=True)\nclass C:\n    x: int\n    y: ClassVar[int] = 2\n"
    text += "    _: KW_ONLY\n    z: str = ''\nmade = C(1, z='a')"
    assert repr(run(text)["made"]) == "C(x=1, z='a')"


def test_trio_does_not_rename_what_it_has() -> None:
    text = "def fixup_module_metadata(names): names['x'] = 1\nfixup_module_metadata(globals())"
    assert "x" in run(text)
    assert "x" not in run(text, "/usr/lib/gcs/trio/abc.py")


def test_the_packages_are_those_of_the_agent() -> None:
    own = (path.removeprefix("usr/lib/gcs/") for path in python.agent_modules(REPO))
    packages = [path.removesuffix("/__init__.py") for path in own if "__init__" in path]
    assert {path.replace("/", ".") for path in packages} - {"gcs"} == set(bytecode.PACKAGES)


def test_what_is_looked_up_is_there() -> None:
    """In the modules that it is looked up in, whatever these import late themselves."""
    trees = {}
    for path, entry in python.agent_modules(REPO).items():
        trees[path] = ast.parse(entry.data)
        bytecode._forget_field_types(trees[path])
        bytecode._defer(trees[path])
    found = set[tuple[str, str]]()
    for tree in trees.values():
        places = {
            alias.asname: alias.name
            for node in tree.body
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        for node in ast.walk(tree):
            value = getattr(node, "value", None)
            name = value.id if isinstance(value, ast.Name) else ""
            if isinstance(node, ast.Attribute) and name.startswith("_late_"):
                found.add((places[name], node.attr))
    assert len(found) > 100
    for module, name in found:
        assert hasattr(importlib.import_module(module), name), (module, name)
        body = trees[f"usr/lib/gcs/{module.replace('.', '/')}.py"].body
        imported = [node for node in body if isinstance(node, ast.ImportFrom | ast.Import)]
        assert name not in {a.asname or a.name for node in imported for a in node.names}
