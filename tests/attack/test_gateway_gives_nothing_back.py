"""The gateway gives nothing back, takes nothing along, and serves one build: asked in every way over the build's own socket.

The oracle is what registries received, what stood in a secret's file, and a server at a metadata address in a network of the
test's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from sandboxbuild.errors import PolicyError, RegistryError
from sandboxbuild.gateway.config import GatewayConfig, SecretFrom
from sandboxbuild.gateway.process import Gateway
from sandboxbuild.plan.handovers import NamedRun
from sandboxbuild.policy.isolation import RegistryAccess
from sandboxbuild.registry.failures import read_bounded
from sandboxbuild.registry.uplink import Uplink, UplinkAddress, UplinkTransport, begin_step, end_step, read_secret
from tests.integration.bad_registry import BadRegistry, bad_registry, reply
from tests.integration.registry_fixtures import USER, Sandboxed, gateway_for, read_blob_whole
from tests.support.credentials import (
    BLOB,
    BODY,
    DIGEST,
    MANIFEST,
    PAIR,
    Mutate,
    holds_a_secret,
    knowing,
    repository,
    wants_basic,
)
from tests.support.mutant_gateway import mutate_gateways
from tests.support.own_network import OwnNetwork
from tests.support.promises import EVERYWHERE

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def registry() -> Iterator[BadRegistry]:
    with bad_registry() as served:
        yield served


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mutate:
    return lambda changes: mutate_gateways(monkeypatch, tmp_path, changes)


TARGETS = [
    "/v1/registry/{host}/token",
    "/v1/registry/{host}/v2/token",
    "/v1/registry/{user}@{host}/v2/",
    "/v1/credentials",
    "/v1/token",
    "/v1/auth",
    "/v1/secret/config.json",
    "/v1/secret/..%2f..%2fconfig.json",
    "/v1/secret/auth",
    "/v1/ssh/default",
    "/v1/config",
    "/v1/audit",
    "/config.json",
    "/proc/self/environ",
    "/",
    "*",
    "/v1/registry/{host}/v2/a/manifests/1",
    "/v1/registry/{host}/v2/a/manifests/2",
    "/v1/registry/{host}/v2/",
]


def ask_for_credentials(registry: BadRegistry, folder: Path) -> list[str]:
    """The targets whose answer held one. The registry echoes in its headers all that it is sent."""

    def echo(status: int) -> Callable[[BaseHTTPRequestHandler], None]:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            if wants_basic(handler):
                said = json.dumps({"errors": [{"code": "X", "message": "refused"}]}).encode()
                shown = {"Authorization": handler.headers["authorization"], "Set_Cookie": PAIR, "X_Echo": PAIR}
                reply(status, said, WWW_Authenticate=f'Basic realm="{PAIR}"', **shown)(handler)

        return answer

    registry.answers |= {MANIFEST: echo(403), "GET /v2/a/manifests/2": echo(200), "GET /v2/": echo(200)}
    told = []
    with knowing(folder, registry.host) as sandboxed:
        for target in TARGETS:
            for method in ("GET", "POST"):
                response = sandboxed.uplink.exchange(method, target.format(host=registry.host, user=USER), {}, None)
                text = repr(dict(response.headers)) + read_bounded(response, 1 << 20).decode("latin-1")
                response.close()
                told += [target] if holds_a_secret(text) else []
    assert PAIR in registry.everything()
    return told


@pytest.mark.promise(1, "no route of the gateway gives a credential back", profiles=EVERYWHERE)
def test_no_route_gives_a_credential_back(registry: BadRegistry, tmp_path: Path) -> None:
    assert ask_for_credentials(registry, tmp_path) == []


@pytest.mark.without_defence(1, "no route of the gateway gives a credential back")
def test_a_header_that_is_passed_on_gives_it_back(registry: BadRegistry, tmp_path: Path, mutate: Mutate) -> None:
    mutate({"gateway/registries.py": {"_TO_SANDBOX: Final = (\n": '_TO_SANDBOX: Final = (\n    "authorization",\n'}})
    assert ask_for_credentials(registry, tmp_path) == ["/v1/registry/{host}/v2/a/manifests/2"]


FORGED = {
    "Authorization": "Bearer forged",
    "Cookie": "a=b",
    "X-Forwarded-Host": "evil.example.com",
    "Proxy-Authorization": "x",
}


def send_forged_headers(registry: BadRegistry, folder: Path) -> set[str]:
    """Which of them the registry got."""
    with knowing(folder, registry.host) as sandboxed:
        target = f"/v1/registry/{registry.host}/v2/a/manifests/1"
        sandboxed.uplink.exchange("GET", target, FORGED, None).close()
    assert registry.seen
    return {name for name in FORGED for seen in registry.seen if seen.headers.get(name.lower()) == FORGED[name]}


@pytest.mark.promise(1, "a sandbox's own headers reach no registry", profiles=EVERYWHERE)
def test_a_credential_in_the_sandboxs_own_headers_reaches_no_registry(registry: BadRegistry, tmp_path: Path) -> None:
    assert send_forged_headers(registry, tmp_path) == set()


@pytest.mark.without_defence(1, "a sandbox's own headers reach no registry")
def test_headers_that_nobody_picks_reach_the_registry(registry: BadRegistry, tmp_path: Path, mutate: Mutate) -> None:
    picked = 'for name, value in _TO_REGISTRY.items() if value.fullmatch(request.headers.get(name, ""))'
    mutate({"gateway/registries.py": {picked: 'for name in request.headers if name not in ("host", "connection")'}})
    assert send_forged_headers(registry, tmp_path) >= {"X-Forwarded-Host"}


SECRET, RUN = b"secret-canary-5b1e", "RUN --mount=type=secret,id=mine cat /run/secrets/mine"


def steal_secrets(folder: Path, *named: str, step: str = "1") -> set[str]:
    """What an executor gets of two secrets, where the Dockerfile's one RUN names `named`."""
    got = set()
    for secret_id in ("mine", "other"):
        (folder / secret_id).write_bytes(SECRET)
    secrets = tuple(SecretFrom(name, str(folder / name)) for name in ("mine", "other"))
    with gateway_for(folder, secrets=secrets, named_runs=(NamedRun("0", RUN, named),)) as sandboxed:
        for secret_id in ("mine", "other", "../mine", "mine/..", "%6dine", "MINE"):
            with_names = ((), (secret_id,))
            for number, names in enumerate(with_names):
                step = f"{len(got)}-{number}-{abs(hash(secret_id))}"
                try:
                    begin_step(sandboxed.uplink, step, "0", RUN, names)
                    assert read_secret(sandboxed.uplink, step, secret_id) == SECRET
                    got.add(secret_id)
                except (PolicyError, RegistryError):
                    continue
    return got


