from __future__ import annotations

import json

import pytest

from sandboxbuild.errors import IntegrityError, RegistryError
from sandboxbuild.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor
from sandboxbuild.oci.platform import Platform
from sandboxbuild.oci.reference import parse_reference
from sandboxbuild.registry.failures import TransientError
from sandboxbuild.registry.pull import read_blob, resolve_image, stream_blob
from tests.unit.registry.fake_registry import Asked, FakeRegistry, FakeResponse, blob_descriptor, digest_of

AMD64 = Platform("linux", "amd64")
NAME = parse_reference("registry.example.com/team/app:1")
LAYER = bytes(range(256)) * 40


def read(registry: FakeRegistry, descriptor: Descriptor) -> bytes:
    with stream_blob(registry.repository(), descriptor) as stream:
        content = b""
        while chunk := stream.read(3000):
            content += chunk
        return content


def test_a_manifest_resolves_to_its_layers_and_config() -> None:
    registry = FakeRegistry()
    manifest = registry.add_image([LAYER])
    image = resolve_image(registry, NAME, AMD64)
    assert image.digest == image.manifest.digest == digest_of(manifest)
    assert image.layers == (blob_descriptor(LAYER),)
    assert digest_of(image.config) == image.config_descriptor.digest


def test_an_index_gives_the_image_of_the_platform_and_its_own_digest() -> None:
    registry = FakeRegistry()
    arm, amd = registry.add_image([b"arm"]), registry.add_image([b"amd"])
    index = registry.add_index([(OCI_MANIFEST, arm, "linux/arm64"), (OCI_MANIFEST, amd, "linux/amd64")])
    image = resolve_image(registry, NAME, AMD64)
    assert (image.content, image.digest) == (amd, digest_of(index))


def test_an_index_without_the_platform_names_those_it_has() -> None:
    registry = FakeRegistry()
    arm = registry.add_image([b"arm"])
    registry.add_index([(OCI_MANIFEST, arm, "linux/s390x"), (OCI_MANIFEST, arm, "unknown/unknown")])
    with pytest.raises(RegistryError, match="no image for linux/amd64") as caught:
        resolve_image(registry, NAME, AMD64)
    assert caught.value.hint == "it has images for linux/s390x"


def test_indexes_that_nest_deeper_than_two_are_refused() -> None:
    registry = FakeRegistry()
    inner = registry.add_image([LAYER])
    inner = registry.add_index([(OCI_MANIFEST, inner, "linux/amd64")])
    for _ in range(2):
        inner = registry.add_index([(OCI_INDEX, inner, "linux/amd64")])
    with pytest.raises(RegistryError, match="deep"):
        resolve_image(registry, NAME, AMD64)


def test_a_schema_1_manifest_is_refused() -> None:
    registry = FakeRegistry()
    registry.manifests["team/app", "1"] = (
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        json.dumps({"schemaVersion": 1, "fsLayers": []}).encode(),
    )
    with pytest.raises(RegistryError, match="schema 1"):
        resolve_image(registry, NAME, AMD64)


def test_a_manifest_that_isnt_what_its_digest_says_is_refused() -> None:
    registry = FakeRegistry()
    manifest = registry.add_image([LAYER])
    wanted = "sha256:" + "0" * 64
    registry.manifests["team/app", wanted] = (OCI_MANIFEST, manifest)
    with pytest.raises(IntegrityError):
        registry.repository().get_manifest(wanted)


def test_an_endless_manifest_is_refused_before_it_is_all_read() -> None:
    registry = FakeRegistry()
    registry.manifests["team/app", "1"] = (OCI_MANIFEST, b" " * (5 * 1024 * 1024))
    with pytest.raises(RegistryError, match="longer than"):
        registry.repository().get_manifest("1")


def test_a_config_that_is_promised_to_be_huge_is_not_asked_for() -> None:
    registry = FakeRegistry()
    with pytest.raises(RegistryError, match="more than"):
        read_blob(registry.repository(), Descriptor("x", digest_of(b""), 10**9), 1000)
    assert registry.asked == []


def test_a_blob_with_other_bytes_fails_at_its_end() -> None:
    registry = FakeRegistry()
    descriptor = blob_descriptor(LAYER)
    registry.blobs["team/app", descriptor.digest] = LAYER[:-1] + b"x"
    with pytest.raises(IntegrityError):
        read(registry, descriptor)


@pytest.mark.parametrize("content", [LAYER + b"x", LAYER[:-1], b""])
def test_a_blob_of_another_length_than_promised_is_refused(content: bytes) -> None:
    registry = FakeRegistry()
    descriptor = blob_descriptor(LAYER)
    registry.blobs["team/app", descriptor.digest] = content
    with pytest.raises(IntegrityError, match="promised"):
        read(registry, descriptor)


def test_a_dropped_blob_goes_on_where_it_stopped() -> None:
    registry = FakeRegistry()
    descriptor = blob_descriptor(LAYER)
    registry.blobs["team/app", descriptor.digest] = LAYER
    drops = [2500]

    def drop(asked: Asked, _body: object) -> FakeResponse | None:
        return FakeResponse(200, {}, LAYER, drop_after=drops.pop()) if drops else None

    registry.fault = drop
    assert read(registry, descriptor) == LAYER
    assert [asked.headers.get("Range") for asked in registry.asked] == [None, "bytes=2500-"]


def test_a_registry_without_ranges_is_read_again_up_to_the_place() -> None:
    registry = FakeRegistry()
    descriptor = blob_descriptor(LAYER)
    drops: list[int | None] = [None, 2500]
    registry.fault = lambda _asked, _body: FakeResponse(200, {}, LAYER, drop_after=drops.pop())
    assert read(registry, descriptor) == LAYER


def test_a_wrong_range_is_refused() -> None:
    registry = FakeRegistry()
    descriptor = blob_descriptor(LAYER)
    answers = [FakeResponse(206, {"content-range": "bytes 0-9/10"}, LAYER), FakeResponse(200, {}, LAYER, drop_after=10)]
    registry.fault = lambda _asked, _body: answers.pop()
    with pytest.raises(RegistryError, match="another part"):
        read(registry, descriptor)


def test_a_blob_that_never_moves_is_given_up() -> None:
    registry = FakeRegistry()
    registry.fault = lambda _asked, _body: FakeResponse(200, {}, LAYER, drop_after=0)
    with pytest.raises(TransientError):
        read(registry, blob_descriptor(LAYER))
    assert len(registry.asked) == registry.repository().retry.policy.attempts


def test_a_busy_registry_is_asked_again_after_the_time_it_names() -> None:
    registry = FakeRegistry()
    registry.add_image([LAYER])
    busy = [FakeResponse(429, {"retry-after": "7"}, b"{}"), FakeResponse(503, {}, b"{}")]
    registry.fault = lambda _asked, _body: busy.pop(0) if busy else None
    waits: list[float] = []
    repository = registry.repository()
    repository.waiting = repository.waiting._replace(sleep=waits.append)
    repository.get_manifest("1")
    assert waits[0] == 7.0 and 0 < waits[1] < 7


def test_a_missing_image_is_not_asked_for_twice_and_the_registrys_words_are_quoted() -> None:
    registry = FakeRegistry()
    with pytest.raises(RegistryError, match=r"404 \(not found\): MANIFEST_UNKNOWN: manifest unknown") as caught:
        registry.repository().get_manifest("1")
    assert caught.value.status == 404
    assert len(registry.asked) == 1
