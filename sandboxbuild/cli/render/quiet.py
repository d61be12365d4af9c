"""Quiet progress: nothing, until the command prints the image's id."""

from __future__ import annotations

from sandboxbuild.protocol.events import Event


class QuietRenderer:
    def show(self, event: Event | None) -> None:
        pass

    def finish(self) -> None:
        pass
