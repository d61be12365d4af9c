from __future__ import annotations

import socket
from collections.abc import Mapping

import pytest

from sandboxbuild.gateway.audit import AuditLog
from sandboxbuild.gateway.fetch import Fetches, FetchRefused, Opener
from sandboxbuild.registry import Body
from sandboxbuild.registry.failures import TransientError
from tests.unit.gateway_core.fake_exchange import Answered, serve
from tests.unit.registry.fake_registry import FakeResponse

URL = "https://files.example.com/a.tar"


def no_connection(host: str, port: int, timeout_s: float) -> tuple[socket.socket, str]:
    raise AssertionError("the fake wire opens nothing")


class FakeWire:
    def __init__(self, answers: dict[str, FakeResponse | Exception]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Mapping[str, str]]] = []

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None, opener: Opener, *, timeout_s: float = 60.0
    ) -> FakeResponse:
        self.asked.append((url, headers))
        self.posted = b"" if body is None else body.read(1000)
        answer = self.answers[url]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def address_of(self, host: str, port: int) -> str:
        return "203.0.113.7"


def fetch(wire: FakeWire, url: str = URL, limit_bytes: int = 1000, **headers: str) -> Answered:
    routes = Fetches(lambda: wire, no_connection, AuditLog(), limit_bytes=limit_bytes).routes()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return serve(routes, "GET", "/v1/fetch", {"sandboxbuild-url": url, **named})


def test_a_file_comes_with_the_headers_that_add_needs_and_no_others() -> None:
    wire = FakeWire(
        {URL: FakeResponse(200, {"content-length": "3", "etag": '"1"', "last-modified": "x", "set-cookie": "s"}, b"abc")}
    )
    answer = fetch(wire, if_none_match='"0"', cookie="c", authorization="a")
    assert (answer.status, answer.body) == (200, b"abc")
    assert set(answer.headers) == {"content-length", "etag", "last-modified"}
    assert wire.asked == [(URL, {"if-none-match": '"0"'})]


def test_redirects_are_followed_and_each_is_judged_anew() -> None:
    other = "https://cdn.example.com/x"
    wire = FakeWire(
        {URL: FakeResponse(302, {"location": other}), other: FetchRefused("cdn.example.com isn't allowed", hint="h")}
    )
    answer = fetch(wire)
    assert (answer.status, answer.headers["sandboxbuild-refused"], answer.headers["sandboxbuild-hint"]) == (403, "denied", "h")


def test_a_redirect_from_https_to_http_is_refused() -> None:
    wire = FakeWire({URL: FakeResponse(302, {"location": "http://files.example.com/a"})})
    assert fetch(wire).status == 403


def test_a_redirect_that_never_ends_is_an_error() -> None:
    wire = FakeWire({URL: FakeResponse(302, {"location": URL})})
    assert "redirects" in fetch(wire).message


@pytest.mark.parametrize(
    "url",
    ["", "file:///etc/passwd", "ftp://files.example.com/", "https://u:p@files.example.com/", "gopher://x/", "//x", "x" * 9000],
)
def test_other_urls_than_plain_http_ones_are_refused(url: str) -> None:
    wire = FakeWire({})
    assert fetch(wire, url).status in (400, 502)
    assert wire.asked == []


def test_a_file_that_says_it_is_too_large_is_not_begun() -> None:
    assert fetch(FakeWire({URL: FakeResponse(200, {"content-length": "5000"}, b"x" * 5000)})).status == 502


def test_a_file_that_only_turns_out_to_be_too_large_ends_early() -> None:
    with pytest.raises(Exception, match="larger than the limit"):
        fetch(FakeWire({URL: FakeResponse(200, {}, b"x" * 5000)}))


def test_a_server_that_isnt_there_is_a_transient_failure() -> None:
    answer = fetch(FakeWire({URL: TransientError("down")}))
    assert (answer.status, answer.headers["sandboxbuild-failed"]) == (503, "transient")


def test_an_error_of_the_server_is_passed_as_it_is() -> None:
    assert fetch(FakeWire({URL: FakeResponse(404, {"content-length": "2"}, b"no")})).status == 404


GIT_URL = "https://git.example.com/a.git/git-upload-pack"
GIT_TYPE = "application/x-git-upload-pack-request"


def post(wire: FakeWire, url: str, content_type: str, body: bytes = b"0000") -> Answered:
    routes = Fetches(lambda: wire, no_connection, AuditLog(), limit_bytes=1000).routes()
    return serve(routes, "POST", "/v1/fetch", {"sandboxbuild-url": url, "content-type": content_type}, body)


def test_a_git_fetch_may_be_posted() -> None:
    wire = FakeWire({GIT_URL: FakeResponse(200, {"content-length": "1"}, b"x")})
    assert post(wire, GIT_URL, GIT_TYPE).body == b"x"
    assert wire.posted == b"0000"


@pytest.mark.parametrize(
    ("url", "content_type"),
    [
        ("https://git.example.com/a.git/git-receive-pack", GIT_TYPE),
        (GIT_URL, "application/json"),
        (GIT_URL + "?x=/git-upload-pack", GIT_TYPE),
        ("https://files.example.com/form", GIT_TYPE),
    ],
)
def test_nothing_else_is_posted(url: str, content_type: str) -> None:
    wire = FakeWire({})
    assert post(wire, url, content_type).status == 403
    assert wire.asked == []


def test_an_oversized_post_is_refused() -> None:
    assert post(FakeWire({}), GIT_URL, GIT_TYPE, bytes(65 * 1024)).status == 403


def test_a_post_follows_no_redirect() -> None:
    wire = FakeWire(
        {GIT_URL: FakeResponse(307, {"location": "https://other.example.com/git-upload-pack", "content-length": "0"})}
    )
    assert post(wire, GIT_URL, GIT_TYPE).status == 307
    assert len(wire.asked) == 1


def test_the_place_that_redirects_led_to_is_told() -> None:
    other = "https://cdn.example.com/x"
    wire = FakeWire({URL: FakeResponse(302, {"location": other}), other: FakeResponse(200, {"content-length": "1"}, b"y")})
    assert fetch(wire).headers["sandboxbuild-location"] == other


def test_what_is_refused_is_logged_without_what_may_be_a_secret() -> None:
    audit = AuditLog()
    plain = "https://files.example.com/a?token=canary"
    secret = plain.replace("files", "user:canary@files")
    wire = FakeWire({plain: FakeResponse(302, {"location": "http://files.example.com/a"})})
    routes = Fetches(lambda: wire, no_connection, audit, limit_bytes=1000).routes()
    assert serve(routes, "GET", "/v1/fetch?x=1", {"sandboxbuild-url": secret}).status == 400
    assert serve(routes, "POST", "/v1/fetch", {"sandboxbuild-url": secret}, b"x").status == 403
    assert serve(routes, "GET", "/v1/fetch", {"sandboxbuild-url": plain}).status == 403
    told = [(record.kind, record.name) for record in audit.records()]
    assert told == [("refuse", f"{scheme}://files.example.com/a") for scheme in ("https", "https", "http")]
    assert "canary" not in repr(audit.records())
