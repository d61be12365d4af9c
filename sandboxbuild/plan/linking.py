"""COPY --link: a layer that was made without looking at the target, laid over it as overlay lays one layer over another."""

from __future__ import annotations

from collections.abc import Sequence

from sandboxbuild.fstree.actions import FileAction, MakeDirectory, Remove, SetMetadata, UnpackArchive
from sandboxbuild.fstree.tree import Lookup


def over_existing(actions: Sequence[FileAction], target: Lookup) -> tuple[FileAction, ...]:
    """`actions`, decided for an empty tree, changed to have the same effect on `target` as their layer would have.

    A directory over a directory gives it the layer's owner, mode and time; where one of the two is something else, the
    layer's replaces it. Nothing is followed.
    """
    changed: list[FileAction] = []
    removed: set[bytes] = set()
    for action in actions:
        existing = None if _is_below(action.path, removed) else target.entry(action.path)
        if isinstance(action, MakeDirectory):
            if existing is not None and existing.is_directory:
                changed.append(SetMetadata(*action))
                continue
            if existing is not None:
                changed.append(Remove(action.path))
                removed.add(action.path)
        elif existing is not None and existing.is_directory and not isinstance(action, SetMetadata | Remove | UnpackArchive):
            changed.append(Remove(action.path))
            removed.add(action.path)
        changed.append(action)
    return tuple(changed)


def _is_below(path: bytes, removed: set[bytes]) -> bool:
    """Whether `path` or a parent is gone already, so that the target has nothing there any more."""
    while path:
        if path in removed:
            return True
        path = path.rpartition(b"/")[0]
    return False
