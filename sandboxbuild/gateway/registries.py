"""Registry requests of the sandbox: judged, made outside with TLS and credentials, and answered with what is fit to pass.

Both directions carry only the headers that are named here, so no credential, cookie or challenge can slip through; what a
registry says as the place of an upload becomes a session of ours, which only this build can go on with.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from sandboxbuild.errors import RegistryError
from sandboxbuild.gateway.access import BuildAccess, Declined, Granted
from sandboxbuild.gateway.audit import PULL, PUSH, REFUSE, AuditLog, Record
from sandboxbuild.gateway.server import Exchange, Request, Route, hint_header
from sandboxbuild.gateway.uploads import Session, Uploads
from sandboxbuild.registry import Body, BytesBody, Response
from sandboxbuild.registry.failures import ERROR_BODY_LIMIT_BYTES, TransientError, read_bounded
from sandboxbuild.registry.repository import MANIFEST_LIMIT_BYTES
from sandboxbuild.registry.routes import RegistryRequest, UnknownRequest, is_digest, is_host, parse_request

PREFIX: Final = "/v1/registry/"
VOUCHED_LIMIT: Final = 10_000  # manifests of indexes that were let through
_TAGS_LIMIT_BYTES: Final = 4 * 1024 * 1024
_RANGE: Final = re.compile(r"bytes=[0-9]{1,18}-")
_CONTENT_RANGE: Final = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")
_ACCEPT: Final = re.compile(r"[A-Za-z0-9!#$&^_.+/*;=, -]{1,2048}")
_TO_REGISTRY: Final = {"accept": _ACCEPT, "range": _RANGE, "content-type": _ACCEPT, "content-range": _CONTENT_RANGE}
_TO_SANDBOX: Final = (
    "content-type",
    "content-range",
    "accept-ranges",
    "docker-content-digest",
    "range",
    "oci-chunk-min-length",
    "oci-subject",
    "oci-filters-applied",
    "retry-after",
)
_PRINTABLE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,1022}[\x21-\x7e])?")
_NEXT_MIRROR: Final = frozenset({401, 403, 404, 429, 500, 502, 503, 504})


class Remote(Protocol):
    """registry.remote.RemoteTransport, as far as it is used here."""

    def request(
        self, method: str, host: str, path: str, headers: Mapping[str, str], body: Body | None, *, timeout_s: float = 60.0
    ) -> Response: ...

    def explain(self, host: str, repository: str) -> str: ...


class Place(NamedTuple):
    """Where a repository can be had: the registry itself, or a mirror."""

    host: str
    repository: str


class Registries:
    """The registry routes of one build. Thread-safe; `remote` is made at the first request, for its import is slow."""

    def __init__(
        self,
        access: BuildAccess,
        remote: Callable[[], Remote],
        audit: AuditLog,
        *,
        mirrors: Mapping[str, tuple[str, ...]] | None = None,
        mirror_fallback: bool = True,
        timeout_s: float = 60.0,
    ) -> None:
        self._access = access
        self._remote = remote
        self._audit = audit
        self._mirrors = mirrors or {}
        self._mirror_fallback = mirror_fallback
        self._timeout_s = timeout_s
        self._uploads = Uploads()
        self._vouched: dict[str, None] = {}

    def routes(self) -> tuple[Route, ...]:
        return (Route(lambda request: request.path.startswith(PREFIX), self.handle),)

    def handle(self, request: Request, exchange: Exchange) -> None:
        """Serve one request; every decision is logged."""
        host, _, rest = request.path.removeprefix(PREFIX).partition("/")
        try:
            if not is_host(host) or host != host.lower():
                raise UnknownRequest("not a registry's host")
            found = parse_request(request.method, f"/{rest}", request.query)
        except UnknownRequest as error:
            self._refuse(exchange, host[:100], "", Declined(str(error)), 400)
            return
        verdict = self._access.judge(host, found, self._vouched)
        if isinstance(verdict, Declined):
            self._refuse(exchange, f"{host}/{found.repository}", found.reference, verdict, 403)
            return
        self._serve(host, found, request, exchange, verdict)

    def _refuse(
        self, exchange: Exchange, name: str, reference: str, declined: Declined, status: int, code: str = "DENIED"
    ) -> None:
        self._audit.write(Record(REFUSE, name=name, reference=reference, reason=declined.reason, hint=declined.hint))
        exchange.refuse(status, declined.reason, declined.hint, code=code)

    def _serve(self, host: str, found: RegistryRequest, request: Request, exchange: Exchange, granted: Granted) -> None:
        serve = {
            "ping": self._ping,
            "manifest": self._put_manifest if found.method == "PUT" else self._get_manifest,
            "blob": self._get_blob,
            "upload-start": self._upload,
            "upload": self._upload,
        }.get(found.operation, self._get_list)
        try:
            serve(host, found, request, exchange, granted)
        except TransientError as error:
            if exchange.answered:
                raise
            exchange.fail(504 if error.status == 504 else 503, error.message, error.hint, transient=True)
        except RegistryError as error:
            if exchange.answered:
                raise
            exchange.fail(502, error.message, error.hint, transient=False)

    def _ping(self, _host: str, _found: RegistryRequest, _request: Request, exchange: Exchange, _granted: Granted) -> None:
        exchange.respond(200, {"Docker-Distribution-Api-Version": "registry/2.0"}, b"{}")

    def _get_manifest(self, host: str, found: RegistryRequest, request: Request, exchange: Exchange, granted: Granted) -> None:
        place, response = self._read(host, found, request)
        if response.status != 200:
            self._pass_error(place, response, exchange)
            return
        with _Closing(response):
            content = b"" if found.method == "HEAD" else read_bounded(response, MANIFEST_LIMIT_BYTES)
        if found.method == "HEAD":
            exchange.respond_head(200, _fit(response, length=True))
            return
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        pinned = self._access.pinned(host, found)
        if pinned and pinned != digest:
            declined = Declined(f"{host}/{found.repository}:{found.reference} is {digest}, and [sources] demands {pinned}")
            self._refuse(exchange, f"{host}/{found.repository}", found.reference, declined, 403)
            return
        self._vouch(host, found.repository, content)
        self._log(PULL, host, found, granted, digest=digest, received=len(content))
        exchange.respond(200, {**_fit(response), "Docker-Content-Digest": digest}, content)

    def _vouch(self, host: str, repository: str, content: bytes) -> None:
        """What an index that was let through names may be read as well."""
        for digest in children(content):
            if len(self._vouched) < VOUCHED_LIMIT:
                self._vouched[f"{host}/{repository}@{digest}"] = None

    def _get_blob(self, host: str, found: RegistryRequest, request: Request, exchange: Exchange, granted: Granted) -> None:
        place, response = self._read(host, found, request)
        if response.status not in (200, 206):
            self._pass_error(place, response, exchange)
            return
        with _Closing(response):
            if found.method == "HEAD":
                exchange.respond_head(200, _fit(response, length=True))
                return
            sent = 0
            try:
                sent = exchange.stream(response.status, _fit(response), response, _length(response))
            finally:
                self._log(PULL, host, found, granted, digest=found.reference, received=sent)

    def _get_list(self, host: str, found: RegistryRequest, request: Request, exchange: Exchange, granted: Granted) -> None:
        """Tags and referrers: whole documents, bounded. Pages are not followed; the Link of the next one isn't passed."""
        place, response = self._read(host, found, request)
        if response.status != 200:
            self._pass_error(place, response, exchange)
            return
        with _Closing(response):
            content = read_bounded(response, _TAGS_LIMIT_BYTES)
        self._log(PULL, host, found, granted, received=len(content))
        exchange.respond(200, _fit(response), content)

    def _put_manifest(self, host: str, found: RegistryRequest, request: Request, exchange: Exchange, granted: Granted) -> None:
        if exchange.size_bytes > MANIFEST_LIMIT_BYTES:
            declined = Declined(f"a manifest of more than {MANIFEST_LIMIT_BYTES} bytes")
            self._refuse(exchange, f"{host}/{found.repository}", found.reference, declined, 413, "SIZE_INVALID")
            return
        content = exchange.read_all()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if is_digest(found.reference) and found.reference != digest:
            declined = Declined(f"the manifest is {digest}, not {found.reference}")
            self._refuse(exchange, f"{host}/{found.repository}", found.reference, declined, 400, "DIGEST_INVALID")
            return
        response = self._write(host, found, request, BytesBody(content))
        if response.status not in (200, 201, 202):
            self._pass_error(Place(host, found.repository), response, exchange)
            return
        response.close()
        self._log(PUSH, host, found, granted, digest=digest, sent=len(content))
        exchange.respond(201, {**_fit(response), "Docker-Content-Digest": digest})

    def _upload(self, host: str, found: RegistryRequest, request: Request, exchange: Exchange, granted: Granted) -> None:
        session = None
        if found.operation == "upload":
            session = self._uploads.find(found.reference, host, found.repository)
            if session is None:
                declined = Declined("no upload of this build")
                self._refuse(exchange, f"{host}/{found.repository}", found.reference, declined, 404, "BLOB_UPLOAD_UNKNOWN")
                return
        size = exchange.size_bytes
        body = exchange if found.method in ("PATCH", "PUT") and size else None
        response = self._write(host, found, request, body, session.location if session else "")
        if response.status >= 300:
            self._pass_error(Place(host, found.repository), response, exchange)
            return
        response.close()
        if found.method == "PUT" or response.status == 201:
            self._uploads.forget(found.reference)
            self._log(PUSH, host, found, granted, digest=found.digest or found.mount, sent=size)
            exchange.respond(201, {"Location": f"/v2/{found.repository}/blobs/{found.digest or found.mount}"})
            return
        self._answer_session(host, found, response, exchange)

    def _answer_session(self, host: str, found: RegistryRequest, response: Response, exchange: Exchange) -> None:
        location = response.headers.get("location", "")
        if not location and found.operation == "upload-start":
            raise RegistryError(f"{host} names no place for the upload")
        token = found.reference
        if location:
            token = self._uploads.remember(Session(host, found.repository, location), found.reference)
        status = 204 if found.method == "GET" else 202
        headers = {**_fit(response), "Location": f"/v2/{found.repository}/blobs/uploads/{token}"}
        headers.pop("content-type", None)
        exchange.respond(status, headers)

    def _read(self, host: str, found: RegistryRequest, request: Request) -> tuple[Place, Response]:
        """The answer of the first mirror that has it, or of the last place there is."""
        places = self._places(host, found.repository)
        for place in places[:-1]:
            try:
                response = self._ask(place, found, request)
            except RegistryError:
                continue
            if response.status not in _NEXT_MIRROR:
                return place, response
            response.close()
        return places[-1], self._ask(places[-1], found, request)

    def _ask(self, place: Place, found: RegistryRequest, request: Request) -> Response:
        path = _path(place.repository, found)
        return self._remote().request(found.method, place.host, path, _forwarded(request), None, timeout_s=self._timeout_s)

    def _write(self, host: str, found: RegistryRequest, request: Request, body: Body | None, location: str = "") -> Response:
        path = location or _path(found.repository, found)
        if found.digest:
            path += f"{'&' if '?' in path else '?'}digest={found.digest}"
        return self._remote().request(found.method, host, path, _forwarded(request), body, timeout_s=self._timeout_s)

    def _places(self, host: str, repository: str) -> Sequence[Place]:
        mirrors = [mirror.partition("/") for mirror in self._mirrors.get(host, ())]
        places = [Place(name, f"{prefix}/{repository}" if prefix else repository) for name, _, prefix in mirrors]
        return [*places, Place(host, repository)] if self._mirror_fallback or not places else places

    def _pass_error(self, place: Place, response: Response, exchange: Exchange) -> None:
        """A registry's refusal with its error document, and what credential it was about."""
        try:
            content = read_bounded(response, ERROR_BODY_LIMIT_BYTES)
        except RegistryError:
            content = b""
        finally:
            response.close()
        hint = ""
        if response.status in (401, 403):
            hint = self._remote().explain(place.host, place.repository)
        kept = {name: value for name, value in _fit(response).items() if name == "retry-after"}
        status = response.status if 400 <= response.status < 600 else 502
        exchange.respond(status, {**kept, **hint_header(hint), "Content-Type": "application/json"}, _error_document(content))

    def _log(
        self,
        kind: str,
        host: str,
        found: RegistryRequest,
        granted: Granted,
        *,
        digest: str = "",
        sent: int = 0,
        received: int = 0,
    ) -> None:
        if found.method == "HEAD":
            return
        reference = found.reference if found.operation in ("manifest", "blob") else ""
        name = f"{host}/{found.repository}"
        self._audit.write(
            Record(kind, name=name, reference=reference, digest=digest, sent=sent, received=received, rule=granted.rule)
        )


