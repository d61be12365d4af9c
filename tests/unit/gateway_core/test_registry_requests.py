from __future__ import annotations

import pytest

from sandboxbuild.errors import RegistryError
from sandboxbuild.gateway.access import build_access
from sandboxbuild.gateway.audit import AuditLog
from sandboxbuild.gateway.registries import Registries
from sandboxbuild.gateway.uploads import Session, Uploads
from sandboxbuild.oci.descriptor import OCI_MANIFEST
from sandboxbuild.policy.isolation import RegistryAccess, SourceRules
from sandboxbuild.registry.failures import TransientError
from tests.unit.gateway_core.fake_exchange import Answered, FakeRemote, serve
from tests.unit.registry.fake_registry import FakeResponse, digest_of

HOST = "registry.example.com"
LAYER = b"layer" * 100
ANY_SOURCE = SourceRules()


class Gate:
    """The registry routes of one build over a fake registry."""

    def __init__(self, sources: SourceRules = ANY_SOURCE, **options: object) -> None:
        self.remote = FakeRemote()
        self.audit = AuditLog()
        registries = RegistryAccess(pull=(f"{HOST}/library/**",), pushes=(f"{HOST}/team/app:1",))
        self.routes = Registries(
            build_access(registries, sources),
            lambda: self.remote,
            self.audit,
            **options,  # type: ignore[arg-type]
        ).routes()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answered:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return serve(self.routes, method, f"/v1/registry/{HOST}{path}", named, body)


def test_a_pull_passes_the_bytes_and_is_logged() -> None:
    gate = Gate()
    manifest = gate.remote.registry.add_image([LAYER], "library/base")
    assert gate.ask("GET", "/v2/library/base/manifests/1").body == manifest
    assert gate.ask("GET", f"/v2/library/base/blobs/{digest_of(LAYER)}").body == LAYER
    kinds = [(record.kind, record.name, record.reference, record.digest) for record in gate.audit.records()]
    assert kinds == [
        ("pull", f"{HOST}/library/base", "1", digest_of(manifest)),
        ("pull", f"{HOST}/library/base", digest_of(LAYER), digest_of(LAYER)),
    ]


def test_a_refusal_reaches_no_registry_and_is_logged_with_its_hint() -> None:
    gate = Gate()
    answer = gate.ask("GET", "/v2/secret/repo/manifests/1")
    assert (answer.status, answer.headers["sandboxbuild-refused"]) == (403, "denied")
    assert gate.remote.hosts == []
    (record,) = gate.audit.records()
    assert (record.kind, record.name) == ("refuse", f"{HOST}/secret/repo")
    assert "pull" in record.hint


@pytest.mark.parametrize("path", ["/v2/_catalog", "/v2/library/../x/manifests/1", "/v2/library/base/manifests/1?ns=x", "/x"])
def test_an_unknown_request_is_refused(path: str) -> None:
    gate = Gate()
    assert gate.ask("GET", path).status == 400
    assert gate.remote.hosts == []


@pytest.mark.parametrize("host", ["REGISTRY.example.com", "user@registry.example.com", "registry.example.com%2f", ""])
def test_a_host_in_disguise_is_refused(host: str) -> None:
    gate = Gate()
    assert serve(gate.routes, "GET", f"/v1/registry/{host}/v2/library/base/manifests/1").status == 400


def test_credentials_and_cookies_pass_in_neither_direction() -> None:
    gate = Gate()
    gate.remote.answer = lambda _method, _host, _path: FakeResponse(
        200,
        {
            "content-length": "2",
            "set-cookie": "s=1",
            "www-authenticate": 'Bearer realm="x"',
            "authorization": "x",
            "x-secret": "1",
            "sandboxbuild-refused": "denied",
            "docker-upload-uuid": "u",
            "link": "<https://other.example/>",
        },
        b"ok",
    )
    answer = gate.ask(
        "GET",
        f"/v2/library/base/blobs/{digest_of(LAYER)}",
        authorization="Basic abc",
        cookie="a=b",
        proxy_authorization="x",
        x_forwarded_for="1",
    )
    assert {name.lower() for name in answer.headers} == {"content-length"}
    assert all(set(asked.headers) <= {"Accept", "Range"} for asked in gate.remote.registry.asked)


def test_an_upload_is_known_by_a_token_and_never_by_the_registrys_url() -> None:
    gate = Gate()
    gate.remote.answer = lambda method, _host, _path: (
        FakeResponse(202, {"location": "https://storage.example.com/upload?sig=SIGNED"}) if method == "POST" else None
    )
    answer = gate.ask("POST", "/v2/team/app/blobs/uploads/")
    location = answer.headers["location"]
    assert answer.status == 202
    assert location.startswith("/v2/team/app/blobs/uploads/")
    assert "SIGNED" not in str(answer)
    asked: list[str] = []
    gate.remote.answer = lambda _method, _host, path: asked.append(path) or FakeResponse(201, {})  # type: ignore[func-returns-value]
    assert gate.ask("PUT", f"{location}?digest={digest_of(LAYER)}", LAYER).status == 201
    assert asked == [f"https://storage.example.com/upload?sig=SIGNED&digest={digest_of(LAYER)}"]


