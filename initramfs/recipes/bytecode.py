"""``python3.11 -I bytecode.py ROOT``: compile each .py below ROOT to a .pyc beside it.

The guest's interpreter runs this. A .pyc has what somebody reads in a VM: hardly a docstring,
and no types of a function's parameters. Those of a class's fields stay: msgspec and attrs make
methods of them. It is never compared with a source: the guest has none, and its clock may be
wrong. Assertions are kept.

The agent's own modules have no types of a dataclass's fields either, and import what only
functions use when such a function runs: see `_defer`.

Source: PEP 552; Lib/importlib/_bootstrap_external.py.
"""

import ast
import importlib.util
import marshal
import re
import sys
from pathlib import Path
from typing import TypeGuard

#: The flags of a .pyc: it is known by the source's hash, which is not checked.
UNCHECKED_HASH = 0b01
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)
#: Where modules of the agent's own are, in the guest.
OWN = "/usr/lib/gcs/gcs/"
#: trio renames what it has by where it can be imported from, for its documentation.
TRIO, RENAMING = "/usr/lib/gcs/trio/", "fixup_module_metadata"
#: Of the agent's, those that are folders.
PACKAGES = ("gcs.guest", "gcs.guest.handlers", "gcs.guest.spec", "gcs.linux", "gcs.wire")
#: What a dataclass looks for in the types of its fields.
SPECIAL_TYPES = {"ClassVar", "InitVar", "KW_ONLY"}


def bytecode(source: bytes, path: str) -> bytes:
    """Return the .pyc of a module, whose tracebacks show the path."""
    module = ast.parse(source)
    for node in ast.walk(module):
        if isinstance(node, FUNCTIONS):
            _forget_types(node)
        # A dataclass without one makes one up, from its signature, which takes long.
        is_decorated = isinstance(node, ast.ClassDef) and node.decorator_list
        if not isinstance(node, DOCUMENTED) or is_decorated:
            continue
        # One string behind the other: what is first would be the documentation.
        while ast.get_docstring(node, clean=False) is not None:
            words = node.body.pop(0)
            if not node.body:
                node.body.append(ast.copy_location(ast.Pass(), words))
    if path.startswith(TRIO):
        module.body = [node for node in module.body if not _is_for_documentation(node)]
    if path.startswith(OWN):
        _forget_field_types(module)
        _defer(module)
    code = compile(module, path, "exec", dont_inherit=True, optimize=0)
    flags = UNCHECKED_HASH.to_bytes(4, "little")
    digest = importlib.util.source_hash(source)
    return importlib.util.MAGIC_NUMBER + flags + digest + marshal.dumps(code)


def _forget_types(function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    """Leave out what a function says of its parameters and of what it returns."""
    function.returns = None
    for node in ast.walk(function.args):
        if isinstance(node, ast.arg):
            node.annotation = None


def _is_for_documentation(node: ast.stmt) -> bool:
    """Say whether it is a call that changes nothing but what documentation shows."""
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return is_call and RENAMING in _names(node)


def _forget_field_types(module: ast.Module) -> None:
    """Leave out what dataclasses say of their fields, of which only the names count."""
    for node in ast.walk(module):
        if not isinstance(node, ast.ClassDef) or "dataclass" not in _names(
            *node.decorator_list
        ):
            continue
        for field in node.body:
            if (
                isinstance(field, ast.AnnAssign)
                and not _names(field.annotation) & SPECIAL_TYPES
            ):
                field.annotation = ast.copy_location(ast.Constant(None), field.annotation)


def _names(*nodes: ast.AST) -> set[str]:
    inner = (part for node in nodes for part in ast.walk(node))
    return {part.id for part in inner if isinstance(part, ast.Name)}


def _defer(module: ast.Module) -> None:
    """Have what the module takes from others of ours looked up in those where it is used.

    That goes for what only functions use, by a name that means nothing else here. The modules
    are still imported at once, but the guest executes them when something is looked up in them
    (`initramfs/agent/finder.py`): with the first such function that runs. What nothing uses,
    once types are left out, is not imported.
    """
    uses = _Uses()
    uses.visit(module)
    places: dict[str, tuple[str, str]] = {}
    body: list[ast.stmt] = []
    for node in module.body:
        body.append(node)
        if not isinstance(node, ast.ImportFrom) or not _is_of_ours(node.module):
            continue
        late = [alias for alias in node.names if uses.are_late(alias.asname or alias.name)]
        node.names = [alias for alias in node.names if alias not in late]
        if not node.names:
            body.pop()
        place = f"_late_{node.module.replace('.', '_')}"
        used = [alias for alias in late if (alias.asname or alias.name) in uses.inside]
        places |= {alias.asname or alias.name: (place, alias.name) for alias in used}
        if used:
            imported = ast.Import([ast.alias(node.module, place)])
            body.append(ast.fix_missing_locations(ast.copy_location(imported, node)))
    module.body = body
    _Lookup(places).visit(module)


def _is_of_ours(name: str | None) -> TypeGuard[str]:
    """Say whether it is a module that can have functions: packages hold nothing but modules."""
    return name is not None and name.startswith("gcs.") and name not in PACKAGES


class _Uses(ast.NodeVisitor):
    """Which names a module uses as it is imported, and in functions, and which it sets."""

    def __init__(self) -> None:
        self.outside: set[str] = set()
        self.inside: set[str] = set()
        self.bound: set[str] = set()
        self._depth = 0

    def are_late(self, name: str) -> bool:
        """Say whether a name is used by functions alone, and stands for one thing."""
        return name not in self.outside and name not in self.bound

    def generic_visit(self, node: ast.AST) -> None:
        """Note a name, and what a function's own parts use and set."""
        used = self.inside if self._depth else self.outside
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else self.bound).add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # As in __all__, or a type.
            used |= set(re.findall(r"\w+", node.value))
        elif not isinstance(node, ast.alias) or self._depth:
            # Whatever else has a name of its own: parameters, functions, classes, handlers.
            names = (getattr(node, field, None) for field in ("name", "asname", "arg", "rest"))
            self.bound |= {name for name in names if isinstance(name, str)}
        if isinstance(node, (*FUNCTIONS, ast.Lambda)):
            self._visit_function(node)
        else:
            super().generic_visit(node)

    def _visit_function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    ) -> None:
        """Visit what runs with the definition as such, and the body as what runs later."""
        for part in getattr(node, "decorator_list", ()):
            self.visit(part)
        self.visit(node.args)
        self._depth += 1
        for part in node.body if isinstance(node.body, list) else [node.body]:
            self.visit(part)
        self._depth -= 1


class _Lookup(ast.NodeTransformer):
    """Turns names into what a module has by a name."""

    def __init__(self, places: dict[str, tuple[str, str]]) -> None:
        self._places = places

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Return the lookup of a name that is one."""
        if node.id not in self._places:
            return node
        place, name = self._places[node.id]
        made = ast.Attribute(ast.Name(place, ast.Load()), name, ast.Load())
        return ast.fix_missing_locations(ast.copy_location(made, node))


def main(root: Path) -> None:
    """Compile all of a folder, whose paths are the guest's."""
    for path in sorted(root.rglob("*.py")):
        shown = f"/{path.relative_to(root)}"
        path.with_suffix(".pyc").write_bytes(bytecode(path.read_bytes(), shown))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
