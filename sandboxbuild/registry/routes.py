"""The requests of the distribution-spec that we know, as values: (operation, repository, reference). Pure and strict.

One grammar serves both sides: the gateway lets through only what parses here, and the client's transport finds here which
repositories a token must cover. Nothing is decoded: a path with a percent sign or an empty or dotted segment is refused.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

NAME_LIMIT: Final = 255
_NAME: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_SESSION: Final = re.compile(r"[A-Za-z0-9_=.-]{1,256}")
_HOST: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?", re.IGNORECASE)
_COUNT: Final = re.compile(r"[0-9]{1,5}")
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}(?:/|%2[Ff])[A-Za-z0-9!#$&^_.+-]{1,127}")
_LAST: Final = _TAG

_QUERIES: Final = {
    ("tags", "GET"): {"n": _COUNT, "last": _LAST},
    ("referrers", "GET"): {"artifactType": _MEDIA_TYPE},
    ("upload-start", "POST"): {"mount": _DIGEST, "from": _NAME},
    ("upload", "PUT"): {"digest": _DIGEST},
}
_METHODS: Final = {
    "ping": ("GET", "HEAD"),
    "manifest": ("GET", "HEAD", "PUT"),
    "blob": ("GET", "HEAD"),
    "tags": ("GET",),
    "referrers": ("GET",),
    "upload-start": ("POST",),
    "upload": ("GET", "PATCH", "PUT"),
}


class RegistryRequest(NamedTuple):
    """`operation` is ping, manifest, blob, tags, referrers, upload-start or upload. `reference` is a tag, a digest or an upload
    session, by operation. `mount` and `mount_from` come from an upload-start, `digest` from the PUT that ends an upload.
    """

    operation: str
    method: str
    repository: str = ""
    reference: str = ""
    mount: str = ""
    mount_from: str = ""
    digest: str = ""
    query: str = ""

    @property
    def writes(self) -> bool:
        return self.method in ("PUT", "POST", "PATCH") or self.operation == "upload"

    @property
    def scopes(self) -> tuple[str, ...]:
        """What a token must cover (Docker registry auth, "Resource Scope Grammar")."""
        if not self.repository:
            return ()
        own = f"repository:{self.repository}:{'pull,push' if self.writes else 'pull'}"
        return (own, f"repository:{self.mount_from}:pull") if self.mount_from else (own,)


class UnknownRequest(ValueError):
    """Not a request of the distribution-spec that we serve; the text says why."""


def is_host(text: str) -> bool:
    """Whether `text` is a host with an optional port, and nothing else."""
    match = _HOST.fullmatch(text)
    return match is not None and ".." not in text and len(text) <= NAME_LIMIT


def is_repository(text: str) -> bool:
    return len(text) <= NAME_LIMIT and _NAME.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def parse_request(method: str, path: str, query: str) -> RegistryRequest:
    """The request that `method`, `path` ("/v2/...") and `query` (without "?") spell. Raises UnknownRequest."""
    found = _parse_path(path)
    if method not in _METHODS[found.operation]:
        raise UnknownRequest(f"the method {method} isn't served for a {found.operation}")
    allowed = _QUERIES.get((found.operation, method), {})
    fields = _parse_query(query, allowed)
    if ("mount" in fields) != ("from" in fields):
        raise UnknownRequest("a mount needs both mount and from")
    if found.operation == "upload" and method == "PUT" and "digest" not in fields:
        raise UnknownRequest("the end of an upload needs a digest")
    return found._replace(
        method=method,
        mount=fields.get("mount", ""),
        mount_from=fields.get("from", ""),
        digest=fields.get("digest", ""),
        query=query,
    )


def _parse_path(path: str) -> RegistryRequest:
    if path in ("/v2/", "/v2"):
        return RegistryRequest("ping", "")
    if not path.startswith("/v2/"):
        raise UnknownRequest("the path isn't below /v2/")
    parts = path[4:].split("/")
    found = _parse_parts(parts)
    if found is None:
        raise UnknownRequest("not a path of the distribution-spec")
    if not is_repository(found.repository):
        raise UnknownRequest("not a repository name")
    return found


def _parse_parts(parts: list[str]) -> RegistryRequest | None:
    if len(parts) < 3:
        return None
    last, kind = parts[-1], parts[-2]
    name = "/".join(parts[:-2])
    if parts[-3:-1] == ["blobs", "uploads"]:
        name = "/".join(parts[:-3])
        if not last:
            return RegistryRequest("upload-start", "", name)
        return RegistryRequest("upload", "", name, last) if _SESSION.fullmatch(last) else None
    if kind == "manifests" and (is_digest(last) or is_tag(last)):
        return RegistryRequest("manifest", "", name, last)
    if kind in ("blobs", "referrers") and is_digest(last):
        return RegistryRequest("blob" if kind == "blobs" else kind, "", name, last)
    return RegistryRequest("tags", "", name) if (kind, last) == ("tags", "list") else None


def _parse_query(query: str, allowed: dict[str, re.Pattern[str]]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, equals, value = pair.partition("=")
        pattern = allowed.get(key)
        if pattern is None or not equals or key in fields or not pattern.fullmatch(value):
            raise UnknownRequest(f"the query field {key[:40]!r} isn't served here")
        fields[key] = value
    return fields
