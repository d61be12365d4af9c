"""What every instruction has: its text cut up (Raw), flags by a table (Flag), and a lowering (Command, Lowered)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from sandboxbuild.dockerfile.grammar import Arguments
from sandboxbuild.dockerfile.heredocs import Heredoc
from sandboxbuild.dockerfile.spans import Fault, Place, did_you_mean
from sandboxbuild.dockerfile.words import SPACE
from sandboxbuild.plan.operations import Op

if TYPE_CHECKING:
    from sandboxbuild.dockerfile.scope import Scope

SWITCH: Final = "switch"  # --link, --link=true, --link=false
TEXT: Final = "text"  # --from=x, once
LIST: Final = "list"  # --mount=x, as often as one likes


class Raw(NamedTuple):
    """One instruction. `keyword` is upper case, `written` as in the file; `text` is the logical line, its start stripped."""

    keyword: str
    written: str
    flags: tuple[str, ...]
    arguments: Arguments
    text: str
    place: Place
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        return self.arguments.words

    @property
    def shown(self) -> str:
        """For people: the line, and of a here-document its first line."""
        name, blank, rest = self.text.rstrip(SPACE).partition(" ")
        line = name.upper() + blank + rest
        if not self.heredocs:
            return line
        content = self.heredocs[0].content.strip().split("\n", 1)
        return f"{line} ({content[0].rstrip()}{'...' if len(content) > 1 else ''})"


class Lowered(NamedTuple):
    """What an instruction comes to, beside the change of the scope's config. `created_by` is its line of the history."""

    created_by: str
    op: Op | None = None
    depends_on: tuple[int, ...] = ()
    has_history: bool = True


class Command(Protocol):
    """An instruction after FROM, read and checked as far as that goes without knowing variables."""

    @property
    def raw(self) -> Raw: ...

    @property
    def references(self) -> tuple[str, ...]:
        """Stages, images or contexts that it names, unexpanded."""

    def lower(self, scope: Scope) -> Lowered:
        """Change `scope` and say what is to be done. Raises Fault."""


class Flag(NamedTuple):
    """A row of a FLAGS table. `kind` is SWITCH, TEXT or LIST; `about` one sentence for docs/dockerfile.md."""

    name: str
    kind: str
    about: str


class FlagValues:
    """The flags of one instruction; what isn't given has no value."""

    __slots__ = ("_lists", "_switches", "_texts")

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._switches: dict[str, bool] = {}
        self._lists: dict[str, list[str]] = {}

    def text(self, name: str) -> str:
        return self._texts.get(name, "")

    def switch(self, name: str) -> bool | None:
        """None where the flag isn't given."""
        return self._switches.get(name)

    def list(self, name: str) -> tuple[str, ...]:
        return tuple(self._lists.get(name, ()))

    def _add(self, flag: Flag, value: str | None, word: str) -> None:
        if flag.kind != LIST and (flag.name in self._texts or flag.name in self._switches):
            raise Fault(f"duplicate flag specified: --{flag.name}", at=word)
        if flag.kind == SWITCH:
            self._switches[flag.name] = _switch(flag.name, value, word)
        elif value is None:
            raise Fault(f"missing a value on flag: --{flag.name}", at=word, hint=f"write --{flag.name}=VALUE")
        elif flag.kind == TEXT:
            self._texts[flag.name] = value
        else:
            self._lists.setdefault(flag.name, []).append(value)


def _switch(name: str, value: str | None, word: str) -> bool:
    if value is None or value.lower() == "true":
        return True
    if value.lower() == "false":
        return False
    raise Fault(f"expecting boolean value for flag --{name}, not: {value[:100]!r}", at=word)


def read_flags(raw: Raw, table: Sequence[Flag] = ()) -> FlagValues:
    """Raises a Fault for a flag that isn't in the table."""
    values = FlagValues()
    for word in raw.flags:
        name, equals, value = word[2:].partition("=")
        flag = next((flag for flag in table if flag.name == name), None)
        if flag is None:
            hint = did_you_mean(name, [flag.name for flag in table]) or f"{raw.keyword} has {_names(table)}"
            raise Fault(f"unknown flag: --{name[:100]}", at=f"--{name}", hint=hint)
        values._add(flag, value if equals else None, f"--{name}")
    return values


def _names(table: Sequence[Flag]) -> str:
    return ", ".join(f"--{flag.name}" for flag in table) or "no flags"


def at_least_one(raw: Raw) -> None:
    if not raw.words:
        raise Fault(f"{raw.keyword} requires at least one argument")


def exactly_one(raw: Raw) -> str:
    if len(raw.words) != 1:
        raise Fault(f"{raw.keyword} requires exactly one argument")
    return raw.words[0]


def no_nul(texts: Sequence[str], what: str) -> None:
    """Raise a Fault for what the kernel can't take: a JSON string may hold a NUL."""
    for text in texts:
        if "\0" in text:
            raise Fault(f"{what} can't hold a NUL byte")
