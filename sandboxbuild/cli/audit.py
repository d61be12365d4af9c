"""`sandboxbuild audit`: an audit log as a table, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from sandboxbuild.cli.flags import TableCommand
from sandboxbuild.cli.images import FORMAT_FLAG, write_json, write_table
from sandboxbuild.cli.options import Flag, Kind
from sandboxbuild.errors import InputError

if TYPE_CHECKING:
    from sandboxbuild.gateway.audit import Record

AUDIT_FLAGS = (
    Flag("--build", Kind.TEXT, "Only the build with this id", "ID", group="Options"),
    Flag("--refused", Kind.SWITCH, "Only what was refused", group="Options"),
    FORMAT_FLAG,
)
TEXT_COLUMNS = 60


@click.command(cls=TableCommand, flags=AUDIT_FLAGS)
@click.argument("file", metavar="FILE")
def audit(file: str, **values: Any) -> None:
    """Show what builds reached and what they were refused, from the FILE that --audit-log wrote."""
    records = [record for record in _read(file) if values["build"] in (None, "", record.build)]
    if values["refused"]:
        records = [record for record in records if record.kind in ("refuse", "step")]
    if values["format"] == "json":
        write_json([{name: value for name, value in record._asdict().items() if value} for record in records])
        return
    write_table([("STEP", "WHAT", "TIMES", "NAME", "ADDRESS", "SENT", "RECEIVED", "SECONDS", "BY"), *rows(records)])


def _read(file: str) -> Iterator[Record]:
    from sandboxbuild.gateway.audit import read_records

    try:
        with open(file, encoding="ascii", errors="strict") as lines:
            yield from read_records(lines)
    except OSError as error:
        raise InputError(f"{file!r} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{file!r} is no audit log: {error}") from error


def rows(records: Iterable[Record]) -> Iterator[tuple[str, ...]]:
    """A row for what is the same but for bytes and time, builds and steps in the order in which they began."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    owners: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    titles: dict[tuple[str, str], str] = {}
    for record in records:
        owner = (record.build, record.step)
        owners.setdefault(owner, [])
        if record.kind == "step":
            titles[owner] = f"{record.stage}: {record.name}" if record.stage else record.name
            continue
        what = (*owner, record.kind, _subject(record), record.address, _by(record))
        if what not in groups:
            owners[owner].append(what)
        groups.setdefault(what, []).append(record)
    for owner, keys in owners.items():
        title = titles.get(owner, "")
        if title:
            yield owner[1], title[:TEXT_COLUMNS], "", "", "", "", "", "", ""
        for key in keys:
            yield _row(key, groups[key])


def _row(key: tuple[str, ...], records: list[Record]) -> tuple[str, ...]:
    from sandboxbuild.units import format_size

    _, step, kind, subject, address, reason = key
    sent, received = sum(record.sent for record in records), sum(record.received for record in records)
    seconds = sum(record.duration_ms for record in records) / 1000
    sizes = (format_size(sent) if sent else "", format_size(received) if received else "")
    return step or "-", kind, str(len(records)), subject, address, *sizes, f"{seconds:.1f}" if seconds else "", reason


def _subject(record: Record) -> str:
    if record.port:
        return f"{record.name}:{record.port}"
    if record.reference and ":" in record.reference:
        return f"{record.name}@{record.reference[:19]}"
    return f"{record.name}:{record.reference}" if record.reference else record.name


def _by(record: Record) -> str:
    """The rule that allowed it, or why it was refused."""
    return record.reason if record.kind == "refuse" else record.rule
