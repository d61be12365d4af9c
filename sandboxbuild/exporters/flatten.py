"""The layers of an image as one tree, read twice and never unpacked: first who wins at each path, then the winners' bytes.

Only names and places are held in memory. Deletions, replaced files and hard links across layers are settled in the first
reading, so what comes out is a plain archive without whiteouts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sandboxbuild.archive import member as kinds
from sandboxbuild.archive.member import ArchiveLimits, TarMember
from sandboxbuild.errors import IntegrityError, LimitExceeded
from sandboxbuild.exporters.layer_streams import LayerStream
from sandboxbuild.fstree import whiteout
from sandboxbuild.oci.image import Layer
from sandboxbuild.store import Store

_MAX_LINKS: Final = 40
_MAX_DEPTH: Final = 512


class _Inode:
    """What names stand for: the member at (`layer`, `ordinal`), whose content is wanted under `names`."""

    __slots__ = ("kind", "layer", "member", "names", "ordinal", "target")

    def __init__(self, layer: int, ordinal: int, kind: bytes, target: bytes) -> None:
        self.layer = layer
        self.ordinal = ordinal
        self.kind = kind
        self.target = target
        self.names: list[bytes] = []
        self.member: TarMember | None = None  # of directories, which come out before all else


class _Node:
    """A name in the tree; `children` is None for what is no directory. `inode` None: a directory nobody described."""

    __slots__ = ("children", "inode", "layer")

    def __init__(self, inode: _Inode | None, layer: int, is_directory: bool) -> None:
        self.inode = inode
        self.layer = layer
        self.children: dict[bytes, _Node] | None = {} if is_directory else None


class FlatTree:
    """The members of a whole image in an order that any tar reader takes: directories, then files with their hard links.

    Speaks like a TarReader: next_member(), then piece(). Raises IntegrityError for layers that aren't as announced or that
    leave the root, LimitExceeded. close() when done.
    """

    def __init__(self, store: Store, layers: tuple[Layer, ...], limits: ArchiveLimits | None = None) -> None:
        self._store = store
        self._layers = layers
        self._limits = limits or ArchiveLimits()
        self._root = _Node(None, 0, is_directory=True)
        self._stream: LayerStream | None = None
        self._wanted: dict[tuple[int, int], _Inode] = {}
        self._directories: list[TarMember] = []
        self._read_names()
        self._collect()
        self._members = self._produce()

    def next_member(self) -> TarMember | None:
        return next(self._members, None)

    def piece(self) -> memoryview:
        """The next stored bytes of the last member; empty for one that has none, such as a hard link."""
        return memoryview(b"") if self._stream is None or not self._has_content else self._stream.reader.piece()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    _has_content = False

    def _read_names(self) -> None:
        total = 0
        for number, layer in enumerate(self._layers):
            hidden: list[whiteout.Whiteout] = []
            members: list[tuple[int, bytes, TarMember]] = []
            with LayerStream(self._store, layer, self._limits) as stream:
                ordinal = 0
                while (found := stream.reader.next_member()) is not None:
                    ordinal += 1
                    path = _clean(found.path, found.path)
                    if whiteout.is_aufs_bookkeeping(path):
                        continue
                    deleted = _whiteout(path)
                    if deleted is not None:
                        hidden.append(deleted)
                    else:
                        members.append((ordinal, path, found))
                stream.verify()
            total += ordinal
            if total > self._limits.entries:
                raise LimitExceeded(f"the image has more than {self._limits.entries} files")
            self._apply(number, hidden, members)

    def _apply(self, number: int, hidden: list[whiteout.Whiteout], members: list[tuple[int, bytes, TarMember]]) -> None:
        """Whiteouts are about lower layers alone, so they come first wherever they stand."""
        for deletion in hidden:
            self._hide(deletion)
        for ordinal, path, found in members:
            self._add(number, ordinal, path, found)

    def _hide(self, deletion: whiteout.Whiteout) -> None:
        parts = deletion.path.split(b"/") if deletion.path else []
        if deletion.opaque:
            node = self._lookup(parts)
            if node is not None and node.children is not None:
                node.children.clear()
        elif (parent := self._lookup(parts[:-1])) is not None and parent.children is not None:
            parent.children.pop(parts[-1], None)

    def _add(self, number: int, ordinal: int, path: bytes, found: TarMember) -> None:
        is_directory = found.kind == kinds.DIRECTORY
        if not path:
            if not is_directory:
                raise IntegrityError("a layer's entry would replace the root")
            self._root.inode = _directory_inode(number, ordinal, found)
            return
        parts = path.split(b"/")
        parent = self._made(parts[:-1], number)
        if found.kind == kinds.HARD_LINK:
            inode = self._linked(found)
        else:
            inode = (
                _directory_inode(number, ordinal, found)
                if is_directory
                else _Inode(number, ordinal, found.kind, found.link_target)
            )
        assert parent.children is not None
        present = parent.children.get(parts[-1])
        if is_directory and present is not None and present.children is not None:
            present.inode, present.layer = inode, number
        else:
            parent.children[parts[-1]] = _Node(inode, number, is_directory)

    def _linked(self, found: TarMember) -> _Inode:
        target = _clean(found.link_target, found.path)
        node = self._lookup(target.split(b"/"), follow_last=False)
        if node is None or node.inode is None or node.children is not None:
            raise IntegrityError(f"{found.path[:200]!a} is a hard link to {target[:200]!a}, and no such file is there")
        return node.inode

    def _lookup(self, parts: list[bytes], *, follow_last: bool = True) -> _Node | None:
        return self._walk(parts, None, follow_last)

    def _made(self, parts: list[bytes], number: int) -> _Node:
        node = self._walk(parts, number, follow_last=True)
        assert node is not None
        return node

    def _walk(self, parts: list[bytes], number: int | None, follow_last: bool) -> _Node | None:
        """The node that `parts` mean, links followed inside the tree; with `number`, missing directories are made."""
        trail = [self._root]
        pending = parts[::-1]
        links = 0
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                trail = trail[:-1] or [self._root]
                continue
            children = trail[-1].children
            assert children is not None
            node = children.get(name)
            if node is not None and node.inode is not None and node.inode.kind == kinds.SYMLINK and (pending or follow_last):
                links += 1
                if links > _MAX_LINKS or len(pending) > 4096:
                    raise IntegrityError("a layer's entry lies below links that lead in circles")
                if node.inode.target.startswith(b"/"):
                    trail = [self._root]
                pending.extend(node.inode.target.split(b"/")[::-1])
                continue
            if node is None or (node.children is None and (pending or number is not None)):
                if number is None:
                    return None
                node = children[name] = _Node(None, number, is_directory=True)
            trail.append(node)
            if len(trail) > _MAX_DEPTH:
                raise LimitExceeded(f"an entry lies deeper than {_MAX_DEPTH} directories")
        return trail[-1]

    def _collect(self) -> None:
        """List the directories, parents first, and note for each inode the names under which it survived."""
        pending: list[tuple[bytes, _Node]] = [(b"", self._root)]
        while pending:
            path, node = pending.pop()
            if node.children is None:
                assert node.inode is not None
                node.inode.names.append(path)
                self._wanted[node.inode.layer, node.inode.ordinal] = node.inode
                continue
            self._directories.append(_described(path, node))
            prefix = path + b"/" if path else b""
            pending.extend((prefix + name, child) for name, child in sorted(node.children.items(), reverse=True))
        self._root.children = None

    def _produce(self) -> Iterator[TarMember]:
        yield from self._directories
        self._directories = []
        for number, layer in enumerate(self._layers):
            wanted = {ordinal for at, ordinal in self._wanted if at == number}
            if not wanted:
                continue
            with LayerStream(self._store, layer, self._limits) as self._stream:
                ordinal = 0
                while wanted and (found := self._stream.reader.next_member()) is not None:
                    ordinal += 1
                    if ordinal in wanted:
                        wanted.discard(ordinal)
                        yield from self._named(found, self._wanted[number, ordinal].names)
                self._stream.verify()
            self._stream = None

    def _named(self, found: TarMember, names: list[bytes]) -> Iterator[TarMember]:
        self._has_content = True
        yield found._replace(path=names[0])
        self._has_content = False
        for name in names[1:]:
            yield found._replace(
                path=name, kind=kinds.HARD_LINK, link_target=names[0], size_bytes=0, stored_bytes=0, segments=None, xattrs=()
            )


def _directory_inode(number: int, ordinal: int, found: TarMember) -> _Inode:
    inode = _Inode(number, ordinal, found.kind, b"")
    inode.member = found
    return inode


def _described(path: bytes, node: _Node) -> TarMember:
    """A directory that no layer describes is root's, 0755."""
    found = node.inode.member if node.inode is not None else None
    if found is None:
        return TarMember(path, kinds.DIRECTORY, 0o755, 0, 0, 0, 0, 0)
    return found._replace(path=path)


def _clean(raw: bytes, entry: bytes) -> bytes:
    """A path of the archive below the root. Raises IntegrityError for one that would leave it."""
    parts: list[bytes] = []
    for part in raw.split(b"/"):
        if part == b"..":
            if not parts:
                raise IntegrityError(f"the entry {entry[:200]!a} would leave the root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    if len(parts) > _MAX_DEPTH:
        raise LimitExceeded(f"the entry {entry[:200]!a} lies deeper than {_MAX_DEPTH} directories")
    return b"/".join(parts)


def _whiteout(path: bytes) -> whiteout.Whiteout | None:
    try:
        return whiteout.read_whiteout(path)
    except whiteout.NotAWhiteout as error:
        raise IntegrityError(f"the whiteout {path[:200]!a} is invalid: {error}") from error
