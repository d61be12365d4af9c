"""How much a Dockerfile may ask of the parser. Generous for people's files; what keeps hostile ones linear."""

from __future__ import annotations

from typing import Final

from sandboxbuild.dockerfile.spans import Fault

FILE_BYTES: Final = 2 * 1024 * 1024
LINE_BYTES: Final = 65_535  # one physical line outside of heredocs, as BuildKit has it (bufio.MaxScanTokenSize - 1)
INSTRUCTIONS: Final = 5_000
STAGES: Final = 500
HEREDOCS: Final = 100  # in one instruction
EXPANSION_DEPTH: Final = 50  # ${a:-${b:-...}}
VARIABLES: Final = 10_000  # of one stage
EXPANDED_CHARACTERS: Final = 64 * 1024 * 1024  # put in place of variables in one build
EXPOSED_PORTS: Final = 131_072  # of one instruction
TRIGGERS: Final = 1_000  # ONBUILD triggers of one image


class Budget:
    """What is left of EXPANDED_CHARACTERS. Spending more raises a Fault."""

    __slots__ = ("left",)

    def __init__(self, characters: int = EXPANDED_CHARACTERS) -> None:
        self.left = characters

    def spend(self, characters: int) -> None:
        self.left -= characters
        if self.left < 0:
            raise Fault("variables expand to too much text", hint="a variable's value grows from line to line")
