"""`sandboxbuild policy`: what a policy file says, whether it may say so, and how two of them differ."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from sandboxbuild.cli.flags import TableCommand
from sandboxbuild.cli.options import Flag, Kind

PROFILE_FLAG = Flag("--profile", Kind.TEXT, "The profile that the policy is for", "NAME", group="Options", default="plain")


@click.group()
def policy() -> None:
    """Check, show and compare policy files.

    `check` names every fault of the FILEs with its line and exits with 4 if there is one. `show` says what a build with FILE
    may do, or without FILE with the profile alone. `diff` shows what changes from one file to another, and exits with 1 if
    anything does.
    """


@policy.command(cls=TableCommand)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def check(files: tuple[str, ...]) -> int:
    """Name every fault of policy files, with its line."""
    from sandboxbuild.cli.render.text import safe_words
    from sandboxbuild.policy.describe import check_policy

    problems = [problem for file in files for problem in check_policy(file)]
    for problem in problems:
        sys.stdout.write(f"{safe_words(str(problem))}\n")
    return 4 if problems else 0


@policy.command(cls=TableCommand, flags=(PROFILE_FLAG,))
@click.argument("file", required=False, metavar="[FILE]")
def show(file: str | None, **values: Any) -> None:
    """Say what a build may do, one fact a line."""
    from sandboxbuild.launcher.policies import resolve_policy
    from sandboxbuild.launcher.settings import BuildSettings
    from sandboxbuild.policy.describe import show_isolation

    settings = BuildSettings(profile=values["profile"] or "plain", policy_file=file or "")
    sys.stdout.write(show_isolation(resolve_policy(settings, os.environ)))


@policy.command(cls=TableCommand)
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
def diff(old: str, new: str) -> int:
    """Show what NEW allows and forbids otherwise than OLD."""
    from sandboxbuild.policy.describe import diff_policies
    from sandboxbuild.policy.profile import load_policy

    found = diff_policies(load_policy(old), load_policy(new))
    sys.stdout.write(found)
    return 1 if found else 0
