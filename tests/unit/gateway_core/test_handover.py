from __future__ import annotations

from pathlib import Path

import pytest

from sandboxbuild.gateway.audit import AuditLog
from sandboxbuild.gateway.config import SecretFrom
from sandboxbuild.gateway.handover import LIMIT_BYTES, Handover
from tests.unit.gateway_core.fake_exchange import Answered, serve


def ask(secret: SecretFrom, secret_id: str = "token", due: bool = True) -> tuple[Answered, AuditLog]:
    audit = AuditLog()
    return serve(Handover([secret], audit, lambda _id: due).routes(), "GET", f"/v1/secret/{secret_id}"), audit


def test_a_secret_of_the_build_is_given_and_logged_without_its_value(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"hunter2\x00\xff")
    answer, audit = ask(SecretFrom("token", str(path)))
    assert (answer.status, answer.body) == (200, b"hunter2\x00\xff")
    (record,) = audit.records()
    assert "hunter2" not in repr(record)


def test_a_secret_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_TESTS", "v")
    assert ask(SecretFrom("token", variable="TOKEN_OF_TESTS"))[0].body == b"v"


@pytest.mark.parametrize("secret_id", ["other", "", "../token", "token/", "token%00", "/etc/passwd"])
def test_a_secret_that_the_build_hasnt_is_refused(secret_id: str, tmp_path: Path) -> None:
    answer, audit = ask(SecretFrom("token", str(tmp_path)), secret_id)
    assert answer.status == 403
    assert audit.records()[0].kind == "refuse"


def test_a_secret_is_refused_while_no_step_names_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"v")
    assert ask(SecretFrom("token", str(path)), due=False)[0].status == 403


def test_a_secret_that_cant_be_read_or_is_too_large_is_an_error(tmp_path: Path) -> None:
    assert ask(SecretFrom("token", str(tmp_path / "none")))[0].status == 404
    large = tmp_path / "large"
    large.write_bytes(b"x" * (LIMIT_BYTES + 1))
    assert ask(SecretFrom("token", str(large)))[0].status == 404
    assert ask(SecretFrom("token", variable="NOT_SET_IN_TESTS"))[0].status == 404
