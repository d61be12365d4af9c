"""Event: what the executor says while it builds. One stream feeds the terminal, the pipe and the JSON lines.

Times are nanoseconds since the epoch by the executor's clock: for show, never for a decision. Text in events is untrusted.
"""

from __future__ import annotations

from typing import NamedTuple, Union

from sandboxbuild.errors import Span


class PlanReady(NamedTuple):
    """The graph is known. `steps` counts vertices that will be run or found in the cache."""

    stages: int
    steps: int


class VertexStarted(NamedTuple):
    """Something with a name and a duration begins: `vertex` is unique in the build (small integers from 1).

    `kind` is internal, base, step, layer, export or push. `number` of `total` is the step's place in its stage (0: none).
    """

    vertex: int
    kind: str
    name: str
    stage: str
    number: int
    total: int
    time_ns: int


class VertexCompleted(NamedTuple):
    """`error` is "" on success."""

    vertex: int
    cached: bool
    error: str
    time_ns: int


class LogOutput(NamedTuple):
    """Bytes that a step wrote. `stream` is 1 (standard output) or 2. At most 64 KiB each."""

    vertex: int
    stream: int
    data: bytes
    time_ns: int


class TransferProgress(NamedTuple):
    """`item` (a short digest) has moved `current_bytes` of `total_bytes` (0: unknown).

    `action` is pull, push, unpack or compress.
    """

    vertex: int
    item: str
    action: str
    current_bytes: int
    total_bytes: int
    time_ns: int


class WarningRaised(NamedTuple):
    message: str
    span: Span | None
    source: str


class BaseResolved(NamedTuple):
    """A base image as it was found: goes into the metadata file."""

    reference: str
    platform: str
    digest: str


class PushCompleted(NamedTuple):
    reference: str
    digest: str
    uploaded_bytes: int
    mounted_blobs: int


class StepTimed(NamedTuple):
    """What a step cost; `status` is its exit status."""

    vertex: int
    name: str
    cached: bool
    status: int
    duration_ns: int


class BuildFailed(NamedTuple):
    """The end, badly. `error` is the class name in `errors`; `vertex` the failing one or 0; `status` a step's exit status.

    `tail` holds the last output of the failed step (at most 8 KiB).
    """

    error: str
    exit_code: int
    message: str
    hint: str
    span: Span | None
    source: str
    vertex: int
    status: int
    tail: bytes


class BuildSucceeded(NamedTuple):
    """The end. The descriptor is of the manifest, or of the index for several platforms, in the store."""

    media_type: str
    digest: str
    size_bytes: int
    config_digest: str
    names: tuple[str, ...]


Event = Union[
    PlanReady,
    VertexStarted,
    VertexCompleted,
    LogOutput,
    TransferProgress,
    WarningRaised,
    BaseResolved,
    PushCompleted,
    StepTimed,
    BuildFailed,
    BuildSucceeded,
]
