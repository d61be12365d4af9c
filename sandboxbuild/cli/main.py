"""The entry point: a table of commands, each imported when it is asked for, and the way from an error to an exit code."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Sequence
from typing import Final

import click

from sandboxbuild.errors import LimitExceeded, SandboxbuildError

# name -> (module, function, one line for the list of commands)
COMMANDS: Final = {
    "run": ("run", "run", "Build an image from a Dockerfile"),
    "plan": ("plan", "plan", "Show the stages and steps of a Dockerfile"),
    "check": ("check", "check", "Check a Dockerfile for mistakes"),
    "images": ("images", "images", "List the images in the store"),
    "inspect": ("images", "inspect", "Show an image's configuration"),
    "history": ("images", "history", "Show how an image was made"),
    "save": ("transfer", "save", "Write an image to a file or folder"),
    "push": ("transfer", "push", "Push an image to a registry"),
    "rm": ("images", "rm", "Remove images from the store"),
    "prune": ("storage", "prune", "Free space in the store"),
    "du": ("storage", "du", "Show what the store uses"),
    "policy": ("policy", "policy", "Check, show and compare policy files"),
    "audit": ("audit", "audit", "Show what builds reached and were refused"),
    "gateway": ("gateway", "gateway", "Run a gateway by itself"),
    "profiles": ("profiles", "profiles", "List the profiles, and which this host can run"),
    "doctor": ("doctor", "doctor", "Say what this host lacks, and how to mend it"),
    "version": ("version", "version", "Show the version"),
}
ALIASES: Final = {"build": "run"}


class LazyGroup(click.Group):
    """Knows the names and the one-line helps of its commands, and imports a command's module only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's signature)
        entry = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if entry is None:
            return None
        module = importlib.import_module(f"sandboxbuild.cli.{entry[0]}")
        command: click.Command = getattr(module, entry[1])
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's signature)
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Build container images from code that you don't trust.

    Every build runs in a sandbox; registries and credentials stay outside of it.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code of the process."""
    status = _run(argv)
    try:
        sys.stdout.flush()
    except OSError as error:  # else the interpreter would try once more, and say so with a code of its own
        quiet = _broken_pipe(status)
        return quiet if isinstance(error, BrokenPipeError) else status or report(_full_disk(error))
    return status


def _run(argv: Sequence[str] | None) -> int:
    try:
        return int(
            cli.main(args=list(sys.argv[1:] if argv is None else argv), prog_name="sandboxbuild", standalone_mode=False) or 0
        )
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return 2
    except click.Abort:
        return 130
    except SandboxbuildError as error:
        return report(error)
    except BrokenPipeError:
        return _broken_pipe()
    except Exception as error:  # the last place where a bug of ours can still be said politely
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return report(_full_disk(error)) if is_full else _report_bug(error)


def report(error: SandboxbuildError, *, step: str = "", tail: bytes = b"") -> int:
    """Say one error on standard error; the exit code is the error's own."""
    from sandboxbuild.cli.render.failure import describe

    sys.stderr.write(describe(error, step=step, tail=tail))
    return error.exit_code


def _full_disk(error: Exception) -> SandboxbuildError:
    place = getattr(error, "filename", None) or "the output"
    return LimitExceeded(f"{place} can't be written: {getattr(error, 'strerror', error)}")


def _report_bug(error: Exception) -> int:
    import os
    import traceback

    if os.environ.get("SANDBOXBUILD_DEBUG"):
        traceback.print_exception(error)
    hint = "this is a bug of sandboxbuild; SANDBOXBUILD_DEBUG=1 shows where"
    return report(SandboxbuildError(f"{type(error).__name__}: {error}", hint=hint))


def _broken_pipe(status: int = 0) -> int:
    """Standard output's reader is gone: end quietly, as programs in a pipe do, or with the code of an error already said."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status or 128 + 13


if __name__ == "__main__":
    sys.exit(main())
