"""Fuzz one side's decoder: `python -m tests.fuzz {guest,host} --seconds N [--corpus FOLDER]`.

Ends with status 0 when the time is over and nothing was found. A find is written to the
corpus folder as `crash-…`, and its traceback to stderr.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import atheris  # type: ignore[import-untyped] # has no annotations
import msgspec

with atheris.instrument_imports(include=["gcs.wire"]):
    from tests.fuzz import targets

from gcs.wire.schema import Message

#: MiB of the whole process, most of which is the fuzzer's own.
_RSS_LIMIT_MIB = 1024
#: Seconds after which libFuzzer takes an input for a hang.
_HANG_S = 10
#: How readily longer inputs are tried; libFuzzer's own 100 stays below 400 bytes for minutes.
_LENGTH_CONTROL = 10
#: Items that decoders disagree about: not-a-number, infinity, undefined, a simple value, a tag,
#: numbers and lengths of 64 bits, indefinite lengths, and their like in JSON.
_ODD = (
    *(b"\xf9\x7e\x00", b"\xf9\x7c\x00", b"\xf7", b"\xf8\x20", b"\xc1", b"\x41a"),
    *(major + b"\xff" * 8 for major in (b"\x1b", b"\x3b", b"\x7b", b"\x9b", b"\xbb")),
    *(b"\x9f", b"\x7f", b"\xff", b"\xa0", b"\x80", b"\xf6"),
    *(b"1e999", b"NaN", b'"\\ud800"', b"null", b"-0", b"18446744073709551616", b"{}", b"[]"),
)


def _words() -> set[bytes]:
    """Return the names of all members."""
    kinds = [Message]
    for kind in kinds:
        kinds += kind.__subclasses__()
    fields = (field for kind in kinds for field in msgspec.structs.fields(kind))
    return {field.encode_name.encode() for field in fields}


def _write_dictionary(path: Path) -> None:
    """Write members' names in the form of both encodings, and odd items, for libFuzzer."""
    names = [write(word) for word in sorted(_words()) for write in (_in_json, _in_cbor)]
    tokens = [*names, *_ODD]
    lines = ("".join(f"\\x{byte:02x}" for byte in token) for token in tokens)
    path.write_text("".join(f'"{line}"\n' for line in lines))


def _in_json(word: bytes) -> bytes:
    return b'"' + word + b'":'


def _in_cbor(word: bytes) -> bytes:
    head = bytes([0x60 | len(word)]) if len(word) < 24 else bytes([0x78, len(word)])
    return head + word


def _fuzz(side: str, seconds: int, corpus: Path, scratch: Path) -> None:
    for number, seed in enumerate(targets.seeds(side)):
        (scratch / f"seed-{number}").write_bytes(seed)
    dictionary = scratch.parent / "dictionary"
    _write_dictionary(dictionary)
    flags = {
        "max_total_time": seconds,
        "max_len": targets.MAX_INPUT,
        "len_control": _LENGTH_CONTROL,
        "rss_limit_mb": _RSS_LIMIT_MIB,
        "timeout": _HANG_S,
        "dict": dictionary,
        "artifact_prefix": f"{corpus}/",
        "print_final_stats": 1,
    }
    argv = [sys.argv[0], *(f"-{name}={value}" for name, value in flags.items())]
    atheris.Setup([*argv, str(corpus), str(scratch)], partial(targets.bounded, side))
    atheris.Fuzz()


def main() -> None:
    """Fuzz until the time is over."""
    parser = argparse.ArgumentParser("python -m tests.fuzz")
    parser.add_argument("side", choices=sorted(targets.TARGETS))
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--corpus", type=Path, help="kept, and gone on from the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = options.corpus or Path(folder, "corpus")
        scratch = Path(folder, "seeds")
        for made in (corpus, scratch):
            made.mkdir(parents=True, exist_ok=True)
        _fuzz(options.side, options.seconds, corpus, scratch)


if __name__ == "__main__":
    main()
