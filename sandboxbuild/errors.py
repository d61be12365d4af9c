"""The exception tree. Each class has an exit code; the message says what happened to which thing, the hint what to do next.

SandboxbuildError                    100  a bug of ours, unless a subclass says better
├── UsageError                         2  the command line
├── InputError                         3  a bad Dockerfile or context
│   ├── DockerfileError                   with a Span, shown with a caret
│   └── ContextError
├── PolicyError                        4  a policy refuses it, or the runtime can't enforce it
├── RegistryError                      5  registry or network
│   └── IntegrityError                    bytes are not what their digest says
├── IsolationError                     6  the isolation can't be had on this host
├── StepFailed                         1  a RUN ended with a status other than 0
├── LimitExceeded                    102  disk, memory, output, size, entries
│   └── BuildTimeout                 124
├── Interrupted                      130  or 143, by the signal
└── ProtocolError                    100  launcher and executor don't understand each other
"""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """A place in a Dockerfile. Lines and columns count from 1; `end_column` is exclusive, 0 means to the end of the line."""

    file: str
    line: int
    end_line: int
    column: int = 1
    end_column: int = 0


class SandboxbuildError(Exception):
    """Base of all errors that we raise on purpose."""

    exit_code = 100

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SandboxbuildError):
    exit_code = 2


class InputError(SandboxbuildError):
    exit_code = 3


class DockerfileError(InputError):
    """A Dockerfile that can't be built; `source` is the text of the lines of `span`, for the caret."""

    def __init__(self, message: str, *, span: Span | None = None, source: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.span = span
        self.source = source


class ContextError(InputError):
    pass


class PolicyError(SandboxbuildError):
    exit_code = 4


class RegistryError(SandboxbuildError):
    """`status` is the HTTP status where there was an answer, else 0."""

    exit_code = 5

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class IntegrityError(RegistryError):
    pass


class IsolationError(SandboxbuildError):
    exit_code = 6


class StepFailed(SandboxbuildError):
    """`status` is the step's exit status; one that a signal ended has 128 + the signal's number."""

    exit_code = 1

    def __init__(self, message: str, *, status: int, span: Span | None = None, source: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.span = span
        self.source = source


class LimitExceeded(SandboxbuildError):
    exit_code = 102


class BuildTimeout(LimitExceeded):
    exit_code = 124


class Interrupted(SandboxbuildError):
    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class ProtocolError(SandboxbuildError):
    pass
