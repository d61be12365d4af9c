"""The gateway's routes that steps' networks use, as functions that a server calls with what it parsed.

POST /v1/steps/STEP {"stage": ..., "run": ..., "secrets": [...], "ssh": [...]}    a step begins: what it is, and names
POST /v1/steps/STEP/end                            it has ended
POST /v1/names/NAME?step=STEP&kind=run|fetch       may this name be asked for?
CONNECT NAME:PORT with Sandboxbuild-Step, -Kind    carry this connection
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from sandboxbuild.gateway.audit import REFUSE, STEP, AuditLog, Record
from sandboxbuild.gateway.egress import (
    KIND_HEADER,
    REFUSED_HEADER,
    STEP_HEADER,
    Denied,
    Egress,
    refusal_answer,
    refusal_document,
)
from sandboxbuild.gateway.rules import RUN, Refused
from sandboxbuild.gateway.server import hint_header
from sandboxbuild.gateway.stepbook import NotDue, StepBook
from sandboxbuild.protocol.http1 import BadRequest, split_authority

DECLARATION_LIMIT_BYTES: Final = 512 * 1024
_STEPS: Final = "/v1/steps/"
_NAMES: Final = "/v1/names/"
_END: Final = "/end"


class Answer(NamedTuple):
    """An answer to be written: a JSON body, and the header that marks a refusal of the gateway's own."""

    status: int
    body: bytes
    refused: str = ""
    hint: str = ""

    @property
    def headers(self) -> Mapping[str, str]:
        marks = {REFUSED_HEADER: self.refused, **hint_header(self.hint)} if self.refused else {}
        return {"Content-Type": "application/json", "Content-Length": str(len(self.body)), **marks}


def is_step_route(target: str) -> bool:
    return target.startswith((_STEPS, _NAMES))


class StepRoutes:
    """The answers on the steps' routes of one build."""

    def __init__(self, egress: Egress, book: StepBook, audit: AuditLog) -> None:
        self._egress = egress
        self._book = book
        self._audit = audit

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        """`body` holds at most DECLARATION_LIMIT_BYTES."""
        if method != "POST":
            return _error(405, "METHOD", "only POST is known here")
        try:
            if target.startswith(_NAMES):
                return _ask(self._egress, target[len(_NAMES) :])
            step = target[len(_STEPS) :]
            return self._end(step.removesuffix(_END)) if step.endswith(_END) else self._declare(step, body)
        except Denied as denied:
            return _refusal(denied.refused)
        except (ValueError, RecursionError) as error:
            return _error(400, "REQUEST", str(error)[:200])

    def _declare(self, step: str, body: bytes) -> Answer:
        said = _declaration(body)
        try:
            self._book.declare(step, *said)
        except NotDue as error:
            hint = (
                "triggers of base images get no secrets: write the RUN into the Dockerfile"
                if said.secrets or said.agents
                else ""
            )
            self._audit.write(Record(REFUSE, step, said.stage, name="step", reason=str(error), hint=hint))
            return _refusal(Refused(str(error), hint, "step"))
        self._audit.write(Record(STEP, step, said.stage, said.run))
        return Answer(200, b"{}")

    def _end(self, step: str) -> Answer:
        self._book.end(step)
        return Answer(200, b"{}")


class _Declaration(NamedTuple):
    stage: str
    run: str
    secrets: tuple[str, ...]
    agents: tuple[str, ...]


def _declaration(body: bytes) -> _Declaration:
    """Raises ValueError for anything but an object of these keys; the ids may be left out."""
    document = json.loads(body)
    if not isinstance(document, dict) or not document.keys() <= {"stage", "run", "secrets", "ssh"}:
        raise ValueError("a declaration of other things than stage, run, secrets and ssh")
    stage, run = document.get("stage"), document.get("run")
    if not isinstance(stage, str) or not isinstance(run, str):
        raise ValueError("a declaration without stage and run")
    return _Declaration(stage, run, _texts(document.get("secrets", [])), _texts(document.get("ssh", [])))


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("ids that aren't a list of texts")
    return tuple(value)


def _ask(egress: Egress, rest: str) -> Answer:
    name, _, text = rest.partition("?")
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, max_num_fields=4)
    query = dict(pairs)
    if len(query) != len(pairs) or not query.keys() <= {"step", "kind"}:
        raise ValueError("a question of other fields than step and kind, each once")
    verdict = egress.ask_name(egress.asker(query.get("step", ""), query.get("kind", RUN)), name)
    if isinstance(verdict, Refused):
        return _refusal(verdict)
    return Answer(200, json.dumps({"ports": list(verdict.ports)}).encode("ascii"))


def carry_connect(egress: Egress, client: socket.socket, early: bytes, target: str, headers: Mapping[str, str]) -> None:
    """Serve a CONNECT. Takes `client` over; never raises. `headers` have lower-case names, each once."""
    try:
        host, port = split_authority(target)
        asker = egress.asker(headers.get(STEP_HEADER, ""), headers.get(KIND_HEADER, RUN))
        if split_authority(headers.get("host", ""), port) != (host, port):
            raise BadRequest("a Host that differs from the target")
    except (ValueError, Denied) as error:
        refused = error.refused if isinstance(error, Denied) else Refused(str(error), "", "syntax")
        with client:
            client.settimeout(5.0)
            _send_quietly(client, refusal_answer(refused))
        return
    egress.carry(client, early, asker, host, port)


def _send_quietly(client: socket.socket, reply: bytes) -> None:
    try:
        client.sendall(reply)
    except OSError:  # whoever asked doesn't wait for the answer
        pass


def _refusal(refused: Refused) -> Answer:
    return Answer(403, json.dumps(refusal_document(refused)).encode("ascii"), refused.code, refused.hint)


def _error(status: int, code: str, message: str) -> Answer:
    return Answer(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode("ascii"), code.lower())
