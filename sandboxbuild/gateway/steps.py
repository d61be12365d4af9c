"""The gateway's routes that steps' networks use, as functions that a server calls with what it parsed.

POST /v1/steps/STEP {"stage": ..., "run": ...}     what a step is, once, before it asks for anything
POST /v1/names/NAME?step=STEP&kind=run|fetch       may this name be asked for?
CONNECT NAME:PORT with Sandboxbuild-Step, -Kind    carry this connection
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from sandboxbuild.gateway.egress import KIND_HEADER, REFUSED_HEADER, STEP_HEADER, Egress, refusal_answer, refusal_document
from sandboxbuild.gateway.rules import RUN, Refused
from sandboxbuild.protocol.http1 import BadRequest, split_authority

DECLARATION_LIMIT_BYTES: Final = 512 * 1024
_STEPS: Final = "/v1/steps/"
_NAMES: Final = "/v1/names/"


class Answer(NamedTuple):
    """An answer to be written: a JSON body, and the header that marks a refusal of the gateway's own."""

    status: int
    body: bytes
    refused: str = ""

    @property
    def headers(self) -> Mapping[str, str]:
        marks = {REFUSED_HEADER: self.refused} if self.refused else {}
        return {"Content-Type": "application/json", "Content-Length": str(len(self.body)), **marks}


def is_step_route(target: str) -> bool:
    return target.startswith((_STEPS, _NAMES))


def step_answer(egress: Egress, method: str, target: str, body: bytes) -> Answer:
    """The answer on a step's route; `body` holds at most DECLARATION_LIMIT_BYTES."""
    if method != "POST":
        return _error(405, "METHOD", "only POST is known here")
    try:
        if target.startswith(_STEPS):
            return _declare(egress, target[len(_STEPS) :], body)
        return _ask(egress, target[len(_NAMES) :])
    except ValueError as error:
        return _error(400, "REQUEST", str(error)[:200])


def _declare(egress: Egress, step: str, body: bytes) -> Answer:
    document = json.loads(body)
    stage, run = (document.get(key) for key in ("stage", "run")) if isinstance(document, dict) else (None, None)
    if not isinstance(stage, str) or not isinstance(run, str):
        raise ValueError("a declaration without stage and run")
    egress.declare(step, stage, run)
    return Answer(200, b"{}")


def _ask(egress: Egress, rest: str) -> Answer:
    parts = urlsplit(rest)
    query = dict(parse_qsl(parts.query, max_num_fields=4))
    verdict = egress.ask_name(egress.asker(query.get("step", ""), query.get("kind", RUN)), parts.path)
    if isinstance(verdict, Refused):
        return Answer(403, json.dumps(refusal_document(verdict)).encode("ascii"), verdict.code)
    return Answer(200, json.dumps({"ports": list(verdict.ports)}).encode("ascii"))


def carry_connect(egress: Egress, client: socket.socket, early: bytes, target: str, headers: Mapping[str, str]) -> None:
    """Serve a CONNECT. Takes `client` over; never raises. `headers` have lower-case names, each once."""
    try:
        host, port = split_authority(target)
        asker = egress.asker(headers.get(STEP_HEADER, ""), headers.get(KIND_HEADER, RUN))
        if split_authority(headers.get("host", ""), port) != (host, port):
            raise BadRequest("a Host that differs from the target")
    except ValueError as error:
        with client:
            client.settimeout(5.0)
            _send_quietly(client, refusal_answer(Refused(str(error), "", "syntax")))
        return
    egress.carry(client, early, asker, host, port)


def _send_quietly(client: socket.socket, reply: bytes) -> None:
    try:
        client.sendall(reply)
    except OSError:  # whoever asked doesn't wait for the answer
        pass


def _error(status: int, code: str, message: str) -> Answer:
    return Answer(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode("ascii"))
