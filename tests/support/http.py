"""Fetch a page from a server that may be about to listen.

A container in the background is there when its process runs, which is before that listens on a
port: a proxy in between, as QEMU's, resets connections that come too early.

`python -m tests.support.http URL SECONDS` prints the page.
"""

import sys
import time
from urllib.request import urlopen

__all__ = ["fetch"]

_AGAIN_S = 0.1


def fetch(url: str, patience_s: float = 30) -> bytes:
    """Return the page as soon as it is there. Raises the last OSError when patience ends."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with urlopen(url, timeout=20) as answer:
                page: bytes = answer.read()
        except OSError:
            if time.monotonic() > deadline:
                raise
        else:
            return page
        time.sleep(_AGAIN_S)


if __name__ == "__main__":
    sys.stdout.buffer.write(fetch(sys.argv[1], float(sys.argv[2])))
