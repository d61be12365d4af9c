"""A git repository over smart HTTP, fetched and checked out by our own code: no git program, no hooks, no submodules.

What is fetched is one commit without its history.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from sandboxbuild.contexts import Fetch
from sandboxbuild.contexts.gitcheckout import Checkout, CheckoutLimits
from sandboxbuild.contexts.gitdir import Head, write_git_folder
from sandboxbuild.contexts.gitobjects import COMMIT, TAG, TAG_DEPTH_LIMIT, parse_commit, parse_tag
from sandboxbuild.contexts.gitpack import Pack, PackFile, PackLimits
from sandboxbuild.contexts.gitwire import (
    Ref,
    candidates,
    choose_ref,
    fetch_request,
    is_commit_id,
    is_plain_reference,
    is_sha256_id,
    ls_refs_request,
    read_capabilities,
    read_fetch,
    read_refs,
)
from sandboxbuild.contexts.pktline import read_packets
from sandboxbuild.errors import ContextError, DockerfileError
from sandboxbuild.plan.operations import GitSource
from sandboxbuild.registry import BytesBody, Response
from sandboxbuild.system.files import open_in_root

SERVICE: Final = "git-upload-pack"
PROTOCOL: Final = {"git-protocol": "version=2"}
LOCATION_HEADER: Final = "sandboxbuild-location"
URL_LIMIT: Final = 4096
_SHOWN: Final = 200


class Limits(NamedTuple):
    pack: PackLimits = PackLimits()
    checkout: CheckoutLimits = CheckoutLimits()


class Cloned(NamedTuple):
    """A checkout. `path` is the sub-directory that was asked for; `gitlinks` are submodules, left as empty directories."""

    path: str
    commit: str
    gitlinks: tuple[str, ...]


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
    _check(source)
    remote = _Remote(source.url, fetch)
    ref = remote.resolve(source.reference)
    pack_path = f"{folder}.pack"
    os.mkdir(folder, 0o755)
    try:
        shallow = _save_pack(remote, ref, pack_path, limits.pack)
        descriptor = os.open(pack_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with Pack(descriptor, limits.pack) as pack:
                return _check_out(source, ref, pack, pack_path, shallow, folder, owner, limits.checkout)
        finally:
            os.close(descriptor)
    finally:
        if os.path.exists(pack_path):
            os.unlink(pack_path)


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


class _Remote:
    """One repository on its server."""

    def __init__(self, url: str, fetch: Fetch) -> None:
        self._url = url.rstrip("/")
        self._shown = url[:_SHOWN]
        self._fetch = fetch

    def resolve(self, reference: str) -> Ref:
        """What is to be fetched. A whole commit id needs no look at the refs."""
        self._discover()
        if is_commit_id(reference):
            return Ref(b"", reference.encode("ascii"))
        request = ls_refs_request(candidates(reference) if not _is_short(reference) else ())
        response = self._post(request)
        try:
            ref = choose_ref(read_refs(read_packets(response)), reference)
        finally:
            response.close()
        if ref is None:
            hint = (
                "a commit is named by all of its 40 digits" if _is_short(reference) else "a branch, a tag, or a whole commit id"
            )
            raise ContextError(f"{self._shown} has no {reference[:_SHOWN] or 'HEAD'!r}", hint=hint)
        return ref

    def fetch(self, wanted: bytes) -> Response:
        return self._post(fetch_request(wanted, 1))

    def _discover(self) -> None:
        """The server's capabilities; a redirect here moves the repository, as in git."""
        asked = f"{self._url}/info/refs?service={SERVICE}"
        response = self._fetch(asked, PROTOCOL)
        try:
            self._expect(response, f"application/x-{SERVICE}-advertisement")
            read_capabilities(read_packets(response))
            moved = response.headers.get(LOCATION_HEADER, "")
            if moved.endswith(f"/info/refs?service={SERVICE}"):
                self._url = moved.removesuffix(f"/info/refs?service={SERVICE}")
        finally:
            response.close()

    def _post(self, request: bytes) -> Response:
        headers = {**PROTOCOL, "content-type": f"application/x-{SERVICE}-request"}
        response = self._fetch(f"{self._url}/{SERVICE}", headers, BytesBody(request))
        try:
            self._expect(response, f"application/x-{SERVICE}-result")
        except BaseException:
            response.close()
            raise
        return response

    def _expect(self, response: Response, content_type: str) -> None:
        if response.status in (401, 403):
            raise ContextError(
                f"{self._shown} wants a login: HTTP status {response.status}", hint="--secret id=GIT_AUTH_TOKEN gives one"
            )
        if response.status != 200:
            raise ContextError(f"{self._shown} can't be fetched: HTTP status {response.status}")
        if response.headers.get("content-type", "").partition(";")[0].strip() != content_type:
            raise ContextError(f"{self._shown} is no git repository that smart HTTP serves")


def _is_short(reference: str) -> bool:
    return 7 <= len(reference) < 40 and all(digit in "0123456789abcdef" for digit in reference)


def _save_pack(remote: _Remote, ref: Ref, path: str, limits: PackLimits) -> tuple[bytes, ...]:
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


def _check_out(
    source: GitSource,
    ref: Ref,
    pack: Pack,
    pack_path: str,
    shallow: tuple[bytes, ...],
    folder: str,
    owner: tuple[int, int] | None,
    limits: CheckoutLimits,
) -> Cloned:
    commit = _peel(pack, bytes.fromhex(ref.object_id.decode("ascii")))
    _verify(source, ref, commit.hex())
    found = parse_commit(pack.read(commit, COMMIT))
    checkout = Checkout(pack, time_s=found.time_s, owner=owner, limits=limits)
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        checkout.write(bytes.fromhex(found.tree.hex()), folder_fd)
        path = _subdirectory(folder, folder_fd, source.subdirectory)
        if source.keep_git_dir and path == folder:
            tag = (ref.name, ref.object_id) if ref.name.startswith(b"refs/tags/") else None
            head = Head(commit.hex().encode("ascii"), ref.name, tag, shallow)
            write_git_folder(os.path.join(folder, ".git"), head, pack, pack_path, checkout.written)
            _give(os.path.join(folder, ".git"), owner, found.time_s)
            os.utime(folder_fd, (found.time_s, found.time_s))
    finally:
        os.close(folder_fd)
    return Cloned(path, commit.hex(), tuple(link.decode("utf-8", "backslashreplace") for link in checkout.gitlinks))


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
