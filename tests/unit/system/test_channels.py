from __future__ import annotations

import os

import pytest

from sandboxbuild.system import capabilities, channels


def test_values_and_descriptors_arrive_together_and_apart() -> None:
    left, right = channels.pair()
    read_end, write_end = os.pipe()
    left.send({"a": [1, b"x" * 100_000, None]}, [write_end])
    left.send(("second",))
    value, descriptors = right.receive() or (None, [])
    assert value == {"a": [1, b"x" * 100_000, None]}
    os.write(descriptors[0], b"through")
    assert os.read(read_end, 10) == b"through"
    assert not os.get_inheritable(descriptors[0])
    assert right.receive() == (("second",), [])
    for fd in (read_end, write_end, *descriptors):
        os.close(fd)
    left.close()
    right.close()


def test_the_end_is_none_and_not_an_error() -> None:
    left, right = channels.pair()
    left.close()
    assert right.receive() is None
    with pytest.raises(BrokenPipeError):
        right.send(1)
    right.close()


def test_a_message_that_breaks_off_is_an_error() -> None:
    left, right = channels.pair()
    os.write(left.fileno(), b"\x10\x00\x00\x00\x00\x00half")
    left.close()
    with pytest.raises(OSError):
        right.receive()
    right.close()


def test_a_length_that_nobody_sends_is_refused_before_it_is_read() -> None:
    left, right = channels.pair()
    os.write(left.fileno(), b"\xff\xff\xff\xff\x00\x00")
    with pytest.raises(OSError):
        right.receive()
    left.close()
    right.close()


def test_capabilities_have_the_kernel_s_numbers() -> None:
    assert capabilities.mask(("CHOWN", "SYS_ADMIN", "CHECKPOINT_RESTORE")) == 1 | 1 << 21 | 1 << 40
    with pytest.raises(ValueError, match="CAP_CHOWN"):
        capabilities.mask(("CAP_CHOWN",))
