"""A git repository over smart HTTP, fetched and checked out by our own code: no git program, no hooks.

What is fetched is one commit without its history, and one of each submodule.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from sandboxbuild.contexts import Fetch
from sandboxbuild.contexts.gitcheckout import Checkout, CheckoutLimits
from sandboxbuild.contexts.gitdir import Head, write_git_folder
from sandboxbuild.contexts.gitmodules import FILE_NAME, SIZE_LIMIT_BYTES, Submodule, parse_gitmodules, submodule_url
from sandboxbuild.contexts.gitobjects import COMMIT, TAG, TAG_DEPTH_LIMIT, parse_commit, parse_tag, shown
from sandboxbuild.contexts.gitpack import Pack, PackFile, PackLimits
from sandboxbuild.contexts.gitremote import Remote
from sandboxbuild.contexts.gitwire import Ref, is_plain_reference, is_sha256_id, read_fetch
from sandboxbuild.contexts.pktline import read_packets
from sandboxbuild.errors import ContextError, DockerfileError, LimitExceeded
from sandboxbuild.plan.operations import GitSource
from sandboxbuild.system.files import open_beneath, open_in_root, read_limited

URL_LIMIT: Final = 4096
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SHOWN: Final = 200


class Limits(NamedTuple):
    """`pack` and `checkout` hold for each repository, `submodules` for all together, `depth` for those within others."""

    pack: PackLimits = PackLimits()
    checkout: CheckoutLimits = CheckoutLimits()
    submodules: int = 500
    depth: int = 16


class Cloned(NamedTuple):
    """A checkout. `path` is the sub-directory that was asked for; `skipped` are submodules that `.gitmodules` leaves out."""

    path: str
    commit: str
    skipped: tuple[str, ...]


def clone(
    source: GitSource,
    fetch: Fetch,
    folder: str,
    *,
    owner: tuple[int, int] | None,
    limits: Limits = Limits(),  # noqa: B008
) -> Cloned:
    """Fetch what `source` names into the new directory `folder`. Raises ContextError, LimitExceeded, and what `fetch` does.

    A commit other than the checksum's is a DockerfileError. All that is made belongs to `owner`; times are the commit's.
    """
    os.mkdir(folder, 0o755)
    folder_fd = os.open(folder, _OPEN_DIRECTORY)
    try:
        making = _Making(fetch, folder, folder_fd, owner, limits)
        top = making.one(source, b"")
        skipped = making.submodules(source.url, top) if source.submodules else ()
        path = _subdirectory(folder, folder_fd, source.subdirectory)
        return Cloned(path, top.commit, tuple(link.path.decode("utf-8", "backslashreplace") for link in skipped))
    finally:
        os.close(folder_fd)


class _Link(NamedTuple):
    """A submodule of a tree: its path from the top of everything, and its commit's id."""

    path: bytes
    commit: str


class _Done(NamedTuple):
    """A repository that was checked out at `place`, with the submodules of its own tree."""

    place: bytes
    commit: str
    links: tuple[_Link, ...]


