"""No credential goes to another host than the one it is for, nor back into the sandbox. The oracle is what servers received."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import resource
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from sandboxbuild.errors import PolicyError, RegistryError, SandboxbuildError
from sandboxbuild.gateway.config import SecretFrom
from sandboxbuild.gateway.main import harden
from sandboxbuild.oci.descriptor import OCI_LAYER, OCI_MANIFEST, Descriptor
from sandboxbuild.policy.isolation import RegistryAccess
from sandboxbuild.registry import BytesBody
from sandboxbuild.registry.failures import read_bounded
from sandboxbuild.registry.repository import Repository
from sandboxbuild.registry.retry import Retry, RetryPolicy
from sandboxbuild.registry.uplink import read_secret
from sandboxbuild.system.libc import prctl
from tests.integration.bad_registry import BadRegistry, bad_registry, reply
from tests.integration.registry_fixtures import PASSWORD, USER, Sandboxed, gateway_for, make_authority, read_blob_whole

pytestmark = pytest.mark.timeout(60)

BODY = b"layer" * 1000
DIGEST = "sha256:" + hashlib.sha256(BODY).hexdigest()
BLOB = Descriptor(OCI_LAYER, DIGEST, len(BODY))
PAIR = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
TOKEN = "token-canary-77aa01"
PR_GET_DUMPABLE = 3  # prctl(2)
NEEDLES = (PASSWORD, PAIR, TOKEN)


def holds_a_secret(text: str) -> bool:
    return any(needle in text for needle in NEEDLES)


@pytest.fixture
def registry() -> Iterator[BadRegistry]:
    with bad_registry() as served:
        yield served


@pytest.fixture
def stranger() -> Iterator[BadRegistry]:
    """Another host: another loopback address, so another name as well."""
    with bad_registry("127.0.0.2") as served:
        yield served


def auth_file(folder: Path, *hosts: str) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps({"auths": {host: {"auth": PAIR} for host in hosts}}))
    return str(path)


@pytest.fixture
def sandboxed(registry: BadRegistry, tmp_path: Path) -> Iterator[Sandboxed]:
    access = RegistryAccess(pull=("**",), pushes=(f"{registry.host}/a:1",))
    with gateway_for(tmp_path, registries=access, auth_file=auth_file(tmp_path, registry.host)) as made:
        yield made


def repository(sandboxed: Sandboxed, host: str) -> Repository:
    return Repository(sandboxed.transport, host, "a", retry=Retry(RetryPolicy(attempts=2, base_s=0.01)))


def wants_basic(handler: BaseHTTPRequestHandler) -> bool:
    """Ask for basic auth unless it is there; True if it was."""
    if handler.headers.get("authorization") == f"Basic {PAIR}":
        return True
    reply(401, b"{}", WWW_Authenticate='Basic realm="x"')(handler)
    return False


def test_basic_auth_is_shown_to_the_registry_and_not_to_where_it_redirects(
    registry: BadRegistry, stranger: BadRegistry, sandboxed: Sandboxed
) -> None:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        if wants_basic(handler):
            reply(307, b"", Location=f"{stranger.url}/storage?sig=1")(handler)

    registry.answers |= {"GET /v2/": lambda handler: wants_basic(handler) and reply(200)(handler),
                         f"GET /v2/a/blobs/{DIGEST}": redirect}  # fmt: skip
    stranger.answers["GET /storage"] = reply(200, BODY)
    assert read_blob_whole(repository(sandboxed, registry.host), BLOB) == BODY
    assert PAIR in registry.everything()
    assert stranger.seen and not holds_a_secret(stranger.everything())
    assert stranger.header_values("authorization") == []


def test_a_redirect_to_another_port_of_the_same_host_carries_nothing(registry: BadRegistry, sandboxed: Sandboxed) -> None:
    with bad_registry() as neighbour:
        registry.answers |= {
            "GET /v2/": lambda handler: wants_basic(handler) and reply(200)(handler),
            f"GET /v2/a/blobs/{DIGEST}": lambda handler: (
                wants_basic(handler) and reply(302, b"", Location=f"{neighbour.url}/b")(handler)
            ),
        }
        neighbour.answers["GET /b"] = lambda handler: reply(401, b"{}", WWW_Authenticate='Basic realm="x"')(handler)
        with pytest.raises(RegistryError):
            read_blob_whole(repository(sandboxed, registry.host), BLOB)
        assert neighbour.seen and neighbour.header_values("authorization") == []


def test_a_foreign_realm_gets_no_credential(registry: BadRegistry, stranger: BadRegistry, sandboxed: Sandboxed) -> None:
    challenge = f'Bearer realm="{stranger.url}/token",service="x",scope="repository:a:pull"'
    registry.answers |= {path: reply(401, b"{}", WWW_Authenticate=challenge) for path in ("GET /v2/", "GET /v2/a/manifests/1")}
    stranger.answers["GET /token"] = reply(200, json.dumps({"token": "anonymous"}).encode())
    with pytest.raises(RegistryError) as caught:
        repository(sandboxed, registry.host).get_manifest("1")
    assert stranger.seen and not holds_a_secret(stranger.everything())
    assert not holds_a_secret(registry.everything())
    assert f"--registry-auth-realm {registry.host}=127.0.0.2" in caught.value.hint


def test_a_foreign_realm_that_the_operator_names_gets_it(registry: BadRegistry, stranger: BadRegistry, tmp_path: Path) -> None:
    challenge = f'Bearer realm="{stranger.url}/token",service="x"'

    def manifest(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("authorization") == f"Bearer {TOKEN}":
            reply(200, b"{}", Content_Type=OCI_MANIFEST)(handler)
        else:
            reply(401, b"{}", WWW_Authenticate=challenge)(handler)

    registry.answers |= {"GET /v2/": manifest, "GET /v2/a/manifests/1": manifest}
    stranger.answers["GET /token"] = reply(200, json.dumps({"token": TOKEN}).encode())
    settings = {"auth_file": auth_file(tmp_path, registry.host), "auth_realms": ((registry.host, "127.0.0.2"),)}
    with gateway_for(tmp_path, **settings) as sandboxed:
        assert repository(sandboxed, registry.host).get_manifest("1").content == b"{}"
    assert PAIR in stranger.everything()


def test_a_realm_of_a_registry_cant_collect_another_registrys_token(
    registry: BadRegistry, stranger: BadRegistry, tmp_path: Path
) -> None:
    """The realm's host has a credential of its own in the file: it must not be used on behalf of the registry that names it."""
    challenge = f'Bearer realm="{stranger.url}/token",service="x"'
    registry.answers |= {path: reply(401, b"{}", WWW_Authenticate=challenge) for path in ("GET /v2/", "GET /v2/a/manifests/1")}
    stranger.answers["GET /token"] = reply(200, json.dumps({"token": TOKEN}).encode())
    with gateway_for(tmp_path, auth_file=auth_file(tmp_path, stranger.host)) as sandboxed, pytest.raises(RegistryError):
        repository(sandboxed, registry.host).get_manifest("1")
    assert stranger.header_values("authorization") == []


