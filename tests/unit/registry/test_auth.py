from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import RegistryError
from sandboxbuild.registry.auth import (
    Authenticator,
    Challenge,
    Credential,
    Origin,
    may_have_credential,
    origin_of,
    parse_challenges,
    parse_token,
)

REGISTRY = Origin("https", "registry.example.com", 443)
SCOPES = ("repository:team/app:pull",)
SECRET = Credential("config.json, entry registry.example.com", "user", "hunter2")


class Source:
    def __init__(self, credential: Credential | None = SECRET) -> None:
        self.credential = credential

    def find(self, host: str, repository: str) -> Credential | None:
        return self.credential


class TokenServer:
    def __init__(self, life_s: int = 300) -> None:
        self.asked: list[tuple[str, str, Mapping[str, str], bytes | None]] = []
        self.status = 200
        self.life_s = life_s

    def fetch(self, origin: Origin, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> tuple[int, bytes]:
        self.asked.append((method, url, headers, body))
        return self.status, json.dumps({"token": f"t{len(self.asked)}", "expires_in": self.life_s}).encode()


def bearer(realm: str) -> str:
    return f'Bearer realm="{realm}",service="reg",scope="repository:other/secret:pull"'


def test_challenges_come_apart() -> None:
    header = 'Basic realm="a, \\"b\\"", Bearer realm="https://auth.example.com/t",service=reg , Negotiate'
    assert parse_challenges(header) == (
        Challenge("basic", {"realm": 'a, "b"'}),
        Challenge("bearer", {"realm": "https://auth.example.com/t", "service": "reg"}),
        Challenge("negotiate", {}),
    )


@given(st.text(max_size=300) | st.text('Bearer="\\, \t', max_size=80))
@settings(max_examples=120, deadline=None)
def test_no_header_breaks_the_parser(header: str) -> None:
    assert len(parse_challenges(header)) <= 8


@pytest.mark.parametrize(
    ("registry", "realm", "allowed", "told"),
    [
        ("registry.example.com", "https://registry.example.com/token", {}, True),
        ("registry.example.com", "https://registry.example.com:8443/token", {}, True),
        ("registry.example.com", "https://auth.example.com/token", {}, False),
        ("registry.example.com", "https://registry.example.com.evil.example/token", {}, False),
        ("registry.example.com", "https://evilregistry.example.com/token", {}, False),
        ("registry.example.com", "https://auth.example.com/t", {"registry.example.com": ("auth.example.com",)}, True),
        ("registry.example.com", "https://auth.example.com/t", {"other.example.com": ("auth.example.com",)}, False),
        ("registry.example.com", "https://auth.docker.io/token", {}, False),
    ],
)
def test_who_is_told_the_credential(registry: str, realm: str, allowed: dict[str, tuple[str, ...]], told: bool) -> None:
    assert may_have_credential(registry, REGISTRY, origin_of(realm), allowed) is told


def test_the_hub_shares_its_accounts_with_its_token_server() -> None:
    hub = Origin("https", "registry-1.docker.io", 443)
    assert may_have_credential("docker.io", hub, origin_of("https://auth.docker.io/token"), {})


@pytest.mark.parametrize("realm", ["http://registry.example.com/token", "http://auth.example.com/token", "http://127.0.0.1/t"])
def test_a_realm_without_tls_is_refused_for_a_registry_with_it(realm: str) -> None:
    with pytest.raises(RegistryError, match="not https"):
        may_have_credential("registry.example.com", REGISTRY, origin_of(realm), {"registry.example.com": ("auth.example.com",)})


def test_a_plain_registry_on_loopback_may_have_a_plain_realm_on_loopback() -> None:
    local = Origin("http", "127.0.0.1", 5000)
    assert may_have_credential("127.0.0.1:5000", local, origin_of("http://127.0.0.1:5001/t"), {})
    assert not may_have_credential("127.0.0.1:5000", local, origin_of("http://127.0.0.2:5001/t"), {})
    with pytest.raises(RegistryError):
        may_have_credential("127.0.0.1:5000", local, origin_of("http://auth.example.com/t"), {})


@pytest.mark.parametrize(
    "url",
    ["ftp://a/", "https://", "https://u:p@a/", "https://a/#x", "https://a\\b/", "https://a b/", "//a", "https://a:99999/"],
)
def test_urls_with_more_than_a_host_and_a_path_are_refused(url: str) -> None:
    with pytest.raises(RegistryError):
        origin_of(url)


def test_nothing_is_shown_before_the_registry_asks() -> None:
    server = TokenServer()
    assert Authenticator(Source(), server.fetch, {}).header("registry.example.com", REGISTRY, "team/app", SCOPES) is None


def test_a_token_is_fetched_once_for_each_scope_and_the_challenges_scope_is_not_believed() -> None:
    server = TokenServer()
    auth = Authenticator(Source(), server.fetch, {}, clock=lambda: 0.0)
    auth.learn(REGISTRY, bearer("https://registry.example.com/token"))
    first = auth.header("registry.example.com", REGISTRY, "team/app", SCOPES)
    assert first == auth.header("registry.example.com", REGISTRY, "team/app", SCOPES) == "Bearer t1"
    (asked,) = server.asked
    assert parse_qs(urlsplit(asked[1]).query) == {"service": ["reg"], "scope": list(SCOPES)}
    assert asked[2]["Authorization"].startswith("Basic ")


def test_a_token_is_renewed_before_it_ends() -> None:
    now = [0.0]
    auth = Authenticator(Source(), TokenServer(60).fetch, {}, clock=lambda: now[0])
    auth.learn(REGISTRY, bearer("https://registry.example.com/token"))
    seen = []
    for now[0] in (0.0, 49.0, 51.0, 120.0):
        seen.append(auth.header("registry.example.com", REGISTRY, "team/app", SCOPES))
    assert seen == ["Bearer t1", "Bearer t1", "Bearer t2", "Bearer t3"]


def test_a_refused_token_is_not_shown_again() -> None:
    auth = Authenticator(Source(), TokenServer().fetch, {}, clock=lambda: 0.0)
    auth.learn(REGISTRY, bearer("https://registry.example.com/token"))
    first = auth.header("registry.example.com", REGISTRY, "team/app", SCOPES)
    assert auth.header("registry.example.com", REGISTRY, "team/app", SCOPES, refused=first) != first


def test_a_foreign_realm_is_asked_without_the_credential_and_the_hint_says_what_would_allow_it() -> None:
    server = TokenServer()
    auth = Authenticator(Source(), server.fetch, {})
    auth.learn(REGISTRY, bearer("https://auth.example.net/token"))
    auth.header("registry.example.com", REGISTRY, "team/app", SCOPES)
    assert "Authorization" not in server.asked[0][2]
    hint = auth.explain("registry.example.com", "team/app")
    assert "--registry-auth-realm registry.example.com=auth.example.net" in hint


def test_an_identity_token_is_posted_and_never_in_a_url() -> None:
    server = TokenServer()
    auth = Authenticator(Source(Credential("x", identity_token="s3cret")), server.fetch, {})
    auth.learn(REGISTRY, bearer("https://registry.example.com/token"))
    auth.header("registry.example.com", REGISTRY, "team/app", SCOPES)
    method, url, headers, body = server.asked[0]
    assert method == "POST" and b"refresh_token=s3cret" in (body or b"")
    assert "s3cret" not in url and "Authorization" not in headers


def test_basic_is_shown_where_basic_is_asked() -> None:
    auth = Authenticator(Source(), TokenServer().fetch, {})
    auth.learn(REGISTRY, 'Basic realm="x"')
    assert auth.header("registry.example.com", REGISTRY, "team/app", SCOPES) == "Basic dXNlcjpodW50ZXIy"
    assert Authenticator(Source(None), TokenServer().fetch, {}).header("r", REGISTRY, "team/app", SCOPES) is None


def test_a_refused_token_request_says_whose_credential_it_was_and_not_what() -> None:
    server = TokenServer()
    server.status = 401
    auth = Authenticator(Source(), server.fetch, {})
    auth.learn(REGISTRY, bearer("https://registry.example.com/token"))
    with pytest.raises(RegistryError) as caught:
        auth.header("registry.example.com", REGISTRY, "team/app", SCOPES)
    assert caught.value.hint == "used the credential of config.json, entry registry.example.com"
    assert "hunter2" not in caught.value.message + repr(SECRET) + str(SECRET)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"token":5}', b'{"token":""}', b'{"token":"a b"}', b'{"token":"a\\r\\nb"}', b"9" * 5000]
)
def test_an_unusable_token_is_refused_without_being_quoted(body: bytes) -> None:
    with pytest.raises(RegistryError, match="no usable token"):
        parse_token(body, 0.0)


def test_a_token_without_a_life_lives_a_minute() -> None:
    assert parse_token(b'{"access_token":"abc"}', 100.0) == ("abc", 160.0)
