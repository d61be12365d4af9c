"""The stream of events as people and programs read it: one module for each way, and what is safe to show."""

from __future__ import annotations

from typing import Protocol

from sandboxbuild.protocol.events import Event, VertexStarted


class Renderer(Protocol):
    """Shows one build. Not thread-safe. Whatever an event says, nothing but lines of ours reaches the terminal."""

    def show(self, event: Event | None) -> None:
        """Show an event; None says that a tenth of a second passed without one."""

    def finish(self) -> None:
        """No more events will come: leave the terminal as it was. Idempotent."""


def vertex_title(vertex: VertexStarted) -> str:
    """`[build 2/5] RUN make`, or `[internal] load context` for what is no step of a stage."""
    from sandboxbuild.cli.render.text import safe_words

    name = safe_words(vertex.name)
    if not vertex.number:
        return f"[{safe_words(vertex.kind)}] {name}"
    stage = safe_words(vertex.stage)
    return f"[{stage} {vertex.number}/{vertex.total}] {name}" if stage else f"[{vertex.number}/{vertex.total}] {name}"
