"""COPY and ADD as a pure function: a CopyOp, its source trees and the target tree give the list of file actions.

Sources of the rules: the Dockerfile reference, and BuildKit where that is silent (dockerfile2llb/convert_copy.go for what an
instruction asks, solver/llbsolver/file/backend.go and fsutil's copier for what is done).
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sandboxbuild.errors import ContextError, InputError
from sandboxbuild.fstree.actions import FileAction, UnpackArchive, WriteBytes
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.fstree.globs import has_wildcards
from sandboxbuild.fstree.paths import clean, encode, join, name_of, parent_of, rooted
from sandboxbuild.fstree.patterns import Patterns
from sandboxbuild.fstree.tree import FileTree, Tree, resolve
from sandboxbuild.plan.draft import Draft, Owner, shown
from sandboxbuild.plan.linking import over_existing
from sandboxbuild.plan.modes import ModeRule, parse_mode
from sandboxbuild.plan.operations import (
    ContextSource,
    CopyOp,
    CopySource,
    GitSource,
    ImageSource,
    InlineSource,
    StageSource,
    UrlSource,
)
from sandboxbuild.plan.selection import CONTEXT, Found, find, select
from sandboxbuild.plan.transfer import Rules, Transfer

NO_PATTERNS: Final = Patterns(())
ROOT_OWNER: Final = Owner(0, 0)
DIRECTORY_MODE: Final = 0o755
INLINE_MODE: Final = 0o644
URL_MODE: Final = 0o600
UNNAMED: Final = "__unnamed__"  # BuildKit's name for a URL without a last path component

IsArchive = Callable[[int, Entry], bool]


def copy_actions(
    op: CopyOp,
    sources: Sequence[Tree],
    target: Tree,
    *,
    owner: tuple[int, int] | None,
    now_ns: int,
    is_archive: IsArchive = lambda _origin, _entry: False,
) -> tuple[FileAction, ...]:
    """What carries out `op`, in order.

    `sources[i]` is the tree of `op.sources[i]`, ignore rules applied: a URL's holds one file, a git source's is the checkout,
    an inline source's isn't looked at. `owner` is --chown resolved in the target. `now_ns` is the time of what has none of
    its own. `is_archive(i, entry)` tells by content whether a file of source i is one; it is asked only where that matters.
    Raises ContextError for a missing source, InputError for patterns, modes and conflicts.
    """
    links = op.link and not op.mode  # BuildKit links only without --chmod
    draft = Draft(FileTree() if links else target, now_ns)
    copier = _Copier(op, draft, Owner(*owner) if owner is not None else None, is_archive)
    for origin, (source, tree) in enumerate(zip(op.sources, sources, strict=True)):
        copier.copy_source(origin, source, tree)
    return over_existing(draft.actions, target) if links else tuple(draft.actions)


def url_file_name(url: str) -> str:
    """The name of what ADD fetches: the last component of the URL's path, decoded, without query or header."""
    path = url.partition("://")[2].partition("#")[0].partition("?")[0].partition("/")[2]
    if "%" in path:
        from urllib.parse import unquote

        path = unquote(path, errors="surrogateescape")
    name = clean(f"/{path}").rpartition("/")[2]
    return name if name and "\0" not in name else UNNAMED


class _Destination(NamedTuple):
    """`path` is clean and without the leading slash; `inside` says that it was written as a directory."""

    path: bytes
    inside: bool


class _Pivot(NamedTuple):
    """A source of --parents: where the walk starts, what to take of it, and the path that must be among that, if any.

    A `/./` ends what is left off of the path.
    """

    start: str
    taken: str
    required: str | None

    @classmethod
    def of(cls, pattern: str) -> _Pivot:
        start, pivot, rest = pattern.partition("/./")
        if not pivot:
            start, rest = "", pattern
        rest = rooted(rest)
        named = not has_wildcards(start) and not has_wildcards(rest)
        return cls(start, rest, rooted(f"{start}/{rest}") if named else None)


