"""Images to export, made of tars that the standard library writes."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sandboxbuild.oci.config import History, ImageConfig
from sandboxbuild.oci.descriptor import OCI_LAYER, OCI_LAYER_GZIP, Descriptor
from sandboxbuild.oci.digest import sha256_digest
from sandboxbuild.oci.image import Image
from sandboxbuild.oci.mutate import append_layer, assemble, assemble_index
from sandboxbuild.store import Store

Member = tuple[str, Any]


def layer_tar(members: Iterable[Member]) -> bytes:
    """A tar of (name, what): bytes are a file, None or a mode a directory, ("->", x) a link, ("=", x) a hard link,
    ("mode", m, content) a file, ("c", 1, 3) a device. Bytes instead of a list are a tar as they are."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            info.mtime = 1_500_000_000
            content = b""
            if isinstance(what, bytes):
                content = what
                info.size = len(content)
            elif what is None or isinstance(what, int):
                info.type, info.mode = tarfile.DIRTYPE, 0o755 if what is None else what
            elif what[0] == "->":
                info.type, info.linkname = tarfile.SYMTYPE, what[1]
            elif what[0] == "=":
                info.type, info.linkname = tarfile.LNKTYPE, what[1]
            elif what[0] == "mode":
                info.mode, content = what[1], what[2]
                info.size = len(content)
            else:
                info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, what[1], what[2]
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def put_image(store: Store, layers: Sequence[Iterable[Member] | bytes], architecture: str = "amd64") -> Descriptor:
    image = Image(ImageConfig(architecture=architecture, cmd=("/bin/sh",)))
    for number, members in enumerate(layers):
        plain = members if isinstance(members, bytes) else layer_tar(members)
        data = gzip.compress(plain, mtime=0) if number % 2 == 0 else plain
        media_type = OCI_LAYER_GZIP if number % 2 == 0 else OCI_LAYER
        descriptor = Descriptor(media_type, store.blobs.put_bytes(data), len(data))
        image = append_layer(image, descriptor, sha256_digest(plain), History(f"step {number}"))
    assembled = assemble(image)
    store.blobs.put_bytes(assembled.config)
    store.blobs.put_bytes(assembled.manifest)
    return assembled.manifest_descriptor


def put_index(store: Store, *images: Descriptor) -> Descriptor:
    data, descriptor = assemble_index(images)
    store.blobs.put_bytes(data)
    return descriptor


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def image_of(store: Store) -> Callable[..., Descriptor]:
    """Puts an image of the given layers into the store."""
    return lambda *layers, architecture="amd64": put_image(store, layers, architecture)


@pytest.fixture
def index_of(store: Store) -> Callable[..., Descriptor]:
    """Puts an index of the given images into the store."""
    return lambda *images: put_index(store, *images)
