"""Messages: every event of the executor, checked by pydantic before anything in the launcher looks at it.

The shapes are those of `protocol.events`; the bounds are here. Importing pydantic takes nearly two tenths of a second, so
`prepare` runs while the sandbox starts, and a model is made when its kind of event is first seen.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

from sandboxbuild.errors import ProtocolError
from sandboxbuild.protocol.channel import BYTES_LIMIT, TEXT_LIMIT_CHARACTERS, Hello
from sandboxbuild.protocol.codec import INTEGER_LIMIT, untag
from sandboxbuild.protocol.events import Event

if TYPE_CHECKING:
    from pydantic import BaseModel

ITEMS_LIMIT: Final = 1000  # of any list in an event
DIGEST_PATTERN: Final = r"^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$"

_TYPES: Final = {cls.__name__: cls for cls in (Hello, *get_args(Event))}


def prepare() -> None:
    """Import what checking needs, ahead of the first message; may run in a thread of its own.

    Without pydantic's plugins: they would be code of others in the trust boundary, and looking for them takes 20 ms.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    _envelope(Hello)


def read_message(payload: bytes) -> Hello | Event:
    """The message in a frame's payload. Raises ProtocolError for whatever is not exactly one of ours, within its bounds."""
    from pydantic import ValidationError

    name, _ = untag(payload)  # refuses duplicate keys too, which pydantic would not
    cls = _TYPES.get(name)
    if cls is None:
        raise ProtocolError(f"the executor sent a message of unknown type {name[:64]!r}")
    try:
        checked: Any = _envelope(cls).model_validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:64] for part in first["loc"])
        raise ProtocolError(f"the executor sent a bad {name}: {place}: {first['msg'][:200]}") from error
    message: Hello | Event = _to_value(cls, checked.value)
    return message


def _to_value(cls: Any, model: BaseModel) -> Any:
    """A checked model as the NamedTuple that it was made from."""
    values = model.__dict__
    return cls(*(_to_value(nested, values[name]) if nested and values[name] else values[name] for name, nested in _fields(cls)))


@cache
def _fields(cls: Any) -> tuple[tuple[str, Any], ...]:
    """Each field's name, and the NamedTuple class in it, if any."""
    hints = get_type_hints(cls)
    return tuple((name, _nested_class(hints[name])) for name in cls._fields)


def _nested_class(hint: Any) -> Any:
    return next((part for part in (hint, *get_args(hint)) if hasattr(part, "_fields")), None)


@cache
def _envelope(cls: Any) -> type[BaseModel]:
    from pydantic import create_model

    definitions: dict[str, Any] = {"type": (Literal[cls.__name__], ...), "value": (_model(cls), ...)}
    return create_model("Envelope", __config__=_config(), **definitions)


@cache
def _model(cls: Any) -> type[BaseModel]:
    """A pydantic model with the fields of a NamedTuple, each bounded."""
    from pydantic import create_model

    hints = get_type_hints(cls)
    definitions: dict[str, Any] = {name: (_bounded(hints[name], name), ...) for name in cls._fields}
    return create_model(cls.__name__, __config__=_config(), **definitions)


def _config() -> Any:
    from pydantic import ConfigDict

    return ConfigDict(strict=True, extra="forbid", frozen=True, val_json_bytes="base64")


def _bounded(hint: Any, name: str) -> Any:
    """The type that pydantic checks for a field: its own, with the bounds that this launcher accepts."""
    from pydantic import Field

    if name == "config_digest":  # an index has none
        return Annotated[str, Field(pattern=rf"^$|{DIGEST_PATTERN}")]
    if name.endswith("digest"):
        return Annotated[str, Field(pattern=DIGEST_PATTERN)]
    if hint is str:
        return Annotated[str, Field(max_length=TEXT_LIMIT_CHARACTERS)]
    if hint is bytes:
        return Annotated[bytes, Field(max_length=BYTES_LIMIT)]
    if hint is int:
        return Annotated[int, Field(ge=0, lt=INTEGER_LIMIT)]
    if hint is bool:
        return bool
    if get_origin(hint) is tuple:
        item: Any = _bounded(get_args(hint)[0], "")
        return Annotated[tuple[item, ...], Field(max_length=ITEMS_LIMIT)]
    if (nested := _nested_class(hint)) is not None:
        return _model(nested) if hint is nested else _model(nested) | None
    raise TypeError(f"no bound for {hint!r}")
