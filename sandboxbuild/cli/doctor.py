"""`sandboxbuild doctor`: what the host lacks, and the command that mends it."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from sandboxbuild.cli.flags import TableCommand
from sandboxbuild.cli.images import FORMAT_FLAG, STORE_FLAG, write_json


@click.command(cls=TableCommand, flags=(STORE_FLAG, FORMAT_FLAG))
def doctor(**values: Any) -> int:
    """Say what this host lacks for building, and how to mend it. Exits with 6 if builds can't work."""
    from sandboxbuild.cli.render.text import safe_words
    from sandboxbuild.launcher.doctor import examine

    checks = examine(os.environ, values["store"] or "")
    if values["format"] == "json":
        write_json([check._asdict() for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            sys.stdout.write(f"{check.state:>7}  {check.name:<{width}}  {safe_words(check.finding)}\n")
            if check.remedy and check.state != "ok":
                sys.stdout.write(f"{'':>7}  {'':<{width}}  -> {safe_words(check.remedy)}\n")
    return 6 if any(check.state == "missing" for check in checks) else 0
