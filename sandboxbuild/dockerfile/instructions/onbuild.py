"""ONBUILD: a trigger is kept as text, and read when it fires."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from sandboxbuild.dockerfile.instructions.base import Lowered, Raw, at_least_one, read_flags
from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.dockerfile.words import SPACE, split_once

if TYPE_CHECKING:
    from sandboxbuild.dockerfile.scope import Scope

_ONBUILD: Final = r"(?i)[\t\n\v\f\r ]*ONBUILD[\t\n\v\f\r ]*"


class Onbuild(NamedTuple):
    raw: Raw
    trigger: str
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        """BuildKit writes no history for it."""
        scope.config = scope.config._replace(onbuild=(*scope.config.onbuild, self.trigger))
        return Lowered(f"ONBUILD {self.trigger}", has_history=False)


def parse_onbuild(raw: Raw) -> Onbuild:
    at_least_one(raw)
    read_flags(raw)
    keyword = split_once(raw.words[0].strip(SPACE))[0].upper()
    if keyword == "ONBUILD":
        raise Fault("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if keyword in ("MAINTAINER", "FROM"):
        raise Fault(f"{keyword} isn't allowed as an ONBUILD trigger")
    documents = "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in raw.heredocs)
    return Onbuild(raw, re.sub(_ONBUILD, "", raw.text, count=1) + documents)
