"""Secrets: read outside when a step asks for them, and given to a step that names them while it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from sandboxbuild.gateway.audit import REFUSE, AuditLog, Record
from sandboxbuild.gateway.config import SecretFrom
from sandboxbuild.gateway.egress import STEP_HEADER
from sandboxbuild.gateway.server import Exchange, Request, Route
from sandboxbuild.gateway.stepbook import NotDue, StepBook

PREFIX: Final = "/v1/secret/"
SECRET: Final = "secret"  # noqa: S105 - the kind of an audit record
LIMIT_BYTES: Final = 500 * 1024  # BuildKit's limit as well


class SecretUnreadable(Exception):
    """A secret's source can't be read; the text names the source and never the value."""


class Handover:
    """The secrets of one build: each is given to a step that has begun, that names it, and that hasn't had it yet."""

    def __init__(self, secrets: Sequence[SecretFrom], audit: AuditLog, book: StepBook) -> None:
        self._sources = {secret.secret_id: secret for secret in secrets}
        self._audit = audit
        self._book = book

    def routes(self) -> tuple[Route, ...]:
        return (Route(lambda request: request.path.startswith(PREFIX) and request.method == "GET", self.handle),)

    def handle(self, request: Request, exchange: Exchange) -> None:
        secret_id = request.path.removeprefix(PREFIX)
        step = request.headers.get(STEP_HEADER, "")[:64]
        source = self._sources.get(secret_id) if not request.query else None
        try:
            if source is None:
                raise NotDue("this build has no such secret")
            asker = self._book.take_secret(step, secret_id)
        except NotDue as error:
            self._audit.write(Record(REFUSE, step, name=f"secret {secret_id[:128]}", reason=str(error)))
            exchange.refuse(403, str(error), "give it with --secret" if source is None else "")
            return
        try:
            value = read_secret(source)
        except SecretUnreadable as error:
            exchange.refuse(404, str(error))
            return
        self._audit.write(Record(SECRET, step, asker.stage, name=f"secret {secret_id}"))
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
