from __future__ import annotations

import io

import pytest

from sandboxbuild.errors import RegistryError
from sandboxbuild.oci.descriptor import OCI_INDEX, OCI_MANIFEST
from sandboxbuild.registry import Body
from sandboxbuild.registry.failures import TransientError
from sandboxbuild.registry.push import Destination, Document, PushBlob, PushSession, push_blob, push_image
from tests.unit.registry.fake_registry import Asked, FakeRegistry, FakeResponse, blob_descriptor, digest_of, read_all

LAYER = b"0123456789" * 500
ROOT = Document(OCI_MANIFEST, b'{"schemaVersion":2}')


def blob_of(content: bytes, *mount_from: tuple[str, str]) -> PushBlob:
    def open_at(offset: int) -> io.BytesIO:
        stream = io.BytesIO(content)
        stream.seek(offset)
        return stream

    return PushBlob(blob_descriptor(content), open_at, mount_from)


def methods(registry: FakeRegistry) -> list[str]:
    return [asked.method for asked in registry.asked]


def test_a_blob_is_sent_once_and_the_manifest_comes_last() -> None:
    registry = FakeRegistry()
    pushed = push_image([Destination(registry.repository(), ("1", "latest"))], [blob_of(LAYER)], ROOT)
    assert registry.blobs["team/app", digest_of(LAYER)] == LAYER
    assert methods(registry) == ["HEAD", "POST", "PUT", "PUT", "PUT"]
    assert [each.reference for each in pushed] == ["registry.example.com/team/app:1", "registry.example.com/team/app:latest"]
    assert {each.digest for each in pushed} == {digest_of(ROOT.content)}


def test_a_blob_that_is_there_is_not_sent() -> None:
    registry = FakeRegistry()
    registry.blobs["team/app", digest_of(LAYER)] = LAYER
    assert push_blob(registry.repository(), blob_of(LAYER)) == (0, 0)
    assert methods(registry) == ["HEAD"]


def test_a_blob_of_another_length_is_sent_again() -> None:
    registry = FakeRegistry()
    registry.blobs["team/app", digest_of(LAYER)] = LAYER[:10]
    assert push_blob(registry.repository(), blob_of(LAYER)) == (len(LAYER), 0)


def test_a_blob_of_a_neighbour_is_mounted() -> None:
    registry = FakeRegistry()
    registry.blobs["library/base", digest_of(LAYER)] = LAYER
    blob = blob_of(LAYER, ("registry.example.com", "library/base"))
    assert push_blob(registry.repository(), blob) == (0, 1)
    assert "PUT" not in methods(registry)


def test_a_mount_that_is_refused_becomes_the_upload() -> None:
    registry = FakeRegistry()
    blob = blob_of(LAYER, ("registry.example.com", "library/base"))
    assert push_blob(registry.repository(), blob) == (len(LAYER), 0)
    assert methods(registry) == ["HEAD", "POST", "PUT"]


def test_a_repository_of_another_registry_is_not_asked_to_mount_from() -> None:
    registry = FakeRegistry()
    push_blob(registry.repository(), blob_of(LAYER, ("other.example.com", "library/base")))
    assert all("from=" not in asked.path for asked in registry.asked)


def test_a_second_repository_mounts_from_the_first() -> None:
    registry = FakeRegistry()
    destinations = [Destination(registry.repository("team/a"), ("1",)), Destination(registry.repository("team/b"), ("1",))]
    pushed = push_image(destinations, [blob_of(LAYER)], ROOT)
    assert [(each.uploaded_bytes, each.mounted_blobs) for each in pushed] == [(len(LAYER), 0), (0, 1)]


