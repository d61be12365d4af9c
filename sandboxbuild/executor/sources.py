"""Where COPY, ADD and bind mounts take files from: the context, a stage, an image. Each becomes a directory and a Tree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sandboxbuild.dockerfile.ignore import IgnoreRules, parse_ignore
from sandboxbuild.errors import ContextError
from sandboxbuild.executor.bases import Bases
from sandboxbuild.executor.channel import Vertex
from sandboxbuild.executor.contexts import Contexts
from sandboxbuild.executor.layers import Layers, Rootfs
from sandboxbuild.executor.results import StageResults
from sandboxbuild.plan.operations import SCRATCH, ContextSource, FileSource, ImageSource, StageSource
from sandboxbuild.plan.steps import BaseImage
from sandboxbuild.snapshotters import Snapshotter
from sandboxbuild.system.files import open_beneath, read_limited

IGNORE_FILE_LIMIT_BYTES = 1024 * 1024


class SourceRoot(NamedTuple):
    """A directory to take from. `ignore` applies below it; `keeps_owners` is False for contexts, whose files become 0:0."""

    path: str
    ignore: IgnoreRules | None
    keeps_owners: bool


class Sources:
    """The file sources of one build. Thread-safe."""

    def __init__(
        self,
        contexts: Contexts,
        *,
        layers: Layers,
        bases: Bases,
        results: StageResults,
        snapshotter: Snapshotter,
        scratch: str,
    ) -> None:
        self._contexts = contexts
        self._layers = layers
        self._bases = bases
        self._results = results
        self._snapshotter = snapshotter
        self._scratch = scratch
        self._ignore: dict[str, IgnoreRules] = {}

    def identity(self, source: StageSource | ImageSource) -> str:
        """What names the whole content of a source: its ChainID."""
        return self._rootfs(source).chain_id

    @contextmanager
    def root(self, source: FileSource, vertex: Vertex) -> Iterator[SourceRoot]:
        """The source as a directory. Those of stages and images may be written to; what is written is gone afterwards."""
        if isinstance(source, ContextSource):
            yield self.context(source.name)
            return
        parents = self._layers.directories(self._rootfs(source), vertex)
        with self._snapshotter.workspace(parents, self._scratch) as workspace:
            yield SourceRoot(workspace.root, None, True)

    def context(self, name: str) -> SourceRoot:
        """A context that is a tree. Raises ContextError where the build has none."""
        path = self._contexts.folder(name)
        return SourceRoot(path, self._rules(name, path), False)

    def _rules(self, name: str, path: str) -> IgnoreRules:
        if name not in self._ignore:
            self._ignore[name] = parse_ignore(read_ignore_file(path)) if name else main_rules(self._contexts)
        return self._ignore[name]

    def _rootfs(self, source: StageSource | ImageSource) -> Rootfs:
        if isinstance(source, StageSource):
            return self._results.get(source.stage).rootfs
        if source.reference == SCRATCH:
            return Rootfs()
        return self._bases.resolve(BaseImage(source.reference, source.platform)).rootfs


def main_rules(contexts: Contexts) -> IgnoreRules:
    """What the build context leaves out: by the ignore file beside the Dockerfile, else by its own."""
    given = contexts.dockerfile().ignore_file
    return parse_ignore(given if given is not None else read_ignore_file(contexts.folder()))


def read_ignore_file(context: str) -> bytes:
    """The context's .dockerignore, b"" where there is none. It may not be a link (CVE-2022-4122)."""
    root = os.open(context, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = open_beneath(root, ".dockerignore", os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ContextError(f"the context's .dockerignore can't be read: {error.strerror}") from error
    finally:
        os.close(root)
    try:
        return read_limited(descriptor, IGNORE_FILE_LIMIT_BYTES)
    finally:
        os.close(descriptor)
