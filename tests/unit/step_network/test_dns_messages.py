"""protocol.dns and executor.names: what a step's resolver is told."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.executor.names import NAMES_LIMIT, StandIns, answer
from sandboxbuild.executor.tunnel import Tunnel
from sandboxbuild.protocol.dns import AAAA, A, BadMessage, read_answer, read_query, write_answer, write_query
from tests.support.fake_gateway import FakeGateway

MX = 15
NAME = "files.example.com"


def tunnel(*allowed: str, broken: bool = False) -> Tunnel:
    return Tunnel(FakeGateway(allowed, broken=broken), "1")


def ask(query: bytes, *allowed: str) -> tuple[int, list[str]]:
    """The answer's code, and its addresses."""
    reply = answer(query, tunnel(*allowed), StandIns())
    kind = struct.unpack("!H", query[-4:-2])[0]
    parsed = read_answer(reply, query, kind)
    return parsed.code, [socket.inet_ntoa(address) for address in parsed.addresses]


def test_allowed_name_gets_a_stand_in() -> None:
    assert ask(write_query(7, NAME, A), NAME) == (0, ["198.18.0.2"])


def test_allowed_name_has_no_ipv6_address() -> None:
    assert ask(write_query(7, NAME, AAAA), NAME) == (0, [])


def test_refused_name_does_not_exist() -> None:
    assert ask(write_query(7, "other.example.com", A), NAME) == (3, [])


def test_other_types_say_nothing_and_ask_nothing() -> None:
    gateway = FakeGateway([NAME])
    stand_ins = StandIns()
    one = Tunnel(gateway, "1")
    answer(write_query(7, NAME, A), one, stand_ins)
    assert answer(write_query(7, NAME, MX), one, stand_ins)[3] & 15 == 0
    assert answer(write_query(7, "_http._tcp." + NAME, 33), one, stand_ins)[3] & 15 == 3
    assert gateway.asked == [NAME]
    assert one.refusals == ()


def test_localhost_is_loopback() -> None:
    assert ask(write_query(7, "localhost", A)) == (0, ["127.0.0.1"])


def test_names_in_capitals_are_the_same_name() -> None:
    stand_ins, one = StandIns(), tunnel(NAME)
    lower = answer(write_query(7, NAME, A), one, stand_ins)
    upper = answer(write_query(7, NAME.upper(), A), one, stand_ins)
    assert lower[-4:] == upper[-4:]
    assert NAME.upper().encode()[:5] in upper


def test_each_name_has_an_address_of_its_own() -> None:
    stand_ins = StandIns()
    addresses = [stand_ins.address_of(f"n{number}.example.com") for number in range(300)]
    assert len(set(addresses)) == 300
    assert stand_ins.name_of(socket.inet_ntoa(addresses[299] or b"")) == "n299.example.com"
    assert stand_ins.name_of("198.19.0.9") == ""


def test_names_of_a_step_are_limited() -> None:
    stand_ins = StandIns()
    for number in range(NAMES_LIMIT):
        assert stand_ins.address_of(f"n{number}")
    assert stand_ins.address_of("one-more") is None
    assert answer(write_query(7, NAME, A), tunnel(NAME), stand_ins)[3] & 15 == 2


def test_a_gateway_that_is_gone_is_a_failure_not_a_missing_name() -> None:
    assert answer(write_query(7, NAME, A), tunnel(NAME, broken=True), StandIns())[3] & 15 == 2


def test_gateway_is_asked_once_for_a_name() -> None:
    gateway = FakeGateway([])
    one = Tunnel(gateway, "1")
    assert [one.may_ask("other.example.com") for _ in range(3)] == [False] * 3
    assert gateway.asked == ["other.example.com"]
    assert [(refusal.name, refusal.port) for refusal in one.refusals] == [("other.example.com", 0)]


def test_address_is_never_asked_for() -> None:
    gateway = FakeGateway(["127.0.0.1"])
    assert not Tunnel(gateway, "1").may_ask("127.0.0.1")
    assert gateway.asked == []


def test_edns_is_tolerated_and_answered() -> None:
    plain = write_query(7, NAME, A)
    query = plain[:10] + b"\0\1" + plain[12:] + b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)
    reply = answer(query, tunnel(NAME), StandIns())
    assert reply[10:12] == b"\0\1"
    assert reply.endswith(struct.pack("!HHIH", 41, 1232, 0, 0))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"\0\7\x01\0" + b"\0\2" + bytes(6) + b"\1a\0\0\1\0\1", 1),
        (b"\0\7\x01\0" + b"\0\1" + bytes(6) + b"\xc0\x0c\0\1\0\1", 1),
        (b"\0\7\x01\0" + b"\0\1" + bytes(6) + b"\x3fabc", 1),
        (b"\0\7\x01\0" + b"\0\1" + bytes(6) + b"\1a\0\0\1\0\3", 1),
        (b"\0\7\x28\0" + b"\0\1" + bytes(6) + b"\1a\0\0\1\0\1", 4),
    ],
)
def test_query_that_is_not_understood_is_answered_so(message: bytes, code: int) -> None:
    reply = answer(message, tunnel(), StandIns())
    assert reply[:2] == message[:2]
    assert reply[3] & 15 == code


@pytest.mark.parametrize("message", [b"", b"\0" * 11, write_query(1, NAME, A)[:2] + b"\x81\x80" + bytes(20), bytes(5000)])
def test_what_is_no_query_gets_no_answer(message: bytes) -> None:
    assert answer(message, tunnel(), StandIns()) == b""


def test_label_with_a_dot_in_it_is_another_name() -> None:
    query = read_query(write_query(1, "x", A)[:12] + b"\x11files.example.com\0\0\1\0\1")
    assert query.name == "files?example?com"


def test_alias_is_followed_to_its_addresses() -> None:
    query = write_query(9, "www.example.com", A)
    alias = b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 60, 4) + b"\1a\xc0\x10"
    target = struct.pack("!H", 0xC000 | len(query) + 12) + struct.pack("!HHIH", 1, 1, 60, 4) + b"\1\2\3\4"
    stranger = b"\1z\xc0\x10" + struct.pack("!HHIH", 1, 1, 60, 4) + b"\6\6\6\6"
    reply = query[:2] + b"\x81\x80\0\1\0\3\0\0\0\0" + query[12:] + alias + target + stranger
    assert read_answer(reply, query, A).addresses == (b"\1\2\3\4",)


def test_answer_to_another_question_is_refused() -> None:
    query, other = write_query(9, "www.example.com", A), write_query(9, "xxx.example.com", A)
    with pytest.raises(BadMessage):
        read_answer(write_answer(read_query(other), 0, (b"\1\2\3\4",)), query, A)


@settings(max_examples=150)
@given(st.binary(max_size=300))
def test_any_bytes_get_an_answer_or_none(data: bytes) -> None:
    assert isinstance(answer(data, tunnel(NAME), StandIns()), bytes)


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_answer_is_read_or_refused(data: bytes) -> None:
    query = write_query(9, "a.b", A)
    try:
        read_answer(query[:2] + b"\x81\x80\0\1\0\7\0\0\0\0" + query[12:] + data, query, A)
    except BadMessage:
        pass
