"""From the table of flags to a click command: options, variables, refusals, and the pre-pass over argv in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from sandboxbuild.cli.argv import FALSE_WORDS, TRUE_WORDS, normalise, spellings
from sandboxbuild.cli.options import FALSE_ONLY_FLAGS, IGNORED_FLAGS, REFUSED_FLAGS, Flag, IgnoredFlag, Kind, RefusedFlag
from sandboxbuild.errors import UsageError


class TextLines(click.types.StringParamType):
    """Text; a list of them in a variable has one on each line."""

    envvar_list_splitter = "\n"


class Switch(click.ParamType[bool]):
    """A boolean as Go's flag parsers read one."""

    name = "switch"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        if isinstance(value, bool):
            return value
        if value in TRUE_WORDS:
            return True
        if value in FALSE_WORDS or not value:
            return False
        return self.fail(f"{value!r} is not true or false", param, ctx)


class TableOption(click.Option):
    """An option whose help shows every spelling of its flag and no value for a switch."""

    def __init__(self, flag: Flag, **attributes: Any) -> None:
        super().__init__(_declarations(flag), **attributes)
        self.flag = flag

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:  # noqa: ARG002 (click's signature)
        if self.hidden:
            return None
        flag = self.flag
        names = ", ".join(filter(None, (flag.short, flag.name, *flag.aliases)))
        value = f" {flag.metavar}" if flag.metavar and not flag.metavar.startswith("[=") else flag.metavar
        if flag.choices and not flag.metavar:
            value = " " + "|".join(flag.choices)
        default = f" [default: {flag.default}]" if flag.default else ""
        return names + value, flag.help + default


def _declarations(flag: Flag) -> list[str]:
    return [flag.parameter, flag.name] + ([flag.short] if flag.short else [])


class TableCommand(click.Command):
    """A command whose argv passes through the pre-pass, and whose help lists its flags by group."""

    def __init__(self, *positional: Any, flags: Sequence[Flag] = (), foreign: bool = False, **attributes: Any) -> None:
        super().__init__(*positional, **attributes)
        others: tuple[IgnoredFlag | RefusedFlag, ...] = (*IGNORED_FLAGS, *REFUSED_FLAGS, *FALSE_ONLY_FLAGS) if foreign else ()
        self.flags = tuple(flags)
        self.spellings = spellings((*flags, *others))
        self.refused = {flag.name: flag for flag in REFUSED_FLAGS} if foreign else {}
        self.params += [make_option(flag) for flag in flags]
        if foreign:
            self.params += [_hidden_option(flag) for flag in others]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = normalise(args, self.spellings)
        for word in words[: words.index("--") if "--" in words else None]:
            refused = self.refused.get(word.partition("=")[0])
            if refused is not None:
                raise UsageError(f"{refused.name} is not supported", hint=refused.hint)
        return super().parse_args(ctx, words)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None:
                group = option.flag.group if isinstance(option, TableOption) else "Other"
                groups.setdefault(group, []).append(record)
        for group, records in sorted(groups.items(), key=lambda item: item[0] == "Other"):
            with formatter.section(group):
                formatter.write_dl(records, col_max=34)


def make_option(flag: Flag) -> click.Option:
    is_list = flag.kind is Kind.LIST
    kind: click.ParamType[Any] = TextLines()
    if flag.kind is Kind.SWITCH:
        kind = Switch()
    elif flag.kind is Kind.INTEGER:
        kind = click.IntRange(min=0)
    elif flag.choices:
        kind = click.Choice(flag.choices)
    return TableOption(
        flag,
        type=kind,
        multiple=is_list,
        default=() if is_list else None,
        envvar=flag.variable,
        hidden=flag.hidden,
        help=flag.help,
    )


def _hidden_option(flag: IgnoredFlag | RefusedFlag) -> click.Option:
    """A flag of another builder, so that click knows it and its value."""
    short = [flag.short] if flag.short else []
    return click.Option(["foreign_" + flag.name.lstrip("-").replace("-", "_"), flag.name, *short], hidden=True, multiple=True)


def ignored_given(values: dict[str, Any]) -> list[str]:
    """The accepted flags without effect that were given; they are taken out of `values` with all foreign ones.

    Raises UsageError for `--provenance` and `--sbom` that ask for something.
    """
    given = []
    for name in [name for name in values if name.startswith("foreign_")]:
        texts = values.pop(name)
        flag = "--" + name.removeprefix("foreign_").replace("_", "-")
        if not texts:
            continue
        for wanted in FALSE_ONLY_FLAGS:
            if wanted.name == flag and any(text not in FALSE_WORDS for text in texts):
                raise UsageError(f"{flag} is not supported", hint=wanted.hint)
        given.append(flag)
    return given
