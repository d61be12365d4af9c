"""Any bytes of a git server lead to an error of ours or to a value, and to no other exception."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.contexts.gitdelta import apply_delta
from sandboxbuild.contexts.gitobjects import BLOB, parse_commit, parse_tag, parse_tree
from sandboxbuild.contexts.gitpack import Pack, PackLimits
from sandboxbuild.contexts.gitwire import read_capabilities, read_fetch, read_refs
from sandboxbuild.contexts.pktline import Mark, Packet, encode, read_packets
from sandboxbuild.errors import ContextError, LimitExceeded
from tests.unit.contexts.gitmade import Repository, by_offset, insert, pack, whole

FEW = settings(max_examples=40, deadline=None)
LIMITS = PackLimits(pack_bytes=1 << 16, objects=20, object_bytes=1 << 16, work_bytes=1 << 18, cache_bytes=1 << 12, depth=4)
WORDS = [
    b"version 2\n",
    b"ls-refs\n",
    b"fetch\n",
    b"packfile\n",
    b"shallow-info\n",
    b"a" * 40 + b" HEAD\n",
    b"ERR x",
    b"\x01PACK",
    b"",
]


def quietly(action: Callable[[], object]) -> None:
    try:
        action()
    except (ContextError, LimitExceeded):
        pass


@FEW
@given(st.binary(max_size=200))
def test_objects_are_read_or_refused(data: bytes) -> None:
    for read in (parse_tree, parse_commit, parse_tag):
        quietly(lambda read=read: read(data))  # type: ignore[misc]


@FEW
@given(st.binary(max_size=60), st.binary(max_size=60))
def test_deltas_are_applied_or_refused(base: bytes, delta: bytes) -> None:
    quietly(lambda: apply_delta(base, delta, 1 << 16))


@FEW
@given(st.lists(st.sampled_from(WORDS) | st.binary(max_size=50) | st.sampled_from(list(Mark)), max_size=12))
def test_what_was_framed_is_read_again_and_understood_or_refused(packets: list[Packet]) -> None:
    data = encode(*packets)
    assert list(read_packets(io.BytesIO(data))) == packets
    for read in (read_capabilities, read_refs, lambda found: read_fetch(found, bytes)):
        quietly(lambda read=read: read(read_packets(io.BytesIO(data))))  # type: ignore[misc]


@FEW
@given(st.binary(max_size=100))
def test_what_is_not_framed_is_refused(data: bytes) -> None:
    quietly(lambda: list(read_packets(io.BytesIO(data))))


@pytest.fixture(scope="module")
def good_pack() -> bytes:
    base = whole(BLOB, b"base")
    objects = [whole(kind, content) for kind, content in Repository({b"f": b"x" * 300}).objects]
    return pack([base, by_offset(len(base), insert(b"base", b"1")), *objects])


@FEW
@given(data=st.data())
def test_a_damaged_pack_is_read_or_refused(good_pack: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(good_pack) - 1))
    damaged = good_pack[:at] + data.draw(st.binary(max_size=4)) + good_pack[at + data.draw(st.integers(0, 6)) :]
    with tempfile.TemporaryFile() as file:
        file.write(damaged)
        file.flush()
        descriptor = os.dup(file.fileno())
        try:
            quietly(lambda: Pack(descriptor, LIMITS).__exit__())
        finally:
            os.close(descriptor)
