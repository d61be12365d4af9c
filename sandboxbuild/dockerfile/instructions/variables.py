"""ARG and ENV."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sandboxbuild.dockerfile import limits
from sandboxbuild.dockerfile.instructions.base import Lowered, Raw, at_least_one, read_flags
from sandboxbuild.dockerfile.spans import Fault

if TYPE_CHECKING:
    from sandboxbuild.dockerfile.scope import Scope


class Pair(NamedTuple):
    """`name=value`; `legacy` is the form without the equals sign."""

    name: str
    value: str
    legacy: bool = False


class Arg(NamedTuple):
    """`pairs` are (name, default or None), unexpanded."""

    raw: Raw
    pairs: tuple[tuple[str, str | None], ...]
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        shown = []
        for name, default in self.pairs:
            scope.lint.secret_name("ARG", name, self.raw.place)
            value = self._value(scope, name, default)
            scope.declare(name, value)
            shown.append(name if value is None else f"{name}={value}")
        return Lowered("ARG " + " ".join(shown))

    def _value(self, scope: Scope, name: str, default: str | None) -> str | None:
        """--build-arg, then the default here, then the global one."""
        given = scope.shared.build_args.get(name)
        if given is not None:
            return given
        return scope.shared.global_args.get(name) if default is None else scope.expand(default)


class Env(NamedTuple):
    raw: Raw
    pairs: tuple[Pair, ...]
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        """All values see the variables as they were before the line."""
        expanded = [(scope.expand(pair.name), scope.expand(pair.value)) for pair in self.pairs]
        for pair, (name, _) in zip(self.pairs, expanded, strict=True):
            if not name:
                raise Fault("ENV names can not be blank", at=pair.name)
            scope.lint.legacy_pair("ENV", pair.legacy, self.raw.place)
            scope.lint.secret_name("ENV", name, self.raw.place)
        scope.set_image_variables(expanded)
        return Lowered("ENV " + " ".join(f"{name}={value}" for name, value in expanded))


def read_pairs(raw: Raw) -> tuple[Pair, ...]:
    """The pairs of ENV or LABEL. Raises a Fault for none and for a blank name."""
    read_flags(raw)
    at_least_one(raw)
    words = raw.words
    _check_count(raw, len(words) // 3)
    pairs = tuple(Pair(words[at], words[at + 1], words[at + 2] == "") for at in range(0, len(words), 3))
    if not all(pair.name for pair in pairs):
        raise Fault(f"{raw.keyword} names can not be blank")
    return pairs


def _check_count(raw: Raw, count: int) -> None:
    if count > limits.PAIRS:
        raise Fault(f"more than {limits.PAIRS} names in one {raw.keyword}")


def parse_arg(raw: Raw) -> Arg:
    read_flags(raw)
    at_least_one(raw)
    _check_count(raw, len(raw.words))
    pairs: list[tuple[str, str | None]] = []
    for word in raw.words:
        name, equals, value = word.partition("=")
        if not name:
            raise Fault("ARG names can not be blank", at=word)
        pairs.append((name, value if equals else None))
    return Arg(raw, tuple(pairs))


def parse_env(raw: Raw) -> Env:
    return Env(raw, read_pairs(raw))
