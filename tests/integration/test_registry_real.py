"""Pull and push through the gateway's process, against Debian's docker-registry."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sandboxbuild.errors import PolicyError, RegistryError
from sandboxbuild.oci.platform import Platform
from sandboxbuild.oci.reference import parse_reference
from sandboxbuild.policy.isolation import RegistryAccess
from sandboxbuild.registry.pull import resolve_image, stream_blob
from sandboxbuild.registry.push import Destination, PushSession, push_blob, push_image
from sandboxbuild.registry.repository import Repository
from sandboxbuild.registry.retry import Retry, RetryPolicy
from tests.integration.registry_fixtures import (
    RunningRegistry,
    Sandboxed,
    TokenRegistry,
    TokenServer,
    gateway_for,
    make_authority,
    plain_registry,
    read_blob_whole,
    running_registry,
    sample_image,
    secure_registry,
    token_registry,
)

__all__ = ["plain_registry", "secure_registry", "token_registry"]

pytestmark = pytest.mark.timeout(120)

AMD64 = Platform("linux", "amd64")
IMAGE = sample_image(os.urandom(300_000), b"second layer")


def access(*pushes: str) -> RegistryAccess:
    return RegistryAccess(pull=("**",), pushes=pushes)


def push_and_pull(sandboxed: Sandboxed, host: str, name: str = "team/app") -> None:
    """An image goes out and comes back byte for byte."""
    repository = sandboxed.repository(host, name)
    push_image([Destination(repository, ("1",))], IMAGE.blobs, IMAGE.manifest)
    found = resolve_image(sandboxed.transport, parse_reference(f"{host}/{name}:1"), AMD64)
    assert found.content == IMAGE.manifest.content
    assert [found.config, *(read_blob_whole(repository, layer) for layer in found.layers)] == list(IMAGE.contents)


def test_an_image_comes_back_as_it_was_pushed(plain_registry: RunningRegistry, tmp_path: Path) -> None:
    host = plain_registry.host
    with gateway_for(tmp_path, registries=access(f"{host}/team/app:1")) as sandboxed:
        push_and_pull(sandboxed, host)
        kinds = {record.kind for record in sandboxed.gateway.records}
    assert kinds == {"push", "pull"}


def test_skopeo_reads_what_was_pushed(plain_registry: RunningRegistry, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.fail("skopeo isn't installed: see tests/debian-packages.txt")
    host = plain_registry.host
    with gateway_for(tmp_path, registries=access(f"{host}/team/app:1")) as sandboxed:
        push_image([Destination(sandboxed.repository(host, "team/app"), ("1",))], IMAGE.blobs, IMAGE.manifest)
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{host}/team/app:1"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == IMAGE.manifest.content


def test_two_destinations_cost_one_upload(plain_registry: RunningRegistry, tmp_path: Path) -> None:
    host = plain_registry.host
    with gateway_for(tmp_path, registries=access(f"{host}/team/a:1", f"{host}/team/b:2")) as sandboxed:
        destinations = [
            Destination(sandboxed.repository(host, "team/a"), ("1",)),
            Destination(sandboxed.repository(host, "team/b"), ("2",)),
        ]
        first, second = push_image(destinations, IMAGE.blobs, IMAGE.manifest)
        again = push_image(destinations[:1], IMAGE.blobs, IMAGE.manifest)
    assert (first.uploaded_bytes > 300_000, second.uploaded_bytes, second.mounted_blobs) == (True, 0, 3)
    assert (again[0].uploaded_bytes, again[0].mounted_blobs) == (0, 0)


def test_a_blob_is_uploaded_while_the_build_goes_on(plain_registry: RunningRegistry, tmp_path: Path) -> None:
    host = plain_registry.host
    with gateway_for(tmp_path, registries=access(f"{host}/team/app:1")) as sandboxed:
        arrived = threading.Event()
        session = PushSession(
            [Destination(sandboxed.repository(host, "team/app"), ("1",))],
            on_progress=lambda _digest, current, total: arrived.set() if current == total else None,
        )
        session.enqueue(IMAGE.blobs[1])
        assert arrived.wait(20)
        for blob in IMAGE.blobs:
            session.enqueue(blob)
        session.finish(IMAGE.manifest)


def test_tls_and_basic_auth(secure_registry: RunningRegistry, tmp_path: Path) -> None:
    host = secure_registry.host
    with gateway_for(
        tmp_path,
        registries=access(f"{host}/team/app:1"),
        authorities=((host, str(secure_registry.authority)),),
        auth_file=str(secure_registry.auth_file(tmp_path)),
    ) as sandboxed:
        push_and_pull(sandboxed, host)


def test_a_certificate_of_an_unknown_authority_is_an_error_and_never_plain_http(
    secure_registry: RunningRegistry, tmp_path: Path
) -> None:
    host = secure_registry.host
    with gateway_for(tmp_path, plain_hosts=(host,)) as sandboxed, pytest.raises(RegistryError, match="not trusted") as caught:
        sandboxed.repository(host, "team/app").get_manifest("1")
    assert caught.value.exit_code == 5
    assert "--registry-certificate" in caught.value.hint


def test_an_unverified_host_may_have_any_certificate(secure_registry: RunningRegistry, tmp_path: Path) -> None:
    host = secure_registry.host
    auth = str(secure_registry.auth_file(tmp_path))
    with gateway_for(tmp_path, registries=access(f"{host}/team/app:1"), unverified_hosts=(host,), auth_file=auth) as sandboxed:
        push_and_pull(sandboxed, host)


def test_authorities_may_come_from_the_environment(
    secure_registry: RunningRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSL_CERT_FILE is OpenSSL's; a bundle takes the place of all others; a file that isn't there is named."""
    auth = str(secure_registry.auth_file(tmp_path))
    with gateway_for(tmp_path, auth_file=auth, ca_bundle=str(secure_registry.authority)) as sandboxed:
        assert sandboxed.repository(secure_registry.host, "a").has_manifest("1") is False
    monkeypatch.setenv("SSL_CERT_FILE", str(secure_registry.authority))
    with gateway_for(tmp_path, auth_file=auth) as sandboxed:
        assert sandboxed.repository(secure_registry.host, "a").has_manifest("1") is False
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent"))
    with gateway_for(tmp_path, auth_file=auth) as sandboxed, pytest.raises(RegistryError, match="SSL_CERT_FILE names /"):
        sandboxed.repository(secure_registry.host, "a").get_manifest("1")


