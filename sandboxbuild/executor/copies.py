"""One COPY or ADD from its sources to a rootfs: what it takes (for the key), what it does (by plan.copying), and the doing."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from sandboxbuild.archive.archives import is_archive
from sandboxbuild.errors import ContextError
from sandboxbuild.executor.channel import Vertex
from sandboxbuild.executor.copy import apply_actions
from sandboxbuild.executor.remote import RemoteFiles
from sandboxbuild.executor.sources import Sources
from sandboxbuild.executor.trees import DirectoryTree
from sandboxbuild.executor.users import resolve_owner
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.fstree.filtered import FilteredTree
from sandboxbuild.fstree.tree import FileTree, Tree
from sandboxbuild.plan.copying import copy_actions
from sandboxbuild.plan.keys import content_digest
from sandboxbuild.plan.operations import (
    CopyOp,
    CopySource,
    GitSource,
    ImageSource,
    InlineSource,
    StageSource,
    UrlSource,
)
from sandboxbuild.store import Store
from sandboxbuild.system.files import open_beneath

READ_BYTES = 1024 * 1024
NOBODY_KNOWS_YET = (0, 0)  # the owner while only content counts: --chown is part of the key by its text


class OpenSource(NamedTuple):
    """A source that is open: its tree, and the directory descriptor of which the tree tells (-1: there are no files)."""

    tree: Tree
    descriptor: int


class Copies:
    """Carries out CopyOps. Thread-safe."""

    def __init__(self, sources: Sources, remote: RemoteFiles, store: Store, epoch_s: int | None) -> None:
        self._sources = sources
        self._remote = remote
        self._store = store
        self._epoch_s = epoch_s

    def content(self, op: CopyOp, vertex: Vertex) -> tuple[str, ...]:
        """What the op takes, as digests: a stage or image by its ChainID, everything else by the files it gives."""
        wholes = [source for source in op.sources if isinstance(source, StageSource | ImageSource)]
        whole = tuple(self._sources.identity(source) for source in wholes)
        taken = [number for number, source in enumerate(op.sources) if source not in wholes]
        if not taken:
            return whole
        part = op._replace(
            sources=tuple(op.sources[number] for number in taken), paths=tuple(op.paths[number] for number in taken)
        )
        with self._opened(part, vertex) as opened:
            actions = copy_actions(
                part,
                [source.tree for source in opened],
                FileTree(),
                owner=NOBODY_KNOWS_YET,
                now_ns=0,
                is_archive=lambda origin, entry: _is_archive(opened[origin], entry),
            )
            digest = content_digest(part, actions, lambda origin, entry: self._hash(opened[origin], entry))
        self._store.hashes.save()
        return (*whole, digest)

    def perform(self, op: CopyOp, root: str, vertex: Vertex) -> None:
        """Do what the op says to the rootfs at `root`."""
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            owner = resolve_owner(root_fd, op.owner) if op.owner else None
            with self._opened(op, vertex) as opened, DirectoryTree(root_fd) as target:
                actions = copy_actions(
                    op,
                    [source.tree for source in opened],
                    target,
                    owner=owner,
                    now_ns=self._now_ns(),
                    is_archive=lambda origin, entry: _is_archive(opened[origin], entry),
                )
                target.close()
                apply_actions(root, actions, [source.descriptor for source in opened])
        finally:
            os.close(root_fd)

    def _now_ns(self) -> int:
        return time.time_ns() if self._epoch_s is None else self._epoch_s * 1_000_000_000

    @contextmanager
    def _opened(self, op: CopyOp, vertex: Vertex) -> Iterator[list[OpenSource]]:
        with ExitStack() as stack:
            yield [self._open(stack, source, vertex) for source in op.sources]

    def _open(self, stack: ExitStack, source: CopySource, vertex: Vertex) -> OpenSource:
        if isinstance(source, InlineSource):
            return OpenSource(FileTree(), -1)
        if isinstance(source, UrlSource | GitSource):
            path, rules = self._remote.directory(source, vertex), None
        else:
            root = stack.enter_context(self._sources.root(source, vertex))
            path, rules = root.path, root.ignore
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        tree = stack.enter_context(DirectoryTree(descriptor))
        return OpenSource(FilteredTree(tree, rules) if rules is not None else tree, descriptor)

    def _hash(self, source: OpenSource, entry: Entry) -> str:
        """The digest of a file's content; remembered by what lstat says of it."""
        known = self._store.hashes.lookup(entry)
        if known is not None:
            return known
        digest = f"sha256:{_sha256(source.descriptor, entry)}"
        self._store.hashes.remember(entry, digest)
        return digest


def _sha256(root: int, entry: Entry) -> str:
    descriptor = _opened_file(root, entry)
    try:
        hashing = hashlib.sha256()
        while chunk := os.read(descriptor, READ_BYTES):
            hashing.update(chunk)
        return hashing.hexdigest()
    finally:
        os.close(descriptor)


def _is_archive(source: OpenSource, entry: Entry) -> bool:
    descriptor = _opened_file(source.descriptor, entry)
    try:
        return is_archive(descriptor)
    finally:
        os.close(descriptor)


def _opened_file(root: int, entry: Entry) -> int:
    try:
        return open_beneath(root, entry.path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        name = entry.path.decode("utf-8", "backslashreplace")
        raise ContextError(f"/{name} can't be read: {error.strerror}") from error
