"""The outputs of a build beside the store, written from verified blobs on this side of the sandbox."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from sandboxbuild.errors import UsageError
from sandboxbuild.launcher.settings import OutputSpec
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.store import Store


def check_outputs(outputs: Sequence[OutputSpec]) -> None:
    """What can be known to fail before anything is built. Raises UsageError."""
    if sum(output.destination == "-" for output in outputs) > 1:
        raise UsageError("two outputs can't both go to standard output")
    for output in outputs:
        if output.destination == "-" and sys.stdout.isatty():
            raise UsageError("an image is not written to a terminal", hint="redirect standard output, or give dest=FILE")
        if output.destination != "-" and output.as_tar and os.path.isdir(output.destination):
            raise UsageError(f"the output {output.destination!r} is a folder, and an archive is asked for", hint="tar=false")


def write_outputs(
    store: Store,
    image: Descriptor,
    outputs: Sequence[OutputSpec],
    names: tuple[str, ...],
    warn: Callable[[str], None],
    *,
    platform: str = "",
) -> tuple[str, ...]:
    """Write each output; gives their destinations. `warn` hears what of the image isn't in one."""
    if not outputs:
        return ()
    from sandboxbuild.exporters import Output, export  # late: most builds write none

    written = []
    for output in outputs:
        exported = export(output.kind, store, image, Output(output.destination, names, output.as_tar, platform))
        written.append(exported.destination)
        for text in exported.warnings:
            warn(f"output {output.destination}: {text}")
    return tuple(written)
