"""From the text after an instruction's name and flags to its arguments; which shape belongs to which instruction.

Source: moby/buildkit frontend/dockerfile/parser/line_parsers.go. Quotes and variables stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.dockerfile.words import (
    SPACE,
    json_strings,
    refuse_other_array,
    split_blanks,
    split_flags,
    split_once,
    split_quoted,
)


class Arguments(NamedTuple):
    """`words` in order; `is_json` says that they stood in a JSON array."""

    words: tuple[str, ...] = ()
    is_json: bool = False


def _one(rest: str, _escape: str) -> Arguments:
    """The whole rest is one argument."""
    return Arguments((rest,) if rest else ())


def _list(rest: str, _escape: str) -> Arguments:
    return Arguments(split_blanks(rest))


def _json_or_one(rest: str, escape: str) -> Arguments:
    array = json_strings(rest)
    return _one(rest, escape) if array is None else Arguments(array, is_json=True)


def _json_or_list(rest: str, escape: str) -> Arguments:
    array = json_strings(rest)
    return _list(rest, escape) if array is None else Arguments(array, is_json=True)


def _names(rest: str, escape: str) -> Arguments:
    """ARG: `name` or `name=value`, quoted as they may be."""
    return Arguments(split_quoted(rest, escape))


def _pairs(keyword: str) -> Shape:
    """ENV and LABEL: name, value and separator of each pair; the separator is "" for the old form `name value`."""

    def read(rest: str, escape: str) -> Arguments:
        words = split_quoted(rest, escape)
        if not words:
            return Arguments()
        if "=" not in words[0]:
            name, value = split_once(rest)
            if not value:
                raise Fault(f"{keyword} must have two arguments", at=rest, hint=f"write {keyword} {name}=value")
            return Arguments((name, value, ""))
        found: list[str] = []
        for word in words:
            name, equals, value = word.partition("=")
            if not equals:
                raise Fault(
                    f"Syntax error - can't find = in {word!r}. Must be of the form: name=value",
                    at=word,
                    hint="quote a value that has spaces in it; a comment has a line of its own" if "#" in rest else "",
                )
            found += (name, value, "=")
        return Arguments(tuple(found))

    return read


def _healthcheck(rest: str, escape: str) -> Arguments:
    """The type, then a command."""
    if not rest:
        return Arguments()
    at = next((position for position, character in enumerate(rest) if character in SPACE), len(rest))
    command = _json_or_one(rest[at:].lstrip(SPACE), escape)
    return Arguments((rest[:at], *command.words), command.is_json)


def _trigger(rest: str, escape: str) -> Arguments:
    """ONBUILD: the trigger as it is, once its own arguments have the right shape."""
    keyword, value = split_once(rest)
    if keyword.upper() != "ONBUILD":
        arguments_of(keyword.upper(), split_flags(value).rest, escape)
    return _one(rest, escape)


Shape = Callable[[str, str], Arguments]

SHAPES: Final[Mapping[str, Shape]] = {
    "ADD": _json_or_list,
    "ARG": _names,
    "CMD": _json_or_one,
    "COPY": _json_or_list,
    "ENTRYPOINT": _json_or_one,
    "ENV": _pairs("ENV"),
    "EXPOSE": _list,
    "FROM": _list,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _pairs("LABEL"),
    "MAINTAINER": _one,
    "ONBUILD": _trigger,
    "RUN": _json_or_one,
    "SHELL": _json_or_one,
    "STOPSIGNAL": _one,
    "USER": _one,
    "VOLUME": _json_or_list,
    "WORKDIR": _one,
}


_TAKE_ARRAYS: Final = frozenset(keyword for keyword, shape in SHAPES.items() if shape in (_json_or_one, _json_or_list))


def refuse_other_arrays(keyword: str, rest: str) -> None:
    """Raise a Fault where the arguments, or those of a trigger, are a JSON array of other things than strings."""
    if keyword == "ONBUILD":
        inner, value = split_once(rest)
        if inner.upper() != keyword:
            refuse_other_arrays(inner.upper(), split_flags(value).rest)
    elif keyword == "HEALTHCHECK":
        refuse_other_array(split_once(rest)[1])
    elif keyword in _TAKE_ARRAYS:
        refuse_other_array(rest)


def arguments_of(keyword: str, rest: str, escape: str) -> Arguments:
    """The arguments of an instruction, () for one that isn't known. Raises a Fault."""
    shape = SHAPES.get(keyword)
    return shape(rest, escape) if shape else Arguments()