def test_an_interrupted_upload_goes_on_where_the_registry_has_got_to() -> None:
    registry = FakeRegistry()
    cuts = [1234]

    def cut(asked: Asked, body: Body | None) -> FakeResponse | None:
        if asked.method == "PUT" and cuts and body is not None:
            registry.uploads["u0"] += body.read(cuts.pop())
            raise TransientError("the connection was lost")
        return None

    registry.fault = cut
    push_blob(registry.repository(), blob_of(LAYER))
    assert registry.blobs["team/app", digest_of(LAYER)] == LAYER
    patch = next(asked for asked in registry.asked if asked.method == "PATCH")
    assert patch.headers["Content-Range"] == f"1234-{len(LAYER) - 1}"


def test_an_upload_that_the_registry_forgot_begins_anew() -> None:
    registry = FakeRegistry()
    cuts = [1]

    def cut(asked: Asked, body: Body | None) -> FakeResponse | None:
        if asked.method == "PUT" and cuts:
            cuts.pop()
            registry.uploads.pop("u0")
            raise TransientError("the connection was lost")
        return None

    registry.fault = cut
    push_blob(registry.repository(), blob_of(LAYER))
    assert registry.blobs["team/app", digest_of(LAYER)] == LAYER


def test_a_body_that_is_too_large_is_sent_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandboxbuild.registry.push.FALLBACK_CHUNK_BYTES", 2000)
    registry = FakeRegistry()
    seen: list[int] = []

    def refuse_large(asked: Asked, body: Body | None) -> FakeResponse | None:
        if body is not None and body.size_bytes > 2000:
            read_all(body)
            return FakeResponse(413, {}, b"")
        seen.append(body.size_bytes if body is not None else 0)
        return None

    registry.fault = refuse_large
    push_blob(registry.repository(), blob_of(LAYER))
    assert registry.blobs["team/app", digest_of(LAYER)] == LAYER
    assert methods(registry).count("PATCH") == 3


def test_progress_reaches_the_whole_size() -> None:
    registry = FakeRegistry()
    seen: list[tuple[int, int]] = []
    push_blob(registry.repository(), blob_of(LAYER), lambda _digest, current, total: seen.append((current, total)))
    assert seen[-1] == (len(LAYER), len(LAYER))


def test_a_blob_that_is_shorter_than_promised_is_an_error() -> None:
    registry = FakeRegistry()
    blob = blob_of(LAYER)._replace(descriptor=blob_descriptor(LAYER + b"x"))
    with pytest.raises(RegistryError):
        push_blob(registry.repository(), blob)


def test_the_first_error_of_a_blob_ends_the_push_before_any_manifest() -> None:
    registry = FakeRegistry()
    registry.fault = lambda asked, _body: FakeResponse(403, {}, b"{}") if asked.method == "POST" else None
    session = PushSession([Destination(registry.repository(), ("1",))])
    session.enqueue(blob_of(LAYER))
    session.enqueue(blob_of(b"other"))
    with pytest.raises(RegistryError, match="403"):
        session.finish(ROOT)
    assert not registry.manifests


def test_the_children_of_an_index_are_put_before_it_and_by_digest() -> None:
    registry = FakeRegistry()
    child = Document(OCI_MANIFEST, b'{"schemaVersion":2,"a":1}')
    push_image([Destination(registry.repository(), ("1",))], [], Document(OCI_INDEX, b"{}"), [child])
    assert [asked.path for asked in registry.asked] == [
        f"/v2/team/app/manifests/{digest_of(child.content)}",
        "/v2/team/app/manifests/1",
    ]


def test_a_push_without_a_tag_is_by_digest() -> None:
    registry = FakeRegistry()
    (pushed,) = push_image([Destination(registry.repository())], [], ROOT)
    assert pushed.reference == f"registry.example.com/team/app@{digest_of(ROOT.content)}"


def test_an_aborted_session_pushes_no_more() -> None:
    registry = FakeRegistry()
    session = PushSession([Destination(registry.repository(), ("1",))])
    session.abort()
    session.enqueue(blob_of(LAYER))
    session.abort()
    assert registry.asked == []
