"""Secrets: read outside, when they are asked for, and given only to who may have them at that moment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Final

from sandboxbuild.gateway.audit import REFUSE, AuditLog, Record
from sandboxbuild.gateway.config import SecretFrom
from sandboxbuild.gateway.server import Exchange, Request, Route

PREFIX: Final = "/v1/secret/"
SECRET: Final = "secret"  # noqa: S105 - the kind of an audit record
LIMIT_BYTES: Final = 500 * 1024  # BuildKit's limit as well
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


class SecretUnreadable(Exception):
    """A secret's source can't be read; the text names the source and never the value."""


class Handover:
    """The secrets of one build. `is_due` says whether a secret may be given now: when a step that names it has started."""

    def __init__(
        self, secrets: Sequence[SecretFrom], audit: AuditLog, is_due: Callable[[str], bool] = lambda _secret_id: True
    ) -> None:
        self._sources = {secret.secret_id: secret for secret in secrets}
        self._audit = audit
        self._is_due = is_due

    def routes(self) -> tuple[Route, ...]:
        return (Route(lambda request: request.path.startswith(PREFIX) and request.method == "GET", self.handle),)

    def handle(self, request: Request, exchange: Exchange) -> None:
        secret_id = request.path.removeprefix(PREFIX)
        source = self._sources.get(secret_id) if _ID.fullmatch(secret_id) else None
        if source is None or not self._is_due(secret_id):
            reason = "this build has no such secret" if source is None else "no running step names this secret"
            self._audit.write(Record(REFUSE, name=f"secret {secret_id[:128]}", reason=reason))
            exchange.refuse(403, reason, "give it with --secret" if source is None else "")
            return
        try:
            value = read_secret(source)
        except SecretUnreadable as error:
            exchange.refuse(404, str(error))
            return
        self._audit.write(Record(SECRET, name=f"secret {secret_id}", sent=0, received=len(value)))
        exchange.respond(200, {"Content-Type": "application/octet-stream"}, value)


def read_secret(source: SecretFrom) -> bytes:
    """The value. Raises SecretUnreadable."""
    if not source.path:
        if source.variable not in os.environ:
            raise SecretUnreadable(f"the environment variable {source.variable} of secret {source.secret_id} isn't set")
        return os.environb[os.fsencode(source.variable)][:LIMIT_BYTES]
    try:
        with open(source.path, "rb") as file:
            value = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise SecretUnreadable(f"the file of secret {source.secret_id} can't be read: {error.strerror}") from error
    if len(value) > LIMIT_BYTES:
        raise SecretUnreadable(f"the file of secret {source.secret_id} is larger than {LIMIT_BYTES} bytes")
    return value