@pytest.mark.promise(1, "a secret that no RUN of the Dockerfile names is handed to nobody", profiles=EVERYWHERE)
def test_a_secret_that_no_run_names_is_not_given(tmp_path: Path) -> None:
    assert steal_secrets(tmp_path) == set()


@pytest.mark.without_defence(1, "a secret that no RUN of the Dockerfile names is handed to nobody")
def test_a_secret_that_a_run_names_is_given(tmp_path: Path) -> None:
    assert steal_secrets(tmp_path, "mine") == {"mine"}


def test_a_secret_is_given_once_and_to_a_step_that_runs(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(SECRET)
    with gateway_for(tmp_path, secrets=(SecretFrom("mine", str(tmp_path / "mine")),)) as sandboxed:
        for step in ("1", "2"):
            begin_step(sandboxed.uplink, step, "0", RUN, ("mine",))
        assert read_secret(sandboxed.uplink, "1", "mine") == SECRET
        end_step(sandboxed.uplink, "2")
        for step in ("1", "2", "3"):
            with pytest.raises(PolicyError):
                read_secret(sandboxed.uplink, step, "mine")


def pull_from_who_redirects_to_metadata(folder: Path) -> list[str]:
    """The paths that a server at a metadata address was asked for, in a network where there is one."""
    with OwnNetwork("169.254.169.254/32") as network:
        service = network.call(lambda: BadRegistry("169.254.169.254"))
        registry = network.call(BadRegistry)
        registry.answers[f"GET /v2/a/blobs/{DIGEST}"] = reply(307, b"", Location=f"{service.url}/latest/meta-data/")
        service.answers["GET /latest/meta-data/"] = reply(200, BODY)
        socket_path = str(folder / "uplink")
        config = GatewayConfig(
            "test", socket_path=socket_path, registries=RegistryAccess(pull=("**",)), auth_file="/nonexistent"
        )
        try:
            with network.call(lambda: Gateway.start(config)) as gateway:
                uplink = Uplink(UplinkAddress(path=gateway.address))
                sandboxed = Sandboxed(gateway, UplinkTransport(uplink), uplink)
                try:
                    read_blob_whole(repository(sandboxed, registry.host), BLOB)
                except RegistryError as error:
                    assert "may not go" in error.message
                uplink.close()
            return [seen.path for seen in service.seen]
        finally:
            registry.close()
            service.close()


@pytest.mark.root
@pytest.mark.promise(4, "a registry can't send the gateway to a metadata service", profiles=EVERYWHERE)
def test_a_redirect_to_a_metadata_service_is_not_followed(tmp_path: Path) -> None:
    assert pull_from_who_redirects_to_metadata(tmp_path) == []


@pytest.mark.root
@pytest.mark.without_defence(4, "a registry can't send the gateway to a metadata service")
def test_a_redirect_to_an_address_like_others_is_followed(tmp_path: Path, mutate: Mutate) -> None:
    mutate({"registry/transport.py": {"return kind != FORBIDDEN and": "return kind == FORBIDDEN or"}})
    assert pull_from_who_redirects_to_metadata(tmp_path) == ["/latest/meta-data/"]


def pull_with_tokens(registry: BadRegistry, *tokens: str) -> list[str]:
    """Those of `tokens` with which the gateway of another build pulls, over TCP."""
    registry.answers[MANIFEST] = reply(200, b"{}", Content_Type="application/vnd.oci.image.manifest.v1+json")
    config = GatewayConfig("theirs", tcp_host="127.0.0.1", token="f" * 64, registries=RegistryAccess(pull=("**",)))
    worked = []
    with Gateway.start(config._replace(auth_file="/nonexistent")) as gateway:
        host, _, port = gateway.address.rpartition(":")
        for token in tokens:
            uplink = Uplink(UplinkAddress(host=host, port=int(port), token=token))
            try:
                repository(Sandboxed(gateway, UplinkTransport(uplink), uplink), registry.host).get_manifest("1")
                worked.append(token)
            except (PolicyError, RegistryError):
                pass
            uplink.close()
    return worked


GUESSED = ("", "0" * 64, "f" * 63, "f" * 65, "F" * 64, "*")


@pytest.mark.promise(3, "another build's token opens nothing", profiles=EVERYWHERE)
def test_another_builds_token_opens_nothing(registry: BadRegistry) -> None:
    assert pull_with_tokens(registry, *GUESSED, "f" * 64) == ["f" * 64]
    assert len([seen for seen in registry.seen if seen.path == "/v2/a/manifests/1"]) == 1


@pytest.mark.without_defence(3, "another build's token opens nothing")
def test_any_token_opens_a_gateway_that_compares_none(registry: BadRegistry, mutate: Mutate) -> None:
    mutate({"gateway/main.py": {"hmac.compare_digest(shown, token)": "not hmac.compare_digest(shown, b' ')"}})
    assert pull_with_tokens(registry, *GUESSED) == list(GUESSED)


def reaches(path: str) -> bool:
    """Whether a process of this user is listened to on a gateway's socket."""
    uplink = Uplink(UplinkAddress(path=path))
    try:
        response = uplink.exchange("POST", "/v1/names/files.example.com?step=1&kind=run", {}, None, timeout_s=5)
        response.close()
        return response.status in (200, 403)
    except RegistryError:
        return False
    finally:
        uplink.close()


@pytest.mark.promise(3, "a gateway's socket listens to its build's user alone", profiles=EVERYWHERE)
def test_a_socket_listens_to_its_own_builds_user_alone(tmp_path: Path) -> None:
    with gateway_for(tmp_path, peer_uids=(65_534_001,)) as sandboxed:
        assert not reaches(sandboxed.gateway.address)


@pytest.mark.without_defence(3, "a gateway's socket listens to its build's user alone")
def test_a_socket_without_a_user_listens_to_whoever_can_open_it(tmp_path: Path) -> None:
    with gateway_for(tmp_path) as sandboxed:
        assert reaches(sandboxed.gateway.address)
