"""Commands that look at the images of the store, and take names away: images, inspect, history, rm."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from sandboxbuild.cli.flags import TableCommand
from sandboxbuild.cli.options import Flag, Kind
from sandboxbuild.errors import InputError

if TYPE_CHECKING:
    from sandboxbuild.oci.config import ImageConfig
    from sandboxbuild.oci.manifest import Manifest
    from sandboxbuild.store import Store
    from sandboxbuild.store.images import StoredImage

STORE_FLAG: Final = Flag("--store", Kind.TEXT, "Folder of the image store", "PATH", group="Options")
FORMAT_FLAG: Final = Flag("--format", Kind.TEXT, "text or json", choices=("text", "json"), group="Options", default="text")
NO_TRUNC_FLAG: Final = Flag("--no-trunc", Kind.SWITCH, "Show everything in full", group="Options")


def opened_store(values: dict[str, Any]) -> Store:
    from sandboxbuild.launcher.stores import open_store

    return open_store(values["store"] or "", os.environ)


def find_image(store: Store, name: str) -> StoredImage:
    image = store.images.find(name)
    if image is None:
        raise InputError(f"there is no image {name!r} in the store", hint="sandboxbuild images lists them")
    return image


@click.command(cls=TableCommand, flags=(STORE_FLAG, FORMAT_FLAG, NO_TRUNC_FLAG))
def images(**values: Any) -> None:
    """List the images in the store."""
    with opened_store(values) as store:
        rows = [_row(store, image) for image in store.images.list()]
    if values["format"] == "json":
        write_json(rows)
        return
    from sandboxbuild.units import format_size

    table = [("NAME", "IMAGE ID", "CREATED", "SIZE")]
    for row in rows:
        image_id = row["id"] if values["no_trunc"] else row["id"].partition(":")[2][:12]
        table.append((row["name"], image_id, row["created"], format_size(row["size_bytes"])))
    write_table(table)


def _row(store: Store, image: StoredImage) -> dict[str, Any]:
    size_bytes = sum(store.images.reachable(image.descriptor).values())
    name = _shown_name(image)
    try:
        manifest, config = first_manifest(store, image)
    except InputError:
        return {"name": name, "id": image.descriptor.digest, "digest": image.descriptor.digest, "created": "", "size_bytes": 0}
    return {
        "name": name,
        "id": manifest.config.digest,
        "digest": image.descriptor.digest,
        "created": config.created,
        "size_bytes": size_bytes,
    }


def _shown_name(image: StoredImage) -> str:
    from sandboxbuild.oci.reference import parse_reference

    return parse_reference(image.name).familiar if image.is_named else "<none>"


def first_manifest(store: Store, image: StoredImage) -> tuple[Manifest, ImageConfig]:
    """The image's manifest and config; of an index, those of its first platform."""
    for _, manifest in store.images.manifests(image.descriptor):
        return manifest, store.images.config(manifest)
    raise InputError(f"{image.name} is an index without images")


@click.command(cls=TableCommand, flags=(STORE_FLAG,))
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def inspect(names: tuple[str, ...], **values: Any) -> None:
    """Show the manifest and configuration of images, as JSON."""
    from sandboxbuild.oci.config import encode_config

    documents = []
    with opened_store(values) as store:
        for name in names:
            image = find_image(store, name)
            for descriptor, manifest in store.images.manifests(image.descriptor):
                config = store.images.config(manifest)
                documents.append(
                    {
                        "Name": image.name,
                        "Digest": image.descriptor.digest,
                        "Manifest": {"Digest": descriptor.digest, "MediaType": manifest.media_type},
                        "Id": manifest.config.digest,
                        "Layers": [
                            {"Digest": layer.digest, "Size": layer.size_bytes, "MediaType": layer.media_type}
                            for layer in manifest.layers
                        ],
                        "Config": json.loads(encode_config(config)),
                    }
                )
    write_json(documents)


@click.command(cls=TableCommand, flags=(STORE_FLAG, FORMAT_FLAG, NO_TRUNC_FLAG))
@click.argument("name")
def history(name: str, **values: Any) -> None:
    """Show how an image was made, newest layer first."""
    with opened_store(values) as store:
        manifest, config = first_manifest(store, find_image(store, name))
    sizes = iter([layer.size_bytes for layer in manifest.layers])
    rows = [
        {
            "created": entry.created,
            "created_by": entry.created_by,
            "size_bytes": 0 if entry.empty_layer else next(sizes, 0),
            "comment": entry.comment,
        }
        for entry in config.history
    ]
    rows.reverse()
    if values["format"] == "json":
        write_json(rows)
        return
    from sandboxbuild.units import format_size

    table = [("CREATED", "CREATED BY", "SIZE")]
    for row in rows:
        made_by = str(row["created_by"])
        shown = made_by if values["no_trunc"] or len(made_by) <= 60 else made_by[:59] + "…"
        table.append((str(row["created"]), shown, format_size(int(str(row["size_bytes"])))))
    write_table(table)


@click.command(cls=TableCommand, flags=(STORE_FLAG,))
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(names: tuple[str, ...], **values: Any) -> None:
    """Remove images from the store. What they were made of goes with the next prune."""
    with opened_store(values) as store:
        found = [find_image(store, name) for name in names]
        for image in found:
            store.images.remove(image.name)
            sys.stdout.write(f"removed {image.name}\n")


def write_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")


def write_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns padded to their widest cell. Cells may be strangers' text."""
    from sandboxbuild.cli.render.text import display_width, safe_words

    cells = [tuple(safe_words(cell) for cell in row) for row in rows]
    widths = [max(display_width(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        padded = [cell + " " * (width - display_width(cell)) for cell, width in zip(row, widths, strict=True)]
        sys.stdout.write("  ".join(padded).rstrip() + "\n")