class _Closing:
    """Closes a response when its block ends, read to the end or not."""

    def __init__(self, response: Response) -> None:
        self._response = response

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._response.close()


def children(content: bytes) -> list[str]:
    """The digests of the manifests that an index names; [] for what is no index."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return []
    entries = document.get("manifests") if isinstance(document, dict) else None
    named = [entry.get("digest") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [digest for digest in named if isinstance(digest, str) and is_digest(digest)]


def _path(repository: str, found: RegistryRequest) -> str:
    """The path of a request to a registry, put together again from what was understood of it."""
    kind = {"manifest": "manifests", "blob": "blobs", "referrers": "referrers"}.get(found.operation)
    if kind:
        path = f"/v2/{repository}/{kind}/{found.reference}"
    else:
        path = f"/v2/{repository}/{'tags/list' if found.operation == 'tags' else 'blobs/uploads/'}"
    return f"{path}?{found.query}" if found.query and found.operation != "upload" else path


def _forwarded(request: Request) -> dict[str, str]:
    return {
        name: request.headers[name] for name, value in _TO_REGISTRY.items() if value.fullmatch(request.headers.get(name, ""))
    }


def _fit(response: Response, *, length: bool = False) -> dict[str, str]:
    """The headers of a registry's answer that the sandbox gets."""
    names = (*_TO_SANDBOX, "content-length") if length else _TO_SANDBOX
    return {name: response.headers[name] for name in names if _PRINTABLE.fullmatch(response.headers.get(name, ""))}


def _length(response: Response) -> int | None:
    value = response.headers.get("content-length", "")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise RegistryError("the registry sends a blob in another encoding than was asked for")
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 18 else None


def _error_document(content: bytes) -> bytes:
    """A registry's error document in its plain form, other text as its message: the sandbox's client quotes it safely."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    errors = document.get("errors") if isinstance(document, dict) else None
    kept = [
        {key: value[:1000] for key, value in entry.items() if key in ("code", "message") and isinstance(value, str)}
        for entry in (errors[:5] if isinstance(errors, list) else ())
        if isinstance(entry, dict)
    ]
    return json.dumps({"errors": kept}).encode("ascii")
