"""gateway.report: audit records as people read them."""

from __future__ import annotations

from sandboxbuild.gateway.audit import CONNECT, PULL, REFUSE, Record
from sandboxbuild.gateway.report import audit_table, refusal_lines, totals

HINT = 'allow it with: [network.run] allow = ["other.example.com:443"]'
RECORDS = [
    Record(PULL, name="registry.example.com/library/debian", reference="12", digest="sha256:" + "a" * 64, received=5000),
    Record(
        CONNECT, "4", name="files.example.com", port=443, address="93.184.216.34", sent=100, received=2_000_000, rule="files"
    ),
    Record(REFUSE, "4", name="other.example.com", reason="other.example.com isn't allowed", hint="x"),
    Record(REFUSE, "4", name="other.example.com", port=443, reason="other.example.com:443 isn't allowed", hint=HINT),
    Record(REFUSE, "5", name="third\x1b[2J\u202e", reason="no"),
]


def test_table_has_a_line_for_each_record() -> None:
    lines = audit_table(RECORDS).splitlines()
    assert len(lines) == 6
    assert "registry.example.com/library/debian:12@sha256:aaaaaaaaaaaa" in lines[1]
    assert "2.0MB" in lines[2] and "files.example.com:443" in lines[2]
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_refusal_is_told_once_with_its_line() -> None:
    assert refusal_lines(RECORDS)[0] == f"step 4 asked for other.example.com:443: other.example.com:443 isn't allowed; {HINT}"
    assert len(refusal_lines([*RECORDS, *RECORDS])) == 2


def test_totals_count_what_was_carried() -> None:
    assert totals(RECORDS) == (1, 100, 2_000_000)
