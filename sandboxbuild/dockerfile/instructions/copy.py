"""COPY and ADD."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from sandboxbuild.dockerfile import limits
from sandboxbuild.dockerfile.heredocs import Heredoc, is_mark, read_mark
from sandboxbuild.dockerfile.instructions.base import LIST, SWITCH, TEXT, Flag, Lowered, Raw, no_nul, read_flags
from sandboxbuild.dockerfile.instructions.remotes import git_source, is_git, is_url, url_source
from sandboxbuild.dockerfile.instructions.workdir import absolute_destination
from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.errors import InputError
from sandboxbuild.plan.modes import parse_mode
from sandboxbuild.plan.operations import ContextSource, CopyOp, CopySource, FileSource, InlineSource, StageSource

if TYPE_CHECKING:
    from sandboxbuild.dockerfile.scope import Scope

_SHARED: Final = (
    Flag("chown", TEXT, "Owner of what is copied: user[:group], names looked up in the image."),
    Flag("chmod", TEXT, "Mode of what is copied, octal or symbolic."),
    Flag("link", SWITCH, "The layer is made without looking at what is below it."),
    Flag("exclude", LIST, "A pattern, as in .dockerignore, of what is left out."),
)
COPY_FLAGS: Final = (
    *_SHARED,
    Flag("from", TEXT, "A stage by name or number, a named context or an image, in place of the build context."),
    Flag("parents", SWITCH, "Paths of the sources are kept, from `/./` on where it stands in one."),
)
ADD_FLAGS: Final = (
    *_SHARED,
    Flag("keep-git-dir", SWITCH, "Keep .git of a repository."),
    Flag("checksum", TEXT, "Digest of what a URL gives, or a repository's commit."),
    Flag("unpack", SWITCH, "Unpack archives, or don't; without it, local ones are and fetched ones aren't."),
)
_NUMBER: Final = r"[-+]?[0-9]+"


class Copy(NamedTuple):
    """`sources` are paths and URLs, `documents` the here-documents among the sources, all unexpanded."""

    raw: Raw
    sources: tuple[str, ...]
    documents: tuple[Heredoc, ...]
    destination: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()
    from_name: str = ""
    parents: bool = False
    keep_git_dir: bool | None = None
    checksum: str = ""
    unpack: bool | None = None

    @property
    def references(self) -> tuple[str, ...]:
        return (self.from_name,) if self.from_name else ()

    @property
    def is_add(self) -> bool:
        return self.raw.keyword == "ADD"

    def lower(self, scope: Scope) -> Lowered:
        new = self._expanded(scope)
        base: FileSource = scope.find_source(self.from_name, numbers=True) if self.from_name else ContextSource()
        grouped = _grouped(new.source_of(path, base) for path in new.sources)
        self._check_ignored(scope, (path for source, paths in grouped if source == ContextSource() for path in paths))
        if new.documents:
            files = tuple((document.name, _bytes(document.content)) for document in new.documents)
            grouped.append((InlineSource(files), ()))
        link = self.link and not new.chmod  # BuildKit copies in place where there is a mode to set
        if link:
            _refuse_names(new.chown)
        op = CopyOp(
            sources=tuple(source for source, _ in grouped),
            paths=tuple(paths for _, paths in grouped),
            destination=absolute_destination(scope.workdir, new.destination),
            owner=new.chown,
            mode=_checked_mode(new.chmod),
            is_add=self.is_add,
            unpack=self.unpack,
            link=link,
            parents=self.parents,
            exclude=self.exclude,  # as written: BuildKit expands no variable in it
        )
        depends_on = (base.stage,) if isinstance(base, StageSource) else ()
        return Lowered(new._history(), op, depends_on)

    def _check_ignored(self, scope: Scope, paths: Iterable[str]) -> None:
        ignore = scope.shared.ignore
        for path in paths:
            if ignore is not None and ignore.surely_leaves_out(path):
                scope.lint.ignored_source(self.raw.keyword, path, self.raw.place)

    def _expanded(self, scope: Scope) -> Copy:
        new = self._replace(
            sources=tuple(scope.expand(path) for path in self.sources),
            documents=tuple(_expanded_document(document, scope) for document in self.documents),
            destination=scope.expand(self.destination),
            chown=scope.expand(self.chown),
            chmod=scope.expand(self.chmod),
            checksum=scope.expand(self.checksum),
        )
        no_nul((*new.sources, new.destination, new.chown, *self.exclude), self.raw.keyword)
        _check_checksum(new)
        return new

    def source_of(self, path: str, base: FileSource) -> tuple[CopySource, str]:
        """Where a source comes from, and its path there ("" for what is fetched whole)."""
        git = is_git(path, said_so=self.keep_git_dir is not None)
        if not git and not is_url(path):
            if self.keep_git_dir is not None:
                raise Fault("--keep-git-dir is for git repositories", at="--keep-git-dir")
            return base, path or "/"
        if not self.is_add:
            raise Fault(f"source can't be a {'git ref' if git else 'URL'} for COPY", at=path, hint="ADD fetches it")
        if git:
            return git_source(path, self.checksum, self.keep_git_dir), ""
        return url_source(path, self.checksum), ""

    def _history(self) -> str:
        flags = (
            *(("--parents",) if self.parents else ()),
            *((f"--chown={self.chown}",) if self.chown else ()),
            *((f"--chmod={self.chmod}",) if self.chmod else ()),
        )
        documents = (f"<<{document.name}" for document in self.documents)
        return " ".join((self.raw.keyword, *flags, *self.sources, *documents, self.destination, "# buildkit"))


def _grouped(sources: Iterable[tuple[CopySource, str]]) -> list[tuple[CopySource, tuple[str, ...]]]:
    """Neighbours from the same tree come together."""
    groups: list[tuple[CopySource, list[str]]] = []
    for source, path in sources:
        if path and groups and groups[-1][1] and groups[-1][0] == source:
            groups[-1][1].append(path)
        else:
            groups.append((source, [path] if path else []))
    return [(source, tuple(paths)) for source, paths in groups]


def _expanded_document(document: Heredoc, scope: Scope) -> Heredoc:
    text = document.text
    return document._replace(content=scope.expand_heredoc(text) if document.expand else text, chomp=False)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _checked_mode(mode: str) -> str:
    """Raises a Fault for what is neither an octal number nor a mode of chmod(1)."""
    try:
        if mode:
            parse_mode(mode)
    except InputError as error:
        message = f"invalid chmod parameter: {mode[:100]!r}. it should be octal string and between 0 and 07777"
        raise Fault(message, at=mode, hint="or symbolic, such as u=rwX,go=rX") from error
    return mode


def _refuse_names(owner: str) -> None:
    """The layer of --link is made without the image, so nothing in it says which number a name is."""
    for name in owner.split(":", 1):
        if name not in ("", "root") and re.fullmatch(_NUMBER, name) is None:
            hint = "write its number, or leave --link out"
            raise Fault(f"--link can't look {name[:100]!r} up in the image", at=name, hint=hint)


def _check_checksum(copy: Copy) -> None:
    if not copy.checksum:
        return
    if len(copy.sources) != 1 or copy.documents:
        raise Fault("checksum can't be specified for multiple sources", at="--checksum")
    if not is_url(copy.sources[0]) and not is_git(copy.sources[0], said_so=copy.keep_git_dir is not None):
        raise Fault("checksum requires HTTP(S) or Git sources", at="--checksum")


def _parse(raw: Raw, table: tuple[Flag, ...]) -> Copy:
    if len(raw.words) < 2:
        raise Fault(
            f"{raw.keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
        )
    if len(raw.words) > limits.SOURCES:
        raise Fault(f"more than {limits.SOURCES} sources in one {raw.keyword}")
    flags = read_flags(raw, table)
    *sources, destination = raw.words
    if is_mark(destination):
        raise Fault(f"{raw.keyword} cannot accept a heredoc as a destination", at=destination)
    contents = {heredoc.name: heredoc for heredoc in raw.heredocs}
    marks = [read_mark(word) if raw.heredocs else None for word in sources]
    documents = tuple(contents.get(mark.name, mark)._replace(expand=mark.expand) for mark in marks if mark is not None)
    for document in documents:
        _check_name(document.name)
    return Copy(
        raw,
        tuple(word for word, mark in zip(sources, marks, strict=True) if mark is None),
        documents,
        destination,
        flags.text("chown"),
        flags.text("chmod"),
        bool(flags.switch("link")),
        flags.list("exclude"),
        flags.text("from"),
        bool(flags.switch("parents")),
        flags.switch("keep-git-dir"),
        flags.text("checksum"),
        flags.switch("unpack"),
    )


def _check_name(name: str) -> None:
    if "/" in name or name in (".", "..") or "\0" in name:
        raise Fault(f"the here-document's name {name[:100]!r} is no file name", at=name)


def parse_copy(raw: Raw) -> Copy:
    return _parse(raw, COPY_FLAGS)


def parse_add(raw: Raw) -> Copy:
    return _parse(raw, ADD_FLAGS)
