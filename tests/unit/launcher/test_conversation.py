"""However the executor behaves, the talk ends, and with the right error."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from sandboxbuild import errors
from sandboxbuild.launcher import conversation
from sandboxbuild.launcher.conversation import Conversation
from sandboxbuild.launcher.interruption import Interruption
from sandboxbuild.protocol.channel import EventWriter, read_request
from sandboxbuild.protocol.codec import decode
from sandboxbuild.protocol.events import BuildFailed, BuildSucceeded, Event, LogOutput, PlanReady
from sandboxbuild.protocol.frames import read_frame, write_frame
from sandboxbuild.protocol.groups import ANSWERS, GroupAnswer, GroupMet, GroupQuestion, GroupReady, GroupWanted
from sandboxbuild.protocol.request import BuildRequest

_spec = importlib.util.spec_from_file_location("fake_sandbox", Path(__file__).with_name("fake_sandbox.py"))
assert _spec and _spec.loader
fake_sandbox = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake_sandbox)

DIGEST = "sha256:" + "a" * 64
SUCCESS = BuildSucceeded("application/vnd.oci.image.manifest.v1+json", DIGEST, 10, DIGEST, ())
REQUEST = BuildRequest("b1")


@pytest.fixture
def interruption() -> Iterator[Interruption]:
    with Interruption() as entered:
        yield entered


def failed(error: str, **fields: Any) -> BuildFailed:
    values = {
        "exit_code": 0,
        "message": "it broke",
        "hint": "",
        "span": None,
        "source": "",
        "vertex": 0,
        "status": 0,
        "tail": b"",
    }
    return BuildFailed(error=error, **(values | fields))


def saying(*events: Event, status: int = 0) -> Any:
    def script(stdin: IO[bytes], stdout: IO[bytes], _stderr: IO[bytes]) -> int:
        writer = EventWriter(stdout, read_request(stdin).build_id)
        for event in events:
            writer.write(event)
        return status

    return script


def talk(
    script: Any, interruption: Interruption, request: BuildRequest = REQUEST, **options: Any
) -> tuple[BuildSucceeded, list[Event]]:
    sandbox = fake_sandbox.FakeSandbox(script)
    seen: list[Event] = []
    try:
        result = Conversation(sandbox, interruption, lambda event: seen.append(event) if event else None, **options).run(
            request
        )
    finally:
        sandbox.close()
    return result, seen


def test_events_arrive_in_order_and_the_result_is_returned(interruption: Interruption) -> None:
    events = (PlanReady(1, 2), LogOutput(1, 1, b"x" * 65536, 1), SUCCESS)
    assert talk(saying(*events), interruption) == (SUCCESS, list(events))


def test_a_request_larger_than_a_pipe_gets_through(interruption: Interruption) -> None:
    request = BuildRequest("b1", dockerfile=b"x" * 3_000_000)
    assert talk(saying(SUCCESS), interruption, request)[0] == SUCCESS


@pytest.mark.parametrize(
    ("event", "kind", "code"),
    [
        (failed("StepFailed", status=7), errors.StepFailed, 1),
        (failed("DockerfileError"), errors.DockerfileError, 3),
        (failed("PolicyError"), errors.PolicyError, 4),
        (failed("RegistryError"), errors.RegistryError, 5),
        (failed("LimitExceeded"), errors.LimitExceeded, 102),
        (failed("KeyboardInterrupt"), errors.SandboxbuildError, 100),
        (failed("PolicyError", exit_code=0), errors.PolicyError, 4),
    ],
)
def test_a_reported_failure_becomes_our_error(event: BuildFailed, kind: type, code: int, interruption: Interruption) -> None:
    with pytest.raises(kind, match="it broke") as caught:
        talk(saying(event), interruption)
    assert type(caught.value) is kind
    assert caught.value.exit_code == code


def test_a_step_status_comes_through(interruption: Interruption) -> None:
    with pytest.raises(errors.StepFailed) as caught:
        talk(saying(failed("StepFailed", status=137)), interruption)
    assert caught.value.status == 137


def raw(*payloads: bytes, hello: bool = True) -> Any:
    def script(stdin: IO[bytes], stdout: IO[bytes], _stderr: IO[bytes]) -> int:
        build_id = read_request(stdin).build_id
        if hello:
            EventWriter(stdout, build_id)
        for payload in payloads:
            write_frame(stdout, payload)
        return 0

    return script


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (raw(), "ended with status 0 and no result"),
        (raw(b'{"type":"PlanReady","value":{"stages":1,"steps":1}}', hello=False), "before its Hello"),
        (raw(b"{}"), "envelope"),
        (raw(b'{"type":"Shutdown","value":{}}'), "unknown type"),
        (raw(b'{"type":"PlanReady","value":{"stages":-1,"steps":1}}'), "PlanReady.stages: a negative"),
        (raw(b'{"type":"PlanReady","value":{"stages":1,"steps":1,"x":1}}'), "PlanReady: unknown field"),
        (raw(b'{"type":"BaseResolved","value":{"reference":"a","platform":"b","digest":"sha256:../x"}}'), "not a digest"),
        (raw(b'{"type":"Hello","value":{"version":1,"build_id":"b1"}}'), "Hello twice"),
        (raw(b'{"type":"Hello","value":{"version":2,"build_id":"b1"}}', hello=False), "version 2"),
        (raw(b'{"type":"Hello","value":{"version":1,"build_id":"other"}}', hello=False), "another build"),
        (saying(SUCCESS, PlanReady(1, 1)), "after its result"),
        (saying(SUCCESS, SUCCESS), "after its result"),
        (saying(PlanReady(1, 1), status=3), "status 3"),
    ],
)
def test_an_executor_that_breaks_the_rules_is_a_protocol_error(script: Any, message: str, interruption: Interruption) -> None:
    with pytest.raises(errors.ProtocolError, match=message):
        talk(script, interruption)


class Groups:
    """Answers at once, and has one thing to tell."""

    def __init__(self) -> None:
        self.told = [GroupMet(3, "pids")]

    def answer(self, question: GroupQuestion) -> GroupAnswer:
        return GroupReady(question.step, "")

    def news(self) -> list[GroupMet]:
        told, self.told = self.told, []
        return told


def test_questions_are_answered_and_news_told_after_the_request(interruption: Interruption) -> None:
    heard: list[object] = []

    def script(stdin: IO[bytes], stdout: IO[bytes], _stderr: IO[bytes]) -> int:
        writer = EventWriter(stdout, read_request(stdin).build_id)
        writer.ask(GroupWanted(3, 7, 11))
        heard.extend(decode(read_frame(stdin) or b"", ANSWERS) for _ in range(2))
        writer.write(SUCCESS)
        return 0

    assert talk(script, interruption, steps=Groups()) == (SUCCESS, [SUCCESS]), "nobody else sees the questions"
    assert sorted(map(repr, heard)) == [repr(GroupMet(3, "pids")), repr(GroupReady(3, ""))]


def asking_for_ever(stdin: IO[bytes], stdout: IO[bytes], _stderr: IO[bytes]) -> int:
    writer = EventWriter(stdout, read_request(stdin).build_id)
    while True:
        writer.ask(GroupWanted(1, 1, 1))


def test_a_question_where_nobody_answers_breaks_the_rules(interruption: Interruption) -> None:
    with pytest.raises(errors.ProtocolError, match="there are none in this build"):
        talk(asking_for_ever, interruption)


def test_an_executor_that_asks_and_does_not_listen_is_ended(interruption: Interruption) -> None:
    with pytest.raises(errors.ProtocolError, match="doesn't read"):
        talk(asking_for_ever, interruption, steps=Groups())


def test_a_frame_that_announces_too_much_is_refused_before_it_comes(interruption: Interruption) -> None:
    def script(stdin: IO[bytes], stdout: IO[bytes], _stderr: IO[bytes]) -> int:
        read_request(stdin)
        stdout.write(b"\xff\xff\xff\xff")
        stdout.flush()
        return 0

    with pytest.raises(errors.ProtocolError, match="announced"):
        talk(script, interruption)


def test_an_executor_that_never_answers_is_given_up(interruption: Interruption, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "HELLO_TIMEOUT_S", 0.05)
    with pytest.raises(errors.ProtocolError, match="did not answer"):
        talk(lambda stdin, _stdout, _stderr: len(stdin.read()), interruption)


def test_a_deadline_ends_a_build(interruption: Interruption) -> None:
    with pytest.raises(errors.BuildTimeout):
        talk(lambda stdin, _stdout, _stderr: len(stdin.read()), interruption, deadline=time.monotonic() + 0.05)


def test_an_executor_that_was_killed_is_named_so(interruption: Interruption) -> None:
    with pytest.raises(errors.SandboxbuildError, match="killed by signal 9") as caught:
        talk(saying(PlanReady(1, 1), status=137), interruption)
    assert caught.value.exit_code == 100


def test_an_executor_that_the_kernel_killed_for_memory_is_a_limit(
    interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([4, 5])
    monkeypatch.setattr(conversation, "count_oom_kills", lambda: next(counts))
    with pytest.raises(errors.LimitExceeded, match="memory"):
        talk(saying(PlanReady(1, 1), status=137), interruption)


def test_the_last_line_of_the_log_is_told_where_there_is_no_result(interruption: Interruption) -> None:
    def script(stdin: IO[bytes], _stdout: IO[bytes], stderr: IO[bytes]) -> int:
        read_request(stdin)
        stderr.write(b"Traceback\n" + b"x" * 100_000 + b"\nKeyError: 'y'\n")
        stderr.flush()
        return 1

    with pytest.raises(errors.ProtocolError, match="KeyError: 'y'"):
        talk(script, interruption)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_talk_with_its_exit_code(number: int, code: int, interruption: Interruption) -> None:
    def script(stdin: IO[bytes], stdout: IO[bytes], _stderr: IO[bytes]) -> int:
        EventWriter(stdout, read_request(stdin).build_id)
        os.kill(os.getpid(), number)
        return len(stdin.read())

    with pytest.raises(errors.Interrupted) as caught:
        talk(script, interruption)
    assert caught.value.exit_code == code


def test_a_signal_raises_at_once_only_where_that_is_safe(interruption: Interruption) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    assert interruption.count == 1
    with pytest.raises(errors.Interrupted), interruption.raising():
        pass
