"""What the launcher takes from an executor, and what not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import ProtocolError, Span
from sandboxbuild.launcher.messages import ITEMS_LIMIT, prepare, read_message
from sandboxbuild.protocol.channel import BYTES_LIMIT, TEXT_LIMIT_CHARACTERS
from sandboxbuild.protocol.codec import encode
from sandboxbuild.protocol.events import BuildFailed, BuildSucceeded, LogOutput, PlanReady, WarningRaised

DIGEST = "sha256:" + "a" * 64
SUCCEEDED = BuildSucceeded("m", DIGEST, 5, DIGEST, ("a", "b"))


@pytest.mark.parametrize(
    "message",
    [
        SUCCEEDED,
        SUCCEEDED._replace(config_digest=""),
        LogOutput(1, 2, b"\0\xff", 3),
        WarningRaised("text", Span("Dockerfile", 1, 2, 3, 4), ""),
        WarningRaised("text", None, ""),
        PlanReady(0, 2**63 - 1),
    ],
)
def test_messages_arrive_as_they_were_sent(message: object) -> None:
    prepare()
    assert read_message(encode(message)) == message


@pytest.mark.parametrize(
    ("message", "place"),
    [
        (SUCCEEDED._replace(digest="sha256:" + "A" * 64), "BuildSucceeded.digest"),
        (SUCCEEDED._replace(digest=DIGEST + "\n"), "BuildSucceeded.digest"),
        (SUCCEEDED._replace(digest=""), "BuildSucceeded.digest"),
        (SUCCEEDED._replace(config_digest="x"), "BuildSucceeded.config_digest"),
        (SUCCEEDED._replace(size_bytes=-1), "BuildSucceeded.size_bytes"),
        (SUCCEEDED._replace(names=("a",) * (ITEMS_LIMIT + 1)), "BuildSucceeded.names"),
        (SUCCEEDED._replace(names=("a" * (TEXT_LIMIT_CHARACTERS + 1),)), "BuildSucceeded.names"),
        (SUCCEEDED._replace(names=("\ud800",)), "BuildSucceeded.names"),
        (LogOutput(1, 2, b"x" * (BYTES_LIMIT + 1), 3), "LogOutput.data"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_its_place(message: object, place: str) -> None:
    with pytest.raises(ProtocolError, match=place):
        read_message(encode(message))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.sampled_from([BuildSucceeded, BuildFailed, LogOutput, PlanReady]), st.data())
def test_anything_is_a_message_or_a_protocol_error(kind: type, data: st.DataObject) -> None:
    value = {name: data.draw(VALUES) for name in kind._fields}  # type: ignore[attr-defined]
    try:
        read_message(json.dumps({"type": kind.__name__, "value": value}).encode())
    except ProtocolError:
        pass
