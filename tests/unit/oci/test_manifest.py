"""Manifests and indexes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import RegistryError
from sandboxbuild.oci import descriptor as types
from sandboxbuild.oci.descriptor import Descriptor, decode_descriptor, encode_descriptor
from sandboxbuild.oci.documents import Fields
from sandboxbuild.oci.manifest import Index, Manifest, decode, decode_index, decode_manifest, encode_index, encode_manifest

DIGEST = "sha256:" + "1" * 64
CONFIG = {"mediaType": types.OCI_CONFIG, "digest": DIGEST, "size": 2}
LAYER = {"mediaType": types.OCI_LAYER_GZIP, "digest": DIGEST, "size": 10}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "mediaType": types.OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": types.OCI_INDEX,
    "manifests": [CONFIG | {"mediaType": types.OCI_MANIFEST}],
}


def dump(document: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({key: value for key, value in (document | changes).items() if value is not ...}).encode()


def test_manifest_keeps_what_it_does_not_know() -> None:
    document = MANIFEST | {"annotations": {"a": "b"}, "x-new": [1], "subject": CONFIG, "artifactType": "a/b"}
    document["layers"] = [LAYER | {"x-layer": True, "urls": ["https://files.example.com/l"], "annotations": {"k": "v"}}]
    assert json.loads(encode_manifest(decode_manifest(dump(document)))) == document


def test_index_keeps_platforms_with_their_features() -> None:
    platform = {"os": "windows", "architecture": "amd64", "os.version": "10.0.1", "os.features": ["win32k"], "variant": "v1"}
    document = INDEX | {"manifests": [INDEX["manifests"][0] | {"platform": platform}]}
    index = decode_index(dump(document))
    assert index.manifests[0].platform == "windows(10.0.1)/amd64/v1"
    assert json.loads(encode_index(index)) == document


def test_encoding_is_compact_and_sorted() -> None:
    data = encode_manifest(Manifest(Descriptor(types.OCI_CONFIG, DIGEST, 2), ()))
    assert data == (
        b'{"config":{"digest":"%b","mediaType":"%b","size":2},"layers":[],"mediaType":"%b","schemaVersion":2}'
        % (DIGEST.encode(), types.OCI_CONFIG.encode(), types.OCI_MANIFEST.encode())
    )


def test_oci_document_may_leave_its_media_type_out() -> None:
    assert isinstance(decode(dump(MANIFEST, mediaType=...)), Manifest)
    assert isinstance(decode(dump(INDEX, mediaType=...)), Index)


def test_docker_documents_are_read() -> None:
    assert decode(dump(MANIFEST, mediaType=types.DOCKER_MANIFEST)).media_type == types.DOCKER_MANIFEST
    assert decode(dump(INDEX, mediaType=types.DOCKER_INDEX), types.DOCKER_INDEX).media_type == types.DOCKER_INDEX


def test_announced_type_may_have_parameters() -> None:
    assert decode(dump(MANIFEST), types.OCI_MANIFEST + "; charset=utf-8").media_type == types.OCI_MANIFEST


@pytest.mark.parametrize(
    "changes",
    [
        {"schemaVersion": 1},
        {"schemaVersion": 3},
        {"schemaVersion": ...},
        {"mediaType": "application/json"},
        {"mediaType": types.OCI_INDEX},
        {"config": ...},
        {"config": []},
        {"config": {"digest": DIGEST}},
        {"layers": {}},
        {"layers": [LAYER] * 1025},
        {"layers": [LAYER | {"size": -1}]},
        {"layers": [LAYER | {"size": "10"}]},
        {"layers": [{key: value for key, value in LAYER.items() if key != "size"}]},
        {"layers": [LAYER | {"digest": "sha256:../../x"}]},
        {"layers": [LAYER | {"mediaType": "x"}]},
        {"layers": [LAYER | {"platform": {"os": "a/b", "architecture": "c"}}]},
        {"manifests": []},
        {"Layers": []},
        {"fsLayers": []},
        {"annotations": {"a": 1}},
    ],
)
def test_malformed_manifest_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RegistryError):
        decode_manifest(dump(MANIFEST, **changes))


@pytest.mark.parametrize("changes", [{"layers": []}, {"config": CONFIG}, {"manifests": [1]}, {"mediaType": types.OCI_MANIFEST}])
def test_malformed_index_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RegistryError):
        decode_index(dump(INDEX, **changes))


def test_document_of_another_type_than_announced_is_refused() -> None:
    with pytest.raises(RegistryError, match="announced"):
        decode(dump(MANIFEST), types.OCI_INDEX)


def test_schema_1_is_refused_by_name() -> None:
    with pytest.raises(RegistryError, match="schema 1"):
        decode(b'{"schemaVersion":1,"fsLayers":[]}')


def test_empty_platform_is_unknown() -> None:
    fields = Fields(CONFIG | {"platform": {"os": "", "architecture": ""}}, "the descriptor")
    assert decode_descriptor(fields).platform == "unknown/unknown"


def test_descriptor_reads_back() -> None:
    descriptor = Descriptor(types.OCI_LAYER, DIGEST, 7, (("a", "b"),), "linux/arm/v7", ("https://a.example.com",), "x/y")
    assert decode_descriptor(Fields(encode_descriptor(descriptor), "the descriptor")) == descriptor


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(sorted(MANIFEST)),
        st.none() | st.text("aé=\0\\/ \u2028", max_size=3) | st.lists(st.integers(), max_size=2),
    )
)
def test_any_field_is_read_or_refused(changes: dict[str, Any]) -> None:
    try:
        manifest = decode_manifest(dump(MANIFEST, **changes))
    except RegistryError:
        return
    assert decode_manifest(encode_manifest(manifest)) == manifest
