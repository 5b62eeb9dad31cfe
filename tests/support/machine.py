"""A machine that figures of tests are said to be from."""

from tests.bench.machine import Machine

__all__ = ["MACHINE"]

MACHINE = Machine(
    processor="a processor",
    cores=2,
    memory_gib=4,
    accelerator="tcg",
    host_kernel="6.1",
    qemu="7.2",
    commit="abc",
)
