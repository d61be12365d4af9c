"""Messages: every event of the executor, checked before anything in the launcher looks at it.

The shapes are those of `protocol.events`, to which the protocol's codec holds an executor; the bounds are here. pydantic would
do both, for a tenth of a second and 12 MB in each build.
"""

from __future__ import annotations

import re
from typing import Any, Final, get_args

from sandboxbuild.errors import ProtocolError
from sandboxbuild.protocol.channel import BYTES_LIMIT, TEXT_LIMIT_CHARACTERS, Hello
from sandboxbuild.protocol.codec import decode, make_decoders
from sandboxbuild.protocol.events import Event
from sandboxbuild.protocol.groups import QUESTIONS, GroupQuestion

ITEMS_LIMIT: Final = 1000  # of any list in an event

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", re.ASCII)
_TYPES: Final = (Hello, *QUESTIONS, *get_args(Event))


def prepare() -> None:
    """Make the decoders ahead of the first message; may run in a thread of its own."""
    make_decoders(_TYPES)


def read_message(payload: bytes) -> Hello | GroupQuestion | Event:
    """The message in a frame's payload. Raises ProtocolError for whatever is not exactly one of ours, within its bounds."""
    try:
        message: Hello | GroupQuestion | Event = decode(payload, _TYPES)
        _check_fields(message, type(message).__name__)
    except ProtocolError as error:
        raise ProtocolError(f"the executor sent a bad message: {error.message}") from error
    return message


def _check_fields(value: Any, place: str) -> None:
    for name, part in zip(value._fields, value, strict=True):
        _check(part, f"{place}.{name}")


def _check(value: Any, place: str) -> None:
    """Raise for a value out of its bounds; its type is right already."""
    if isinstance(value, str):
        _check_text(value, place)
    elif isinstance(value, int):
        if value < 0:
            raise ProtocolError(f"{place}: a negative number")
    elif isinstance(value, bytes):
        if len(value) > BYTES_LIMIT:
            raise ProtocolError(f"{place}: more than {BYTES_LIMIT} bytes")
    elif hasattr(value, "_fields"):
        _check_fields(value, place)
    elif isinstance(value, tuple):
        if len(value) > ITEMS_LIMIT:
            raise ProtocolError(f"{place}: more than {ITEMS_LIMIT} items")
        for part in value:
            _check(part, place)


def _check_text(value: str, place: str) -> None:
    """Bounded, and such that it can be written down: JSON may escape half of a surrogate pair, UTF-8 has no form for it."""
    if len(value) > TEXT_LIMIT_CHARACTERS:
        raise ProtocolError(f"{place}: more than {TEXT_LIMIT_CHARACTERS} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ProtocolError(f"{place}: text that is no Unicode") from error
    # An index has no config.
    if place.endswith("digest") and not _DIGEST.fullmatch(value) and not (place.endswith("config_digest") and not value):
        raise ProtocolError(f"{place}: not a digest")
