"""Find which Python modules the agent can import, by reading them: the others stay behind.

Of the agent's own modules every import counts; of others' those that are made when a module is
imported, for what they import in functions is what hardly anybody calls.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

#: What the interpreter itself imports.
AT_START = ("abc", "codecs", "encodings", "io", "os", "site", "warnings", "zipimport")
#: Module → what it imports by a name that is put together, or in C.
BY_NAME = {
    "encodings": (*(f"encodings.{name}" for name in ("aliases", "ascii", "latin_1", "utf_8")),),
    "msgspec._core": ("datetime", "decimal", "uuid"),
}
#: Imports that are tried and can be missed, or are other systems': with what is below them.
NOT_FOLLOWED = frozenset(
    (
        # shutil's archives, and what stands in for modules that the interpreter has in C
        *("bz2", "lzma", "_pydecimal", "_py_abc", "_threading_local", "hashlib"),
        # OpenSSL's hashes and libuuid's numbers: the interpreter has its own
        *("_hashlib", "_uuid"),
        # other systems
        *(
            "asyncio",
            "ctypes._aix",
            "psutil._psaix",
            "psutil._psbsd",
            "psutil._psosx",
            "psutil._pssunos",
        ),
        *("psutil._pswindows", "trio._core._io_kqueue", "trio._core._generated_io_kqueue"),
        *("trio._core._io_windows", "trio._core._generated_io_windows", "trio._windows_pipes"),
        *("trio._subprocess_platform.kqueue", "trio._subprocess_platform.windows"),
        "trio._wait_for_object",
    )
)
#: Conditions that never hold when the agent runs.
NEVER = frozenset({"TYPE_CHECKING", "typing.TYPE_CHECKING", "t.TYPE_CHECKING"})
NEVER |= {"__name__ == '__main__'", "sys.platform == 'win32'", "_mswindows"}


def names_in(place: str, paths: Iterable[str]) -> dict[str, str]:
    """Return the modules below a folder of a tree, by name, with their paths."""
    found = {}
    for path in paths:
        if not path.startswith(f"{place}/"):
            continue
        inner = PurePosixPath(path.removeprefix(f"{place}/").removeprefix("lib-dynload/"))
        if inner.suffix not in (".py", ".so"):
            continue
        words = [*inner.parent.parts, inner.name.partition(".")[0]]
        if words[-1] == "__init__":
            words.pop()
        found[".".join(words)] = path
    return found


def imported(source: bytes, name: str, *, is_package: bool, late: bool) -> set[str]:
    """Return the names that a module imports; some may be no modules but what is in them.

    Args:
        source: The module's text.
        name: What it is called.
        is_package: Whether it is the one of a folder.
        late: Whether imports in functions count.
    """
    package = name if is_package else name.rpartition(".")[0]
    found: set[str] = set()
    for node in _statements(ast.parse(source).body, late=late):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            words = package.split(".")[: -(node.level - 1) or None] if node.level else []
            base = ".".join([*words, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def _statements(body: Iterable[ast.stmt], *, late: bool) -> Iterator[ast.stmt]:
    """Yield the statements that run with a module's import, those in functions if asked."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) in NEVER:
            yield from _statements(node.orelse, late=late)
        elif late or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            for name in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, name, ()), late=late)
            for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
                yield from _statements(part.body, late=late)


def closure(
    roots: Iterable[str],
    modules: Mapping[str, str],
    sources: Mapping[str, bytes],
    *,
    late: bool = False,
) -> set[str]:
    """Return the modules that the roots import, and what these import, by name.

    Args:
        roots: Names, of modules or of what is in them: these are never left out.
        modules: All that there are, with their paths.
        sources: The text of each path that is a text.
        late: Whether imports in functions count.
    """
    found: set[str] = set()
    asked, waiting = set(roots), list(roots)
    while waiting:
        name = waiting.pop()
        # Whoever imports a module imports the packages that it is in.
        if "." in name:
            waiting.append(name.rpartition(".")[0])
        if name in found or name not in modules:
            continue
        if _is_left_out(name) and name not in asked:
            continue
        found.add(name)
        path = modules[name]
        waiting += BY_NAME.get(name, ())
        if path in sources:
            is_package = path.endswith("/__init__.py")
            waiting += imported(sources[path], name, is_package=is_package, late=late)
    return found


def _is_left_out(name: str) -> bool:
    return any(name == out or name.startswith(f"{out}.") for out in NOT_FOLLOWED)
