"""Sources of ADD that are no files: URLs and git repositories.

Source: moby/buildkit frontend/dockerfile/dfgitutil/git_ref.go and util/gitutil/git_url.go.
"""

from __future__ import annotations

import re
from typing import Final

from sandboxbuild.dockerfile.gotext import parse_bool
from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.plan.operations import GitSource, UrlSource

_SCP: Final = r"(?s)[a-zA-Z0-9_-]+@[a-zA-Z0-9.-]+:[^?#]*(?:\?[^#]*)?(?:#.*)?"
_PROTOCOL: Final = r"(?i:(https?|ssh|git)://)"
_SHA256: Final = r"sha256:[0-9a-f]{64}"
_COMMIT: Final = r"[0-9a-f]{7,64}"


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def is_git(text: str, *, said_so: bool) -> bool:
    """`said_so`: there is a flag that only git has. A web address is a repository if its path ends with .git."""
    protocol = re.match(_PROTOCOL, text) if "://" in text else None
    if protocol is None:
        return "@" in text and re.fullmatch(_SCP, text) is not None
    if protocol.group(1).lower() in ("ssh", "git"):
        return True
    return said_so or re.split(r"[?#]", text, maxsplit=1)[0].endswith(".git")


def url_source(url: str, checksum: str) -> UrlSource:
    if checksum and re.fullmatch(_SHA256, checksum) is None:
        raise Fault(f"invalid checksum {checksum[:100]!r}", at=checksum, hint="write sha256: and 64 hex digits")
    return UrlSource(url, checksum)


def git_source(text: str, checksum: str, keep_git_dir: bool | None) -> GitSource:
    """`remote[?query][#ref[:subdirectory]]`. Raises a Fault for what contradicts itself."""
    bare, _, fragment = text.partition("#")
    remote, _, query = bare.partition("?")
    reference, _, subdirectory = fragment.partition(":")
    source = GitSource(remote, reference, subdirectory, bool(keep_git_dir), checksum)
    for part in query.split("&") if query else ():
        source = _with_query(source, part, keep_git_dir)
    if source.checksum and re.fullmatch(_COMMIT, source.checksum) is None:
        raise Fault(f"invalid checksum {source.checksum[:100]!r}", at=source.checksum, hint="for git it is a commit")
    return source._replace(reference=source.reference or source.checksum)


def _with_query(source: GitSource, part: str, keep_git_dir: bool | None) -> GitSource:
    name, _, value = part.partition("=")
    if name in ("submodules", "keep-git-dir"):
        flag = parse_bool(value or "true")
        if flag is None:
            raise Fault(f"invalid {name} value: {value[:100]!r}", at=part)
        if name == "submodules":
            return source._replace(submodules=flag)
        if keep_git_dir is not None and keep_git_dir is not flag:
            raise Fault("inconsistent keep-git-dir configuration", at=part)
        return source._replace(keep_git_dir=flag)
    if not value:
        raise Fault(f"query {name[:100]!r} has no value", at=part)
    if name in ("ref", "tag", "branch"):
        prefix = {"ref": "", "tag": "refs/tags/", "branch": "refs/heads/"}[name]
        return source._replace(reference=_agreed(source.reference, prefix + value.removeprefix(prefix), "ref"))
    if name == "subdir":
        return source._replace(subdirectory=_agreed(source.subdirectory, value, "subdir"))
    if name in ("checksum", "commit"):
        return source._replace(checksum=_agreed(source.checksum, value, "checksum"))
    raise Fault(f"unexpected query {name[:100]!r}", at=part)


def _agreed(known: str, value: str, what: str) -> str:
    if known and known != value:
        raise Fault(f"{what} conflicts: {known[:100]!r} vs {value[:100]!r}", at=value)
    return value
