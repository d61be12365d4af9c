"""Real registries on loopback (Debian's docker-registry): plain, with TLS and basic auth, behind a bearer-token server.

Import the fixtures that a test needs: `from tests.integration.registry_fixtures import plain_registry  # noqa: F401`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from sandboxbuild.gateway.config import GatewayConfig
from sandboxbuild.gateway.process import Gateway
from sandboxbuild.oci.descriptor import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor
from sandboxbuild.oci.manifest import Manifest, encode_manifest
from sandboxbuild.policy.isolation import RegistryAccess
from sandboxbuild.registry.pull import stream_blob
from sandboxbuild.registry.push import Document, PushBlob
from sandboxbuild.registry.repository import Repository
from sandboxbuild.registry.uplink import Uplink, UplinkAddress, UplinkTransport

USER = "builder"
PASSWORD = "canary-2f7c91d4"
# bcrypt of PASSWORD with a low cost: it protects nothing.
HTPASSWD_LINE = f"{USER}:$2b$05$5RYtt9uJNFDT3QUNlL.4TuZJvMnC4nlQ0wXTjyewZp5M4FFOGTWNy\n"


class RunningRegistry(NamedTuple):
    """A registry that answers. `host` is host:port; `root` its storage; `authority` a CA file or None."""

    host: str
    root: Path
    authority: Path | None
    process: subprocess.Popen[bytes]
    log: Path

    def auth_file(self, folder: Path, password: str = PASSWORD) -> Path:
        """A docker config.json with the registry's credential."""
        path = folder / "config.json"
        pair = base64.b64encode(f"{USER}:{password}".encode()).decode()
        path.write_text(json.dumps({"auths": {self.host: {"auth": pair}}}))
        return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_registry(folder: Path, extra: str = "", tls: trustme.LeafCert | None = None) -> Iterator[RunningRegistry]:
    """Debian's docker-registry with its storage below `folder`; `extra` is YAML of its configuration's top level."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.fail("docker-registry isn't installed: see tests/debian-packages.txt")
    port = free_port()
    http = f"http:\n  addr: 127.0.0.1:{port}\n"
    if tls is not None:
        tls.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        http += f"  tls:\n    certificate: {folder}/server.pem\n    key: {folder}/server.pem\n"
    config = folder / "config.yml"
    storage = f"storage:\n  filesystem:\n    rootdirectory: {folder}/storage\n  delete:\n    enabled: true\n"
    config.write_text(f"version: 0.1\nlog:\n  level: info\n  formatter: json\n{storage}{http}{extra}")
    log = folder / "registry.log"
    with log.open("wb") as sink:
        process = subprocess.Popen([program, "serve", str(config)], stdout=sink, stderr=sink)
    try:
        _await_port(port, process)
        yield RunningRegistry(f"127.0.0.1:{port}", folder / "storage", None, process, log)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    pytest.fail("the registry didn't start")


def make_authority(folder: Path) -> tuple[trustme.CA, Path]:
    """A certificate authority of the test's own, and its file."""
    authority = trustme.CA()
    path = folder / "authority.pem"
    authority.cert_pem.write_to_path(path)
    return authority, path


@pytest.fixture
def plain_registry(tmp_path: Path) -> Iterator[RunningRegistry]:
    """Plain HTTP, open to all."""
    folder = tmp_path / "plain-registry"
    folder.mkdir()
    with running_registry(folder) as registry:
        yield registry


@pytest.fixture
def secure_registry(tmp_path: Path) -> Iterator[RunningRegistry]:
    """TLS by an authority of its own, and basic auth with USER and PASSWORD."""
    folder = tmp_path / "secure-registry"
    folder.mkdir()
    authority, path = make_authority(folder)
    (folder / "htpasswd").write_text(HTPASSWD_LINE)
    extra = f"auth:\n  htpasswd:\n    realm: tests\n    path: {folder}/htpasswd\n"
    with running_registry(folder, extra, authority.issue_cert("127.0.0.1", "localhost")) as registry:
        yield registry._replace(authority=path)


