"""LABEL and MAINTAINER."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sandboxbuild.dockerfile.instructions.base import Lowered, Raw, exactly_one, read_flags
from sandboxbuild.dockerfile.instructions.variables import Pair, read_pairs

if TYPE_CHECKING:
    from sandboxbuild.dockerfile.scope import Scope


class Label(NamedTuple):
    raw: Raw
    pairs: tuple[Pair, ...]
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        labels = dict(scope.config.labels)
        shown = []
        for pair in self.pairs:
            scope.lint.legacy_pair("LABEL", pair.legacy, self.raw.place)
            name, value = scope.expand(pair.name), scope.expand(pair.value)
            labels[name] = value
            shown.append(f"{name}={value}")
        scope.config = scope.config._replace(labels=tuple(labels.items()))
        return Lowered("LABEL " + " ".join(shown))


class Maintainer(NamedTuple):
    raw: Raw
    author: str
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        scope.config = scope.config._replace(author=self.author)
        return Lowered(f"MAINTAINER {self.author}")


def parse_label(raw: Raw) -> Label:
    return Label(raw, read_pairs(raw))


def parse_maintainer(raw: Raw) -> Maintainer:
    author = exactly_one(raw)
    read_flags(raw)
    return Maintainer(raw, author)
