"""`sandboxbuild profiles`: what each profile isolates, and whether this host can run it."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from sandboxbuild.cli.flags import TableCommand
from sandboxbuild.cli.images import FORMAT_FLAG, write_json


@click.command(cls=TableCommand, flags=(FORMAT_FLAG,))
def profiles(**values: Any) -> int:
    """List the isolation profiles, and which of them this host can run."""
    from sandboxbuild.cli.render.text import safe_words
    from sandboxbuild.launcher.profiles import list_profiles
    from sandboxbuild.launcher.stores import bundle_folder

    states = list_profiles(os.environ, bundle_folder(os.environ, is_root=os.geteuid() == 0))
    if values["format"] == "json":
        write_json([state._asdict() for state in states])
        return 0
    for state in states:
        sys.stdout.write(f"{state.name:<10} {'missing' if state.missing else 'ok':<8} {state.runtime}: {state.description}\n")
        if state.missing:
            sys.stdout.write(f"{'':<19} {safe_words(state.missing)}\n")
        if state.missing and state.remedy:
            sys.stdout.write(f"{'':<19} -> {safe_words(state.remedy)}\n")
    return 0
