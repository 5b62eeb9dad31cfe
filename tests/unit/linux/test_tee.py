"""tee(2), which Python has no function for."""

import os
import signal
import time

import pytest

from gcs.linux import abi, syscall

#: A signal each 50 microseconds, for so long: without a retry the first comes through in less
#: than a tenth of that.
_EACH_S, _FOR_S = 0.00005, 1.0


def test_a_signal_is_not_the_end_of_a_tee() -> None:
    """A child that exits meanwhile is no failure of the stream; an empty pipe is as before."""
    source, filler = os.pipe()
    reader, sink = os.pipe()
    handler = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, _EACH_S, _EACH_S)
    try:
        end = time.monotonic() + _FOR_S
        while time.monotonic() < end:
            with pytest.raises(BlockingIOError):
                syscall.tee(source, sink, 1, abi.SPLICE_F_NONBLOCK)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        for descriptor in (source, filler, reader, sink):
            os.close(descriptor)
