"""``python3.11 -I bytecode.py ROOT``: compile each .py below ROOT to a .pyc beside it.

The guest's interpreter runs this. A .pyc has what somebody reads in a VM: hardly a docstring,
and no types of a function's parameters. Those of a class's fields stay: dataclasses, msgspec
and attrs make methods of them. It is never compared with a source: the guest has none, and
its clock may be wrong. Assertions are kept.

Source: PEP 552; Lib/importlib/_bootstrap_external.py.
"""

import ast
import importlib.util
import marshal
import sys
from pathlib import Path

#: The flags of a .pyc: it is known by the source's hash, which is not checked.
UNCHECKED_HASH = 0b01
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)


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


def main(root: Path) -> None:
    """Compile all of a folder, whose paths are the guest's."""
    for path in sorted(root.rglob("*.py")):
        shown = f"/{path.relative_to(root)}"
        path.with_suffix(".pyc").write_bytes(bytecode(path.read_bytes(), shown))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
