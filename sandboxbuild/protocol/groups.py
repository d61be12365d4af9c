"""What executor and launcher say of a step's control group: only the launcher can make one, only the executor knows the step.

The executor asks (GroupWanted) before a step's first program, and says when nothing of the step runs any more (GroupLeft). The
launcher answers each (GroupReady, GroupClosed), and says in between that a bound was met (GroupMet), for the executor to end
the step. `step` is the step's vertex.
"""

from __future__ import annotations

from typing import NamedTuple

from sandboxbuild.protocol.codec import encode
from sandboxbuild.protocol.frames import HEADER_BYTES


class GroupWanted(NamedTuple):
    """For the process `pid` of the pid namespace whose inode is `namespace` (stat(2) of /proc/PID/ns/pid), and its children."""

    step: int
    pid: int
    namespace: int


class GroupLeft(NamedTuple):
    step: int


class GroupReady(NamedTuple):
    """The process is in its group, unless `error` says why not."""

    step: int
    error: str


class GroupMet(NamedTuple):
    """`limit` is memory or pids."""

    step: int
    limit: str


class GroupClosed(NamedTuple):
    """`limit` as in GroupMet, "" for none."""

    step: int
    limit: str


GroupQuestion = GroupWanted | GroupLeft
GroupAnswer = GroupReady | GroupMet | GroupClosed
QUESTIONS = (GroupWanted, GroupLeft)
ANSWERS = (GroupReady, GroupMet, GroupClosed)


def framed(answer: GroupAnswer) -> bytes:
    """As it goes over the control channel."""
    payload = encode(answer)
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload
