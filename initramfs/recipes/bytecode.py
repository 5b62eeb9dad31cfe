"""``python3.11 -I bytecode.py ROOT``: compile each .py below ROOT to a .pyc beside it.

The guest's interpreter runs this. A .pyc has hardly a docstring, which nobody would read in
a VM, and is never compared with a source: the guest has none, and its clock may be wrong.
Assertions are kept.

Source: PEP 552; Lib/importlib/_bootstrap_external.py.
"""

import ast
import importlib.util
import marshal
import sys
from pathlib import Path

#: The flags of a .pyc: it is known by the source's hash, which is not checked.
UNCHECKED_HASH = 0b01
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def bytecode(source: bytes, path: str) -> bytes:
    """Return the .pyc of a module, whose tracebacks show the path."""
    module = ast.parse(source)
    for node in ast.walk(module):
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


def main(root: Path) -> None:
    """Compile all of a folder, whose paths are the guest's."""
    for path in sorted(root.rglob("*.py")):
        shown = f"/{path.relative_to(root)}"
        path.with_suffix(".pyc").write_bytes(bytecode(path.read_bytes(), shown))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
