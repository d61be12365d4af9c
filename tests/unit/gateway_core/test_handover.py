from __future__ import annotations

from pathlib import Path

import pytest

from sandboxbuild.gateway.audit import AuditLog
from sandboxbuild.gateway.config import SecretFrom
from sandboxbuild.gateway.handover import LIMIT_BYTES, Handover
from sandboxbuild.gateway.stepbook import StepBook
from tests.unit.gateway_core.fake_exchange import Answered, serve

STEP = "sandboxbuild-step"


class Build:
    """The secrets of a build whose step 4 names `token`."""

    def __init__(self, *secrets: SecretFrom) -> None:
        self.audit = AuditLog()
        self.book = StepBook()
        self.book.declare("4", "0", "RUN x", secrets=["token"])
        self._routes = Handover(secrets, self.audit, self.book).routes()

    def ask(self, secret_id: str = "token", step: str = "4") -> Answered:
        return serve(self._routes, "GET", f"/v1/secret/{secret_id}", {STEP: step} if step else {})


@pytest.fixture
def build(tmp_path: Path) -> Build:
    path = tmp_path / "s"
    path.write_bytes(b"hunter2\x00\xff")
    return Build(SecretFrom("token", str(path)), SecretFrom("other", str(path)))


def test_a_secret_of_the_step_is_given_and_logged_without_its_value(build: Build) -> None:
    answer = build.ask()
    assert (answer.status, answer.body) == (200, b"hunter2\x00\xff")
    (record,) = build.audit.records()
    assert (record.kind, record.step, record.name, record.received) == ("secret", "4", "secret token", 0)
    assert "hunter2" not in repr(record)


def test_a_secret_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_TESTS", "v")
    assert Build(SecretFrom("token", variable="TOKEN_OF_TESTS")).ask().body == b"v"


@pytest.mark.parametrize("secret_id", ["absent", "", "../token", "token/", "token%00", "/etc/passwd", "token?x=1"])
def test_a_secret_that_the_build_hasnt_is_refused(secret_id: str, build: Build) -> None:
    answer = build.ask(secret_id)
    assert (answer.status, answer.message) == (403, "this build has no such secret")
    assert build.audit.records()[0].kind == "refuse"


def test_a_secret_is_given_once(build: Build) -> None:
    assert [build.ask().status for _ in range(3)] == [200, 403, 403]
    assert [record.kind for record in build.audit.records()] == ["secret", "refuse", "refuse"]


def test_a_step_gets_no_secret_that_it_does_not_name(build: Build) -> None:
    assert (build.ask("other").status, build.ask("other").body.count(b"hunter2")) == (403, 0)


@pytest.mark.parametrize("step", ["5", "", "4 ", "x/../4", "4" * 65])
def test_nothing_is_given_before_a_step_begins(step: str, build: Build) -> None:
    assert (build.ask(step=step).status, build.ask(step=step).message) == (403, "no such step has begun")


def test_nothing_is_given_after_a_step_has_ended(build: Build) -> None:
    build.book.end("4")
    assert (build.ask().status, build.ask().message) == (403, "step 4 has ended")


def test_a_secret_that_cant_be_read_or_is_too_large_is_an_error(tmp_path: Path) -> None:
    assert Build(SecretFrom("token", str(tmp_path / "none"))).ask().status == 404
    large = tmp_path / "large"
    large.write_bytes(b"x" * (LIMIT_BYTES + 1))
    assert Build(SecretFrom("token", str(large))).ask().status == 404
    assert Build(SecretFrom("token", variable="NOT_SET_IN_TESTS")).ask().status == 404