def test_a_registry_that_wants_our_certificate_gets_it(tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    folder.mkdir()
    authority, path = make_authority(folder)
    ours = folder / "ours.pem"
    authority.issue_cert("client@example.com").private_key_and_cert_chain_pem.write_to_path(ours)
    wanted = f"    clientcas: [{path}]\n"
    with running_registry(folder, wanted, authority.issue_cert("127.0.0.1")) as registry:
        trusted = ((registry.host, str(path)),)
        certificates = ((registry.host, str(ours), str(ours)),)
        with gateway_for(tmp_path, authorities=trusted, client_certificates=certificates) as sandboxed:
            assert sandboxed.repository(registry.host, "a").has_manifest("1") is False
        with gateway_for(tmp_path, authorities=trusted) as sandboxed, pytest.raises(RegistryError):
            Repository(sandboxed.transport, registry.host, "a", retry=Retry(RetryPolicy(attempts=1))).has_manifest("1")


def test_a_wrong_password_names_the_file_and_entry_that_it_came_from(secure_registry: RunningRegistry, tmp_path: Path) -> None:
    host = secure_registry.host
    auth = secure_registry.auth_file(tmp_path, "wrong-password")
    settings = {"unverified_hosts": (host,), "auth_file": str(auth)}
    with gateway_for(tmp_path, **settings) as sandboxed, pytest.raises(RegistryError, match="401") as caught:
        sandboxed.repository(host, "team/app").get_manifest("1")
    assert caught.value.hint == f"used the credential of {auth}, entry {host}"
    assert "wrong-password" not in str(caught.value)


def test_a_bearer_token_is_fetched_for_each_repository(token_registry: TokenRegistry, tmp_path: Path) -> None:
    host = token_registry.registry.host
    with gateway_for(
        tmp_path, registries=access(f"{host}/team/app:1"), auth_file=str(token_registry.registry.auth_file(tmp_path))
    ) as sandboxed:
        push_and_pull(sandboxed, host)
    scopes = [path for path, _ in token_registry.tokens.requests]
    assert any("team%2Fapp%3Apull%2Cpush" in path for path in scopes)
    assert all("builder" not in path for path in scopes)


def test_tokens_that_end_during_a_push_are_renewed(tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    folder.mkdir()
    tokens = TokenServer(folder, life_s=1)
    extra = (
        f"auth:\n  token:\n    realm: {tokens.realm}\n    service: registry\n    issuer: tests\n"
        f"    rootcertbundle: {tokens.bundle}\n"
    )
    with (
        running_registry(folder, extra) as registry,
        gateway_for(
            tmp_path, registries=access(f"{registry.host}/a:1"), auth_file=str(registry.auth_file(tmp_path))
        ) as sandboxed,
    ):
        repository = sandboxed.repository(registry.host, "a")
        for blob in IMAGE.blobs:
            push_blob(repository, blob)
            time.sleep(1.2)
        push_image([Destination(repository, ("1",))], IMAGE.blobs, IMAGE.manifest)
    tokens.close()
    assert len(tokens.requests) > 1


def test_the_push_to_another_repository_or_tag_is_a_policy_error(plain_registry: RunningRegistry, tmp_path: Path) -> None:
    host = plain_registry.host
    with gateway_for(tmp_path, registries=access(f"{host}/team/app:1")) as sandboxed:
        push_image([Destination(sandboxed.repository(host, "team/app"), ("1",))], IMAGE.blobs, IMAGE.manifest)
        for name, tag in (("team/app", "2"), ("team/other", "1")):
            with pytest.raises(PolicyError, match="isn't allowed"):
                push_image([Destination(sandboxed.repository(host, name), (tag,))], IMAGE.blobs, IMAGE.manifest)
    stored = plain_registry.root / "docker/registry/v2/repositories/team"
    assert [path.name for path in stored.iterdir()] == ["app"]
    assert [path.name for path in (stored / "app/_manifests/tags").iterdir()] == ["1"]


def test_an_index_is_pushed_with_its_children(plain_registry: RunningRegistry, tmp_path: Path) -> None:
    host = plain_registry.host
    child = IMAGE.manifest
    digest = "sha256:" + hashlib.sha256(child.content).hexdigest()
    entry = {"mediaType": child.media_type, "digest": digest, "size": len(child.content)}
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {**entry, "platform": {"os": "linux", "architecture": "amd64"}}]}  # fmt: skip
    root = child._replace(media_type=str(index["mediaType"]), content=json.dumps(index).encode())
    with gateway_for(tmp_path, registries=access(f"{host}/team/app:1")) as sandboxed:
        push_image([Destination(sandboxed.repository(host, "team/app"), ("1",))], IMAGE.blobs, root, [child])
        found = resolve_image(sandboxed.transport, parse_reference(f"{host}/team/app:1"), AMD64)
    assert (found.content, bool(found.index_digest)) == (child.content, True)


