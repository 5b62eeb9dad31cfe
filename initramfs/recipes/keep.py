"""``python3.11 -sSB keep.py ROOT OUT [MODULE…]``: keep what the agent has compiled at start.

The guest's interpreter runs this on a tree of the guest's modules, with nothing of this
machine's; `initramfs/agent/kept.py` uses the result. An agent that can't be imported fails the
build, and so does any module that is named: what stands in for others must be enough for it.
"""

import builtins
import marshal
import sys
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

#: The last one without references, which depend on what else is in memory.
MARSHAL_VERSION = 2
root, out, *others = sys.argv[1:]
sys.path[:] = [
    f"{root}/usr/lib/{place}" for place in ("gcs", "python3.11", "python3.11/lib-dynload")
]
codes: "dict[str, CodeType]" = {}
#: What the matcher is told of each pattern.
patterns: "dict[str, tuple[int, list[int], int, dict[str, int], tuple[str | None, ...]]]" = {}
real_compile, real_hash = compile, hash


def execute(text: str, variables: dict[str, object], results: dict[str, object]) -> None:
    """Be dataclasses' exec()."""
    codes[text] = real_compile(text, "<string>", "exec", dont_inherit=True)
    builtins.exec(codes[text], variables, results)  # noqa: S102 - dataclasses' own


def evaluate(text: str, variables: dict[str, object]) -> object:
    """Be namedtuple's eval()."""
    codes[text] = real_compile(text, "<string>", "eval", dont_inherit=True)
    return builtins.eval(codes[text], variables)  # noqa: S307 - namedtuple's own


def compile_text(text: str, name: str, mode: str, **more: bool) -> "CodeType":
    """Be compile(): attrs and typing call it with three arguments, what imports with more."""
    if more:
        return real_compile(text, name, mode, 0, more["dont_inherit"])
    codes[f"{name}\0{text}"] = real_compile(text, name, mode, dont_inherit=True)
    return codes[f"{name}\0{text}"]


def same_hash(name: str) -> int:
    """Be hash(), whose numbers attrs writes into its texts; kept.py has the same."""
    return zlib.crc32(name.encode())


def compile_pattern(text: object, flags: int) -> object:
    """Be re's own compile(), whose last step is the matcher's, told of what it makes."""
    parsed = parser.parse(text, flags)
    state = parsed.state
    numbers = {number: name for name, number in state.groupdict.items()}
    names = tuple(numbers.get(number) for number in range(state.groups))
    # It has a kind of number of its own.
    code = [*map(int, vars(compiler)["_code"](parsed, flags))]
    told = (int(flags | state.flags), code, state.groups - 1, state.groupdict, names)
    patterns[f"{text!r}\0{int(flags)}"] = told
    return real_compile_pattern(text, flags)


compiler, parser = (
    __import__(f"re.{name}", fromlist=[name]) for name in ("_compiler", "_parser")
)
real_compile_pattern = compiler.compile
vars(compiler)["compile"] = compile_pattern
vars(__import__("collections"))["eval"] = evaluate
vars(__import__("typing"))["compile"] = compile_text
vars(__import__("dataclasses"))["exec"] = execute
vars(builtins).update(compile=compile_text, hash=same_hash)
make = __import__("attr._make", fromlist=["_make"])
vars(builtins).update(compile=real_compile, hash=real_hash)
vars(make).update(compile=compile_text, hash=same_hash)
for name in ("gcs.guest.main", *others):
    __import__(name)
places, data = {}, b""
for text, made in sorted((codes | patterns).items()):
    known, compiled = text.encode(), marshal.dumps(made, MARSHAL_VERSION)
    places[zlib.crc32(known)] = (len(data), len(known), len(compiled))
    data += known + compiled
with open(out, "wb") as file:  # noqa: PTH123 - pathlib would be this machine's
    file.write(marshal.dumps((places, data), MARSHAL_VERSION))
