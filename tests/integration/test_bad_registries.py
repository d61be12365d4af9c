"""A build whose registry lies, hangs, breaks off or dies: one clear message and exit code 5, or the build goes on."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.bad_registry import Answer, BadRegistry, bad_registry, cut_after, in_turn, ranged, reply
from tests.integration.registry_fixtures import running_registry
from tests.support.builder import Builder, run_tool, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
OCI = "application/vnd.oci.image"
STEP = 'RUN ["/busybox", "touch", "/fine"]\n'


class Served(NamedTuple):
    """An image of one layer, as a registry serves it."""

    manifest: bytes
    config: bytes
    layer: bytes

    def path(self, content: bytes) -> str:
        return f"/v2/base/blobs/{digest(content)}"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def image() -> Served:
    """busybox and half a megabyte that doesn't compress."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, content in (("busybox", BUSYBOX.read_bytes()), ("noise", os.urandom(500_000))):
            member = tarfile.TarInfo(name)
            member.mode, member.size = 0o755, len(content)
            tar.addfile(member, io.BytesIO(content))
    layer = gzip.compress(plain.getvalue(), 1, mtime=0)
    diff_ids = [digest(plain.getvalue())]
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
    described = [{"mediaType": f"{OCI}.layer.v1.tar+gzip", "digest": digest(layer), "size": len(layer)}]
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": {"mediaType": f"{OCI}.config.v1+json", "digest": digest(config), "size": len(config)},
        "layers": described,
    }
    return Served(json.dumps(manifest).encode(), config, layer)


@pytest.fixture
def served() -> Served:
    return image()


@pytest.fixture
def upstream(served: Served) -> Iterator[BadRegistry]:
    """A registry that serves the image as it should; tests replace answers."""
    with bad_registry() as made:
        kind = {"Content_Type": f"{OCI}.manifest.v1+json"}
        made.answers["GET /v2/base/manifests/1"] = reply(200, served.manifest, **kind)
        made.answers["HEAD /v2/base/manifests/1"] = reply(200, served.manifest, **kind)
        made.answers[f"GET {served.path(served.config)}"] = reply(200, served.config)
        made.answers[f"GET {served.path(served.layer)}"] = ranged(served.layer)
        yield made


@pytest.fixture
def context(builder: Builder, upstream: BadRegistry) -> Path:
    return builder.context({"Dockerfile": f"FROM {upstream.host}/base:1\n{STEP}"})


@pytest.fixture(autouse=True)
def works_afterwards(builder: Builder, upstream: BadRegistry, served: Served, context: Path) -> Iterator[None]:
    """Once the registry behaves, the same build with the same store works, and nothing half-made was kept."""
    yield
    upstream.answers[f"GET {served.path(served.layer)}"] = ranged(served.layer)
    upstream.answers["GET /v2/base/manifests/1"] = reply(200, served.manifest, Content_Type=f"{OCI}.manifest.v1+json")
    builder.run(context)
    for blob in (builder.store / "blobs" / "sha256").rglob("*"):
        if blob.is_file():
            assert digest(blob.read_bytes()) == f"sha256:{blob.name}"
    assert list((builder.store / "tmp").iterdir()) == []


def layer_answer(upstream: BadRegistry, served: Served, answer: Answer) -> None:
    upstream.answers[f"GET {served.path(served.layer)}"] = answer


def test_a_layer_of_another_digest_is_refused(builder: Builder, upstream: BadRegistry, served: Served, context: Path) -> None:
    changed = bytearray(served.layer)
    changed[-100] ^= 1
    layer_answer(upstream, served, reply(200, bytes(changed)))
    done = builder.fail(5, context)
    assert digest(served.layer)[:19] in done.last_error or "gzip" in done.last_error, done.last_error


def test_a_layer_of_other_content_and_good_form_is_refused(
    builder: Builder, upstream: BadRegistry, served: Served, context: Path
) -> None:
    other = bytearray(served.layer)
    other[4] ^= 1  # the time in gzip's header: it unpacks to the same files
    layer_answer(upstream, served, reply(200, bytes(other)))
    done = builder.fail(5, context)
    assert digest(served.layer)[:19] in done.last_error, done.last_error


def test_a_layer_that_is_longer_than_promised_is_refused(
    builder: Builder, upstream: BadRegistry, served: Served, context: Path
) -> None:
    layer_answer(upstream, served, reply(200, served.layer + b"more"))
    builder.fail(5, context)