class _Making:
    """One clone with its submodules, below the directory `folder_fd` that is at `folder`."""

    def __init__(self, fetch: Fetch, folder: str, folder_fd: int, owner: tuple[int, int] | None, limits: Limits) -> None:
        self._fetch = fetch
        self._folder = folder
        self._folder_fd = folder_fd
        self._owner = owner
        self._limits = limits

    def submodules(self, url: str, top: _Done) -> tuple[_Link, ...]:
        """Check out what `top` links to, and what that links to. Gives what was left out, since `.gitmodules` says so."""
        pending = [(url, top, 0)]
        skipped: list[_Link] = []
        count = 0
        while pending:
            parent, done, depth = pending.pop()
            known = parse_gitmodules(self._gitmodules(done.place)) if done.links else {}
            for link in done.links:
                module = known.get(link.path.removeprefix(done.place + b"/") if done.place else link.path)
                if module is not None and module.update == b"none":
                    skipped.append(link)
                    continue
                count += 1
                if depth >= self._limits.depth or count > self._limits.submodules:
                    raise LimitExceeded(
                        f"a repository may have {self._limits.submodules} submodules, {self._limits.depth} deep",
                        hint="?submodules=false fetches none",
                    )
                source = _submodule(parent, link, module)
                pending.append((source.url, self.one(source, link.path), depth + 1))
        return tuple(skipped)

    def one(self, source: GitSource, place: bytes) -> _Done:
        """Check one repository out into the empty directory at `place`."""
        _check(source)
        remote = Remote(source.url, self._fetch)
        ref = remote.resolve(source.reference)
        pack_path = f"{self._folder}.pack"
        try:
            shallow = _save_pack(remote, ref, pack_path, self._limits.pack)
            descriptor = os.open(pack_path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                with Pack(descriptor, self._limits.pack) as pack:
                    return self._check_out(source, ref, pack, pack_path, shallow, place)
            finally:
                os.close(descriptor)
        finally:
            if os.path.exists(pack_path):
                os.unlink(pack_path)

    def _check_out(
        self, source: GitSource, ref: Ref, pack: Pack, pack_path: str, shallow: tuple[bytes, ...], place: bytes
    ) -> _Done:
        commit = _peel(pack, bytes.fromhex(ref.object_id.decode("ascii")))
        _verify(source, ref, commit.hex())
        found = parse_commit(pack.read(commit, COMMIT))
        checkout = Checkout(pack, time_s=found.time_s, owner=self._owner, limits=self._limits.checkout)
        directory = open_beneath(self._folder_fd, place, _OPEN_DIRECTORY)
        try:
            checkout.write(found.tree, directory)
            if source.keep_git_dir and not source.subdirectory.strip("/."):
                tag = (ref.name, ref.object_id) if ref.name.startswith(b"refs/tags/") else None
                head = Head(commit.hex().encode("ascii"), ref.name, tag, shallow)
                write_git_folder(os.path.join(self._folder, ".git"), head, pack, pack_path, checkout.written)
                _give(os.path.join(self._folder, ".git"), self._owner, found.time_s)
                os.utime(directory, (found.time_s, found.time_s))
        finally:
            os.close(directory)
        links = (_Link(place + b"/" + path if place else path, commit.hex()) for path, commit in checkout.gitlinks)
        return _Done(place, commit.hex(), tuple(links))

    def _gitmodules(self, place: bytes) -> bytes:
        """The file at the top of a checkout, empty where there is none; a link in its place is none."""
        path = place + b"/" + FILE_NAME if place else FILE_NAME
        try:
            descriptor = open_beneath(self._folder_fd, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return b""
        try:
            return read_limited(descriptor, SIZE_LIMIT_BYTES)
        except OSError as error:
            raise ContextError(f".gitmodules can't be read: {error.strerror}") from error
        finally:
            os.close(descriptor)


def _submodule(parent: str, link: _Link, module: Submodule | None) -> GitSource:
    """Where a submodule comes from; its commit is the one that the parent's tree names."""
    if module is None or not module.url:
        raise ContextError(
            f"the submodule {shown(link.path[:80])} has no URL in .gitmodules", hint="?submodules=false fetches none"
        )
    if module.update.startswith(b"!"):
        raise ContextError(f"the submodule {shown(link.path[:80])} asks for a command to be run")
    url = submodule_url(parent, module.url.decode("utf-8", "backslashreplace"))
    return GitSource(url, link.commit, checksum=link.commit)


def _check(source: GitSource) -> None:
    """Refuse what can't be fetched before anything is asked."""
    if not source.url.startswith(("http://", "https://")):
        raise ContextError(
            f"git over this protocol is not supported: {source.url[:_SHOWN]}", hint="give the repository's https:// URL"
        )
    if len(source.url) > URL_LIMIT or not is_plain_reference(source.reference):
        raise ContextError(f"not a reference that git knows: {source.reference[:_SHOWN]!r}")
    if is_sha256_id(source.reference):
        raise ContextError("repositories with sha256 object ids are not supported")
    if ".." in source.subdirectory.split("/") or "\0" in source.subdirectory:
        raise ContextError(f"the sub-directory {source.subdirectory[:_SHOWN]!r} would leave the repository")


def _save_pack(remote: Remote, ref: Ref, path: str, limits: PackLimits) -> tuple[bytes, ...]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        pack = PackFile(descriptor, limits)
        response = remote.fetch(ref.object_id)
        try:
            shallow = read_fetch(read_packets(response), pack.write)
        finally:
            response.close()
        pack.finish()
    finally:
        os.close(descriptor)
    return shallow


def _peel(pack: Pack, object_id: bytes) -> bytes:
    """The commit that an id leads to, through annotated tags."""
    for _ in range(TAG_DEPTH_LIMIT):
        found = pack.find(object_id)
        if found is None or found[0] not in (COMMIT, TAG):
            break
        if found[0] == COMMIT:
            return object_id
        object_id = parse_tag(found[1])
    raise ContextError(f"the git server left out the commit {object_id.hex()}")


def _verify(source: GitSource, ref: Ref, commit: str) -> None:
    """The checksum is the beginning of the commit's id, or of an annotated tag's own."""
    wanted = source.checksum
    if wanted and not commit.startswith(wanted) and not ref.object_id.decode("ascii").startswith(wanted):
        raise DockerfileError(f"{source.url[:_SHOWN]} is at the commit {commit}, and {wanted} was asked for")


def _subdirectory(folder: str, folder_fd: int, wanted: str) -> str:
    """The real path of a directory in the checkout; links that lead out of it lead nowhere."""
    if not wanted.strip("/."):
        return folder
    try:
        descriptor = open_in_root(folder_fd, wanted, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise ContextError(f"the repository has no directory {wanted[:_SHOWN]!r}: {error.strerror}") from error
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _give(top: str, owner: tuple[int, int] | None, time_s: int) -> None:
    """Owner, modes and time of what was made below `top`, all of it ours."""
    for folder, _, files in os.walk(top, topdown=False):
        for name in (*files, ""):
            path = os.path.join(folder, name) if name else folder
            os.chmod(path, 0o644 if name else 0o755)
            if owner is not None:
                os.chown(path, *owner)
            os.utime(path, (time_s, time_s))
