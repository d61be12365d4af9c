"""BuildOutcome: what a build came to; and Record, which gathers it from the checked events, within bounds."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

from sandboxbuild.protocol.events import BaseResolved, BuildFailed, Event, PushCompleted, StepTimed, WarningRaised

RECORDS_LIMIT: Final = 20_000

Kept = TypeVar("Kept")
_KEPT: Final = (BaseResolved, BuildFailed, StepTimed, PushCompleted, WarningRaised)


class Record:
    """What the metadata file will say of a build, also of one that failed. Kinds that it doesn't keep pass by."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: list[Event] = []

    def add(self, event: Event | None) -> None:
        if isinstance(event, _KEPT) and len(self._kept) < RECORDS_LIMIT:
            self._kept.append(event)

    def of(self, kind: type[Kept]) -> tuple[Kept, ...]:
        return tuple(event for event in self._kept if isinstance(event, kind))


class BuildOutcome(NamedTuple):
    """A finished and verified build. `digest` is of the manifest or index; `config_digest` is "" for an index.

    `record` keeps its bases, steps, pushes and warnings. `names` are those that the image has in the store; `written` the
    destinations of its outputs.
    """

    build_id: str
    media_type: str
    digest: str
    size_bytes: int
    config_digest: str
    names: tuple[str, ...]
    record: Record
    written: tuple[str, ...] = ()

    @property
    def image_id(self) -> str:
        """What docker calls the image's id: its config's digest, or the index's own."""
        return self.config_digest or self.digest
