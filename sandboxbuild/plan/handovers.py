"""NamedRun: the secrets and ssh agents that one RUN of a Dockerfile names, which is all that it may be handed."""

from __future__ import annotations

from typing import Final, NamedTuple

ANY_ID: Final = "*"  # an id that only the stage's variables tell


class NamedRun(NamedTuple):
    """`stage` is the stage's name or number, `run` the step's text (Step.text); ids are as written, ANY_ID where unknown."""

    stage: str
    run: str
    secrets: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
