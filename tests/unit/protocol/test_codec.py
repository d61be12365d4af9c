"""Every value that crosses the control channel survives it, and nothing else is let through."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import ProtocolError, Span
from sandboxbuild.protocol import events
from sandboxbuild.protocol.channel import TEXT_LIMIT_CHARACTERS, EventWriter, Hello, read_request, send_request
from sandboxbuild.protocol.codec import decode, encode
from sandboxbuild.protocol.frames import read_frame
from sandboxbuild.protocol.request import BuildRequest, Secret, StepIsolation

EVENT_TYPES = get_args(events.Event)
SPAN = Span("Dockerfile", 3, 4, 5, 9)
EVENTS = [
    events.PlanReady(2, 9),
    events.VertexStarted(1, "step", "RUN make", "build", 2, 5, 10**18),
    events.VertexCompleted(1, False, "", 10**18),
    events.LogOutput(1, 2, bytes(range(256)), 1),
    events.TransferProgress(1, "sha256:aa", "pull", 5, 10, 2),
    events.WarningRaised("careful", None, ""),
    events.WarningRaised("careful", SPAN, "RUN x"),
    events.BaseResolved("alpine", "linux/amd64", "sha256:" + "a" * 64),
    events.PushCompleted("example.com/a:1", "sha256:" + "a" * 64, 1, 0),
    events.StepTimed(1, "RUN x", True, 0, 12),
    events.BuildFailed("StepFailed", 1, "no", "hint", SPAN, "RUN x", 3, 127, b"tail\n"),
    events.BuildSucceeded("m", "sha256:" + "a" * 64, 9, "sha256:" + "b" * 64, ("a", "b")),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_each_event_survives_the_channel(event: Any) -> None:
    assert decode(encode(event), EVENT_TYPES) == event


def test_every_kind_of_event_is_tried_above() -> None:
    assert {type(event) for event in EVENTS} == set(EVENT_TYPES)


def test_a_full_request_survives_the_channel() -> None:
    request = BuildRequest(
        build_id="b1",
        dockerfile=b"FROM scratch\n\xff",
        build_args=(("A", "1"), ("B", "\udcff")),
        names=("example.com/a:1",),
        secrets=(Secret("token"),),
        ulimits=(("nofile", 1, 2),),
        source_date_epoch=0,
        timeout_s=1.5,
        isolation=StepIsolation(seccomp_program=b"\0\1\2", allowed_ports=(80, 443)),
    )
    stream = io.BytesIO()
    send_request(stream, request)
    assert read_request(io.BytesIO(stream.getvalue())) == request


def test_a_request_of_another_version_is_refused() -> None:
    stream = io.BytesIO()
    send_request(stream, BuildRequest("b1", version=99))
    with pytest.raises(ProtocolError, match="version 99"):
        read_request(io.BytesIO(stream.getvalue()))


def tagged(value: object, name: str = "PlanReady") -> bytes:
    return json.dumps({"type": name, "value": value}).encode()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"type":"PlanReady"}',
        b'{"type":"PlanReady","value":{"stages":1,"steps":1},"more":1}',
        b'{"type":"PlanReady","value":{"stages":1,"stages":2,"steps":1}}',
        b'{"type":"PlanReady","value":{"stages":NaN,"steps":1}}',
        b'{"type":"PlanReady","value":{"stages":' + b"9" * 5000 + b',"steps":1}}',
        tagged({"stages": 1}),
        tagged({"stages": 1, "steps": 2, "extra": 3}),
        tagged({"stages": "1", "steps": 2}),
        tagged({"stages": True, "steps": 2}),
        tagged({"stages": 1.0, "steps": 2}),
        tagged({"stages": 2**63, "steps": 2}),
        tagged([1, 2]),
        tagged({"stages": 1, "steps": 2}, "StepsReady"),
        tagged({"vertex": 1, "stream": 1, "data": "?", "time_ns": 1}, "LogOutput"),
        tagged({"message": "m", "span": 3, "source": ""}, "WarningRaised"),
    ],
)
def test_what_is_not_exactly_a_message_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(payload, EVENT_TYPES)


@settings(max_examples=80)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    ),
    st.sampled_from([cls.__name__ for cls in EVENT_TYPES]),
)
def test_any_json_is_a_message_or_a_protocol_error(value: object, name: str) -> None:
    try:
        decode(tagged(value, name), EVENT_TYPES)
    except ProtocolError:
        pass


def sent(*written: events.Event) -> list[Any]:
    stream = io.BytesIO()
    writer = EventWriter(stream, "b1")
    for event in written:
        writer.write(event)
    stream.seek(0)
    messages = []
    while (payload := read_frame(stream)) is not None:
        messages.append(decode(payload, (*EVENT_TYPES, Hello)))
    return messages


def test_a_writer_says_hello_first() -> None:
    assert sent(events.PlanReady(1, 2)) == [Hello(1, "b1"), events.PlanReady(1, 2)]


def test_a_writer_clips_text_that_the_launcher_would_refuse() -> None:
    [_, event] = sent(events.WarningRaised("x" * (TEXT_LIMIT_CHARACTERS + 1), None, ""))
    assert len(event.message) == TEXT_LIMIT_CHARACTERS


def test_a_writer_replaces_bytes_that_are_no_text() -> None:
    [_, event] = sent(events.WarningRaised("caf\u00e9 \udce9", None, ""))
    assert event.message == "café \ufffd"


def test_the_protocol_imports_nothing_heavy() -> None:
    heavy = ["dataclasses", "inspect", "pydantic", "logging"]
    code = f"import sys, sandboxbuild.protocol.channel; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.strip() == "[]"
