"""Exporters: a stored image becomes files. They run on the launcher's side and believe nothing that the store can't prove.

Every blob is verified while it is copied. A new exporter is a module and its line in `_EXPORTERS`; the push to registries is
`exporters.registry`, which needs a transport instead of a path.
"""

from __future__ import annotations

from importlib import import_module
from typing import BinaryIO, Final, NamedTuple, Protocol, cast

from sandboxbuild.errors import UsageError
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.store import Store


class Output(NamedTuple):
    """Where and how. `destination` is a path, or "-" for `stream` (standard output if that is None).

    `names` are the image's references. `as_tar` None: a tar if the destination is "-" or its name ends in ".tar", else a
    directory. `platform` chooses one image of an index where a form can hold only one ("": the first).
    """

    destination: str
    names: tuple[str, ...] = ()
    as_tar: bool | None = None
    platform: str = ""
    stream: BinaryIO | None = None

    @property
    def is_tar(self) -> bool:
        if self.as_tar is None:
            return self.destination == "-" or self.destination.endswith(".tar")
        return self.as_tar or self.destination == "-"


class Exported(NamedTuple):
    """What was written. `warnings` say what of the image is not in it."""

    destination: str
    warnings: tuple[str, ...] = ()


class Exporter(Protocol):
    """Writes one form. Files and new directories appear complete or not at all; directories that were there are added to.

    Raises IntegrityError for a blob that is missing or torn, LimitExceeded for a full disk, UsageError for a destination that
    can't be written.
    """

    def __call__(self, store: Store, image: Descriptor, output: Output) -> Exported: ...


_EXPORTERS: Final = {
    "oci": "oci_layout",
    "docker": "docker_archive",
    "rootfs": "rootfs",
    "local": "rootfs",
    "tar": "rootfs",
}


def exporter(kind: str) -> Exporter:
    """The Exporter for `--output type=kind`. Raises UsageError."""
    if kind not in _EXPORTERS:
        raise UsageError(f"there is no output of type {kind!r}", hint=f"types: {', '.join(sorted(_EXPORTERS))}, registry")
    return cast(Exporter, import_module(f"sandboxbuild.exporters.{_EXPORTERS[kind]}").export)


def export(kind: str, store: Store, image: Descriptor, output: Output) -> Exported:
    """Write the stored `image` as `kind` says; a "tar" is always one."""
    return exporter(kind)(store, image, output._replace(as_tar=True) if kind == "tar" else output)
