"""The OCI image layout (image-spec image-layout.md), as a directory that may hold other images already, or as a tar."""

from __future__ import annotations

import os
from typing import Final

from sandboxbuild.errors import UsageError
from sandboxbuild.exporters import Exported, Output
from sandboxbuild.exporters.contents import blobs_of
from sandboxbuild.exporters.destination import (
    Write,
    destination_errors,
    new_directory,
    opened,
    present_directory,
    replace_file,
    write_new_file,
)
from sandboxbuild.exporters.tarfiles import TarFile
from sandboxbuild.oci.descriptor import OCI_INDEX, Descriptor
from sandboxbuild.oci.digest import algorithm_of, encoded_of
from sandboxbuild.oci.documents import MAX_DOCUMENT_BYTES, encode_document
from sandboxbuild.oci.manifest import Index, decode_index, encode_index
from sandboxbuild.oci.reference import parse_reference
from sandboxbuild.store import Store

LAYOUT_FILE: Final = "oci-layout"
INDEX_FILE: Final = "index.json"
_LAYOUT: Final = encode_document({"imageLayoutVersion": "1.0.0"})
_REF_NAME: Final = "org.opencontainers.image.ref.name"  # image-spec annotations.md
_IMAGE_NAME: Final = "io.containerd.image.name"  # what containerd and `docker load` name the image by


def export(store: Store, image: Descriptor, output: Output) -> Exported:
    """Exporter."""
    entries = named_entries(image, output.names)
    if output.is_tar:
        with opened(output) as write:
            tar = TarFile(write)
            write_layout(tar, store, image, entries)
            tar.finish()
    elif not os.path.lexists(output.destination):
        with new_directory(output.destination, 0o755) as folder:
            _fill(folder, store, image, Index(entries))
    else:
        with present_directory(output.destination) as folder:
            present = _present_index(folder) if os.listdir(folder) else Index(())
            _fill(folder, store, image, merged_index(present, entries))
    return Exported(output.destination)


def named_entries(image: Descriptor, names: tuple[str, ...]) -> tuple[Descriptor, ...]:
    """The index entries of `image`: one for each name, which it is found by; one without a name if there is none."""
    if not names:
        return (image,)
    return tuple(image._replace(annotations=_annotations(image, name)) for name in dict.fromkeys(names))


def merged_index(index: Index, entries: tuple[Descriptor, ...]) -> Index:
    """The index with `entries` in place of those that had their names, at its end; a nameless one replaces its like."""
    taken = {_identity(entry) for entry in entries}
    kept = tuple(entry for entry in index.manifests if _identity(entry) not in taken)
    return index._replace(manifests=(*kept, *entries))


def write_layout(tar: TarFile, store: Store, image: Descriptor, entries: tuple[Descriptor, ...]) -> None:
    """The members of a layout: small documents first, then blobs by digest."""
    tar.file(LAYOUT_FILE, _LAYOUT)
    tar.file(INDEX_FILE, encode_index(Index(entries)))
    tar.directory("blobs")
    blobs = blobs_of(store, image)
    for algorithm in sorted({algorithm_of(blob.digest) for blob in blobs}):
        tar.directory(f"blobs/{algorithm}")
    for blob in blobs:
        tar.stream(blob_path(blob), blob.size_bytes, store.blobs.stream(blob))


def blob_path(blob: Descriptor) -> str:
    return f"blobs/{algorithm_of(blob.digest)}/{encoded_of(blob.digest)}"


def _annotations(image: Descriptor, name: str) -> tuple[tuple[str, str], ...]:
    reference = parse_reference(name)
    own: dict[str, str] = dict(image.annotations)
    own[_IMAGE_NAME] = str(reference)
    if reference.tag:
        own[_REF_NAME] = reference.tag
    return tuple(sorted(own.items()))


def _identity(entry: Descriptor) -> tuple[str, str]:
    """What an entry is found by: its full name, else its short one, else its digest."""
    annotations: dict[str, str] = dict(entry.annotations)
    for key in (_IMAGE_NAME, _REF_NAME):
        if key in annotations:
            return (key, annotations[key])
    return ("digest", entry.digest)


def _present_index(folder: str) -> Index:
    """The index of a layout that is there. Raises UsageError for a directory that is none."""
    try:
        with open(os.path.join(folder, INDEX_FILE), "rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
        os.stat(os.path.join(folder, LAYOUT_FILE))
    except OSError as error:
        raise UsageError(
            f"the output {folder} is a directory with other things in it, and no OCI layout", hint="give another directory"
        ) from error
    return decode_index(data, OCI_INDEX)


def _fill(folder: str, store: Store, image: Descriptor, index: Index) -> None:
    """Blobs first and the index last: a layout is right at every moment."""
    for blob in blobs_of(store, image):
        with destination_errors(folder):
            os.makedirs(os.path.join(folder, "blobs", algorithm_of(blob.digest)), exist_ok=True)
        write_new_file(os.path.join(folder, blob_path(blob)), _Copy(store, blob))
    replace_file(folder, LAYOUT_FILE, _LAYOUT)
    replace_file(folder, INDEX_FILE, encode_index(index))


class _Copy:
    """One blob, verified, into a file."""

    def __init__(self, store: Store, blob: Descriptor) -> None:
        self._store = store
        self._blob = blob

    def __call__(self, write: Write) -> None:
        for chunk in self._store.blobs.stream(self._blob):
            write(chunk)