class _Copier:
    """One CopyOp being decided."""

    def __init__(self, op: CopyOp, draft: Draft, owner: Owner | None, is_archive: IsArchive) -> None:
        self._op = op
        self._draft = draft
        self._owner = owner
        self._is_archive = is_archive
        self._mode: ModeRule | None = parse_mode(op.mode) if op.mode else None
        self._exclude = Patterns(op.exclude)  # refuses malformed ones even where nothing is excluded
        _refuse_nul(op.destination)
        self._destination = _Destination(encode(rooted(op.destination)), op.destination.endswith(("/", "/.")))

    def copy_source(self, origin: int, source: CopySource, tree: Tree) -> None:
        if isinstance(source, InlineSource):
            self._copy_inline(source)
        elif isinstance(source, UrlSource):
            self._copy_url(origin, source, tree)
        elif isinstance(source, GitSource):
            self._copy_git(origin, tree)
        else:
            for pattern in self._op.paths[origin]:
                _refuse_nul(pattern)
                self._copy_pattern(origin, source, tree, pattern)

    def _rules(self, origin: int) -> Rules:
        return Rules(origin, self._owner or ROOT_OWNER, self._mode, self._exclude, NO_PATTERNS)

    def _copy_pattern(self, origin: int, source: StageSource | ImageSource | ContextSource, tree: Tree, pattern: str) -> None:
        where = _where(source)
        rules = self._rules(origin)
        if not isinstance(source, ContextSource):
            rules = rules._replace(owner=self._owner)
        if self._op.parents:
            self._copy_with_parents(_Pivot.of(pattern), tree, rules, where)
            return
        unpacks = self._op.is_add if self._op.unpack is None else self._op.unpack
        for path in select(tree, pattern, where):
            found = find(tree, path, where)
            if unpacks and found.entry.is_file and self._is_archive(origin, found.entry):
                self._unpack(origin, found.entry)
            else:
                self._place(name_of(path), found, tree, rules, contents=True)

    def _copy_with_parents(self, pivot: _Pivot, tree: Tree, rules: Rules, where: str) -> None:
        """A path without wildcards has to be there, by itself and not through a link, and has to be taken."""
        if pivot.required is not None and tree.entry(encode(pivot.required)) is None:
            raise ContextError(f"/{pivot.required} is not in {where}")
        rules = rules._replace(include=Patterns((pivot.taken,)), exclude=_excluding_below(self._op.exclude, pivot.taken))
        taken = False
        for path in select(tree, pivot.start, where) if pivot.taken else ():
            found = find(tree, path, where)
            if where == CONTEXT and path and not found.entry.is_directory:
                continue  # BuildKit's context brings only what lies below
            taken |= self._place(name_of(path), found, tree, rules, contents=True)
        if pivot.required is not None and not taken:
            hint = "--parents copies named paths: write * for all" if not pivot.taken else "--exclude leaves it out"
            raise ContextError(f"/{pivot.required} is not taken from {where}", hint=hint)

    def _copy_url(self, origin: int, source: UrlSource, tree: Tree) -> None:
        names = tree.children(b"")
        entry = tree.entry(names[0]) if names else None
        if entry is None or not entry.is_file:
            raise ContextError(f"{url_file_name(source.url)} was not fetched")
        if self._op.unpack and self._is_archive(origin, entry):
            self._unpack(origin, entry)
            return
        entry = entry._replace(mode=stat.S_IFREG | URL_MODE, xattrs=())
        self._place(encode(url_file_name(source.url)), Found(entry.path, entry), tree, self._rules(origin), contents=False)

    def _copy_git(self, origin: int, tree: Tree) -> None:
        self._place(b"", find(tree, b"", "the git repository"), tree, self._rules(origin), contents=False)

    def _copy_inline(self, source: InlineSource) -> None:
        uid, gid = self._owner or ROOT_OWNER
        mode = self._mode.apply(stat.S_IFREG | INLINE_MODE) if self._mode is not None else INLINE_MODE
        for name, content in source.files:
            _refuse_nul(name)
            target = self._target_of(encode(name).rpartition(b"/")[2], is_directory=False, contents=False)
            existing = self._draft.entry(target)
            if existing is not None and existing.is_directory:
                raise InputError(f"cannot replace the directory {shown(target)} by a file")
            action = WriteBytes(target, content, mode, uid, gid, self._draft.now_ns)
            self._draft.add(action, Entry(target, stat.S_IFREG | mode, uid, gid))

    def _place(self, name: bytes, found: Found, tree: Tree, rules: Rules, *, contents: bool) -> bool:
        """Whether something was taken."""
        target = self._target_of(name, is_directory=found.entry.is_directory, contents=contents)
        return Transfer(self._draft, tree, rules).copy(found.entry, target)

    def _target_of(self, name: bytes, *, is_directory: bool, contents: bool) -> bytes:
        """The path for a source called `name`, its parent made; for a directory's `contents` the path itself is made, too."""
        self._make(self._destination.path if self._destination.inside else parent_of(self._destination.path))
        target, existing = resolve(self._draft, self._destination.path)
        if not is_directory and existing is not None and existing.is_directory:
            target = join(target, name)
        self._make(target if is_directory and contents and existing is None else parent_of(target))
        return target

    def _unpack(self, origin: int, entry: Entry) -> None:
        target = self._draft.make_directories(self._destination.path, DIRECTORY_MODE, self._owner)
        uid, gid = self._owner or (None, None)
        self._draft.actions.append(UnpackArchive(target.path, origin, entry, uid, gid))

    def _make(self, path: bytes) -> None:
        octal = self._mode.octal if self._mode is not None else None
        self._draft.make_directories(path, DIRECTORY_MODE if octal is None else octal, self._owner)


def _excluding_below(exclude: tuple[str, ...], taken: str) -> Patterns:
    """--exclude beside --parents: relative to where the walk starts, as BuildKit has it, and to the directory that is named.

    The second is what the reference says ("relative to the source"); without it `--exclude=*.txt --parents d/` takes d/a.txt.
    """
    if has_wildcards(taken) or not taken:
        return Patterns(exclude)
    below = taken.replace("\\", "\\\\")
    rebased = (
        f"!{below}/{text[1:]}" if text.startswith("!") else f"{below}/{text}" for text in map(str.strip, exclude) if text
    )
    return Patterns(pattern for pair in zip(filter(str.strip, exclude), rebased, strict=True) for pattern in pair)


def _where(source: StageSource | ImageSource | ContextSource) -> str:
    if isinstance(source, StageSource):
        return f"stage {source.stage}"
    if isinstance(source, ImageSource):
        return f"the image {source.reference}"
    return f"the context {source.name}" if source.name else CONTEXT


def _refuse_nul(path: str) -> None:
    if "\0" in path:
        raise InputError(f"{path!r} has a NUL character, which no path can have")