def test_a_manifest_that_is_no_manifest_is_refused(builder: Builder, upstream: BadRegistry, context: Path) -> None:
    for garbage in (b"\x00\xff\xfe", b"[]", b'{"schemaVersion": 2}', b"{" * 100_000):
        upstream.answers["GET /v2/base/manifests/1"] = reply(200, garbage, Content_Type=f"{OCI}.manifest.v1+json")
        builder.fail(5, context)


def test_an_image_that_is_not_there_is_named(builder: Builder, upstream: BadRegistry, context: Path) -> None:
    upstream.answers["GET /v2/base/manifests/1"] = reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
    assert "base:1" in builder.fail(5, context).last_error


def test_a_pull_goes_on_where_the_connection_was_dropped(
    builder: Builder, upstream: BadRegistry, served: Served, context: Path
) -> None:
    layer_answer(upstream, served, in_turn(cut_after(served.layer, 300_000), ranged(served.layer)))
    builder.run(context)
    asked = [seen for seen in upstream.seen if seen.path == served.path(served.layer)]
    assert [seen.headers.get("range", "") for seen in asked] == ["", "bytes=300000-"]


def test_a_connection_that_is_always_dropped_ends_the_build(
    builder: Builder, upstream: BadRegistry, served: Served, context: Path
) -> None:
    layer_answer(upstream, served, cut_after(served.layer, 0))
    done = builder.fail(5, context)
    assert upstream.host in done.last_error
    tries = [seen for seen in upstream.seen if seen.path == served.path(served.layer)]
    assert 2 <= len(tries) <= 10


def test_a_build_does_not_wait_for_a_registry_longer_than_its_timeout(
    builder: Builder, upstream: BadRegistry, served: Served, context: Path
) -> None:
    def hang(_handler: BaseHTTPRequestHandler) -> None:
        upstream.stopping.wait(20)

    layer_answer(upstream, served, hang)
    started = time.monotonic()
    builder.fail(124, "--timeout", "3s", context)
    assert time.monotonic() - started < 10


def test_a_registry_that_hangs_is_given_up_by_the_gateway_with_one_clear_error(
    builder: Builder, upstream: BadRegistry, served: Served, context: Path
) -> None:
    def hang(_handler: BaseHTTPRequestHandler) -> None:
        upstream.stopping.wait(60)

    layer_answer(upstream, served, hang)
    started = time.monotonic()
    done = builder.fail(5, "--registry-timeout", "1s", context)
    assert f"{upstream.host} hangs: nothing came for 1 s" in done.last_error
    assert time.monotonic() - started < 45


def test_a_full_disk_during_a_pull_is_a_limit(builder: Builder, upstream: BadRegistry, served: Served, context: Path) -> None:
    small = builder.folder / "small"
    small.mkdir()
    run_tool("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small)
    try:
        narrow = Builder(builder.folder, small / "store")
        done = narrow.fail(102, context)
        assert "disk is full" in done.last_error
        assert narrow.processes() == []
        run_tool("mount", "-o", "remount,size=64m", small)
        narrow.run(context)
    finally:
        run_tool("umount", "-l", small)


def test_a_registry_that_dies_during_a_push_ends_the_build(builder: Builder, upstream: BadRegistry, tmp_path: Path) -> None:
    text = f'FROM {upstream.host}/base:1\nRUN ["/busybox", "dd", "if=/dev/urandom", "of=/big", "bs=1M", "count=60"]\n'
    (builder.folder / "context" / "Dockerfile").write_text(text)
    folder = tmp_path / "registry"
    folder.mkdir()
    with running_registry(folder) as registry:
        reference = f"{registry.host}/team/app:1"
        with builder.popen("run", "--progress", "plain", "-t", reference, "--push", builder.folder / "context") as process:
            wait_until(lambda: _begun(registry.root), what="the upload")
            registry.process.send_signal(signal.SIGKILL)
            _, log = process.communicate(timeout=60)
    text = log.decode("utf-8", "replace")
    assert process.returncode == 5, text
    assert "Traceback" not in text
    errors = [line for line in text.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1
    assert registry.host in errors[0]


def _begun(storage: Path) -> bool:
    return subprocess.run(["find", str(storage), "-path", "*_uploads*"], capture_output=True, check=False).stdout != b""
