"""The tables of docs/dockerfile.md, made from the tables that the parser itself goes by."""

from __future__ import annotations

from collections.abc import Iterator

from sandboxbuild.dockerfile import limits
from sandboxbuild.dockerfile.checks import RULES
from sandboxbuild.dockerfile.instructions import COMMANDS, FROM_FLAGS
from sandboxbuild.dockerfile.instructions.base import LIST, SWITCH, Flag
from sandboxbuild.dockerfile.instructions.mounts import OPTIONS


def reference_tables() -> str:
    """Markdown: instructions with their flags, options of mounts, checks, limits."""
    return "\n".join((*_instructions(), "", *_mounts(), "", *_checks(), "", *_limits())) + "\n"


def _instructions() -> Iterator[str]:
    yield from ("| instruction | what it does | flags |", "|---|---|---|")
    yield f"| FROM | Begins a stage on an image, a stage above, a named context or scratch. | {_flags(FROM_FLAGS)} |"
    for keyword, family in COMMANDS.items():
        yield f"| {keyword} | {family.about} | {_flags(family.flags)} |"


def _flags(flags: tuple[Flag, ...]) -> str:
    forms = {SWITCH: "", LIST: "=... (repeatable)"}
    return "<br>".join(f"`--{flag.name}{forms.get(flag.kind, '=...')}` {flag.about}" for flag in flags) or "none"


def _mounts() -> Iterator[str]:
    yield from ("| RUN --mount=type= | options |", "|---|---|")
    for kind, keys in OPTIONS.items():
        yield f"| {kind} | {', '.join(f'`{key}`' for key in sorted(keys))} |"


def _checks() -> Iterator[str]:
    yield from ("| check | what it wants |", "|---|---|")
    for rule, wanted in RULES.items():
        yield f"| {rule} | {wanted} |"


def _limits() -> Iterator[str]:
    yield from ("| limit | value |", "|---|---|")
    rows = (
        ("bytes of a Dockerfile", limits.FILE_BYTES),
        ("bytes of a line outside of here-documents", limits.LINE_BYTES),
        ("instructions", limits.INSTRUCTIONS),
        ("stages", limits.STAGES),
        ("variables of a stage", limits.VARIABLES),
        ("here-documents of an instruction", limits.HEREDOCS),
        ("mounts of a RUN", limits.MOUNTS),
        ("sources of a COPY or ADD", limits.SOURCES),
        ("depth of `${a:-${b}}`", limits.EXPANSION_DEPTH),
        ("ONBUILD triggers of a base", limits.TRIGGERS),
    )
    for what, value in rows:
        yield f"| {what} | {value:,} |"
