"""What goes to device-mapper, byte by byte, and what it says where there is none."""

import struct

import pytest

from gcs.linux import devmapper


def test_the_numbers_are_those_of_the_header_file() -> None:
    """As strace shows them for dmsetup."""
    assert devmapper._HEADER.size == 312
    assert devmapper._IOWR | devmapper._DEV_CREATE == 0xC138FD03
    assert devmapper._IOWR | devmapper._TABLE_LOAD == 0xC138FD09


def test_a_table_is_a_target_and_its_parameters_padded() -> None:
    """To eight bytes, the terminating zero included; `next` is the whole length."""
    for parameters in ("/dev/pmem0 8", "x" * 7, "x" * 8):
        table = devmapper._table(16, "linear", parameters)
        start, length, status, following, kind = struct.unpack_from("=QQiI16s", table)
        assert (start, length, status, following) == (0, 16, 0, len(table))
        assert kind.rstrip(b"\0") == b"linear"
        assert table[40:].rstrip(b"\0").decode() == parameters
        assert table.endswith(b"\0")
        assert len(table) % 8 == 0


def test_a_name_that_is_too_long_is_refused_and_not_cut_off() -> None:
    """The kernel's field holds 127 bytes and a zero."""
    with pytest.raises(OSError, match=f"device-mapper create {'x' * 128}: File name too long"):
        devmapper.create_linear("x" * 128, "/dev/null", 0, 512)