def test_a_token_server_that_redirects_gets_no_second_request(
    registry: BadRegistry, stranger: BadRegistry, sandboxed: Sandboxed
) -> None:
    challenge = f'Bearer realm="{registry.url}/token",service="x"'
    registry.answers |= {
        "GET /v2/": reply(401, b"{}", WWW_Authenticate=challenge),
        "GET /v2/a/manifests/1": reply(401, b"{}", WWW_Authenticate=challenge),
        "GET /token": reply(302, b"", Location=f"{stranger.url}/token"),
    }
    with pytest.raises(RegistryError):
        repository(sandboxed, registry.host).get_manifest("1")
    assert PAIR in registry.everything()
    assert stranger.seen == []


def test_an_upload_that_is_sent_elsewhere_carries_no_credential(
    registry: BadRegistry, stranger: BadRegistry, sandboxed: Sandboxed
) -> None:
    registry.answers |= {
        "GET /v2/": lambda handler: wants_basic(handler) and reply(200)(handler),
        "POST /v2/a/blobs/uploads/": lambda handler: (
            wants_basic(handler) and reply(202, b"", Location=f"{stranger.url}/upload/1?sig=2")(handler)
        ),
    }
    stranger.answers["PUT /upload/1"] = reply(201)
    target = repository(sandboxed, registry.host)
    upload = target.start_upload()
    assert upload is not None and stranger.host not in upload.location
    target.finish_upload(upload, DIGEST, BytesBody(BODY))
    assert [seen.path for seen in stranger.seen] == [f"/upload/1?sig=2&digest={DIGEST}"]
    assert not holds_a_secret(stranger.everything())


def test_a_second_registry_gets_nothing_of_the_first(
    registry: BadRegistry, stranger: BadRegistry, sandboxed: Sandboxed
) -> None:
    stranger.answers["GET /v2/a/manifests/1"] = reply(401, b"{}", WWW_Authenticate='Basic realm="x"')
    with pytest.raises(RegistryError) as caught:
        repository(sandboxed, stranger.host).get_manifest("1")
    assert stranger.header_values("authorization") == []
    assert caught.value.hint == f"no credential for {stranger.host} was found"


def test_a_layers_own_url_is_never_visited(registry: BadRegistry, stranger: BadRegistry, sandboxed: Sandboxed) -> None:
    foreign = BLOB._replace(urls=(f"{stranger.url}/layer",))
    with pytest.raises(RegistryError):
        read_blob_whole(repository(sandboxed, registry.host), foreign)
    assert stranger.seen == []


