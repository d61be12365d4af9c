"""Numbers in policies: sizes and durations carry a unit, counts don't, and none of them is zero."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from sandboxbuild.units import parse_duration_ns, parse_size

COUNT_LIMIT = 2**31 - 1


def _read_size(value: object) -> object:
    if not isinstance(value, str) or not re.search(r"[A-Za-z]", value):
        raise ValueError('a size is text with a unit, such as "512MiB"')
    return _positive(parse_size(value))


def _read_duration(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('a duration is text with a unit, such as "90s" or "1h30m"')
    return _positive(parse_duration_ns(value)) / 1e9


def _positive(number: int) -> int:
    if number <= 0:
        raise ValueError("zero is no limit; leave the key out for none")
    return number


def _check_share(value: float) -> float:
    if not 0.01 <= value <= 4096:
        raise ValueError("a number of processors from 0.01 to 4096")
    return value


Size = Annotated[int, BeforeValidator(_read_size)]
Duration = Annotated[float, BeforeValidator(_read_duration)]
Count = Annotated[int, Field(ge=1, le=COUNT_LIMIT)]
Processors = Annotated[float, AfterValidator(_check_share)]
