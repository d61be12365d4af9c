from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from sandboxbuild.gateway.agents import Agents, carry_messages
from sandboxbuild.gateway.audit import AuditLog
from sandboxbuild.gateway.config import AgentFrom
from sandboxbuild.gateway.server import Route
from sandboxbuild.gateway.stepbook import AGENTS_AT_ONCE, NotDue, StepBook
from tests.unit.gateway_core.fake_exchange import serve

FAILURE = b"\0\0\0\x01\x05"
IDENTITIES = b"\0\0\0\x01\x0b"


class Agent:
    """An agent's end of a carried connection, and the client's."""

    def __init__(self) -> None:
        self.client, inner = socket.socketpair()
        self.agent, outer = socket.socketpair()
        self._thread = threading.Thread(target=self._carry, args=(inner, outer))
        self._thread.start()

    def _carry(self, inner: socket.socket, outer: socket.socket) -> None:
        with inner, outer, suppress(OSError):
            carry_messages(inner, b"", outer)

    def close(self) -> None:
        self.client.close()
        self.agent.close()
        self._thread.join(5)
        assert not self._thread.is_alive()


@pytest.fixture
def agent() -> Iterator[Agent]:
    made = Agent()
    yield made
    made.close()


def test_a_question_for_keys_reaches_the_agent_and_its_answer_comes_back(agent: Agent) -> None:
    agent.client.sendall(IDENTITIES)
    assert agent.agent.recv(100) == IDENTITIES
    agent.agent.sendall(b"\0\0\0\x05\x0c\0\0\0\0")
    assert agent.client.recv(100) == b"\0\0\0\x05\x0c\0\0\0\0"


@pytest.mark.parametrize("kind", [0, 1, 17, 18, 19, 20, 22, 23, 25, 26, 27, 255])
def test_whatever_would_change_the_agent_never_reaches_it(agent: Agent, kind: int) -> None:
    agent.client.sendall(b"\0\0\0\x02" + bytes((kind, 0)))
    assert agent.client.recv(100) == FAILURE
    agent.agent.setblocking(False)
    with pytest.raises(BlockingIOError):
        agent.agent.recv(1)


def test_an_empty_message_is_a_failure(agent: Agent) -> None:
    agent.client.sendall(bytes(4))
    assert agent.client.recv(100) == FAILURE


def test_a_message_that_is_too_long_ends_the_connection(agent: Agent) -> None:
    agent.client.sendall(b"\x7f\xff\xff\xff\x0b")
    assert agent.client.recv(100) == b""


STEP = {"sandboxbuild-step": "3"}


def agents(path: Path) -> tuple[StepBook, tuple[Route, ...]]:
    """A build whose step 3 names the agent `default`."""
    book = StepBook()
    book.declare("3", "0", "RUN x", agents=["default"])
    found = [AgentFrom("default", str(path)), AgentFrom("unnamed", str(path))]
    return book, Agents(found, AuditLog(), book).routes()


@pytest.mark.parametrize("path", ["/v1/ssh/other", "/v1/ssh/", "/v1/ssh/../secret/x", "/v1/ssh/default?x=1", "/v1/ssh/unnamed"])
def test_an_agent_that_command_line_or_step_do_not_name_is_refused(path: str, tmp_path: Path) -> None:
    assert serve(agents(tmp_path / "agent")[1], "GET", path, STEP).status == 403


def test_an_agent_is_refused_before_the_step_and_after_it(tmp_path: Path) -> None:
    book, routes = agents(tmp_path / "agent")
    assert serve(routes, "GET", "/v1/ssh/default", {"sandboxbuild-step": "4"}).message == "no such step has begun"
    book.end("3")
    assert serve(routes, "GET", "/v1/ssh/default", STEP).message == "step 3 has ended"


def test_an_agent_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    assert serve(agents(tmp_path / "agent")[1], "GET", "/v1/ssh/default", STEP).status == 502


def test_the_end_of_a_step_cuts_its_connection_to_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "agent"
    book, routes = agents(path)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(path))
        agent.listen()
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(serve, routes, "GET", "/v1/ssh/default", STEP, IDENTITIES)
            with agent.accept()[0] as connection:
                assert connection.recv(100) == IDENTITIES
                book.end("3")
                connection.shutdown(socket.SHUT_RDWR)
                assert answer.result(10).status == 200


def test_connections_of_a_step_to_agents_are_limited(tmp_path: Path) -> None:
    book = agents(tmp_path)[0]
    with ExitStack() as stack:
        for _ in range(AGENTS_AT_ONCE):
            stack.enter_context(book.hold_agent("3", "default", stack.enter_context(socket.socket())))
        with pytest.raises(NotDue, match="too many"):
            stack.enter_context(book.hold_agent("3", "default", stack.enter_context(socket.socket())))
    with socket.socket() as one, book.hold_agent("3", "default", one):
        pass
