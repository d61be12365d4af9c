from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import PolicyError, RegistryError
from sandboxbuild.registry.failures import TransientError, failure, quoted
from tests.unit.registry.fake_registry import FakeResponse


def answer(status: int, document: object, **headers: str) -> FakeResponse:
    return FakeResponse(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(document).encode()
    )


def test_a_registrys_words_cant_move_the_cursor() -> None:
    error = failure(answer(400, {"errors": [{"code": "X", "message": "a\x1b[2Jb\r\n\u202ec"}]}), "pull of x")
    assert error.message.isprintable()
    assert "\\x1b[2J" in error.message


def test_a_long_message_is_cut() -> None:
    assert len(failure(answer(400, {"errors": [{"message": "x" * 50_000}]}), "pull").message) < 400


def test_a_page_of_html_is_not_quoted() -> None:
    assert "<" not in failure(FakeResponse(502, {}, b"<html>Bad gateway"), "pull of x").message


def test_statuses_that_may_pass_are_transient() -> None:
    assert all(isinstance(failure(answer(status, {}), "x"), TransientError) for status in (429, 500, 502, 503, 504))
    assert not any(isinstance(failure(answer(status, {}), "x"), TransientError) for status in (400, 401, 403, 404, 405, 413))


def test_a_refusal_of_the_gateways_is_a_policy_error_with_its_hint() -> None:
    refused = answer(403, {"errors": [{"message": "not allowed"}]}, sandboxbuild_refused="denied", sandboxbuild_hint="allow it")
    error = failure(refused, "pull of x")
    assert isinstance(error, PolicyError)
    assert error.hint == "allow it"


def test_a_failure_that_the_gateway_calls_final_is_not_tried_again() -> None:
    error = failure(answer(502, {"errors": [{"message": "no trust"}]}, sandboxbuild_failed="final"), "pull of x")
    assert type(error) is RegistryError
    assert "no trust" in error.message


def test_a_hint_in_a_registrys_document_is_not_ours() -> None:
    assert failure(answer(403, {"hint": "run this"}), "x").hint == ""


@given(st.text(max_size=400))
@settings(max_examples=80, deadline=None)
def test_what_is_quoted_is_printable(text: str) -> None:
    assert quoted(text).isprintable()


@given(st.binary(max_size=300))
@settings(max_examples=80, deadline=None)
def test_any_body_makes_an_error(body: bytes) -> None:
    assert failure(FakeResponse(500, {}, body), "x").message.isprintable()
