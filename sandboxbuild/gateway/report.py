"""Audit records for people: a table by step, and what a failed build was refused, each with the line that would allow it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sandboxbuild.gateway.audit import CONNECT, FETCH, REFUSE, Record
from sandboxbuild.units import format_size

_HEADER: Final = ("STEP", "WHAT", "NAME", "ADDRESS", "SENT", "RECEIVED", "TIME", "RULE OR REASON")


def audit_table(records: Iterable[Record]) -> str:
    """One line a record, steps in the order of their first record, columns aligned. Only printable ASCII."""
    kept = list(records)
    order = {step: number for number, step in enumerate(dict.fromkeys(record.step for record in kept))}
    rows = [_HEADER, *(_row(record) for record in sorted(kept, key=lambda record: order[record.step]))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def _row(record: Record) -> tuple[str, ...]:
    name = f"{record.name}:{record.port}" if record.port else record.name
    name += f":{record.reference}" if record.reference and ":" not in record.reference else ""
    name += f"@{record.digest[:19]}" if record.digest else ""
    cells = (
        record.step or "-",
        record.kind,
        name,
        record.address or "-",
        format_size(record.sent) if record.sent else "-",
        format_size(record.received) if record.received else "-",
        f"{record.duration_ms / 1000:.1f}s" if record.duration_ms else "-",
        record.reason or record.rule or "-",
    )
    return tuple(_printable(cell) for cell in cells)


def refusal_lines(records: Iterable[Record]) -> Sequence[str]:
    """ "step 4 asked for files.example.com:443: it isn't allowed; allow it with: ...", once for each name and port.

    A name that was refused with a port isn't told again for the look-up before it.
    """
    refused = [record for record in records if record.kind == REFUSE]
    with_port = {(record.step, record.name) for record in refused if record.port}
    told = [record for record in refused if record.port or (record.step, record.name) not in with_port]
    return tuple(dict.fromkeys(_refusal(record) for record in told))


def _refusal(record: Record) -> str:
    who = f"step {record.step}" if record.step and record.step != "fetch" else "the build"
    what = f"{record.name}:{record.port}" if record.port else record.name
    hint = f"; {record.hint}" if record.hint else ""
    return _printable(f"{who} asked for {what}: {record.reason}{hint}")


def totals(records: Iterable[Record]) -> tuple[int, int, int]:
    """Connections, bytes sent and bytes received, of steps and fetches."""
    carried = [record for record in records if record.kind in (CONNECT, FETCH)]
    return len(carried), sum(record.sent for record in carried), sum(record.received for record in carried)


def _printable(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")
