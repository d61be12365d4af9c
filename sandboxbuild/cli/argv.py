"""The pre-pass over argv: every spelling of buildx, buildah and kaniko becomes `--name=value`, which click reads without doubt.

Pure. Go's flag parsers take `--push=false`, `-d=b` and `--pull .` (where PATH is no value); click doesn't. Unknown flags pass
unchanged, so that click can refuse them with the nearest name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sandboxbuild.cli.options import Flag, IgnoredFlag, Kind, RefusedFlag
from sandboxbuild.errors import UsageError

# strconv.ParseBool of Go's library.
TRUE_WORDS: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE_WORDS: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Spelling(NamedTuple):
    """What a spelling stands for: a flag's own name, and whether it says the opposite."""

    name: str
    kind: Kind
    negated: bool = False


def spellings(flags: Iterable[Flag | IgnoredFlag | RefusedFlag]) -> dict[str, Spelling]:
    """Every way to write each flag."""
    table: dict[str, Spelling] = {}
    for flag in flags:
        for spelling in (flag.name, flag.short, *getattr(flag, "aliases", ())):
            if spelling:
                table[spelling] = Spelling(flag.name, flag.kind)
        for spelling in getattr(flag, "negations", ()):
            table[spelling] = Spelling(flag.name, flag.kind, negated=True)
    return table


def normalise(argv: Sequence[str], table: dict[str, Spelling]) -> list[str]:
    """argv with each known flag as one word `--name=value`. Raises UsageError for a switch whose value is no boolean."""
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*words, word, *rest]
        written, equals, value = _split(word, table)
        spelling = table.get(written)
        if spelling is not None and spelling.kind is Kind.SWITCH and _is_bundle(word):
            value = "true"
            rest.insert(0, "-" + word[2:])
        if spelling is None:
            words.append(word)
        elif spelling.kind in (Kind.SWITCH, Kind.OPTIONAL):
            words.append(f"{spelling.name}={_switch_value(written, spelling, value if equals else 'true')}")
        elif equals or rest:
            words.append(f"{spelling.name}={value if equals else rest.pop(0)}")
        else:
            words.append(spelling.name)
    return words


def _split(word: str, table: dict[str, Spelling]) -> tuple[str, bool, str]:
    """A word as (flag, whether a value is attached, value). `-ofoo` and `-o=foo` both attach."""
    if word.startswith("--"):
        written, equals, value = word.partition("=")
        return written, bool(equals), value
    if len(word) > 2 and word[0] == "-" and word[:2] in table:
        value = word[2:]
        return word[:2], True, value.removeprefix("=")
    return word, False, ""


def _is_bundle(word: str) -> bool:
    """`-qt`: a short switch with another short flag behind it."""
    return not word.startswith("--") and len(word) > 2 and word[2] != "="


def _switch_value(written: str, spelling: Spelling, value: str) -> str:
    if value in TRUE_WORDS or value in FALSE_WORDS:
        return "true" if (value in TRUE_WORDS) != spelling.negated else "false"
    if spelling.kind is Kind.OPTIONAL and not spelling.negated:
        return value
    raise UsageError(f"{written} takes true or false, not {value!r}", hint=f"write {written} or {written}=false")
