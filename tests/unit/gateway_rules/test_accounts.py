"""gateway.limits, audit and learn: what was used, what was said, what is learned."""

from __future__ import annotations

import io
import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.gateway.audit import CONNECT, FETCH, NAME, PULL, REFUSE, AuditLog, Record, read_records, record_line
from sandboxbuild.gateway.learn import learn
from sandboxbuild.gateway.limits import Meter
from sandboxbuild.policy.document import read_policy
from sandboxbuild.policy.isolation import Budget, Isolation
from sandboxbuild.policy.resolve import isolation_of

DIGEST = "sha256:" + "a" * 64


def under(text: str) -> Isolation:
    """What a policy comes to, read from `text`."""
    return isolation_of(read_policy("base.toml", text.encode()), "mine", "r")


def test_connections_at_once_are_limited_for_each_step() -> None:
    meter = Meter(Budget(connections=1), Budget())
    assert meter.open("1") == ""
    assert meter.open("1") == "step 1 has reached its limit of 1 connections at once ([network.limits.step] connections)"
    assert meter.open("2") == ""
    meter.closed("1")
    assert meter.open("1") == ""


def test_connections_in_all_are_limited_for_the_build() -> None:
    meter = Meter(Budget(), Budget(connections_total=2))
    for step in ("1", "2"):
        assert meter.open(step) == ""
        meter.closed(step)
    assert "the build has reached its limit of 2 connections in all" in meter.open("3")


def test_bytes_are_limited_each_way() -> None:
    meter = Meter(Budget(upload_bytes=10), Budget(download_bytes=20))
    assert meter.moved("1", 10, 20) == ""
    assert "upload" in meter.moved("1", 1, 0)
    assert "[network.limits.build] download" in meter.moved("2", 0, 1)


def test_shorter_time_of_step_and_build_holds() -> None:
    assert Meter(Budget(idle_s=5.0), Budget(idle_s=3.0)).idle_s == 3.0
    assert Meter(Budget(idle_s=5.0), Budget()).idle_s == 5.0
    assert Meter(Budget(), Budget()).idle_s == 0.0


@settings(max_examples=100)
@given(st.text(max_size=600), st.integers(0, 2**60))
def test_record_is_one_line_of_printable_ascii(text: str, number: int) -> None:
    line = record_line(Record(REFUSE, name=text, reason=text, received=number))
    assert line.endswith("\n") and line[:-1].isascii() and line[:-1].isprintable()
    assert len(line) < 8000


def test_records_are_read_back() -> None:
    record = Record(CONNECT, "1", "build", "files.example.com", 443, "203.0.113.1", 5, 6, 7.5, 8, "rule", build="b")
    assert list(read_records([record_line(record)])) == [record]


@pytest.mark.parametrize(
    "line", ["", "[]", "{}", '{"kind":1}', '{"kind":"x","port":"80"}', '{"kind":"x","other":1}', "[" * 100_000]
)
def test_line_that_is_no_record_is_an_error_with_its_number(line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        list(read_records([record_line(Record("x")), line]))


def test_log_says_where_it_stops() -> None:
    sink = io.StringIO()
    log = AuditLog(sink, "b", limit_bytes=100)
    for _ in range(5):
        log.write(Record(CONNECT, name="files.example.com", time_s=1.0))
    lines = sink.getvalue().splitlines()
    assert json.loads(lines[-1])["kind"] == "truncated"
    assert len(lines) < 5


def test_refusals_are_given_once_each() -> None:
    log = AuditLog()
    for port in (80, 80, 443):
        log.write(Record(REFUSE, "1", name="other.example.com", port=port, reason="no"))
    assert [record.port for record in log.refusals()] == [80, 443]


def test_learned_policy_holds_what_was_reached_and_nothing_else() -> None:
    records = [
        Record(CONNECT, "1", name="files.example.com", port=443, address="93.184.216.34"),
        Record(CONNECT, "2", name="files.example.com", port=443, address="93.184.216.34"),
        Record(CONNECT, "2", name="mirror.example.com", port=80, address="203.0.113.80"),
        Record(FETCH, name="archive.example.com", port=443, address="93.184.216.34"),
        Record(REFUSE, "2", name="inside.example.com", port=80),
        Record(PULL, name="registry.example.com/library/debian", reference="12", digest=DIGEST),
        Record(PULL, name="registry.example.com/library/debian", reference=DIGEST, digest=DIGEST),
    ]
    text = learn(records, under(""))
    assert tomllib.loads(text) == {
        "network": {
            "run": {
                "allow": [
                    "files.example.com:443",
                    {"host": "mirror.example.com", "ports": [80], "ranges": ["203.0.113.0/24"]},
                ]
            },
            "fetch": {"allow": ["archive.example.com:443"]},
        },
        "registries": {"from_dockerfile": False, "pull": ["registry.example.com/library/debian"]},
        "sources": {"digests": {"registry.example.com/library/debian:12": DIGEST}},
        "syscalls": {"profile": "default"},
    }
    assert read_policy("learned.toml", text.encode()).document.network.run.allow


def test_name_that_was_only_looked_up_is_told_and_not_allowed() -> None:
    records = [
        Record(NAME, "1", name="files.example.com", learned=True),
        Record(NAME, "1", name="idle.example.com", learned=True),
        Record(CONNECT, "1", name="files.example.com", port=443, address="93.184.216.34"),
    ]
    text = learn(records, under(""))
    assert '# looked up, and never connected to: "idle.example.com"\n' in text
    assert tomllib.loads(text)["network"]["run"]["allow"] == ["files.example.com:443"]


def test_nothing_reached_is_a_policy_that_allows_nothing() -> None:
    policy = read_policy("learned.toml", learn([], under("")).encode())
    assert policy.document.network.run.value() == ()
    assert policy.document.registries.value().pull == ()


def test_learned_entry_is_unread_where_the_one_that_let_it_through_was() -> None:
    rules = """[network.run]
    allow = [{ host = "*.example.com", ports = [5432], inspect = false }, "db.example.com:443"]
    [[network.rule]]
    stage = "x"
    allow = [{ host = "queue.example.org", ports = [5672], inspect = false }]"""
    records = [
        Record(CONNECT, "1", name=name, port=port, address="93.184.216.34")
        for name, port in (("db.example.com", 5432), ("db.example.com", 443), ("queue.example.org", 5672))
    ]
    learned = tomllib.loads(learn(records, under(rules)))
    assert learned["network"]["run"]["allow"] == [
        {"host": "db.example.com", "ports": [5432], "inspect": False},
        "db.example.com:443",
        {"host": "queue.example.org", "ports": [5672], "inspect": False},
    ]


def test_learned_policy_demands_of_sources_what_the_build_was_held_to() -> None:
    other = "sha256:" + "b" * 64
    pins = f"""[sources]
    allow = ["registry.example.com/**"]
    [sources.digests]
    "registry.example.com/a:1" = "{DIGEST}"
    "registry.example.com/b:1" = "{other}\""""
    records = [Record(PULL, name="registry.example.com/a", reference="1", digest=DIGEST)]
    learned = read_policy("learned.toml", learn(records, under(pins)).encode()).document.sources
    assert learned.allow == ["registry.example.com/**"]
    assert learned.digests == {"registry.example.com/a:1": DIGEST, "registry.example.com/b:1": other}
    assert read_policy("l.toml", learn([], under("[sources]\nrequire_digest = true")).encode()).document.sources.require_digest
