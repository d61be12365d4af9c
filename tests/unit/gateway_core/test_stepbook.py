from __future__ import annotations

import json

import pytest

from sandboxbuild.gateway.audit import AuditLog
from sandboxbuild.gateway.egress import Denied, Egress
from sandboxbuild.gateway.stepbook import NotDue, StepBook
from sandboxbuild.gateway.steps import Answer, StepRoutes
from sandboxbuild.plan.handovers import ANY_ID, NamedRun
from sandboxbuild.policy.isolation import NetworkRules
from sandboxbuild.system.relay import Relay

RUN = "RUN --mount=type=secret,id=a x"
NAMED = (NamedRun("build", RUN, ("a",), ("default",)), NamedRun("0", "RUN y", (ANY_ID,)))


def routes(book: StepBook, audit: AuditLog) -> StepRoutes:
    return StepRoutes(Egress(NetworkRules(), lambda _name: [], audit, Relay(), book), book, audit)


def declare(document: object, book: StepBook | None = None, audit: AuditLog | None = None) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return routes(book or StepBook(), audit or AuditLog()).answer("POST", "/v1/steps/7", body)


def test_a_step_gets_what_the_dockerfiles_run_names() -> None:
    book = StepBook(NAMED)
    book.declare("1", "build", RUN, ["a"], ["default"])
    assert book.take_secret("1", "a").stage == "build"


@pytest.mark.parametrize(
    ("stage", "run", "secrets", "agents"),
    [
        ("build", RUN, ["b"], []),
        ("build", RUN, ["a", "b"], []),
        ("build", RUN, ["a"], ["other"]),
        ("build", RUN + " ", ["a"], []),
        ("other", RUN, ["a"], []),
        ("build", "ONBUILD " + RUN, ["a"], []),
        ("0", "RUN y", [], ["default"]),
    ],
)
def test_a_step_that_the_dockerfile_has_not_is_refused(stage: str, run: str, secrets: list[str], agents: list[str]) -> None:
    book = StepBook(NAMED)
    with pytest.raises(NotDue, match="no RUN of the Dockerfile"):
        book.declare("1", stage, run, secrets, agents)
    with pytest.raises(NotDue, match="no such step"):
        book.take_secret("1", "a")


def test_a_run_of_the_dockerfile_is_good_for_one_step_on_each_platform() -> None:
    book = StepBook((*NAMED, *NAMED))
    book.declare("1", "build", RUN, ["a"])
    book.declare("2", "build", RUN, ["a"])
    with pytest.raises(NotDue, match="no more steps"):
        book.declare("3", "build", RUN, ["a"])


def test_an_id_that_only_variables_tell_may_be_any() -> None:
    book = StepBook(NAMED)
    book.declare("1", "0", "RUN y", ["whatever"])
    assert book.take_secret("1", "whatever")


def test_without_a_dockerfile_a_step_gets_what_it_declares() -> None:
    book = StepBook(None)
    book.declare("1", "0", "RUN z", ["a"])
    assert book.take_secret("1", "a")
    with pytest.raises(NotDue, match="names no such secret"):
        book.take_secret("1", "b")


def test_a_step_that_names_nothing_is_taken_whatever_it_is() -> None:
    book = StepBook(())
    book.declare("1", "0", "RUN z")
    assert book.asker("1").run == "RUN z"


def test_a_step_begins_once_and_gets_nothing_in_its_name_once_it_has_ended() -> None:
    book = StepBook()
    book.declare("1", "0", "RUN z")
    with pytest.raises(NotDue, match="before"):
        book.declare("1", "0", "RUN z", ["a"])
    book.end("1")
    book.end("1")
    for ask in (lambda: book.asker("1"), lambda: book.take_secret("1", "a")):
        with pytest.raises(NotDue, match="step 1 has ended"):
            ask()
    with pytest.raises(NotDue, match="before"):
        book.declare("1", "0", "RUN z")
    with pytest.raises(ValueError, match="never"):
        book.end("2")


def test_names_and_connections_of_a_step_are_refused_after_its_end() -> None:
    book, audit = StepBook(), AuditLog()
    made = routes(book, audit)
    assert made.answer("POST", "/v1/steps/7", b'{"stage":"0","run":"RUN z"}').status == 200
    assert made.answer("POST", "/v1/steps/7/end", b"").status == 200
    answer = made.answer("POST", "/v1/names/files.example.com?step=7", b"")
    assert (answer.status, answer.refused) == (403, "ended")
    with pytest.raises(Denied):
        Egress(NetworkRules(), lambda _name: [], audit, Relay(), book).asker("7")
    assert [record.kind for record in audit.records()] == ["step", "refuse", "refuse"]


def test_what_is_refused_is_told_and_logged() -> None:
    audit = AuditLog()
    answer = declare({"stage": "0", "run": "RUN z", "secrets": ["a"]}, StepBook(NAMED), audit)
    assert (answer.status, answer.refused) == (403, "step")
    assert b"secret a: no RUN of the Dockerfile names it" in answer.body
    assert [(record.kind, record.step, record.name) for record in audit.records()] == [("refuse", "7", "step")]


@pytest.mark.parametrize(
    "document",
    [
        {"stage": "0"},
        {"run": "x"},
        [],
        {"stage": "0", "run": "x", "secrets": "a"},
        {"stage": "0", "run": "x", "secrets": [1]},
        {"stage": "0", "run": "x", "secrets": ["../a"]},
        {"stage": "0", "run": "x", "ssh": ["a/b"]},
        {"stage": "0", "run": "x", "ssh": ["a"] * 257},
        {"stage": "0", "run": "x", "also": 1},
        {"stage": 0, "run": "x"},
        {"stage": "0", "run": "x" * 70_000},
        b"[" * 50_000,
        b"\xff",
    ],
)
def test_a_declaration_that_is_none_is_an_error(document: object) -> None:
    assert declare(document).status == 400


@pytest.mark.parametrize(
    "query", ["step=7&step=8", "step=7&also=1", "step=7&kind=fetch&kind=run", "step", "", "step=7&a=1&b=2&c=3&d=4"]
)
def test_a_question_for_a_name_has_its_fields_once_and_no_others(query: str) -> None:
    assert routes(StepBook(), AuditLog()).answer("POST", f"/v1/names/files.example.com?{query}", b"").status == 400
