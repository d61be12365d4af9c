"""Commands that carry stored images elsewhere: save to files, push to registries."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any, Final

import click

from sandboxbuild.cli.flags import TableCommand
from sandboxbuild.cli.images import STORE_FLAG, find_image, opened_store
from sandboxbuild.cli.options import REGISTRY_FLAGS, Flag, Kind

SAVE_FLAGS: Final = (
    Flag(
        "--output",
        Kind.TEXT,
        "A path for a Docker archive, or type=oci|docker|rootfs,dest=PATH as in run; - is standard output",
        "SPEC",
        short="-o",
        group="Options",
        default="-",
    ),
    Flag("--platform", Kind.TEXT, "Which image of an index to take", "OS/ARCH[/VARIANT]", group="Options"),
    STORE_FLAG,
)
PUSH_FLAGS: Final = (
    STORE_FLAG,
    Flag("--quiet", Kind.SWITCH, "Show no progress", short="-q", group="Options"),
    *(flag for flag in REGISTRY_FLAGS if "pull" not in flag.name and "mirror" not in flag.name),
)
PROGRESS_INTERVAL_S: Final = 1.0


@click.command(cls=TableCommand, flags=SAVE_FLAGS)
@click.argument("name")
def save(name: str, **values: Any) -> None:
    """Write an image to a file or folder."""
    from sandboxbuild.cli.settings import output_spec
    from sandboxbuild.launcher.outputs import check_outputs, write_outputs
    from sandboxbuild.launcher.settings import OutputSpec

    text = values["output"] or "-"
    spec = output_spec(text).spec if "=" in text else OutputSpec("docker", text)
    check_outputs((spec,))
    with opened_store(values) as store:
        image = find_image(store, name)
        names = (image.name,) if image.is_named else ()
        write_outputs(store, image.descriptor, (spec,), names, _warn, platform=values["platform"] or "")


def _warn(message: str) -> None:
    from sandboxbuild.cli.render.text import safe_words

    sys.stderr.write(f"WARNING: {safe_words(message)}\n")


@click.command(cls=TableCommand, flags=PUSH_FLAGS)
@click.argument("name")
@click.argument("destinations", nargs=-1, metavar="[DESTINATION]...")
def push(name: str, destinations: tuple[str, ...], **values: Any) -> None:
    """Push an image to a registry, under its own name or as DESTINATION."""
    from sandboxbuild.cli.render.text import safe_words
    from sandboxbuild.cli.settings import registry_settings
    from sandboxbuild.launcher.pushing import push_stored
    from sandboxbuild.launcher.request import image_names

    with opened_store(values) as store:
        image = find_image(store, name)
        names = image_names(destinations or (image.name,), "DESTINATION")
        progress = _Progress(quiet=bool(values["quiet"]))
        for pushed in push_stored(store, image.descriptor, names, registry_settings(values), os.environ, progress):
            sys.stdout.write(f"{safe_words(pushed.reference)}@{pushed.digest}\n")


class _Progress:
    """Lines on standard error, at most one each second for a blob. Thread-safe."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._told_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, digest: str, current_bytes: int, total_bytes: int) -> None:
        from sandboxbuild.units import format_size

        with self._lock:
            now = time.monotonic()
            if self._quiet or (current_bytes < total_bytes and now - self._told_s.get(digest, now) < PROGRESS_INTERVAL_S):
                self._told_s.setdefault(digest, now)
                return
            self._told_s[digest] = now
            sys.stderr.write(f"push {digest[7:19]} {format_size(current_bytes)} / {format_size(total_bytes)}\n")
