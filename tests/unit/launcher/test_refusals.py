"""The hint under a failed step: names with their ports, one line to allow them all, reasons where no line would help."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxbuild.errors import InputError
from sandboxbuild.gateway.audit import CONNECT, REFUSE, TRUNCATED, Record, read_records
from sandboxbuild.launcher.auditing import AuditTrail
from sandboxbuild.launcher.refusals import refusal_hint


def refused(name: str, port: int = 0, code: str = "name", reason: str = "") -> Record:
    return Record(REFUSE, "3", "", name, port, reason=reason or f"{name} isn't allowed", rule=code)


def test_nothing_refused_gives_no_hint() -> None:
    assert refusal_hint(()) == ""


def test_names_and_ports_are_told_with_one_line_for_all() -> None:
    hint = refusal_hint((refused("a.example.com"), refused("a.example.com", 8443, "port"), refused("b.example.com")))
    assert "asked for a.example.com:8443, b.example.com, which" in hint
    assert hint.endswith('[network.run] allow = ["a.example.com:8443", "b.example.com"]')


def test_a_long_list_is_cut_with_its_length() -> None:
    assert "and 7 more" in refusal_hint([refused(f"h{n}.example.com") for n in range(12)])


def test_a_name_that_can_not_be_resolved_is_no_matter_of_the_policy() -> None:
    hint = refusal_hint((refused("a.example.com", 443, "resolve", "a.example.com can't be resolved: no answer"),))
    assert hint == "a.example.com can't be resolved: no answer"


def test_the_trail_writes_every_record_and_keeps_each_kind_once(tmp_path: Path) -> None:
    trail = AuditTrail(str(tmp_path / "log"))
    for received in (1, 2, 3):
        trail(Record(CONNECT, "3", name="a.example.com", port=443, received=received))
    trail(refused("b.example.com"))
    trail.close()
    assert len(list(read_records((tmp_path / "log").read_text().splitlines()))) == 4
    assert len(trail.records) == 2
    assert [record.name for record in trail.refusals("3")] == ["b.example.com"]
    assert trail.refusals("4") == ()


def test_a_log_that_can_not_take_more_is_told_at_the_end() -> None:
    trail = AuditTrail("/dev/full")
    trail(refused("b.example.com"))
    with pytest.raises(InputError, match="not complete"):
        trail.close()


def test_a_log_that_has_reached_its_limit_is_not_complete(tmp_path: Path) -> None:
    trail = AuditTrail(str(tmp_path / "log"))
    trail(Record(TRUNCATED, reason="the audit log has reached its limit"))
    with pytest.raises(InputError, match="reached its limit"):
        trail.close()
