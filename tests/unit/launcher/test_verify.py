"""An executor that lies about its result is found out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandboxbuild.errors import IntegrityError, ProtocolError, SandboxbuildError
from sandboxbuild.launcher.verify import verify_result
from sandboxbuild.oci.descriptor import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from sandboxbuild.protocol.events import BuildSucceeded, PushCompleted
from sandboxbuild.store import Store

NAME = "example.com/app:1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(str(tmp_path / "store")) as opened:
        yield opened


def described(store: Store, media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": store.blobs.put_bytes(data), "size": len(data)}


def put_image(store: Store, **changes: Any) -> BuildSucceeded:
    config = described(store, OCI_CONFIG, b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}')
    layer = described(store, OCI_LAYER_GZIP, b"a layer")
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer | changes.pop("layer", {})]}
    manifest = described(store, OCI_MANIFEST, json.dumps(document).encode())
    result = BuildSucceeded(OCI_MANIFEST, manifest["digest"], manifest["size"], config["digest"], (NAME,))
    return result._replace(**changes)


def check(store: Store, result: BuildSucceeded, pushed: tuple[PushCompleted, ...] = (), pushes: tuple[str, ...] = ()) -> None:
    verify_result(store, result, names=(NAME,), pushes=pushes, pushed=pushed)


def test_an_honest_result_passes(store: Store) -> None:
    result = put_image(store)
    check(store, result, (PushCompleted(NAME, result.digest, 1, 0),), (NAME,))


def test_an_index_passes_with_all_its_images(store: Store) -> None:
    image = put_image(store)
    child = {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": image.size_bytes}
    index = described(store, OCI_INDEX, json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]}).encode())
    check(store, BuildSucceeded(OCI_INDEX, index["digest"], index["size"], "", (NAME,)))


@pytest.mark.parametrize(
    "lie",
    [
        {"names": ("example.com/other:1",)},
        {"names": ()},
        {"digest": "sha256:" + "0" * 64},
        {"size_bytes": 1},
        {"config_digest": "sha256:" + "0" * 64},
        {"config_digest": ""},
        {"media_type": OCI_INDEX},
        {"layer": {"size": 8}},
        {"layer": {"digest": "sha256:" + "0" * 64}},
        {"layer": {"digest": "sha256:../../etc/passwd"}},
    ],
)
def test_a_lie_is_an_error(store: Store, lie: dict[str, Any]) -> None:
    with pytest.raises(SandboxbuildError) as caught:
        check(store, put_image(store, **lie))
    assert isinstance(caught.value, (IntegrityError, ProtocolError)) or caught.value.exit_code == 5


def test_a_torn_manifest_is_an_error(store: Store) -> None:
    result = put_image(store)
    path = Path(store.blobs.path(result.digest))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"linux", b"linuy").replace(b"{", b"["))
    with pytest.raises(IntegrityError):
        check(store, result)


@pytest.mark.parametrize("pushed", [(), (PushCompleted("example.com/other:1", "sha256:" + "0" * 64, 1, 0),)])
def test_pushes_are_those_that_were_asked_for(store: Store, pushed: tuple[PushCompleted, ...]) -> None:
    with pytest.raises(ProtocolError, match="push"):
        check(store, put_image(store), pushed, (NAME,))