def test_tls_registries_are_not_redirected_to_plain_http(stranger: BadRegistry, tmp_path: Path) -> None:
    authority, path = make_authority(tmp_path)
    with bad_registry(tls=authority.issue_cert("127.0.0.1")) as secure:
        secure.answers[f"GET /v2/a/blobs/{DIGEST}"] = reply(307, b"", Location=f"{stranger.url}/b")
        settings = {"authorities": (("", str(path)),), "auth_file": auth_file(tmp_path, secure.host)}
        with gateway_for(tmp_path, **settings) as sandboxed, pytest.raises(RegistryError, match="from https"):
            read_blob_whole(repository(sandboxed, secure.host), BLOB)
    assert stranger.seen == []


def test_an_untrusted_certificate_gets_no_request_at_all(tmp_path: Path) -> None:
    authority, _ = make_authority(tmp_path)
    with bad_registry(tls=authority.issue_cert("127.0.0.1")) as secure:
        auth = auth_file(tmp_path, secure.host)
        with gateway_for(tmp_path, auth_file=auth) as sandboxed, pytest.raises(RegistryError, match="not trusted"):
            repository(sandboxed, secure.host).get_manifest("1")
        assert secure.seen == []


@pytest.mark.parametrize("place", ["http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/", "http://0.0.0.0/"])
def test_a_registry_cant_send_the_gateway_to_a_metadata_service(
    place: str, registry: BadRegistry, sandboxed: Sandboxed
) -> None:
    registry.answers[f"GET /v2/a/blobs/{DIGEST}"] = reply(307, b"", Location=place)
    with pytest.raises(RegistryError, match="may not go"):
        read_blob_whole(repository(sandboxed, registry.host), BLOB)


TARGETS = [
    "/v1/registry/{host}/token",
    "/v1/registry/{host}/v2/token",
    "/v1/registry/{user}@{host}/v2/",
    "/v1/credentials",
    "/v1/secret/config.json",
    "/v1/secret/..%2f..%2fconfig.json",
    "/v1/config",
    "/config.json",
    "/",
    "/v1/registry/{host}/v2/a/manifests/1",
    "/v1/registry/{host}/v2/",
]


def test_no_endpoint_gives_a_credential_back(registry: BadRegistry, sandboxed: Sandboxed) -> None:
    """The registry echoes all that it is sent; the sandbox asks for everything that it can think of."""

    def echo(handler: BaseHTTPRequestHandler) -> None:
        if wants_basic(handler):
            said = json.dumps({"errors": [{"code": "X", "message": "refused"}]}).encode()
            reply(403, said, Authorization=handler.headers["authorization"], Set_Cookie=PAIR, X_Echo=PAIR)(handler)

    registry.answers |= {"GET /v2/a/manifests/1": echo, "GET /v2/": echo}
    for target in TARGETS:
        response = sandboxed.uplink.exchange("GET", target.format(host=registry.host, user=USER), {}, None)
        text = repr(dict(response.headers)) + read_bounded(response, 1 << 20).decode("latin-1")
        response.close()
        assert not holds_a_secret(text), target
    assert PAIR in registry.everything()


def test_a_credential_in_the_sandboxs_own_headers_reaches_no_registry(registry: BadRegistry, sandboxed: Sandboxed) -> None:
    headers = {
        "Authorization": "Bearer forged",
        "Cookie": "a=b",
        "X-Forwarded-Host": "evil.example",
        "Proxy-Authorization": "x",
    }
    target = f"/v1/registry/{registry.host}/v2/a/manifests/1"
    sandboxed.uplink.exchange("GET", target, headers, None).close()
    assert registry.seen and not any(name in seen.headers for seen in registry.seen for name in map(str.lower, headers))


def test_a_secret_of_another_name_is_not_given(tmp_path: Path) -> None:
    (tmp_path / "value").write_text("secret-canary")
    with gateway_for(tmp_path, secrets=(SecretFrom("mine", str(tmp_path / "value")),)) as sandboxed:
        assert read_secret(sandboxed.uplink, "mine") == b"secret-canary"
        for name in ("other", "../value", "mine/..", "%6dine"):
            with pytest.raises(PolicyError):
                read_secret(sandboxed.uplink, name)


def test_the_gateways_own_process_shows_no_credential(registry: BadRegistry, sandboxed: Sandboxed) -> None:
    registry.answers["GET /v2/"] = lambda handler: wants_basic(handler) and reply(200)(handler)
    with pytest.raises(SandboxbuildError):
        repository(sandboxed, registry.host).get_manifest("1")
    folder = Path(f"/proc/{sandboxed.gateway.pid}")
    for name in ("cmdline", "environ"):
        assert not holds_a_secret((folder / name).read_bytes().decode("latin-1"))
    assert not holds_a_secret(repr(sandboxed.gateway.records))
    assert not any(os.readlink(link).endswith("config.json") for link in (folder / "fd").iterdir())


def test_the_gateways_process_leaves_no_core_and_no_hold_for_a_tracer() -> None:
    child = os.fork()
    if child == 0:
        harden()
        os._exit(0 if prctl(PR_GET_DUMPABLE) == 0 and resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) else 1)
    assert os.waitpid(child, 0)[1] == 0
