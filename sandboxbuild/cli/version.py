"""`sandboxbuild version`."""

from __future__ import annotations

import platform
import sys

import click

from sandboxbuild.version import __version__


@click.command()
def version() -> None:
    """Show the version."""
    sys.stdout.write(f"sandboxbuild {__version__} (Python {platform.python_version()})\n")
