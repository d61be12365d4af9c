"""What a refused or failed request means: statuses and error documents become errors, quoted so that they can't harm."""

from __future__ import annotations

import json
import time
from typing import Final

from sandboxbuild.errors import PolicyError, RegistryError, SandboxbuildError
from sandboxbuild.registry import Response

ERROR_BODY_LIMIT_BYTES: Final = 64 * 1024
QUOTE_LIMIT: Final = 300
DOCUMENT_TIMEOUT_S: Final = 180.0  # for a manifest, a token, a list or an error, however it trickles

# Headers that the gateway alone sets: what registries send under such names is dropped (registry.transport).
REFUSED_HEADER: Final = "sandboxbuild-refused"
# The gateway's own failures to get an answer: "final", or "transient" where another try may help.
FAILED_HEADER: Final = "sandboxbuild-failed"
HINT_HEADER: Final = "sandboxbuild-hint"
OWN_PREFIX: Final = "sandboxbuild-"
HINT_LIMIT: Final = 1000

_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_MEANING: Final = {
    401: "it wants other credentials",
    403: "it refuses access",
    404: "not found",
    413: "it says that the body is too large",
    429: "it limits the rate",
}


class TransientError(RegistryError):
    """A failure after which the same request may succeed. `retry_after_s` is what the registry asked for, 0 if nothing."""

    def __init__(self, message: str, *, status: int = 0, retry_after_s: float = 0.0, hint: str = "") -> None:
        super().__init__(message, status=status, hint=hint)
        self.retry_after_s = retry_after_s


def quoted(text: str, limit: int = QUOTE_LIMIT) -> str:
    """Text of a stranger on one line: bounded, with all that isn't printable (controls, bidi marks) written as an escape."""
    cut = text[:limit]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in cut)
    return shown + "..." if len(text) > limit else shown


def failure(response: Response, what: str) -> SandboxbuildError:
    """The error that an unexpected answer to `what` ("pull of x from y") stands for. Reads and closes the response."""
    said = _said(_error_document(response))
    hint = quoted(response.headers.get(HINT_HEADER, ""), HINT_LIMIT)
    if response.headers.get(REFUSED_HEADER):
        return PolicyError(f"{what}: {said or 'refused by the gateway'}", hint=hint)
    failed = response.headers.get(FAILED_HEADER, "")
    if failed:
        kind = TransientError if failed == "transient" else RegistryError
        return kind(f"{what}: {said or 'no answer'}", status=response.status, hint=hint)
    meaning = _MEANING.get(response.status, "")
    message = f"{what}: the registry answered {response.status}" + (f" ({meaning})" if meaning else "")
    message += f": {said}" if said else ""
    if response.status in _TRANSIENT:
        asked_s = retry_after_s(response.headers.get("retry-after", ""))
        return TransientError(message, status=response.status, retry_after_s=asked_s, hint=hint)
    return RegistryError(message, status=response.status, hint=hint)


def retry_after_s(value: str) -> float:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3). Dates count as nothing: clocks differ."""
    return float(value) if value.isascii() and value.isdigit() and len(value) <= 6 else 0.0


def _error_document(response: Response) -> object:
    try:
        body = read_bounded(response, ERROR_BODY_LIMIT_BYTES)
    except RegistryError:
        return None
    finally:
        response.close()
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace") if body.isascii() and not body.lstrip().startswith(b"<") else None


def _said(document: object) -> str:
    """The codes and messages of a distribution-spec error document ("Error Codes"), or short plain text."""
    if isinstance(document, str):
        return quoted(" ".join(document.split()))
    entries = document.get("errors") if isinstance(document, dict) else None
    said = []
    for entry in entries[:3] if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            words = [word for word in (entry.get("code"), entry.get("message")) if isinstance(word, str) and word]
            said.append(quoted(": ".join(words)))
    return "; ".join(said)


def read_bounded(response: Response, limit_bytes: int) -> bytes:
    """The whole body. Raises RegistryError as soon as it is longer than `limit_bytes`, or takes longer than any should."""
    parts: list[bytes] = []
    size = 0
    deadline_s = time.monotonic() + DOCUMENT_TIMEOUT_S
    while chunk := response.read(min(limit_bytes + 1, 65536)):
        size += len(chunk)
        if size > limit_bytes:
            raise RegistryError(f"the registry's answer is longer than {limit_bytes} bytes")
        if time.monotonic() > deadline_s:
            raise RegistryError(f"the registry's answer of a few bytes has taken longer than {DOCUMENT_TIMEOUT_S:g} s")
        parts.append(chunk)
    return b"".join(parts)
