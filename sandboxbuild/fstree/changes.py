"""Changes: what one step did to a filesystem, as a layer will say it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Union

from sandboxbuild.fstree.entry import Entry


class Upsert(NamedTuple):
    """The path is new or differs; an opaque directory hides what lower layers have in it."""

    entry: Entry
    opaque: bool = False


class Delete(NamedTuple):
    """The path is gone (a whiteout)."""

    path: bytes


Change = Union[Upsert, Delete]


class Changes(NamedTuple):
    """A step's changes in the order in which a layer lists them: parents first, names sorted by bytes.

    `root` is the directory (absolute path on this machine) below which the content of each Upsert is read. `changes` may be
    read once only.
    """

    root: str
    changes: Iterable[Change]
