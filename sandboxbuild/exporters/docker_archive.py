"""The archive that `docker load` takes: manifest.json (Docker image spec 1.2) beside an OCI layout, as Docker 25 saves it.

Old readers follow manifest.json, new ones index.json; the layers are the same files, compressed as they are in the store,
which both accept.
"""

from __future__ import annotations

import json
from typing import Any

from sandboxbuild.errors import UsageError
from sandboxbuild.exporters import Exported, Output
from sandboxbuild.exporters.contents import PlatformImage, one_image, platform_images
from sandboxbuild.exporters.destination import opened
from sandboxbuild.exporters.oci_layout import blob_path, named_entries, write_layout
from sandboxbuild.exporters.tarfiles import TarFile
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.reference import parse_reference
from sandboxbuild.store import Store


def export(store: Store, image: Descriptor, output: Output) -> Exported:
    """Exporter. Of an index, manifest.json tells of one platform, and the layout beside it of all."""
    if output.as_tar is False:
        raise UsageError("an output of type docker is a tar", hint="leave tar=false out, or use type=oci")
    chosen = one_image(store, image, output.platform)
    with opened(output) as write:
        tar = TarFile(write)
        tar.file("manifest.json", json.dumps([docker_manifest(chosen, output.names)], separators=(",", ":")).encode())
        write_layout(tar, store, image, named_entries(image, output.names))
        tar.finish()
    return Exported(output.destination, _warnings(store, image, chosen))


def docker_manifest(image: PlatformImage, names: tuple[str, ...]) -> dict[str, Any]:
    """The image's entry in manifest.json."""
    references = [parse_reference(name) for name in dict.fromkeys(names)]
    return {
        "Config": blob_path(image.manifest.config),
        "RepoTags": [reference._replace(digest="").familiar for reference in references if reference.tag] or None,
        "Layers": [blob_path(layer) for layer in image.manifest.layers],
    }


def _warnings(store: Store, image: Descriptor, chosen: PlatformImage) -> tuple[str, ...]:
    others = [found.platform for found in platform_images(store, image) if found.descriptor.digest != chosen.descriptor.digest]
    if not others:
        return ()
    return (f"readers older than Docker 25 see only {chosen.platform} in this archive, not {', '.join(others)}",)
