"""FROM: where a stage begins."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sandboxbuild.dockerfile.instructions.base import TEXT, Flag, Raw, read_flags
from sandboxbuild.dockerfile.spans import Fault

FLAGS: Final = (Flag("platform", TEXT, "The platform of the image, such as linux/arm64; global ARGs are expanded."),)
_NAME: Final = re.compile(r"[a-z][a-z0-9-_.]*")


class From(NamedTuple):
    """`image` and `platform` are unexpanded, `name` is lower case, "" for none, `written_name` as in the file."""

    raw: Raw
    image: str
    name: str = ""
    written_name: str = ""
    platform: str = ""


def parse_from(raw: Raw) -> From:
    words = raw.words
    named = len(words) == 3 and words[1].lower() == "as"
    if not named and len(words) != 1:
        raise Fault("FROM requires either one or three arguments", hint="write FROM image, or FROM image AS name")
    name = words[2].lower() if named else ""
    if named and _NAME.fullmatch(name) is None:
        raise Fault(
            f"invalid name for build stage: {words[2][:200]!r}, name can't start with a number or contain symbols",
            at=words[2],
        )
    return From(raw, words[0], name, words[2] if named else "", read_flags(raw, FLAGS).text("platform"))