def test_a_registry_that_stops_in_the_middle_is_an_error_and_goes_on_when_it_is_back(
    plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    host = plain_registry.host
    image = sample_image(os.urandom(24_000_000))
    with gateway_for(tmp_path, registries=access(f"{host}/a:1"), idle_timeout_s=1.0) as sandboxed:
        repository = sandboxed.repository(host, "a")
        push_image([Destination(repository, ("1",))], image.blobs, image.manifest)
        stream = stream_blob(repository, image.blobs[1].descriptor)
        received = [stream.read(1 << 20)]
        plain_registry.process.send_signal(signal.SIGSTOP)
        threading.Timer(2.5, plain_registry.process.send_signal, [signal.SIGCONT]).start()
        while chunk := stream.read(1 << 20):
            received.append(chunk)
        assert b"".join(received) == image.contents[1]


def test_a_registry_that_is_gone_is_one_clear_error(tmp_path: Path) -> None:
    with gateway_for(tmp_path) as sandboxed:
        quick = Retry(RetryPolicy(attempts=2, base_s=0.01))
        with pytest.raises(RegistryError, match="Connection refused"):
            Repository(sandboxed.transport, "127.0.0.1:1", "a", retry=quick).get_manifest("1")


def test_a_mirror_is_asked_first_and_what_it_lacks_comes_from_the_registry(
    plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    folder = tmp_path / "mirror"
    folder.mkdir()
    host = plain_registry.host
    with running_registry(folder) as mirror:
        with gateway_for(tmp_path, registries=access(f"{host}/a:1", f"{mirror.host}/hub/b:1")) as direct:
            push_image([Destination(direct.repository(host, "a"), ("1",))], IMAGE.blobs, IMAGE.manifest)
            push_image([Destination(direct.repository(mirror.host, "hub/b"), ("1",))], IMAGE.blobs, IMAGE.manifest)
        with gateway_for(tmp_path, mirrors=((host, (f"{mirror.host}/hub",)),)) as mirrored:
            assert mirrored.repository(host, "a").get_manifest("1").content == IMAGE.manifest.content
            assert mirrored.repository(host, "b").get_manifest("1").content == IMAGE.manifest.content
        settings = {"mirrors": ((host, (f"{mirror.host}/hub",)),), "mirror_fallback": False}
        with gateway_for(tmp_path, **settings) as mirrored, pytest.raises(RegistryError, match="404"):
            mirrored.repository(host, "a").get_manifest("1")


def test_over_tcp_a_request_without_the_builds_token_gets_nothing(plain_registry: RunningRegistry, tmp_path: Path) -> None:
    from sandboxbuild.gateway.config import GatewayConfig
    from sandboxbuild.gateway.process import Gateway
    from sandboxbuild.registry.uplink import Uplink, UplinkAddress, UplinkTransport

    host = plain_registry.host
    config = GatewayConfig("t", tcp_host="127.0.0.1", token="right", registries=access(f"{host}/team/app:1"))
    with Gateway.start(config) as gateway:
        place, _, port = gateway.address.rpartition(":")

        def link(token: str) -> Sandboxed:
            uplink = Uplink(UplinkAddress(host=place, port=int(port), token=token))
            return Sandboxed(gateway, UplinkTransport(uplink), uplink)

        push_and_pull(link("right"), host)
        for token in ("", "wrong", "righ", "right2"):
            with pytest.raises(PolicyError, match="token"):
                link(token).repository(host, "team/app").get_manifest("1")


def test_the_gateway_goes_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from sandboxbuild.gateway.config import GatewayConfig\n"
        "from sandboxbuild.gateway.process import Gateway\n"
        f"gateway = Gateway.start(GatewayConfig('x', socket_path={str(tmp_path / 's')!r}))\n"
        "print(gateway.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()
    assert not (tmp_path / "s").exists()


def test_connections_in_a_row_and_at_once_leak_no_descriptor(plain_registry: RunningRegistry, tmp_path: Path) -> None:
    host = plain_registry.host
    with gateway_for(tmp_path, registries=access(f"{host}/team/app:1")) as sandboxed:
        push_and_pull(sandboxed, host)
        folder = f"/proc/{sandboxed.gateway.pid}/fd"
        before = len(os.listdir(folder))
        for _ in range(1000):
            sandboxed.uplink.connect().close()
        held = [sandboxed.uplink.connect() for _ in range(200)]
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 10
        while len(os.listdir(folder)) > before + 8 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(os.listdir(folder)) <= before + 8
        push_and_pull(sandboxed, host)
