"""How much a Dockerfile may ask of the parser. Generous for people's files; what keeps hostile ones linear."""

from __future__ import annotations

from typing import Final

from sandboxbuild.dockerfile.spans import Fault

FILE_BYTES: Final = 1024 * 1024
LINE_BYTES: Final = 65_535  # one physical line outside of heredocs, as BuildKit has it (bufio.MaxScanTokenSize - 1)
INSTRUCTIONS: Final = 2_500
STAGES: Final = 500
HEREDOCS: Final = 100  # in one instruction
EXPANSION_DEPTH: Final = 50  # ${a:-${b:-...}}
VARIABLES: Final = 2_000  # of one stage
SOURCES: Final = 5_000  # of one COPY or ADD
MOUNTS: Final = 100  # of one RUN
PAIRS: Final = 2_000  # of one ENV, ARG or LABEL
BUDGET: Final = 64 * 1024 * 1024  # characters of one build: expanded variables, history, environments
EXPOSED_PORTS: Final = 131_072  # of one instruction
PORT_COST: Final = 100  # of the budget, for each port that is named
VARIABLE_COST: Final = 16  # of the budget, each time that a list of variables is made
TRIGGERS: Final = 1_000  # ONBUILD triggers of one image


class Budget:
    """What is left of BUDGET: it bounds what grows faster than the file. Spending more raises a Fault."""

    __slots__ = ("left",)

    def __init__(self, characters: int = BUDGET) -> None:
        self.left = characters

    def spend(self, characters: int) -> None:
        self.left -= characters
        if self.left < 0:
            raise Fault("the Dockerfile expands to too much text", hint="does a variable's value grow from line to line?")
