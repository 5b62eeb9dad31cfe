"""Give those who write code as text what has been compiled of it before.

Dataclasses, attrs and named tuples write methods as text and have it compiled, whenever the
agent starts: a sixth of its imports. The image has the code by the text, as it was when the
image was made; what is not there is compiled as ever. `initramfs/recipes/keep.py` makes the
file. It has patterns, too, in the matcher's own language.

An agent that compiles nothing has no classes for the nodes of syntax trees either, which the
interpreter makes with the first text: a quarter of a megabyte.
"""

import builtins
import collections
import linecache
import marshal
import re
import sys
import typing
from types import CodeType
from zlib import crc32

__all__ = ["forget", "use"]

_COMPILE, _HASH = compile, hash
#: The part of re that makes patterns; it knows the matcher as `_sre`.
_PATTERNS = vars(sys.modules[f"{re.__name__}._compiler"])
_COMPILE_PATTERN = _PATTERNS["compile"]
_PLACE = "/usr/lib/gcs/kept.bin"


class _Kept:
    """The file: one piece of memory that is given back as a whole."""

    #: checksum of a text → where it begins, its length, and that of the code behind it
    places: dict[int, tuple[int, int, int]]
    data: bytes


def use() -> None:
    """Have what is imported from here on take the code that is there."""
    # pathlib has not been imported yet; the file is a part of the image, as the modules are.
    with open(_PLACE, "rb") as file:  # noqa: PTH123
        # Not load(), which asks the file for each number.
        _Kept.places, _Kept.data = marshal.loads(file.read())  # noqa: S302
    # A global of their modules goes before what is built in, for them alone.
    _PATTERNS["compile"] = _compile_pattern
    vars(collections)["eval"] = _evaluate
    vars(typing)["compile"] = _compile
    # It has a pattern compiled as it is imported.
    import dataclasses

    vars(dataclasses)["exec"] = _execute
    # attrs uses itself while it is imported; nothing else that comes with it compiles anything.
    vars(builtins).update(compile=_compile, hash=_same_hash)
    from attr import _make

    vars(builtins).update(compile=_COMPILE, hash=_HASH)
    vars(_make).update(compile=_compile, hash=_same_hash)


def forget() -> None:
    """Leave the modules as they were, and give the memory back."""
    import dataclasses

    from attr import _make

    del vars(dataclasses)["exec"], vars(collections)["eval"], vars(typing)["compile"]
    del vars(_make)["compile"], vars(_make)["hash"]
    _PATTERNS["compile"] = _COMPILE_PATTERN
    # A thread may be looking for something.
    _Kept.places, _Kept.data = {}, b""
    # attrs has its texts kept for tracebacks: a quarter of a megabyte that nobody reads.
    linecache.clearcache()


def _same_hash(name: str) -> int:
    """Return the number of a class's name that attrs writes into its texts.

    The interpreter's own is another one in each process, and so would be the text.
    """
    return crc32(name.encode())


def _execute(text: str, variables: dict[str, object], results: dict[str, object]) -> None:
    exec(_find_code(text) or text, variables, results)  # noqa: S102 - dataclasses' own


def _evaluate(text: str, variables: dict[str, object]) -> object:
    return eval(_find_code(text) or text, variables)  # noqa: S307 - namedtuple's own


def _compile(text: str, name: str, mode: str) -> CodeType:
    code: CodeType = _find_code(f"{name}\0{text}") or _COMPILE(text, name, mode)
    return code


def _compile_pattern(text: object, flags: int) -> "re.Pattern[str]":
    parts = _find(f"{text!r}\0{int(flags)}")
    made: re.Pattern[str] = (
        _PATTERNS["_sre"].compile(text, *parts)
        if isinstance(parts, tuple)
        else _COMPILE_PATTERN(text, flags)
    )
    return made


def _find_code(text: str) -> CodeType | None:
    found = _find(text)
    return found if isinstance(found, CodeType) else None


def _find(text: str) -> object:
    known = text.encode()
    begin, length, size = _Kept.places.get(crc32(known), (0, 0, 0))
    middle = begin + length
    if _Kept.data[begin:middle] != known:
        return None
    found: object = marshal.loads(_Kept.data[middle : middle + size])  # noqa: S302
    return found
