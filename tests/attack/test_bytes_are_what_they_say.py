"""Promise 7: bytes that aren't what their digest says come from a registry, and lie in the store. No image is made of them."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.bad_registry import BadRegistry, bad_registry, reply
from tests.support.builder import Builder
from tests.support.mutants import make_mutant
from tests.support.profiles import runtime_or_skip

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
RUNTIMES = {"plain": "namespaces", "runc": "runc", "gvisor": "runsc"}
every_profile = pytest.mark.parametrize("profile", ["plain", "runc", "gvisor"])
BELIEVING = {
    "oci/digest.py": {"        if actual != self._digest:\n": "        if False:\n"},
    "archive/streams.py": {"        if found != self._descriptor.digest:\n": "        if False:\n"},
}
DOCKERFILE = 'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "touch", "/made"]\n'


@pytest.fixture
def tampered(builder: Builder) -> Iterator[str]:
    """The reference of a base whose layer has another time in gzip's header: other bytes that unpack to the same files."""
    from tests.integration.test_bad_registries import OCI, image

    served = image()
    layer = bytearray(served.layer)
    layer[4] ^= 1
    with bad_registry() as upstream:
        serve(upstream, served.manifest, f"{OCI}.manifest.v1+json")
        upstream.answers[f"GET {served.path(served.config)}"] = reply(200, served.config)
        upstream.answers[f"GET {served.path(served.layer)}"] = reply(200, bytes(layer))
        yield f"{upstream.host}/base:1"


def serve(upstream: BadRegistry, manifest: bytes, kind: str) -> None:
    for method in ("GET", "HEAD"):
        upstream.answers[f"{method} /v2/base/manifests/1"] = reply(200, manifest, Content_Type=kind)


@pytest.mark.promise(7, "a registry's bytes of another digest are refused")
@every_profile
def test_a_layer_of_other_bytes_ends_the_build(builder: Builder, tampered: str, profile: str) -> None:
    runtime_or_skip(RUNTIMES[profile])
    context = builder.context({"Dockerfile": f'FROM {tampered}\nRUN ["/busybox", "true"]\n'})
    done = builder.fail(5, "--profile", profile, context)
    assert "sha256:" in done.last_error
    assert wrong_blobs(builder.store) == []


@pytest.mark.without_defence(7, "a registry's bytes of another digest are refused")
def test_a_builder_that_does_not_compare_builds_on_other_bytes(builder: Builder, tampered: str) -> None:
    builder.environment["PYTHONPATH"] = str(make_mutant(builder.folder, BELIEVING))
    builder.run(builder.context({"Dockerfile": f'FROM {tampered}\nRUN ["/busybox", "true"]\n'}))
    assert wrong_blobs(builder.store) != []


def wrong_blobs(store: Path) -> list[str]:
    found = []
    for blob in (store / "blobs" / "sha256").iterdir():
        with blob.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != blob.name:
                found.append(blob.name)
    return found


def wrong_members(image: Path) -> list[str]:
    """The blobs of an archive whose bytes aren't what they are called."""
    with tarfile.open(image) as archive:
        found = []
        for member in archive:
            stream = archive.extractfile(member) if member.name.startswith("blobs/sha256/") and member.isfile() else None
            if stream is not None and hashlib.sha256(stream.read()).hexdigest() != Path(member.name).name:
                found.append(member.name)
        return found


def tamper(store: Path) -> int:
    """Change a byte in the middle of every blob of the store."""
    blobs = [blob for blob in (store / "blobs" / "sha256").iterdir() if blob.stat().st_size > 8]
    for blob in blobs:
        content = bytearray(blob.read_bytes())
        content[len(content) // 2] ^= 1
        blob.write_bytes(content)
    return len(blobs)


def build_twice(builder: Builder, *options: str) -> tuple[int, Path]:
    """A build, and the same again with each blob of its store changed; gives the second one's exit status and image."""
    context = builder.context({"Dockerfile": DOCKERFILE, "busybox": BUSYBOX.read_bytes()})
    image = builder.folder / "image.tar"
    builder.run(*options, "-o", f"type=oci,dest={image}", context)
    image.unlink()
    assert tamper(builder.store) >= 2
    done = builder("run", "--progress", "plain", *options, "-o", f"type=oci,dest={image}", context)
    assert "Traceback" not in done.log
    return done.status, image


@pytest.mark.promise(7, "a blob that was changed in the store is in no image")
@every_profile
def test_a_changed_store_gives_an_error_or_the_right_image(builder: Builder, profile: str) -> None:
    runtime_or_skip(RUNTIMES[profile])
    status, image = build_twice(builder, "--profile", profile)
    assert status in (0, 5)
    assert not image.exists() or wrong_members(image) == []
    builder.run("--profile", profile, "--no-cache", "-o", f"type=oci,dest={image}", builder.folder / "context")
    assert wrong_members(image) == []


@pytest.mark.without_defence(7, "a blob that was changed in the store is in no image")
def test_a_builder_that_does_not_compare_exports_a_changed_store(builder: Builder) -> None:
    builder.environment["PYTHONPATH"] = str(make_mutant(builder.folder, BELIEVING))
    _, image = build_twice(builder)
    assert wrong_members(image) != []
