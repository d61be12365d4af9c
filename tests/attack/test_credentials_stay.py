"""No credential goes to another host than the one it is for, nor back into the sandbox. The oracle is what servers received.

Each attack is a function, tried at a gateway as it is, and at one whose defence is taken out (tests/support/mutant_gateway.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from sandboxbuild.errors import RegistryError, SandboxbuildError
from sandboxbuild.gateway import main as gateway_main
from sandboxbuild.gateway.main import harden
from sandboxbuild.oci.descriptor import OCI_MANIFEST
from sandboxbuild.policy.isolation import Allow, NetworkRules
from sandboxbuild.registry import BytesBody
from sandboxbuild.registry.uplink import URL_HEADER
from sandboxbuild.system.libc import prctl
from tests.integration.bad_registry import BadRegistry, bad_registry, reply
from tests.integration.registry_fixtures import Sandboxed, make_authority, read_blob_whole
from tests.support.credentials import (
    BLOB,
    BODY,
    DIGEST,
    MANIFEST,
    PAIR,
    TOKEN,
    Mutate,
    ask_manifest,
    holds_a_secret,
    knowing,
    repository,
    wants_basic,
)
from tests.support.mutant_gateway import mutate_gateways
from tests.support.promises import EVERYWHERE

pytestmark = pytest.mark.timeout(60)

PR_GET_DUMPABLE = 3  # prctl(2)


@pytest.fixture
def registry() -> Iterator[BadRegistry]:
    with bad_registry() as served:
        yield served


@pytest.fixture
def stranger() -> Iterator[BadRegistry]:
    """Another host: another loopback address, so another name as well."""
    with bad_registry("127.0.0.2") as served:
        yield served


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mutate:
    return lambda changes: mutate_gateways(monkeypatch, tmp_path, changes)


def pull_a_blob_that_is_elsewhere(registry: BadRegistry, other: BadRegistry, folder: Path, shown: str) -> bytes:
    """From a registry that wants to be shown a password, or a token of its own, and then redirects."""
    challenge = 'Basic realm="x"' if shown == PAIR else f'Bearer realm="{registry.url}/token",service="x"'

    def redirect(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("authorization") in (f"Basic {shown}", f"Bearer {shown}"):
            reply(307, b"", Location=f"{other.url}/storage?sig=1")(handler)
        else:
            reply(401, b"{}", WWW_Authenticate=challenge)(handler)

    registry.answers |= {
        "GET /v2/": reply(401, b"{}", WWW_Authenticate=challenge),
        "GET /token": reply(200, json.dumps({"token": TOKEN}).encode()),
        f"GET /v2/a/blobs/{DIGEST}": redirect,
    }
    other.answers["GET /storage"] = reply(200, BODY)
    with knowing(folder, registry.host) as sandboxed:
        return read_blob_whole(repository(sandboxed, registry.host), BLOB)


FOLLOWS_AS_ITSELF = {
    "            if origin_of(url) == origin:\n                response = self._authorized(": """\
            if True:
                response = self._authorized("""
}


ELSEWHERE = pytest.mark.parametrize(
    ("address", "shown"),
    [("127.0.0.1", PAIR), ("127.0.0.2", PAIR), ("127.0.0.2", TOKEN)],
    ids=["password-port", "password-host", "token-host"],
)


@pytest.mark.promise(1, "a redirect to another host or port carries no credential", profiles=EVERYWHERE)
@ELSEWHERE
def test_what_the_registry_is_shown_is_not_shown_where_it_redirects(
    registry: BadRegistry, tmp_path: Path, address: str, shown: str
) -> None:
    with bad_registry(address) as other:
        assert pull_a_blob_that_is_elsewhere(registry, other, tmp_path, shown) == BODY
        assert shown in registry.everything()
        assert other.seen and not holds_a_secret(other.everything())
        assert other.header_values("authorization") == []


@pytest.mark.without_defence(1, "a redirect to another host or port carries no credential")
@ELSEWHERE
def test_a_redirect_that_is_taken_for_the_registry_is_shown_it_too(
    registry: BadRegistry, tmp_path: Path, mutate: Mutate, address: str, shown: str
) -> None:
    mutate({"registry/remote.py": FOLLOWS_AS_ITSELF})
    with bad_registry(address) as other:
        pull_a_blob_that_is_elsewhere(registry, other, tmp_path, shown)
        assert shown in other.everything()


def name_a_realm(registry: BadRegistry, realm: BadRegistry, token: str = TOKEN) -> None:
    """The registry sends for tokens to another server, which has some."""
    challenge = f'Bearer realm="{realm.url}/token",service="x",scope="repository:a:pull"'

    def manifest(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("authorization") == f"Bearer {TOKEN}":
            reply(200, b"{}", Content_Type=OCI_MANIFEST)(handler)
        else:
            reply(401, b"{}", WWW_Authenticate=challenge)(handler)

    registry.answers |= {"GET /v2/": manifest, MANIFEST: manifest}
    realm.answers["GET /token"] = reply(200, json.dumps({"token": token}).encode())


@pytest.mark.promise(1, "a foreign bearer realm gets no credential", profiles=EVERYWHERE)
def test_a_foreign_realm_gets_no_credential(registry: BadRegistry, stranger: BadRegistry, tmp_path: Path) -> None:
    name_a_realm(registry, stranger, "anonymous")
    with knowing(tmp_path, registry.host) as sandboxed, pytest.raises(RegistryError) as caught:
        repository(sandboxed, registry.host).get_manifest("1")
    assert stranger.seen and not holds_a_secret(stranger.everything())
    assert not holds_a_secret(registry.everything())
    assert f"--registry-auth-realm {registry.host}=127.0.0.2" in caught.value.hint


@pytest.mark.without_defence(1, "a foreign bearer realm gets no credential")
def test_a_foreign_realm_that_the_operator_names_gets_it(registry: BadRegistry, stranger: BadRegistry, tmp_path: Path) -> None:
    name_a_realm(registry, stranger)
    with knowing(tmp_path, registry.host, auth_realms=((registry.host, "127.0.0.2"),)) as sandboxed:
        assert repository(sandboxed, registry.host).get_manifest("1").content == b"{}"
    assert PAIR in stranger.everything()


@pytest.mark.promise(1, "a registry can't collect another one's token", profiles=EVERYWHERE)
def test_a_realm_of_a_registry_cant_collect_another_registrys_token(
    registry: BadRegistry, stranger: BadRegistry, tmp_path: Path
) -> None:
    """The realm's host has a credential of its own in the file: it must not be used on behalf of the registry that names it."""
    name_a_realm(registry, stranger)
    with knowing(tmp_path, stranger.host) as sandboxed:
        ask_manifest(sandboxed, registry.host)
    assert stranger.seen and stranger.header_values("authorization") == []


@pytest.mark.without_defence(1, "a registry can't collect another one's token")
def test_a_token_is_collected_where_the_realms_own_credential_is_used(
    registry: BadRegistry, stranger: BadRegistry, tmp_path: Path, mutate: Mutate
) -> None:
    found = {
        "            return None\n        credential = self._credentials.find(registry, repository)\n": """\
            return None
        realm = origin_of(challenge.parameters["realm"])
        credential = self._credentials.find(f"{realm.host}:{realm.port}", repository)
""",
        '    return bool(named & {realm.host, f"{realm.host}:{realm.port}"})\n': "    return True\n",
    }
    mutate({"registry/auth.py": found})
    name_a_realm(registry, stranger)
    with knowing(tmp_path, stranger.host) as sandboxed:
        ask_manifest(sandboxed, registry.host)
    assert PAIR in stranger.everything()
    assert f"Bearer {TOKEN}" in registry.header_values("authorization")


def ask_a_realm_that_redirects(registry: BadRegistry, other: BadRegistry, folder: Path) -> None:
    name_a_realm(registry, registry)
    registry.answers["GET /token"] = reply(302, b"", Location=f"{other.url}/token")
    with knowing(folder, registry.host) as sandboxed:
        ask_manifest(sandboxed, registry.host)


@pytest.mark.promise(1, "a token server's redirect is not followed", profiles=EVERYWHERE)
def test_a_token_server_that_redirects_gets_no_second_request(
    registry: BadRegistry, stranger: BadRegistry, tmp_path: Path
) -> None:
    ask_a_realm_that_redirects(registry, stranger, tmp_path)
    assert PAIR in registry.everything()
    assert stranger.seen == []


@pytest.mark.without_defence(1, "a token server's redirect is not followed")
def test_a_redirect_of_tokens_that_is_followed_shows_the_credential(
    registry: BadRegistry, stranger: BadRegistry, tmp_path: Path, mutate: Mutate
) -> None:
    sent = "        response = self._wire.send(method, url, headers, sent, onward, timeout_s=timeout_s)\n"
    followed = """\
        if response.status in _REDIRECTS:
            response = self._wire.send(method, response.headers["location"], headers, None, onward)
"""
    mutate({"registry/remote.py": {sent: sent + followed}})
    ask_a_realm_that_redirects(registry, stranger, tmp_path)
    assert PAIR in stranger.everything()


def upload_to_where_the_registry_says(registry: BadRegistry, other: BadRegistry, folder: Path) -> None:
    registry.answers |= {
        "GET /v2/": lambda handler: wants_basic(handler) and reply(200)(handler),
        "POST /v2/a/blobs/uploads/": lambda handler: (
            wants_basic(handler) and reply(202, b"", Location=f"{other.url}/upload/1?sig=2")(handler)
        ),
    }
    other.answers["PUT /upload/1"] = reply(201)
    with knowing(folder, registry.host) as sandboxed:
        target = repository(sandboxed, registry.host)
        upload = target.start_upload()
        assert upload is not None and other.host not in upload.location
        target.finish_upload(upload, DIGEST, BytesBody(BODY))


@pytest.mark.promise(1, "an upload that is sent elsewhere carries no credential", profiles=EVERYWHERE)
def test_an_upload_that_is_sent_elsewhere_carries_no_credential(
    registry: BadRegistry, stranger: BadRegistry, tmp_path: Path
) -> None:
    upload_to_where_the_registry_says(registry, stranger, tmp_path)
    assert [seen.path for seen in stranger.seen] == [f"/upload/1?sig=2&digest={DIGEST}"]
    assert not holds_a_secret(stranger.everything())


@pytest.mark.without_defence(1, "an upload that is sent elsewhere carries no credential")
def test_an_upload_to_what_is_taken_for_the_registry_carries_it(
    registry: BadRegistry, stranger: BadRegistry, tmp_path: Path, mutate: Mutate
) -> None:
    stranger_send = "response = self._elsewhere(method, origin, url, headers, body, timeout_s)"
    own_send = "response = self._authorized(method, host, origin, url, headers, body, timeout_s)\n            #"
    mutate({"registry/remote.py": {stranger_send: own_send}})
    upload_to_where_the_registry_says(registry, stranger, tmp_path)
    assert PAIR in stranger.everything()


@pytest.mark.promise(1, "a second registry gets nothing of the first", profiles=EVERYWHERE)
def test_a_second_registry_gets_nothing_of_the_first(registry: BadRegistry, stranger: BadRegistry, tmp_path: Path) -> None:
    stranger.answers[MANIFEST] = reply(401, b"{}", WWW_Authenticate='Basic realm="x"')
    with knowing(tmp_path, registry.host) as sandboxed, pytest.raises(RegistryError) as caught:
        repository(sandboxed, stranger.host).get_manifest("1")
    assert stranger.seen and stranger.header_values("authorization") == []
    assert caught.value.hint == f"no credential for {stranger.host} was found"


@pytest.mark.without_defence(1, "a second registry gets nothing of the first")
def test_a_second_registry_gets_it_where_any_entry_will_do(
    registry: BadRegistry, stranger: BadRegistry, tmp_path: Path, mutate: Mutate
) -> None:
    mutate({"gateway/credentials.py": {'entries.get(scope, ("", None))': "next(iter(entries.values()))"}})
    stranger.answers[MANIFEST] = reply(401, b"{}", WWW_Authenticate='Basic realm="x"')
    with knowing(tmp_path, registry.host) as sandboxed:
        ask_manifest(sandboxed, stranger.host)
    assert PAIR in stranger.everything()


def test_a_layers_own_url_is_never_visited(registry: BadRegistry, stranger: BadRegistry, tmp_path: Path) -> None:
    foreign = BLOB._replace(urls=(f"{stranger.url}/layer",))
    with knowing(tmp_path, registry.host) as sandboxed, pytest.raises(RegistryError):
        read_blob_whole(repository(sandboxed, registry.host), foreign)
    assert stranger.seen == []


def fetch(registry: BadRegistry, sandboxed: Sandboxed) -> int:
    """An executor that fetches a layer by the URL that its image names."""
    port = registry.host.partition(":")[2]
    with contextlib.closing(
        sandboxed.uplink.exchange("GET", "/v1/fetch", {URL_HEADER: f"http://localhost:{port}/layer"}, None)
    ) as response:
        return response.status


@pytest.mark.promise(3, "an image's own URLs are fetched where the policy lets fetches go", profiles=EVERYWHERE)
def test_a_url_of_an_image_is_not_fetched(registry: BadRegistry, tmp_path: Path) -> None:
    with knowing(tmp_path, registry.host, "localhost") as sandboxed:
        assert fetch(registry, sandboxed) == 403
    assert registry.seen == []


@pytest.mark.without_defence(3, "an image's own URLs are fetched where the policy lets fetches go")
def test_a_url_that_the_policy_names_is_fetched_without_a_credential(registry: BadRegistry, tmp_path: Path) -> None:
    port = int(registry.host.partition(":")[2])
    registry.answers["GET /layer"] = reply(200, BODY)
    rules = NetworkRules(fetch=(Allow("localhost", (port,)),), ranges=("127.0.0.0/8", "::1/128"))
    with knowing(tmp_path, registry.host, "localhost", network=rules) as sandboxed:
        assert fetch(registry, sandboxed) == 200
    assert [seen.path for seen in registry.seen] == ["/layer"]
    assert not holds_a_secret(registry.everything())


@contextlib.contextmanager
def secure_registry(folder: Path) -> Iterator[tuple[BadRegistry, str]]:
    """A registry with TLS, and the file of its authority."""
    authority, path = make_authority(folder)
    with bad_registry(tls=authority.issue_cert("127.0.0.1")) as secure:
        yield secure, str(path)


def pull_from_tls_by_way_of(stranger: BadRegistry, folder: Path) -> None:
    with secure_registry(folder) as (secure, authority):
        secure.answers[f"GET /v2/a/blobs/{DIGEST}"] = reply(307, b"", Location=f"{stranger.url}/b")
        stranger.answers["GET /b"] = reply(200, BODY)
        with knowing(folder, secure.host, authorities=(("", authority),)) as sandboxed:
            read_blob_whole(repository(sandboxed, secure.host), BLOB)


@pytest.mark.promise(1, "no redirect leads from TLS to plain HTTP", profiles=EVERYWHERE)
def test_tls_registries_are_not_redirected_to_plain_http(stranger: BadRegistry, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="from https"):
        pull_from_tls_by_way_of(stranger, tmp_path)
    assert stranger.seen == []


@pytest.mark.without_defence(1, "no redirect leads from TLS to plain HTTP")
def test_tls_would_be_left_if_nobody_compared_schemes(stranger: BadRegistry, tmp_path: Path, mutate: Mutate) -> None:
    checks = {
        'if origin_of(previous).scheme == "https" and origin_of(url).scheme != "https":': "if not previous:",
        'if origin.scheme == "https" and target.scheme != "https":': "if not target:",
    }
    mutate({"registry/remote.py": checks})
    pull_from_tls_by_way_of(stranger, tmp_path)
    assert stranger.seen


@pytest.mark.promise(1, "an untrusted certificate gets no request at all", profiles=EVERYWHERE)
def test_an_untrusted_certificate_gets_no_request_at_all(tmp_path: Path) -> None:
    with secure_registry(tmp_path) as (secure, _), knowing(tmp_path, secure.host) as sandboxed:
        with pytest.raises(RegistryError, match="not trusted"):
            repository(sandboxed, secure.host).get_manifest("1")
        assert secure.seen == []


@pytest.mark.without_defence(1, "an untrusted certificate gets no request at all")
def test_a_certificate_that_nobody_checks_gets_the_credential(tmp_path: Path) -> None:
    with secure_registry(tmp_path) as (secure, _), knowing(tmp_path, secure.host, unverified_hosts=(secure.host,)) as sandboxed:
        secure.answers["GET /v2/"] = lambda handler: wants_basic(handler) and reply(200)(handler)
        ask_manifest(sandboxed, secure.host)
        assert PAIR in secure.everything()


def test_the_gateways_own_process_shows_no_credential(registry: BadRegistry, tmp_path: Path) -> None:
    registry.answers["GET /v2/"] = lambda handler: wants_basic(handler) and reply(200)(handler)
    with knowing(tmp_path, registry.host) as sandboxed:
        with pytest.raises(SandboxbuildError):
            repository(sandboxed, registry.host).get_manifest("1")
        folder = Path(f"/proc/{sandboxed.gateway.pid}")
        for name in ("cmdline", "environ"):
            assert not holds_a_secret((folder / name).read_bytes().decode("latin-1"))
        assert not holds_a_secret(repr(sandboxed.gateway.records))
        assert not any(os.readlink(link).endswith("config.json") for link in (folder / "fd").iterdir())


def is_hardened() -> bool:
    """Whether a process that has called harden() can be traced, or leaves a core."""
    child = os.fork()
    if child == 0:
        gateway_main.harden()
        os._exit(0 if prctl(PR_GET_DUMPABLE) == 0 and resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) else 1)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.promise(1, "the gateway leaves no core and no hold for a tracer", profiles=EVERYWHERE)
def test_the_gateways_process_leaves_no_core_and_no_hold_for_a_tracer() -> None:
    assert gateway_main.harden is harden
    assert is_hardened()


@pytest.mark.without_defence(1, "the gateway leaves no core and no hold for a tracer")
def test_a_process_that_is_not_hardened_can_be_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_main, "harden", lambda: None)
    assert not is_hardened()
