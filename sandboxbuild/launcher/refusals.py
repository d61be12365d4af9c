"""From what the gateway refused to a step to the hint under the build's error. Pure; names are a stranger's text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from sandboxbuild.gateway.audit import Record

SHOWN_LIMIT = 5
_BY_POLICY = frozenset({"name", "port"})  # the codes of rules.Refused that a line of the policy can change


def refusal_hint(refusals: Sequence[Record]) -> str:
    """Which names and ports a step asked for in vain, and the line that would allow them; "" where nothing was refused."""
    denied = sorted(_distinct(record for record in refusals if record.rule in _BY_POLICY))  # heard in any order
    others = tuple(dict.fromkeys(_reason(record) for record in refusals if record.rule not in _BY_POLICY))
    parts = []
    if denied:
        parts.append(
            f"the step asked for {_listed(denied)}, which the policy doesn't allow; "
            f"allow it with: [network.run] allow = [{', '.join(json.dumps(name) for name in denied[:SHOWN_LIMIT])}]"
        )
    parts += others[:SHOWN_LIMIT]
    if len(others) > SHOWN_LIMIT:
        parts.append(f"and {len(others) - SHOWN_LIMIT} more of the kind")
    return "; ".join(parts)


def _distinct(records: Iterable[Record]) -> list[str]:
    """NAME:PORT, or NAME where no port was asked for; a name whose ports are known doesn't stand alone as well."""
    found = list(dict.fromkeys((record.name, record.port) for record in records))
    with_port = {name for name, port in found if port}
    return [f"{name}:{port}" if port else name for name, port in found if port or name not in with_port]


def _reason(record: Record) -> str:
    name = f"{record.name}:{record.port}" if record.port else record.name
    where = f"{name}: " if record.name and record.name not in record.reason else ""
    return f"{where}{record.reason}" + (f" ({record.hint})" if record.hint else "")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_LIMIT} more" if len(names) > SHOWN_LIMIT else ""
    return ", ".join(names[:SHOWN_LIMIT]) + more
