"""Registries that lie, hang, break off and never end: each is one clear error, or none at all."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from sandboxbuild.errors import IntegrityError, RegistryError
from sandboxbuild.oci.descriptor import OCI_LAYER, OCI_MANIFEST, Descriptor
from sandboxbuild.policy.isolation import RegistryAccess
from sandboxbuild.registry.push import push_blob
from sandboxbuild.registry.repository import Repository
from sandboxbuild.registry.retry import Retry, RetryPolicy
from tests.integration.bad_registry import BadRegistry, bad_registry, cut_after, in_turn, ranged, reply
from tests.integration.registry_fixtures import Sandboxed, gateway_for, read_blob_whole, sample_image

pytestmark = pytest.mark.timeout(60)

BODY = os.urandom(400_000)
DIGEST = "sha256:" + hashlib.sha256(BODY).hexdigest()
BLOB = Descriptor(OCI_LAYER, DIGEST, len(BODY))
BLOB_PATH = f"GET /v2/a/blobs/{DIGEST}"
MANIFEST = "GET /v2/a/manifests/1"


@pytest.fixture
def registry() -> Iterator[BadRegistry]:
    with bad_registry() as served:
        yield served


@pytest.fixture
def sandboxed(registry: BadRegistry, tmp_path: Path) -> Iterator[Sandboxed]:
    access = RegistryAccess(pull=("**",), pushes=(f"{registry.host}/a:1",))
    with gateway_for(tmp_path, registries=access, idle_timeout_s=1.0) as made:
        yield made


@pytest.fixture
def repository(registry: BadRegistry, sandboxed: Sandboxed) -> Repository:
    quick = Retry(RetryPolicy(attempts=4, base_s=0.02, cap_s=0.05, retry_after_cap_s=0.3))
    return Repository(sandboxed.transport, registry.host, "a", retry=quick)


def hang(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(4)
    handler.close_connection = True


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
    except OSError:
        handler.close_connection = True


def test_wrong_bytes_are_an_integrity_error(registry: BadRegistry, repository: Repository) -> None:
    registry.answers[BLOB_PATH] = reply(200, BODY[:-1] + b"x")
    with pytest.raises(IntegrityError, match=DIGEST):
        read_blob_whole(repository, BLOB)


def test_a_manifest_of_another_digest_is_an_integrity_error(registry: BadRegistry, repository: Repository) -> None:
    registry.answers[f"GET /v2/a/manifests/{DIGEST}"] = reply(200, b"{}", Content_Type=OCI_MANIFEST)
    with pytest.raises(IntegrityError):
        repository.get_manifest(DIGEST)


def test_a_hanging_registry_is_an_error_that_says_so(registry: BadRegistry, repository: Repository) -> None:
    registry.answers[MANIFEST] = hang
    began = time.monotonic()
    with pytest.raises(RegistryError, match="hangs"):
        repository.get_manifest("1")
    assert time.monotonic() - began < 5


def test_a_dropped_blob_is_resumed_by_range(registry: BadRegistry, repository: Repository) -> None:
    registry.answers[BLOB_PATH] = in_turn(cut_after(BODY, 150_000), ranged(BODY))
    assert read_blob_whole(repository, BLOB) == BODY
    assert registry.header_values("range") == ["bytes=150000-"]


def test_a_blob_that_is_always_cut_at_the_same_place_is_given_up(registry: BadRegistry, repository: Repository) -> None:
    registry.answers[BLOB_PATH] = cut_after(BODY, 0)
    with pytest.raises(RegistryError, match="lost"):
        read_blob_whole(repository, BLOB)


def test_a_busy_registry_is_waited_for(registry: BadRegistry, repository: Repository) -> None:
    registry.answers[MANIFEST] = in_turn(
        reply(429, b"{}", Retry_After="1"), reply(500, b"{}"), reply(200, b"{}", Content_Type=OCI_MANIFEST)
    )
    began = time.monotonic()
    assert repository.get_manifest("1").content == b"{}"
    assert time.monotonic() - began >= 0.3


def test_an_endless_manifest_and_an_endless_blob_are_cut_off(registry: BadRegistry, repository: Repository) -> None:
    registry.answers[MANIFEST] = registry.answers[BLOB_PATH] = endless
    with pytest.raises(RegistryError, match="longer than"):
        repository.get_manifest("1")
    with pytest.raises(IntegrityError, match="more than"):
        read_blob_whole(repository, BLOB)


def test_an_endless_error_page_is_an_error(registry: BadRegistry, repository: Repository) -> None:
    def endless_error(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response_only(404)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        except OSError:
            handler.close_connection = True

    registry.answers[MANIFEST] = endless_error
    with pytest.raises(RegistryError, match="404"):
        repository.get_manifest("1")


def test_a_body_in_another_encoding_is_refused(registry: BadRegistry, repository: Repository) -> None:
    registry.answers[BLOB_PATH] = reply(200, BODY, Content_Encoding="gzip")
    with pytest.raises(RegistryError, match="encoding"):
        read_blob_whole(repository, BLOB)


def test_an_upload_that_breaks_off_goes_on_where_it_was(registry: BadRegistry, repository: Repository) -> None:
    stored = bytearray()

    def take(handler: BaseHTTPRequestHandler, count: int) -> None:
        while count:
            chunk = handler.rfile.read(min(count, 65536))
            stored.extend(chunk)
            count -= len(chunk)

    def drop(handler: BaseHTTPRequestHandler) -> None:
        take(handler, 100_000)
        handler.connection.shutdown(2)
        handler.close_connection = True

    def append(handler: BaseHTTPRequestHandler) -> None:
        take(handler, int(handler.headers["content-length"]))
        reply(202, b"", Location="/v2/a/blobs/uploads/3", Range=f"0-{len(stored) - 1}")(_without_body(handler))

    def status(handler: BaseHTTPRequestHandler) -> None:
        reply(204, b"", Location="/v2/a/blobs/uploads/2?s=1", Range=f"0-{len(stored) - 1}")(handler)

    registry.answers |= {
        "POST /v2/a/blobs/uploads/": reply(202, b"", Location="/v2/a/blobs/uploads/1"),
        "PUT /v2/a/blobs/uploads/1": drop,
        "GET /v2/a/blobs/uploads/1": status,
        "PATCH /v2/a/blobs/uploads/2": append,
        "PUT /v2/a/blobs/uploads/3": reply(201),
    }
    push_blob(repository, sample_image(BODY).blobs[1])
    assert bytes(stored) == BODY


def _without_body(handler: BaseHTTPRequestHandler) -> BaseHTTPRequestHandler:
    handler.headers.replace_header("content-length", "0")
    return handler


def test_a_refusal_in_words_is_quoted_without_its_escapes(registry: BadRegistry, repository: Repository) -> None:
    registry.answers[MANIFEST] = reply(403, b'{"errors":[{"code":"DENIED","message":"no\\u001b[31m\\nERROR: fake"}]}')
    with pytest.raises(RegistryError, match="DENIED") as caught:
        repository.get_manifest("1")
    assert "\x1b" not in caught.value.message
    assert "\n" not in caught.value.message


def test_the_gateway_stays_small_under_all_of_it(registry: BadRegistry, repository: Repository, sandboxed: Sandboxed) -> None:
    registry.answers[BLOB_PATH] = endless
    for _ in range(3):
        with pytest.raises(IntegrityError):
            read_blob_whole(repository, BLOB)
    status = Path(f"/proc/{sandboxed.gateway.pid}/status").read_text()
    assert int(status.split("VmHWM:")[1].split()[0]) < 60_000
