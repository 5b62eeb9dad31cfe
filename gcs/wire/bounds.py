"""What a payload may hold: told from its bytes first, before anything is made of them.

A decoder makes an object of each item, and an empty CBOR map is one byte on the wire but 64 in
memory: without a bound 4 MiB of them would take 290 MiB. So the items are counted first.

Both encodings are held to what JSON can say: text, numbers that fit into 64 bits, booleans,
null, arrays, and maps with text for keys.

Source: RFC 8949, sections 3 and 5.3.
"""

import math

from gcs.errors import InvalidRequestError

__all__ = ["MAX_ITEMS", "check_json", "check_tree", "measure_cbor"]

#: Items of a payload, nested ones included. At up to 72 bytes each they take 18 MiB. The OCI
#: spec of a container with a hundred mounts and a full seccomp profile has 2,000, and an
#: environment of 10,000 variables 10,000.
MAX_ITEMS = 256 * 1024

_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1

# CBOR's major types: the upper three bits of an item's first byte.
_BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = 2, 3, 4, 5, 6, 7
#: What a simple value's head may say: false, true, null, and floats of 2, 4 and 8 bytes.
_SIMPLE_INFOS = frozenset({20, 21, 22, 25, 26, 27})
#: Bytes of the argument, by the lower five bits of the first byte; below 24 these are it.
_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}


def check_json(payload: bytes) -> None:
    """Refuse a payload with too many items.

    Each item but the first has a comma or an opening bracket of its own in front. Those inside
    strings are counted too: a string with that many is not worth telling apart.
    """
    if sum(map(payload.count, (b",", b"[", b"{"))) > MAX_ITEMS:
        raise InvalidRequestError(f"$: more than {MAX_ITEMS} items")


def measure_cbor(payload: bytes) -> int:
    """Return the length of the CBOR item at the start, without making anything of it.

    The payload is not empty. Raises InvalidRequestError when it has too many items, or one that
    JSON can't say.
    """
    position = items = 0
    wanted = 1
    while wanted:
        major, value, position = _head(payload, position)
        items, wanted = items + 1, wanted - 1
        if major == _TEXT:
            position += value
        elif major in (_ARRAY, _MAP):
            wanted += value * (major - _ARRAY + 1)
        # An item takes a byte at least, so a length that can't be true is seen at once.
        if wanted > len(payload) - position:
            raise InvalidRequestError("$: not CBOR: it ends too early")
        if items > MAX_ITEMS:
            raise InvalidRequestError(f"$: more than {MAX_ITEMS} items")
    return position


def _head(payload: bytes, position: int) -> tuple[int, int, int]:
    """Return an item's major type and argument, and where what follows begins."""
    first = payload[position]
    major, info = first >> 5, first & 0x1F
    if major in (_BYTES, _TAG) or (major == _SIMPLE and info not in _SIMPLE_INFOS):
        raise InvalidRequestError(f"$: CBOR {_refused(major)} is not allowed")
    if info < min(_WIDTHS):
        return major, info, position + 1
    width = _WIDTHS.get(info)
    if width is None:
        raise InvalidRequestError("$: not CBOR: an item of indefinite length")
    end = position + 1 + width
    return major, int.from_bytes(payload[position + 1 : end], "big"), end


def _refused(major: int) -> str:
    return {_BYTES: "byte string", _TAG: "tag"}.get(major, "simple value")


def check_tree(tree: object, max_depth: int) -> None:
    """Refuse what is nested deeper, and numbers that nobody downstream could write again.

    A tree that is too deep could exhaust the stack of whoever walks it next.
    """
    _check(tree, max_depth, max_depth)


def _check(tree: object, levels: int, max_depth: int) -> None:
    if isinstance(tree, dict | list):
        if levels == 0:
            raise InvalidRequestError(f"$: nested deeper than {max_depth} levels")
        for item in tree.values() if isinstance(tree, dict) else tree:
            _check(item, levels - 1, max_depth)
    elif isinstance(tree, int) and not _MIN_INT <= tree <= _MAX_INT:
        raise InvalidRequestError("$: a whole number does not fit into 64 bits")
    elif isinstance(tree, float) and not math.isfinite(tree):
        raise InvalidRequestError("$: a number is not finite")