def test_an_upload_of_nobody_or_of_another_repository_is_unknown() -> None:
    gate = Gate()
    location = gate.ask("POST", "/v2/team/app/blobs/uploads/").headers["location"]
    token = location.rsplit("/", 1)[1]
    before = len(gate.remote.hosts)
    assert gate.ask("PUT", f"/v2/team/app/blobs/uploads/invented?digest={digest_of(LAYER)}", LAYER).status == 404
    assert gate.ask("PATCH", f"/v2/library/base/blobs/uploads/{token}", LAYER).status == 403
    assert len(gate.remote.hosts) == before
    assert [record.kind for record in gate.audit.records()] == ["refuse", "refuse"]


def test_sessions_are_bounded_and_the_oldest_goes_first() -> None:
    uploads = Uploads(limit=2)
    tokens = [uploads.remember(Session("h", "r", str(number))) for number in range(3)]
    assert [uploads.find(token, "h", "r") is not None for token in tokens] == [False, True, True]
    assert uploads.find(tokens[1], "h", "other") is None


def test_a_manifest_is_pushed_by_its_tag_and_its_digest_is_logged() -> None:
    gate = Gate()
    assert gate.ask("PUT", "/v2/team/app/manifests/1", b"{}", content_type=OCI_MANIFEST).status == 201
    (record,) = gate.audit.records()
    assert (record.kind, record.reference, record.digest) == ("push", "1", digest_of(b"{}"))


def test_a_manifest_under_a_digest_that_isnt_its_own_is_refused() -> None:
    gate = Gate()
    assert gate.ask("PUT", f"/v2/team/app/manifests/{digest_of(b'x')}", b"{}").status == 400
    assert gate.remote.hosts == []
    assert [record.kind for record in gate.audit.records()] == ["refuse"]


def test_a_pinned_source_of_another_digest_is_refused() -> None:
    gate = Gate(SourceRules(digests=((f"{HOST}/library/base:1", digest_of(b"other")),)))
    gate.remote.registry.add_image([LAYER], "library/base")
    answer = gate.ask("GET", "/v2/library/base/manifests/1")
    assert answer.status == 403
    assert "[sources] demands" in answer.message


def test_a_registrys_refusal_comes_with_the_credential_that_was_used_and_without_its_page() -> None:
    gate = Gate()
    gate.remote.answer = lambda _method, _host, _path: FakeResponse(
        401,
        {"www-authenticate": "Basic"},
        b'{"errors":[{"code":"UNAUTHORIZED","message":"who?","detail":"x"}],"hint":"run me"}',
    )
    answer = gate.ask("GET", "/v2/library/base/manifests/1")
    assert answer.status == 401
    assert answer.headers["sandboxbuild-hint"] == f"used the credential of config.json, entry {HOST}"
    assert answer.body == b'{"errors": [{"code": "UNAUTHORIZED", "message": "who?"}]}'


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (TransientError("connection lost"), 503, "transient"),
        (TransientError("hangs", status=504), 504, "transient"),
        (RegistryError("the certificate is not trusted"), 502, "final"),
    ],
)
def test_no_answer_is_told_apart_from_a_refusal(error: RegistryError, status: int, kind: str) -> None:
    gate = Gate()

    def fail(_method: str, _host: str, _path: str) -> FakeResponse | None:
        raise error

    gate.remote.answer = fail
    answer = gate.ask("GET", "/v2/library/base/manifests/1")
    assert (answer.status, answer.headers["sandboxbuild-failed"], answer.message) == (status, kind, error.message)


def test_a_body_of_unknown_length_comes_in_chunks() -> None:
    gate = Gate()
    gate.remote.answer = lambda _method, _host, _path: FakeResponse(200, {}, b"abc")
    answer = gate.ask("GET", f"/v2/library/base/blobs/{digest_of(LAYER)}")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.body == b"3\r\nabc\r\n0\r\n\r\n"


def test_a_blob_in_another_encoding_is_refused() -> None:
    gate = Gate()
    gate.remote.answer = lambda _method, _host, _path: FakeResponse(200, {"content-encoding": "gzip"}, b"abc")
    assert gate.ask("GET", f"/v2/library/base/blobs/{digest_of(LAYER)}").status == 502


def mirrored(**options: object) -> Gate:
    return Gate(mirrors={HOST: ("mirror.example.com/hub", "second.example.com")}, **options)


def test_mirrors_are_asked_in_order_and_the_registry_last() -> None:
    gate = mirrored()
    paths: list[str] = []

    def absent(_method: str, host: str, path: str) -> FakeResponse | None:
        paths.append(host + path)
        if host == "second.example.com":
            raise TransientError("down")
        return FakeResponse(404, {}) if host != HOST else FakeResponse(200, {"content-type": OCI_MANIFEST}, b"{}")

    gate.remote.answer = absent
    assert gate.ask("GET", "/v2/library/base/manifests/1").status == 200
    assert paths == [
        "mirror.example.com/v2/hub/library/base/manifests/1",
        "second.example.com/v2/library/base/manifests/1",
        "registry.example.com/v2/library/base/manifests/1",
    ]


def test_without_fallback_the_registry_is_not_asked() -> None:
    gate = mirrored(mirror_fallback=False)
    gate.remote.answer = lambda _method, _host, _path: FakeResponse(404, {})
    assert gate.ask("GET", "/v2/library/base/manifests/1").status == 404
    assert HOST not in gate.remote.hosts


def test_a_push_never_goes_to_a_mirror() -> None:
    gate = mirrored()
    gate.ask("POST", "/v2/team/app/blobs/uploads/")
    assert gate.remote.hosts == [HOST]
