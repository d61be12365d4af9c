from __future__ import annotations

import stat

from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.fstree.entry import Entry
from sandboxbuild.plan.memo import SETTLED_NS, FileIdentity, decode_memo, encode_memo, identity_of

SETTLED = Entry(b"f", stat.S_IFREG | 0o644, size_bytes=3, mtime_ns=10, ctime_ns=20, inode=(1, 2))
NOW_NS = SETTLED_NS + 100
DIGEST = "sha256:" + "ab" * 32


def test_a_settled_file_is_known_by_inode_size_and_times() -> None:
    assert identity_of(SETTLED, NOW_NS) == FileIdentity(1, 2, 3, 10, 20)


def test_a_file_that_changed_just_now_is_not_remembered() -> None:
    assert identity_of(SETTLED._replace(mtime_ns=NOW_NS - 1), NOW_NS) is None
    assert identity_of(SETTLED._replace(ctime_ns=NOW_NS - 1), NOW_NS) is None
    assert identity_of(SETTLED._replace(ctime_ns=NOW_NS + SETTLED_NS), NOW_NS) is None


def test_what_has_no_inode_or_is_no_file_is_not_remembered() -> None:
    assert identity_of(SETTLED._replace(inode=(0, 0)), NOW_NS) is None
    assert identity_of(SETTLED._replace(mode=stat.S_IFDIR), NOW_NS) is None
    assert identity_of(SETTLED._replace(ctime_ns=0), NOW_NS) is None


def test_a_memo_survives_being_written_and_read() -> None:
    memo = {FileIdentity(1, 2, 3, -4, 5): DIGEST, FileIdentity(2**63, 2, 3, 4, 5): "sha256:" + "00" * 32}
    assert decode_memo(encode_memo(memo)) == memo


def test_what_does_not_fit_the_format_is_left_out() -> None:
    assert decode_memo(encode_memo({FileIdentity(1, 2, 3, 4, 5): "sha256:xyz", FileIdentity(-1, 2, 3, 4, 5): DIGEST})) == {}


def test_a_damaged_memo_is_an_empty_one() -> None:
    data = encode_memo({FileIdentity(1, 2, 3, 4, 5): DIGEST})
    for damaged in (b"", data[:-1], data[1:], data + b"x", data.replace(b"\xab", b"\xac", 1)):
        assert decode_memo(damaged) == {}


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_a_memo(data: bytes) -> None:
    assert decode_memo(data) == {}