class TokenServer:
    """Issues Docker registry tokens, signed so that docker-registry believes them, and remembers what it was asked."""

    def __init__(self, folder: Path, life_s: int = 300) -> None:
        self.life_s = life_s
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.bundle = folder / "token-signer.pem"
        self._certificate = self._self_signed()
        self.bundle.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self.port}/token"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self, scopes: list[str]) -> str:
        now = int(time.time())
        access = [
            {"type": kind, "name": name, "actions": actions.split(",")}
            for kind, name, actions in (scope.split(":") for scope in scopes)
        ]
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": "tests",
            "sub": USER,
            "aud": "registry",
            "exp": now + self.life_s,
            "nbf": now - 60,
            "iat": now,
            "jti": "1",
            "access": access,
        }
        parts = [_base64url(json.dumps(part).encode()) for part in (header, claims)]
        signature = self._key.sign(".".join(parts).encode(), padding.PKCS1v15(), hashes.SHA256())
        return ".".join([*parts, _base64url(signature)])

    def _self_signed(self) -> x509.Certificate:
        import datetime

        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self._key.public_key())
        builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        return builder.sign(self._key, hashes.SHA256())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None: ...

            def do_GET(self) -> None:
                server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                known = self.headers.get("authorization") == expected
                scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
                body = json.dumps({"token": server.token(scopes if known else []), "expires_in": server.life_s}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class TokenRegistry(NamedTuple):
    """A registry and the token server before it."""

    registry: RunningRegistry
    tokens: TokenServer


@pytest.fixture
def token_registry(tmp_path: Path) -> Iterator[TokenRegistry]:
    """Plain HTTP; every request needs a token of a server on another loopback port, which wants USER and PASSWORD."""
    folder = tmp_path / "token-registry"
    folder.mkdir()
    tokens = TokenServer(folder)
    extra = (
        f"auth:\n  token:\n    realm: {tokens.realm}\n    service: registry\n    issuer: tests\n"
        f"    rootcertbundle: {tokens.bundle}\n"
    )
    try:
        with running_registry(folder, extra) as registry:
            yield TokenRegistry(registry, tokens)
    finally:
        tokens.close()


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """A server's TLS context with a certificate of a test's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


class Sandboxed(NamedTuple):
    """A gateway's process, and the transport that the sandbox would have."""

    gateway: Gateway
    transport: UplinkTransport
    uplink: Uplink

    def repository(self, host: str, name: str) -> Repository:
        return Repository(self.transport, host, name)


@contextmanager
def gateway_for(folder: Path, **settings: Any) -> Iterator[Sandboxed]:
    """A gateway that pulls from everywhere unless `settings` (fields of GatewayConfig) say otherwise."""
    settings.setdefault("registries", RegistryAccess(pull=("**",)))
    socket_path = str(folder / "uplink")
    settings.setdefault("auth_file", str(folder / "no-such-file"))
    with Gateway.start(GatewayConfig("test", socket_path=socket_path, **settings)) as gateway:
        uplink = Uplink(UplinkAddress(path=gateway.address))
        try:
            yield Sandboxed(gateway, UplinkTransport(uplink), uplink)
        finally:
            uplink.close()


class SampleImage(NamedTuple):
    """A small image as blobs and a manifest."""

    blobs: tuple[PushBlob, ...]
    manifest: Document
    contents: tuple[bytes, ...]


def sample_image(*layers: bytes) -> SampleImage:
    """Layers need not be tars: registries don't look into them."""
    digests = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": digests}}).encode()
    blobs = (_blob(config, OCI_CONFIG), *(_blob(layer, OCI_LAYER) for layer in layers))
    manifest = Manifest(blobs[0].descriptor, tuple(blob.descriptor for blob in blobs[1:]))
    return SampleImage(blobs, Document(OCI_MANIFEST, encode_manifest(manifest)), (config, *layers))


def _blob(content: bytes, media_type: str) -> PushBlob:
    def open_at(offset: int) -> io.BytesIO:
        stream = io.BytesIO(content)
        stream.seek(offset)
        return stream

    return PushBlob(Descriptor(media_type, "sha256:" + hashlib.sha256(content).hexdigest(), len(content)), open_at)


def read_blob_whole(repository: Repository, descriptor: Descriptor) -> bytes:
    with stream_blob(repository, descriptor) as stream:
        parts = []
        while chunk := stream.read(1 << 20):
            parts.append(chunk)
        return b"".join(parts)
