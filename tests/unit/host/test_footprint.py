"""What VMs take of the machine's memory, by processes that have mapped what VMs have."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gcs.host.footprint import Footprint, footprint, summed

MIB = 1024 * 1024
#: Maps a file and 3 MiB that are called as the memory of a VM, touches all, and says so.
STAND_IN = """
import mmap, os, sys
layer = open(sys.argv[1], "rb")
mapped = mmap.mmap(layer.fileno(), 0, prot=mmap.PROT_READ)
sum(mapped[offset] for offset in range(0, len(mapped), mmap.PAGESIZE))
fd = os.memfd_create("memory-backend-memfd")
os.ftruncate(fd, 3 << 20)
memory = mmap.mmap(fd, 0)
memory.write(b"x" * len(memory))
print("mapped", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A file of 4 MiB that nobody else has mapped."""
    path = tmp_path / "layer"
    path.write_bytes(os.urandom(4 * MIB))
    return path


def vm(stack: ExitStack, layer: Path) -> int:
    """Start a stand-in and return its pid, when it has all in memory."""
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", STAND_IN, layer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"mapped\n"
    return process.pid


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_layer_that_two_have_is_there_once(stack: ExitStack, layer: Path) -> None:
    """Each has all of its pages resident; their shares are one copy together."""
    pids = [vm(stack, layer), vm(stack, layer)]
    parts = [footprint([pid], [layer]) for pid in pids]
    assert [each.layers_resident_bytes for each in parts] == [4 * MIB, 4 * MIB]
    assert [each.layers_bytes for each in parts] == [2 * MIB, 2 * MIB]
    assert [each.guest_bytes for each in parts] == [3 * MIB, 3 * MIB]
    together = summed(parts)
    assert (together.layers_bytes, together.guest_bytes) == (4 * MIB, 6 * MIB)
    assert together.bytes == 10 * MIB + together.other_bytes
    assert together.other_bytes > 0


def test_a_layer_that_two_have_copies_of_is_there_twice(stack: ExitStack, layer: Path) -> None:
    """So the figures do tell sharing from copying."""
    copy = layer.with_name("copy")
    copy.write_bytes(layer.read_bytes())
    parts = [footprint([vm(stack, path)], [path]) for path in (layer, copy)]
    assert summed(parts).layers_bytes == 8 * MIB


def test_programs_of_one_vm_are_one(stack: ExitStack, layer: Path) -> None:
    """The shares of all of them are summed."""
    pids = [vm(stack, layer), vm(stack, layer)]
    assert footprint(pids, [layer]).layers_bytes == 4 * MIB


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_layer_whose_name_has_gone_is_still_one(
    stack: ExitStack, layer: Path, is_replaced: bool
) -> None:
    """Or is that of another file now: what the VM has is what it was started with."""
    pid = vm(stack, layer)
    layer.unlink()
    if is_replaced:
        layer.write_bytes(b"another")
    assert footprint([pid], [layer]).layers_bytes == 4 * MIB


def test_nothing_is_nothing() -> None:
    """No VM, no memory."""
    assert summed([]) == Footprint()
    assert summed([]).bytes == 0
