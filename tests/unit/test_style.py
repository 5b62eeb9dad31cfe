"""What the house agreed on and no linter looks at: sizes, names, docstrings, state."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gcs

PACKAGE = Path(gcs.__file__).parent

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
#: Names that say nothing of what is in the file: whatever has no room ends up there.
NAMELESS = {"base", "common", "helpers", "misc", "util", "utils"}
#: What makes something that can be changed, when called at the level of a module.
_MUTABLE_CALLS = {
    "Counter",
    "OrderedDict",
    "bytearray",
    "count",
    "defaultdict",
    "deque",
    "dict",
    "list",
    "set",
}
#: Methods of those that change them.
_CHANGES = {
    "add",
    "append",
    "clear",
    "discard",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "setdefault",
    "update",
}
_MUTABLE_LITERALS = (
    ast.Dict,
    ast.DictComp,
    ast.List,
    ast.ListComp,
    ast.Set,
    ast.SetComp,
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function


def _sources(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def _length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def oversized(folder: Path) -> list[str]:
    """Return the files and functions that are too long to be read in one go."""
    found = []
    for path, tree in _sources(folder):
        lines = len(path.read_text().splitlines())
        if lines > MAX_FILE_LINES:
            found.append(f"{path}: {lines} lines")
        found += [
            f"{path}: {node.name} has {_length(node)} lines"
            for node in ast.walk(tree)
            if isinstance(node, Function) and _length(node) > MAX_FUNCTION_LINES
        ]
    return found


def nameless(folder: Path) -> list[Path]:
    """Return the files whose name says nothing."""
    return [path for path in sorted(folder.rglob("*.py")) if path.stem in NAMELESS]


def _public(tree: Documented) -> Iterator[Documented]:
    """Yield a module or class, and all that is public in it."""
    yield tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield from _public(node) if isinstance(node, ast.ClassDef) else (node,)


def undocumented(folder: Path) -> list[str]:
    """Return what is public and has no docstring, or one that is no sentence."""
    found = []
    for path, tree in _sources(folder):
        for node in _public(tree):
            name = path.stem if isinstance(node, ast.Module) else node.name
            first = (ast.get_docstring(node) or "").partition("\n\n")[0]
            if not first.rstrip().endswith((".", ":")):
                found.append(f"{path}: {name}")
    return found


def _is_mutable(value: ast.expr) -> bool:
    if not isinstance(value, ast.Call):
        return isinstance(value, _MUTABLE_LITERALS)
    called = value.func.attr if isinstance(value.func, ast.Attribute) else value.func
    name = called if isinstance(called, str) else getattr(called, "id", "")
    return name in _MUTABLE_CALLS


def _changed(tree: ast.Module) -> Iterator[str]:
    """Yield the names whose object the module itself changes, by item or by method."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in _CHANGES:
                yield ast.unparse(node.func.value)
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            yield ast.unparse(node.value)


def _module_state(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield f"global {', '.join(node.names)}"
    changed = set(_changed(tree))
    for statement in tree.body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for name in map(ast.unparse, targets):
            # A name in capitals is a constant, unless it is none.
            is_constant = name == "__all__" or (name.isupper() and name not in changed)
            if _is_mutable(statement.value) and not is_constant:
                yield name


def module_state(folder: Path) -> list[str]:
    """Return what modules keep and could change: it would outlive every agent and test."""
    return [
        f"{path}: {name}" for path, tree in _sources(folder) for name in _module_state(tree)
    ]


def test_files_and_functions_can_be_read_in_one_go() -> None:
    """No file has more than 400 lines, no function more than 60."""
    assert oversized(PACKAGE) == []


def test_every_file_is_named_after_what_is_in_it() -> None:
    """There is no drawer for what has no room."""
    assert nameless(PACKAGE) == []


def test_whatever_is_public_is_documented() -> None:
    """Modules, classes and functions without an underscore have a sentence."""
    assert undocumented(PACKAGE) == []


def test_no_module_keeps_state() -> None:
    """What can change is in an object that somebody made."""
    assert module_state(PACKAGE) == []


@pytest.mark.parametrize("check", [oversized, nameless, undocumented, module_state])
def test_a_clean_module_passes(tmp_path: Path, check: object) -> None:
    """The checks below fail for their own reason."""
    assert callable(check)
    (tmp_path / "shelf.py").write_text(
        '"""A shelf."""\n\n__all__ = ["SIZES", "take"]\n\nSIZES: Final = {"a": 1}\n'
        'LIMIT = 3\n\n\ndef take() -> None:\n    """Take."""\n\n\ndef _put() -> None: ...\n'
    )
    assert check(tmp_path) == []


@pytest.mark.parametrize(
    ("check", "name", "text"),
    [
        (oversized, "shelf.py", "x = 1\n" * 401),
        (oversized, "shelf.py", "def f():\n" + "    x = 1\n" * 60),
        (oversized, "shelf.py", "class C:\n async def f(self):\n" + "  x = 1\n" * 60),
        (nameless, "utils.py", ""),
        (nameless, "deep/common.py", ""),
        (undocumented, "shelf.py", "x = 1\n"),
        (undocumented, "shelf.py", '"""A shelf."""\ndef f() -> None: ...\n'),
        (undocumented, "shelf.py", '"""A shelf."""\nclass C:\n    x = 1\n'),
        (undocumented, "shelf.py", '"""A."""\nclass C:\n "A."\n def f(self): ...\n'),
        (undocumented, "shelf.py", '"""A shelf without its full stop"""\n'),
        (module_state, "shelf.py", "cache = {}\n"),
        (module_state, "shelf.py", "seen: list[int] = []\n"),
        (module_state, "shelf.py", "seen = collections.deque()\n"),
        (module_state, "shelf.py", "SEEN = {}\ndef f(): SEEN[1] = 2\n"),
        (module_state, "shelf.py", "SEEN = set()\ndef f(): SEEN.add(2)\n"),
        (module_state, "shelf.py", "def f():\n    global x\n    x = 1\n"),
    ],
)
def test_what_is_planted_is_found(tmp_path: Path, check: object, name: str, text: str) -> None:
    """Each check can fail."""
    assert callable(check)
    planted = tmp_path / name
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(text)
    assert len(check(tmp_path)) == 1
