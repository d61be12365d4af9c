"""executor.layers: what a base's layers come to in the store."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxbuild.executor.channel import EventChannel, Vertex
from sandboxbuild.executor.layers import LayerRef, Layers, Readable, Rootfs
from sandboxbuild.oci.descriptor import OCI_LAYER, Descriptor
from sandboxbuild.store import Store


class Registry:
    """A BlobSource of one blob."""

    def __init__(self, blob: bytes) -> None:
        self._blob = blob

    def open_blob(self, remote: tuple[str, str], descriptor: Descriptor, on_bytes: Callable[[int], None]) -> Readable:
        return io.BytesIO(self._blob)


def tar_of_one_file() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        entry = tarfile.TarInfo("file")
        entry.uid, entry.gid, entry.size = os.geteuid(), os.getegid(), 7
        archive.addfile(entry, io.BytesIO(b"content"))
    return sink.getvalue()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("is_here", [True, False])
def test_uncompressed_lowest_layer_is_unpacked_though_its_chain_is_called_as_its_blob(tmp_path: Path, is_here: bool) -> None:
    blob = tar_of_one_file()
    digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
    layer = LayerRef(Descriptor(OCI_LAYER, digest, len(blob)), digest, ("registry.example.com", "base"))
    vertex = Vertex(EventChannel(lambda event: None), 1)
    with Store(str(tmp_path / "store")) as store:
        if is_here:
            store.blobs.put_bytes(blob)
        layers = Layers(store, Registry(blob), compression="gzip", epoch_s=None)
        (directory,) = layers.directories(Rootfs((layer,)), vertex)
        assert Path(store.path, directory, "file").read_text() == "content"
        assert store.blobs.has(digest)
