"""Commands about the store's size: prune and du."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from sandboxbuild.cli.flags import TableCommand
from sandboxbuild.cli.images import FORMAT_FLAG, STORE_FLAG, opened_store, write_json, write_table
from sandboxbuild.cli.options import Flag, Kind

PRUNE_FLAGS: Final = (
    STORE_FLAG,
    Flag(
        "--keep-storage",
        Kind.TEXT,
        "Remove what was used longest ago until this much is left",
        "SIZE",
        aliases=("--max-used-space",),
        group="Options",
    ),
    Flag("--older-than", Kind.TEXT, "Remove only what was not used for this long", "DURATION", group="Options"),
    Flag("--all", Kind.SWITCH, "Remove all that no named image needs, the cache too", short="-a", group="Options"),
    Flag("--force", Kind.SWITCH, "Accepted; there is no question to skip", short="-f", group="Options", hidden=True),
)


@click.command(cls=TableCommand, flags=PRUNE_FLAGS)
def prune(**values: Any) -> None:
    """Free space in the store. Without flags, only what nothing can use any more goes."""
    from sandboxbuild.cli.arguments import measure
    from sandboxbuild.launcher.removal import remover
    from sandboxbuild.system import idmap
    from sandboxbuild.units import format_size, parse_duration, parse_size

    keep = values["keep_storage"]
    age = values["older_than"]
    with opened_store(values) as store:
        pruned = store.prune(
            None if keep is None else measure("--keep-storage", keep, parse_size),
            None if age is None else measure("--older-than", age, parse_duration),
            bool(values["all"]),
            remove=remover(idmap.find()),
        )
    sys.stdout.write(
        f"removed {pruned.images} images, {pruned.steps} cached steps, {pruned.layers} unpacked layers, "
        f"{pruned.blobs} blobs: {format_size(pruned.freed_bytes)} freed\n"
    )


@click.command(cls=TableCommand, flags=(STORE_FLAG, FORMAT_FLAG))
def du(**values: Any) -> None:
    """Show what the store uses."""
    from sandboxbuild.units import format_size

    with opened_store(values) as store:
        usage, path = store.usage(), store.path
    if values["format"] == "json":
        write_json(usage._asdict() | {"total_bytes": usage.total_bytes, "path": path})
        return
    rows: list[tuple[str, ...]] = [
        ("KIND", "COUNT", "SIZE"),
        ("blobs", str(usage.blobs), format_size(usage.blobs_bytes)),
        ("unpacked layers", str(usage.layers), format_size(usage.layers_bytes)),
        ("cached steps", str(usage.steps), format_size(usage.cache_bytes)),
        ("images", str(usage.images), ""),
        ("total", "", format_size(usage.total_bytes)),
        ("reclaimable", "", format_size(usage.reclaimable_bytes)),
    ]
    write_table(rows)
